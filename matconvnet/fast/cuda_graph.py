"""CUDA graphs: an evaluation recorded once, and then started by one call in place of hundreds.

A small network on a GPU waits for the computer to start its kernels, not for the kernels. What is
recorded reads and writes the same memory every time: inputs are copied into it, and results lie in
it until the next evaluation. Whatever cannot be recorded is evaluated as usual, and `report` says
why.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from matconvnet.executor import OnParam, Record
from matconvnet.fast.precision import Narrow
from matconvnet.fast.recording import Recording, Recordings, Tensors
from matconvnet.fast.rewrite import Step
from matconvnet.graph import Graph
from matconvnet.layout import as4d, channels_last, to_tensor
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Mode, Network
from matconvnet.recompute import Recompute


class Captured:
    """Evaluates a network as `Network.eval` does, as CUDA graphs where that is possible.

    Values and derivatives in a record lie in memory that the next evaluation uses again. Labels are
    checked only in the evaluation that is recorded. A network is recorded anew when its structure
    changes, or its parameters are other tensors; what is written into them is seen.

    It is not recorded, but evaluated as usual: on the CPU; with inputs of ever new sizes; with
    layers that wait for the device; with `recompute` and `sync`; and where workers sum derivatives
    while layers are differentiated. `report` says which.
    """

    def __init__(self, net: Network, record: Callable[..., Recording[Record]] = Recording):
        """record: makes a recording, see `Recordings`."""
        self.net = net
        self.recordings = Recordings(record)
        self._graph: Graph | None = None
        self._values: list[Tensor | None] = []

    @property
    def report(self) -> list[Step]:
        """What was recorded, and what was not and why."""
        return self.recordings.report

    def eval(
        self,
        inputs: Mapping[str, Any],
        ders: Mapping[str, Any] | None = None,
        *,
        mode: Mode = "normal",
        generator: torch.Generator | None = None,
        record: Record | None = None,
        depth: int | None = None,
        conserve_memory: bool | None = None,
        precious: Iterable[str] = (),
        accumulate: bool = False,
        on_param: OnParam | None = None,
        wanted_inputs: Iterable[str] | None = None,
        out: Mapping[str, Tensor] | None = None,
        recompute: Recompute = False,
        sync: bool = False,
    ) -> Record:
        """Evaluate the network, and differentiate it if `ders` are given; see `Network.eval`.

        Inputs may be on the CPU: in pinned memory, they are copied while the GPU computes.
        `conserve_memory` is None for what the network does by itself.
        """
        precious, device = frozenset(precious), self._device()
        wanted = None if wanted_inputs is None else frozenset(wanted_inputs)
        options: dict[str, Any] = {
            "mode": mode, "generator": generator, "depth": depth, "precious": precious,
            "wanted_inputs": wanted,
        }  # fmt: skip
        if conserve_memory is not None:
            options["conserve_memory"] = conserve_memory
        given = {v: to_tensor(value) for v, value in inputs.items()}
        why = self._hindrance(device, given, on_param, recompute, sync)
        made, older = None, dict[str, Tensor]()
        if why:
            self.recordings.say(why)
        else:
            if accumulate and record is not None:  # the replay may write over its derivatives
                older = {p: der.clone() for p, der in record.param_ders.items()}
            made = self._replayed(self._tensors(given, ders or {}, device), ders, options, device)
        if made is None:
            moved = {
                v: t.to(device, non_blocking=True) if isinstance(t, Tensor) else t
                for v, t in given.items()
            }
            return self.net.eval(
                moved, ders, **options, record=record, accumulate=accumulate, on_param=on_param,
                out=out, recompute=recompute, sync=sync,
            )  # fmt: skip
        collected = made.param_ders
        for p, der in older.items():
            collected[p] = der.add_(collected[p]) if p in collected else der
        if on_param is not None and ders is not None:
            for p, der in collected.items():
                on_param(p, der)
            made.param_ders = {}
        if isinstance(self.net, DagNN):
            self.net.record = made
        return made

    def _device(self) -> torch.device:
        values = (value for value in self.net.values().values() if value is not None)
        return next((value.device for value in values), torch.device("cpu"))

    def _hindrance(
        self,
        device: torch.device,
        inputs: Mapping[str, Any],
        on_param: OnParam | None,
        recompute: Recompute,
        sync: bool,
    ) -> str:
        """Why an evaluation cannot be recorded; empty, if it may be."""
        if device.type != "cuda" and self.recordings.record is Recording:
            return f"the network is on the device {str(device)!r}, which has no CUDA graphs"
        if not inputs or not all(isinstance(value, Tensor) for value in inputs.values()):
            return "inputs are no tensors"
        if recompute is not False:
            return "recompute goes back to old states of the random generator"
        if sync:
            return "sync asks for the time of each layer"
        if isinstance(self.net, Narrow) and self.net.scale is not None:
            return "the scale of derivatives in float16 changes"
        if isinstance(self.net, DagNN) and on_param is None and self.net.parameter_server:
            return "the network has a parameter server of its own"
        if on_param is not None and dist.is_available() and dist.is_initialized():
            workers = dist.get_world_size()
            if workers > 1:
                return f"{workers} workers sum derivatives while layers are differentiated"
        return ""

    def _tensors(
        self, inputs: Mapping[str, Tensor], ders: Mapping[str, Any], device: torch.device
    ) -> dict[tuple[str, str], Tensor]:
        """The arguments of an evaluation: inputs and output derivatives; maps channels-last."""
        like = next(t for t in (*self.net.values().values(), *inputs.values()) if t is not None)
        tensors = {("input", v): _map(v, t) for v, t in inputs.items()}
        for v, der in ders.items():
            der = to_tensor(der)
            if not isinstance(der, Tensor):
                der = torch.full((), der, dtype=like.dtype, device=device)
            tensors["der", v] = der
        return tensors

    def _replayed(
        self,
        tensors: dict[tuple[str, str], Tensor],
        ders: Mapping[str, Any] | None,
        options: dict[str, Any],
        device: torch.device,
    ) -> Record | None:
        """Replay the evaluation of such tensors, recorded if need be; None, if it is not."""
        net = self.net
        values = list(net.values().values())
        same = len(values) == len(self._values) and all(map(_is, values, self._values))
        if net.graph is not self._graph or not same:
            self.recordings.clear()

        def evaluate(static: Tensors) -> Record:
            inputs = {v: t for (kind, v), t in static.items() if kind == "input"}
            given = {v: t for (kind, v), t in static.items() if kind == "der"}
            found: dict[str, Tensor] = {}
            made = net.eval(
                inputs, None if ders is None else given, **options, on_param=found.__setitem__
            )
            made.param_ders = found
            return made

        shapes = tuple((name, tuple(t.shape), t.dtype) for name, t in tensors.items())
        key = (shapes, ders is None, *options.items())
        recording = self.recordings.find(
            options["mode"], key, evaluate, tensors, device, options["generator"]
        )
        # Evaluating may have changed the structure: a frozen dropout keeps its first mask.
        self._graph, self._values = net.graph, values
        if recording is None:
            return None
        made = recording.replay(tensors)
        return replace(
            made, values=dict(made.values), ders=dict(made.ders),
            param_ders=dict(made.param_ders), forward_time={}, backward_time={},
        )  # fmt: skip


class Replaying:
    """Evaluates a compiled network as a CUDA graph for each size of its inputs.

    own: the evaluator that is recorded, and takes over where it cannot be.
    """

    def __init__(self, own: Any, record: Callable[..., Recording[dict[str, Tensor]]] = Recording):
        """record: makes a recording, see `Recordings`."""
        self.own, self.recordings = own, Recordings(record)

    @property
    def report(self) -> list[Step]:
        """What was recorded, and what was not and why."""
        return self.recordings.report

    def eval(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by variable."""
        key = tuple((v, tuple(t.shape), t.dtype) for v, t in inputs.items())
        device = next(iter(inputs.values())).device
        recording = self.recordings.find("test", key, self.own.eval, inputs, device)
        if recording is None:
            return self.own.eval(inputs)
        return {v: t.clone() for v, t in recording.replay(inputs).items()}


def _is(a: object, b: object) -> bool:
    return a is b


def _map(name: str, t: Tensor) -> Tensor:
    """An input as networks read it: maps have four axes and lie in channels-last memory."""
    is_map = t.is_floating_point() and t.dim() in (3, 4)
    return channels_last(as4d(t, name)) if is_map else t
