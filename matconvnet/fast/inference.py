"""Networks compiled for inference: rewritten once, evaluated many times."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from matconvnet import executor
from matconvnet.executor import Record
from matconvnet.fast.casts import with_casts
from matconvnet.fast.cuda_graph import Replaying
from matconvnet.fast.evaluator import Options, Programs
from matconvnet.fast.native import missing
from matconvnet.fast.packing import PackedConv, packed
from matconvnet.fast.precision import LOW, check_precision, note, tf32
from matconvnet.fast.program import Program
from matconvnet.fast.rewrite import Step, fuse, in_test_mode
from matconvnet.geometry import Size, variable_sizes
from matconvnet.graph import Graph
from matconvnet.layer import Context
from matconvnet.layout import as4d, channels_last, to_tensor
from matconvnet.nets.meta import input_size as told_size
from matconvnet.nets.network import Network
from matconvnet.nets.predict import Prediction, predict
from matconvnet.nets.preprocess import Images

InputSize = Sequence[int] | Mapping[str, Sequence[int]] | None
"""(H, W, C) of the images, or sizes by variable; None: what the meta data tell."""


class OutputEvaluator(Protocol):
    """What computes the outputs of a compiled network."""

    def eval(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by variable, in memory of their own; maps in channels-last memory."""
        ...


