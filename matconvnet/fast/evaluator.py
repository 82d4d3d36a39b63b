"""Evaluation by programs where they serve, and by the explicit executor where they do not."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matconvnet.executor import OnParam, Record
from matconvnet.fast.native import missing
from matconvnet.fast.precision import LOW, with_precision
from matconvnet.fast.program import Program
from matconvnet.fast.writer import Stepping, Task
from matconvnet.geometry import variable_sizes
from matconvnet.graph import Graph, build
from matconvnet.layer import Context
from matconvnet.layout import as4d, channels_last
from matconvnet.nets.network import Mode, Network
from matconvnet.recompute import Recompute

MOST_PROGRAMS = 8
"""Programs that are kept; of more shapes than that, memory would be spent on what never returns."""

CLASSES = (torch.int64, torch.int32, torch.uint8)
"""Types of labels that programs read."""


class Options(NamedTuple):
    """What makes another program, beside shapes; see `Task`."""

    ders: tuple[str, ...] = ()
    mode: Mode = "test"
    precious: frozenset[str] = frozenset()
    wanted_inputs: frozenset[str] | None = None
    frozen: frozenset[str] = frozenset()
    recompute: bool = False
    stepping: Stepping | None = None


class Programs:
    """Programs for one graph, by the shapes of inputs and the options of evaluations.

    constant: the parameters will not change, so that filters are packed only once. maps: the type
    in which maps are kept, float32 or bfloat16. params: their values when last looked at.
    """

    def __init__(self, graph: Graph, *, constant: bool = False, maps: torch.dtype = torch.float32):
        self.graph, self.constant, self.maps = graph, constant, maps
        self.made: dict[Any, Program] = {}
        self._block: Tensor | None = None
        self.params: Mapping[str, Tensor | None] = {}
        self._form: object = None
        self._why_not = ""
        read = {v for node in graph.nodes if not node.layer.is_loss for v in node.inputs}
        self._targets = {v for v in graph.inputs if v not in read}

    def find(
        self, inputs: Mapping[str, Any], params: Mapping[str, Tensor | None], options: Options
    ) -> tuple[Program | None, dict[str, Tensor], str]:
        """The program for these inputs, and the inputs as it reads them; or why there is none."""
        if reason := missing() or self._look_at(params):
            return None, {}, reason
        maps = dict[str, Tensor]()
        for v, value in inputs.items():
            if not isinstance(value, Tensor) or value.device.type != "cpu":
                return None, {}, f"input {v!r} is no tensor on the CPU"
            if value.dtype in (torch.float32, self.maps) and value.dim() == 4:
                maps[v] = channels_last(value)
                if v not in self._targets:
                    maps[v] = maps[v].to(self.maps)
            elif value.dtype in CLASSES:
                labels = value.to(torch.int64)
                maps[v] = channels_last(labels) if value.dim() == 4 else labels.contiguous()
            else:
                return None, {}, f"input {v!r} is {value.dtype} of {value.dim()} axes"
        program = self._made(maps, options)
        if isinstance(program, str):
            return None, {}, program
        for v, count in program.classes.items():
            if not maps[v].numel() or int(maps[v].min()) < -1 or int(maps[v].max()) >= count:
                return None, {}, f"input {v!r} has labels out of range"
        return program, maps, ""

    def _look_at(self, params: Mapping[str, Tensor | None]) -> str:
        """Why programs cannot read these parameters, if they cannot."""
        if params.keys() == self.params.keys() and all(
            t is self.params[p] for p, t in params.items()
        ):
            return self._why_not
        self.params, self._why_not = params, ""
        for p, t in params.items():
            if t is None:
                continue
            if t.dtype != torch.float32 or t.device.type != "cpu":
                self._why_not = f"parameter {p!r} is {t.dtype} on {t.device}"
            elif channels_last(as4d(t, p)).data_ptr() != t.data_ptr() or not t.numel():
                self._why_not = f"parameter {p!r} is not in channels-last memory"
        form = tuple(None if t is None else (t.shape, t.stride()) for t in params.values())
        if form != self._form or self.constant:
            self._form = form
            self.made.clear()
        return self._why_not

    def _made(self, maps: dict[str, Tensor], options: Options) -> Program | str:
        """The program, written now if it was not before; or why there is none."""
        shapes = tuple((v, x.shape, x.dtype) for v, x in maps.items())
        key = (shapes, options, torch.get_num_threads())
        if key in self.made:
            return self.made[key]
        task = self._task(maps, options)
        if isinstance(task, str):
            return task
        program = Program(task, self._block)
        if program.block is not self._block:  # older programs would keep the old one alive
            self.made.clear()
            self._block = program.block
        if len(self.made) == MOST_PROGRAMS:
            del self.made[next(iter(self.made))]
        self.made[key] = program
        return program

    def _task(self, maps: dict[str, Tensor], options: Options) -> Task | str:
        """What to compute; or why no program can."""
        if any(v in self.graph.producer for v in maps):
            return "a variable within the network is given"
        graph = _evaluated(self.graph, maps)
        shapes = {p: None if t is None else tuple(t.shape) for p, t in self.params.items()}
        known = {v: tuple(x.shape) if x.dim() == 4 else (x.numel(),) for v, x in maps.items()}
        found: dict[str, tuple[int, ...]] = {p: s for p, s in shapes.items() if s is not None}
        for v, size in variable_sizes(graph, known, shapes).items():
            if any(n != n for n in size):
                return f"the size of variable {v!r} is not known before"
            found[v] = tuple(int(n) for n in size)
        found.update((v, tuple(x.shape)) for v, x in maps.items())
        losses = (v for n in graph.nodes if n.layer.is_loss for v in n.outputs)
        found.update((v, ()) for v in losses if found[v] == (1, 1, 1, 1))
        types = {v: x.dtype for v, x in maps.items() if x.dtype != self.maps}
        keep = options.precious & set(graph.producer)
        return Task(
            graph, found, types, self.params, options.mode == "normal", options.ders,
            options.wanted_inputs, keep, options.frozen, self.constant, options.recompute,
            self.maps, options.stepping,
        )  # fmt: skip


def _evaluated(graph: Graph, inputs: Mapping[str, Tensor]) -> Graph:
    """The layers whose inputs are all there."""
    known, nodes = set(inputs), []
    for node in graph.nodes:
        if known.issuperset(node.inputs):
            known.update(node.outputs)
            nodes.append(node)
    return build(nodes)


class FastEvaluator:
    """Evaluates a network as `Network.eval` does, faster: by a program for every shape of inputs.

    Programs compute on the CPU, where the kernels were compiled, from float32 parameters, and
    conserve memory. Everything else is evaluated explicitly. Maps in a record lie in memory that
    the next evaluation uses again. Frozen parameters (train_method "none") get no derivative.

    precision: "fp32", or "bf16": maps and their derivatives are bfloat16; sums,
    parameters and their derivatives stay float32. stepping: updates parameters within the backward
    pass, where their complete derivatives would be handed to `on_param`; those are not handed on.

    report: of the last evaluation, by layer what was done or why nothing was; or why there was no
    program, by "".
    """

    def __init__(self, net: Network, precision: str = "fp32"):
        if precision == "fp16":
            raise ValueError("precision is 'fp16'; wanted fp32, tf32 or bf16, which have kernels")
        self.net, self.explicit = net, with_precision(net, precision)
        self.programs = Programs(net.graph, maps=LOW.get(precision, torch.float32))
        self._stepping: Stepping | None = None
        self.report: list[tuple[str, str]] = []

    @property
    def stepping(self) -> Stepping | None:
        """What updates parameters within the backward pass."""
        return self._stepping

    @stepping.setter
    def stepping(self, stepping: Stepping | None) -> None:
        if stepping is not self._stepping:
            self.programs.made.clear()  # they would keep alive what the old one updates
        self._stepping = stepping

    def eval(
        self,
        inputs: Mapping[str, Any],
        ders: Mapping[str, Any] | None = None,
        *,
        mode: Mode = "normal",
        generator: torch.Generator | None = None,
        record: Record | None = None,
        depth: int | None = None,
        conserve_memory: bool = True,
        precious: Iterable[str] = (),
        accumulate: bool = False,
        on_param: OnParam | None = None,
        wanted_inputs: Iterable[str] | None = None,
        out: Mapping[str, Tensor] | None = None,
        recompute: Recompute = False,
        sync: bool = False,
    ) -> Record:
        """Evaluate the network, and differentiate it if `ders` are given; see `Network.eval`."""
        program, maps, values = None, dict[str, Tensor](), self.net.values()
        why = "depth, layers to recompute and conserve_memory=False want the explicit way"
        if depth is None and isinstance(recompute, bool) and conserve_memory:
            program, maps, why = self._find(
                inputs, values, Options(
                    tuple(ders or ()), mode, frozenset((*self.net.precious, *precious)),
                    None if wanted_inputs is None else frozenset(wanted_inputs),
                    self._frozen(), recompute,
                    self._stepping if ders and on_param is not None and not accumulate else None,
                ),
            )  # fmt: skip
        if program is None:
            self.report = [("", why)]
            return self.explicit.eval(
                inputs, ders, mode=mode, generator=generator, record=record, depth=depth,
                conserve_memory=conserve_memory, precious=precious, accumulate=accumulate,
                on_param=on_param, wanted_inputs=wanted_inputs, out=out, recompute=recompute,
                sync=sync,
            )  # fmt: skip
        self.report = program.report
        ctx = Context(mode == "normal", generator)
        given = {v: torch.as_tensor(der, dtype=torch.float32) for v, der in (ders or {}).items()}
        if not accumulate or record is None:
            return program.run(maps, self.programs.params, given, ctx, on_param)
        old = {p: der.clone() for p, der in record.param_ders.items()}  # the next run overwrites it
        made = program.run(maps, self.programs.params, given, ctx)
        for p, der in old.items():
            made.param_ders[p] = der + made.param_ders[p] if p in made.param_ders else der
        if on_param is not None:
            for p in list(made.param_ders):
                on_param(p, made.param_ders.pop(p))
        return made

    def _find(
        self, inputs: Mapping[str, Any], values: Mapping[str, Tensor | None], options: Options
    ) -> tuple[Program | None, dict[str, Tensor], str]:
        """The program for an evaluation; see `Programs.find`."""
        if self.net.graph is not self.programs.graph:
            self.programs = Programs(self.net.graph, maps=self.programs.maps)
        return self.programs.find(inputs, values, options)

    def _frozen(self) -> frozenset[str]:
        params = self.net.params.items()
        return frozenset(p for p, param in params if param.train_method == "none")
