"""Evaluations of a network on meta tensors, which have sizes but take no memory."""

from collections.abc import Mapping
from math import isnan
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from matconvnet import executor
from matconvnet.blocks._loss_kinds import KINDS
from matconvnet.blocks.loss import Regression
from matconvnet.executor import Record
from matconvnet.geometry import Shapes, Size, variable_sizes
from matconvnet.graph import Graph, Node, build
from matconvnet.layer import Context, Layer
from matconvnet.layout import empty_map
from matconvnet.nets._ledger import Ledger, Watched
from matconvnet.nets._params import param_shapes
from matconvnet.nets.network import Network
from matconvnet.recompute import Recompute

SIMULATED = 3
"""Sub-batches that are evaluated: the first may write to memory that is there, the second adds to
what it left, and all further ones take as much as the third."""


class Settings(NamedTuple):
    """How a network is evaluated; see `matconvnet.nets.memory.memory_plan`."""

    num_sub_batches: int
    conserve_memory: bool
    recompute: Recompute
    precious: frozenset[str]
    depth: int | None
    ders: tuple[str, ...]


class Rehearsal:
    """A network on meta tensors, with a ledger of what lives.

    Args:
        net: the network.
        sizes: of its inputs, for one sub-batch; those of labels may be left out.
        device: type of the device of the evaluation in earnest.
    """

    def __init__(self, net: Network, sizes: Mapping[str, Size], device: str):
        shapes = param_shapes(net.graph, net.params)
        values = [value for value in net.values().values() if value is not None]
        self.dtype = values[0].dtype if values else torch.float32
        self.ledger = Ledger(device)
        self.params = {
            name: None if shape is None else self._empty(shape) for name, shape in shapes.items()
        }
        for value in self.params.values():
            if value is not None:
                self.ledger.hold(value)
        self.parameters = self.ledger.live
        found = guessed(net.graph, sizes, shapes)
        self.inputs = {v: self._input(net.graph, v, found, v in sizes) for v in net.graph.inputs}
        self.graph = _watched(net.graph, self.ledger, found)

    def train(self, settings: Settings) -> None:
        """Evaluate and differentiate a batch, as the trainer does once it has done one.

        The derivatives of the batch before are there, for their memory. The inputs of all parts are
        kept to the end, so that the trainer can explain an error.
        """
        ledger = self.ledger
        parts = min(settings.num_sub_batches, SIMULATED)
        spare = {name: torch.empty_like(p) for name, p in self.params.items() if p is not None}
        for value in spare.values():
            ledger.mark(value)
        inputs, complete = [], list[Tensor]()
        record = None

        def on_param(_: str, der: Tensor) -> None:
            ledger.mark(der)
            complete.append(der)

        with ledger:
            for part in range(parts):
                inputs.append(self._make_inputs())
                push = on_param if part + 1 == parts else None
                out = spare if record is None else None
                record = self._step(settings, inputs[-1], record, push, out)
                for der in record.param_ders.values():
                    ledger.mark(der)
            ledger.end()

    def test(self, settings: Settings) -> None:
        """Evaluate a batch for use."""
        with self.ledger:
            executor.forward(
                self.graph, self.params, self._make_inputs(), ctx=Context(training=False),
                conserve_memory=settings.conserve_memory, precious=settings.precious,
            )  # fmt: skip
            self.ledger.end()

    def _step(
        self,
        settings: Settings,
        inputs: dict[str, Tensor],
        last: Record | None,
        on_param: executor.OnParam | None,
        spare: Mapping[str, Tensor] | None,
    ) -> Record:
        """What `Network.eval` does, from the inputs of one sub-batch."""
        self.ledger.is_backward = False
        record = executor.forward(
            self.graph, self.params, inputs, derivative=True, depth=settings.depth,
            conserve_memory=settings.conserve_memory, recompute=settings.recompute,
            precious=settings.precious.union(settings.ders),
        )  # fmt: skip
        if last is not None:
            record.param_ders = dict(last.param_ders)
        self.ledger.is_backward = True
        return executor.backward(
            self.graph, self.params, record,
            {v: torch.ones_like(record.values[v]) for v in settings.ders},
            depth=settings.depth, conserve_memory=settings.conserve_memory,
            precious=settings.precious, accumulate=last is not None, on_param=on_param,
            wanted_inputs=(), out=spare,
        )  # fmt: skip

    def input_bytes(self) -> int:
        """Bytes of the inputs of one sub-batch."""
        return sum(value.nbytes for value in self.inputs.values())

    def _make_inputs(self) -> dict[str, Tensor]:
        """The inputs in memory of their own, all of it written."""
        return {v: torch.ones_like(value) for v, value in self.inputs.items()}

    def _empty(self, shape: Any, dtype: torch.dtype | None = None) -> Tensor:
        like = torch.empty((), dtype=dtype or self.dtype, device="meta")
        return empty_map(tuple(map(int, shape)), like)

    def _input(self, graph: Graph, v: str, sizes: Mapping[str, Size], is_given: bool) -> Tensor:
        """An input; if its size was not given, it is labels or weights of the loss that reads it.

        Classes are whole numbers, targets of a regression and labels of attributes are maps.
        """
        reader = next(node for node in graph.nodes if v in node.inputs)
        if not reader.layer.is_loss or v == reader.inputs[0]:
            return self._empty(known(sizes[v], v))
        h, w, d, n = known(sizes[reader.inputs[0]], reader.inputs[0])
        kind = KINDS.get(str(getattr(reader.layer, "loss", "softmaxlog")).lower())
        targets = isinstance(reader.layer, Regression)
        is_map = targets or (kind is not None and kind.is_attribute)
        size = sizes[v] if is_given else (h, w, d if is_map else 1, n)
        is_class = v == reader.inputs[1] and not targets
        return self._empty(size, torch.int64 if is_class else None)


def guessed(graph: Graph, given: Mapping[str, Size], shapes: Shapes) -> dict[str, Size]:
    """Sizes of all variables; a layer that tells none is taken to keep that of its input."""
    sizes = variable_sizes(graph, given, shapes)
    for node in graph.nodes:
        if any(isnan(n) for v in node.outputs for n in sizes[v]):
            given = {**given, **dict.fromkeys(node.outputs, sizes[node.inputs[0]])}
            sizes = variable_sizes(graph, given, shapes)
    return sizes


def known(size: Size, v: str) -> Size:
    """The size of a variable; ValueError, if it is unknown."""
    if any(map(isnan, size)):
        raise ValueError(f"the size of variable {v!r} is unknown; wanted it in input_size")
    return size


def _watched(graph: Graph, ledger: Ledger, sizes: Mapping[str, Size]) -> Graph:
    def watch(node: Node) -> Node:
        return node._replace(layer=cast(Layer, Watched(node, ledger, sizes)))

    return build(watch(node) for node in graph.nodes)