@dataclass(frozen=True)
class TorchEvaluator:
    """Evaluates a graph in test mode, layer by layer; `outputs` are the variables to return."""

    graph: Graph
    values: Mapping[str, Tensor | None]
    outputs: tuple[str, ...]

    def eval(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `OutputEvaluator`."""
        record = executor.forward(
            self.graph, self.values, inputs, ctx=Context(training=False), conserve_memory=True,
            precious=self.outputs,
        )  # fmt: skip
        return {v: record.values[v] for v in self.outputs}


class ProgramEvaluator:
    """Evaluates by programs where they serve; where they do not, by torch.

    Float inputs have to be float32 on the CPU, maps in channels-last memory.
    """

    def __init__(
        self,
        programs: Programs,
        values: Mapping[str, Tensor | None],
        outputs: tuple[str, ...],
        otherwise: Callable[[], TorchEvaluator],
    ):
        """values: of the parameters, which will stay. otherwise: makes a substitute."""
        self.programs, self.values, self.outputs = programs, values, outputs
        self.otherwise = functools.cache(otherwise)
        self._options = Options(precious=frozenset(outputs))
        self._ctx = Context(training=False)
        self._last: tuple[object, Program] | None = None

    def eval(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `OutputEvaluator`."""
        given, maps = inputs, self.programs.maps
        if maps != torch.float32:
            inputs = {v: x.to(maps) if x.is_floating_point() else x for v, x in inputs.items()}
        form = (torch.get_num_threads(), [(v, x.shape, x.dtype) for v, x in inputs.items()])
        if self._last is not None and self._last[0] == form:
            program = self._last[1]
        else:
            program, found, _ = self.programs.find(inputs, self.values, self._options)
            if program is None:
                return self.otherwise().eval(given)
            same = all(x.dtype == maps for x in inputs.values())
            self._last = (form, program) if same else None
            inputs = found
        record = program.run(inputs, self.values, {}, self._ctx, timed=False)
        return {v: record.values[v].clone() for v in self.outputs}


@dataclass(frozen=True)
class Tf32Evaluator:
    """Evaluates with the tensor cores of a GPU."""

    own: OutputEvaluator

    def eval(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `OutputEvaluator`."""
        with tf32():
            return self.own.eval(inputs)


@dataclass
class Compiled:
    """A network made ready for use; when the network is trained further, compile it again.

    net: the network it was made from. inputs, outputs: variables that `eval` reads and returns.
    device, dtype: where and as what they are evaluated. evaluator: computes the outputs. report: by
    layer, what was done or why nothing was; by "", of all.
    """

    net: Network
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    evaluator: OutputEvaluator
    report: tuple[Step, ...]

    def __str__(self) -> str:
        """The report, a line each."""
        return "\n".join(f"{step.layer or 'all'}: {step.what}" for step in self.report)

    def eval(self, inputs: Mapping[str, Any]) -> Record:
        """Compute the outputs.

        Args:
            inputs: tensors or arrays by variable, maps H x W x C x N; others are not looked at.

        Returns: a record of the values of the outputs, as floats of the network's type.
        Raises: KeyError, if an input is missing; TypeError, if one is no tensor or array.
        """
        if missing := [v for v in self.inputs if v not in inputs]:
            raise KeyError(f"inputs lacks {missing}; wanted values of {list(self.inputs)}")
        given = {v: self._ready(v, inputs[v]) for v in self.inputs}
        made = self.evaluator.eval(given)
        for v, t in made.items():
            is_ready = t.dtype == self.dtype or not t.is_floating_point()
            given[v] = t if is_ready else t.to(self.dtype)
        return Record(given, ctx=Context(training=False))

    def predict(self, images: Images, *, batch_size: int = 32, scale: float = 1.0) -> Prediction:
        """What the network makes of images; see `Network.predict`."""
        end, name = self.net.prediction, self.net.input

        def evaluate(x: Tensor) -> Tensor:
            return self.eval({name: x}).values[end]

        return predict(self.net, images, batch_size=batch_size, scale=scale, evaluate=evaluate)

    def _ready(self, name: str, value: Any) -> Tensor:
        """An input as a tensor on the device; maps are floats in channels-last memory."""
        tensor = to_tensor(value)
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is {type(value).__name__}; wanted a tensor or a NumPy array")
        if tensor.device != self.device:
            tensor = tensor.to(self.device, non_blocking=True)
        if not tensor.is_floating_point():
            return tensor
        if tensor.dtype != self.dtype:
            tensor = tensor.to(self.dtype)
        return channels_last(as4d(tensor, name))


@torch.no_grad()
def compile_for_inference(
    net: Network,
    *,
    precision: str = "fp32",
    input_size: InputSize = None,
    batch: int | None = None,
    device: torch.device | str | None = None,
    outputs: Iterable[str] | None = None,
) -> Compiled:
    """Make a network ready for use: as fast as it can be on a device, in test mode.

    Losses and dropout go; batch normalisation becomes part of the convolution before it; ReLU and
    sums become part of what they follow; filters are converted and packed once. On a GPU the
    evaluation is recorded as a CUDA graph for every size of input.

    Args:
        net: the network; it is not modified, and its parameters are copied where they change.
        precision: "fp32" (the network's own type), "tf32" (on a GPU), "bf16" or "fp16".
        input_size: (H, W, C) of the images, or sizes by variable; None: what the meta data tell.
            Images of other sizes can be evaluated all the same, as far as the network allows.
        batch: images that are evaluated at a time, as a rule; None: any number.
        device: where to evaluate; None: where the parameters are.
        outputs: variables to compute; None: the prediction, and those that are precious.

    Returns: a `Compiled`, with `predict`, `eval` and a `report` of what was done.
    Raises: ValueError, if a precision or a size makes no sense, or the network predicts nothing.
        KeyError for outputs that are no variables.
    """
    check_precision(precision)
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}; wanted 1 or more images, or None")
    if net.prediction not in net.graph.producer:
        raise ValueError("the network has no layers but losses; wanted one that predicts something")
    precious = (v for v in net.precious if v in net.graph.producer)
    names = dict.fromkeys((net.prediction, *(precious if outputs is None else outputs)))
    keep = tuple(names)
    first = next((value for value in net.values().values() if value is not None), torch.empty(0))
    where, dtype = torch.device(device or first.device), first.dtype
    short = in_test_mode(net.graph.leading_to(keep), net.values(), keep=keep)
    graph, values = short.graph, dict(short.values or {})
    sizes = _sizes(net, graph, values, input_size, batch)
    report = list(short.report)
    by_torch = functools.partial(_by_torch, graph, keep, sizes, precision, where)
    in_kernels = precision != "fp16" and where.type == "cpu" and dtype == torch.float32
    if in_kernels and not missing():
        values = {p: _moved(value, where) for p, value in values.items()}
        programs = Programs(graph, constant=True, maps=LOW.get(precision, torch.float32))
        evaluator: OutputEvaluator = ProgramEvaluator(
            programs, values, keep, lambda: by_torch(values)[0]
        )
        report.append(Step("", "programs of kernels, which fuse layers and pack filters"))
    else:
        evaluator, done = by_torch(values)
        report += done
        evaluator = Tf32Evaluator(evaluator) if precision == "tf32" else evaluator
        evaluator = Replaying(evaluator) if where.type == "cuda" else evaluator
    if told := note(precision, where):
        report.append(Step("", told))
    return Compiled(net, graph.inputs, keep, where, dtype, evaluator, tuple(report))


def _by_torch(
    graph: Graph,
    outputs: tuple[str, ...],
    sizes: Mapping[str, Size],
    precision: str,
    device: torch.device,
    values: Mapping[str, Tensor | None],
) -> tuple[TorchEvaluator, list[Step]]:
    """Evaluates a graph layer by layer, in few and fast layers; and what was done for that."""
    types: Mapping[str, torch.dtype] = {}
    if precision in LOW:
        casts = with_casts(graph, LOW[precision])
        graph, types = casts.graph, casts.params
    moved = {p: _moved(value, device, types.get(p)) for p, value in values.items()}
    fused = fuse(graph, keep=outputs, training=False)
    graph, moved = packed(fused.graph, moved, sizes)
    count = sum(isinstance(node.layer, PackedConv) for node in graph.nodes)
    done = [*fused.report, Step("", f"filters of {count} layers packed")]
    return TorchEvaluator(graph, moved, outputs), done


def _moved(
    value: Tensor | None, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor | None:
    """A parameter on the device, in channels-last memory; the network's own, if it is all this."""
    if value is None:
        return None
    value = value.detach().to(device, dtype or value.dtype)
    return channels_last(value) if value.dim() == 4 else value


def _sizes(
    net: Network,
    graph: Graph,
    values: Mapping[str, Tensor | None],
    given: InputSize,
    batch: int | None,
) -> dict[str, Size]:
    """Sizes of all variables, as far as they are known: nan elsewhere."""
    nan = float("nan")
    by_name = given if isinstance(given, Mapping) else {} if given is None else {net.input: given}
    shapes = {p: None if value is None else tuple(value.shape) for p, value in values.items()}
    inputs: dict[str, Size] = {}
    for name in graph.inputs:
        size = list(by_name.get(name) or told_size(net.meta, name))[:3]
        if name in by_name and (len(size) != 3 or min(size) < 1):
            raise ValueError(f"input_size of {name!r} is {given}; wanted (H, W, C), 1 or more each")
        if len(size) == 3:
            inputs[name] = (size[0], size[1], size[2], nan if batch is None else batch)
    return variable_sizes(graph, inputs, shapes)
