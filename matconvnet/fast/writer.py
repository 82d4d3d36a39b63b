"""How a program is written: units become kernel calls, with every tensor in its place.

The same code writes it twice, first over a `Planner`, then over an `Arena`; see `fast.memory`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from matconvnet.executor import wanted_variables
from matconvnet.fast import elementwise
from matconvnet.fast.lowering import FAMILIES, Pack, Shapes, Target, again, is_cheap
from matconvnet.fast.memory import Arena, Planner
from matconvnet.fast.native import Call
from matconvnet.fast.section import Item, Run, Step, Work
from matconvnet.fast.units import Unit
from matconvnet.graph import Graph
from matconvnet.layer import Call as LayerCall
from matconvnet.layout import empty_map


class Stepping(Protocol):
    """Updates parameters within the backward pass, so that their derivatives are not kept."""

    def serves(self, p: str) -> bool:
        """Whether it updates a parameter."""
        ...

    def calls(self, p: str, der: Tensor, first: int) -> list[Call]:
        """Update a parameter by a derivative, or its numbers from `first` on by a part of it."""
        ...


class Task(NamedTuple):
    """What a program computes.

    graph: layers that are evaluated, all of them. shapes: of variables and parameters. types: of
    inputs, where it is not that of the maps. params: values by name. training: the mode. ders:
    variables whose derivative comes from outside; none: forward only. wanted_inputs: as in
    `executor.backward`. keep: variables whose value (and derivative) is kept to the end. frozen:
    parameters whose derivative nobody wants. constant: the parameters will not change. recompute:
    cheap values are not kept for the backward pass, but made again. maps: type of all maps, float32
    or bfloat16. stepping: what updates parameters within the backward pass, if anything does.
    """

    graph: Graph
    shapes: Shapes
    types: Mapping[str, torch.dtype]
    params: Mapping[str, Tensor | None]
    training: bool = True
    ders: tuple[str, ...] = ()
    wanted_inputs: frozenset[str] | None = None
    keep: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    constant: bool = False
    recompute: bool = False
    maps: torch.dtype = torch.float32
    stepping: Stepping | None = None

    @property
    def shown(self) -> set[str]:
        """Variables that somebody outside wants to see."""
        losses = {v for n in self.graph.nodes if n.layer.is_loss for v in n.outputs}
        return {*self.keep, *self.ders, *self.graph.outputs, *losses}


class ProgramWriter:
    """Writes the items of a task. (It is the `Writer` of `fast.lowering`.)

    values: of variables that are kept; ders: of those whose derivative is kept; param_ders: where
    derivatives of parameters go. inputs, given: stand-ins for what comes from outside.
    """

    def __init__(self, task: Task, units: Sequence[Unit], memory: Planner | Arena):
        self.task, self.units, self.memory = task, units, memory
        self.training, self.derivative, self.shapes = task.training, bool(task.ders), task.shapes
        self.maps = task.maps
        by_kernels = {v for unit in units if unit.native for n in unit.nodes for v in n.inputs}
        by_kernels.update(v for unit in units if unit.native for v in unit.outputs)
        self._exact = {v for unit in units for v in unit.outputs} - by_kernels
        self.inputs = {v: self._outside(v) for v in task.graph.inputs}
        self.given = {v: self._outside(v) for v in task.ders}
        self.values: dict[str, Tensor] = {}
        self.ders: dict[str, Tensor] = {}
        self.param_ders: dict[str, Tensor] = {}
        self._packed: list[Call] = []
        self._whole = set[str]()  # parameters that step by a derivative that exists as a whole
        self._keys: dict[str, object] = {v: ("given", v) for v in task.ders}
        self._shared: set[object] = set(self._keys.values())
        self._pending = Counter[str]()
        self._rectified = {unit.output for unit in units if unit.relu}
        self._end = 2 * len(units)
        self._count = 0
        wanted = wanted_variables(
            task.graph, frozenset(n.name for n in task.graph.nodes), task.wanted_inputs
        )
        self._wanted = wanted - {v for v, kind in task.types.items() if not kind.is_floating_point}
        self._again = self._made_again() if task.recompute and self.derivative else {}
        self._remade = set[object]()
        self._fresh: list[Work] | None = None

    def write(self) -> tuple[list[Item], list[Item]]:
        """The items of the forward and of the backward pass."""
        forward, backward = [], []
        for moment, unit in enumerate(self.units):
            self.memory.now = moment
            family = FAMILIES[type(unit.node.layer)] if unit.native else None
            work = family.forward(unit, self) if family else [self._eval(unit)]
            forward.append(Item(unit, work))
        for v in self.task.graph.producer:
            if v in self.task.shown:
                self.values[v] = self.value(v)
                self.memory.keep(("value", v), self._end)
        active = self._active() if self.derivative else []
        for unit in active:
            self._pending.update(v for v in self._differentiated(unit) if v in self._wanted)
        for unit in reversed(active):
            self.memory.now = self._end - self.units.index(unit)
            self._fresh = []
            family = FAMILIES[type(unit.node.layer)] if unit.native else None
            params = tuple(dict.fromkeys(unit.node.params))
            if family:
                work = list(family.backward(unit, self))
                for p in params:
                    der = self.param_der(p) if p in self._whole else None
                    work += [] if der is None else self.step(p, der, 0)
                params = tuple(p for p in params if not self.steps(p))
            else:
                work = [self._differentiate(unit)]
            if self._fresh:
                backward.append(Item(unit, self._fresh))
            backward.append(Item(unit, work, params))
        for v in (*self.task.graph.inputs, *self.task.keep):
            if v in self._keys:
                self.ders[v] = self.der(v)
                self.memory.keep(self._keys[v], self._end)
        return forward, backward

    def value(self, v: str) -> Tensor:
        """See `Writer`."""
        if v in self.inputs:
            return self.inputs[v]
        if self._fresh is not None and v in self._again:
            key, unit = ("again", v), self._again[v]
            if key not in self._remade:
                self._remade.add(key)
                self._fresh += again(unit, self)
            return self.memory.tensor(key, self.shapes[v], self._type(v))
        return self.memory.tensor(("value", v), self.shapes[v], self._type(v))

    def der(self, v: str) -> Tensor:
        """See `Writer`."""
        key = self._keys[v]
        if key == ("given", v):
            return self.given[v]
        return self.memory.tensor(key, self.shapes[v], self._type(v))

    def target(self, v: str, masked: bool = False) -> Target | None:
        """See `Writer`."""
        if v not in self._wanted:
            return None
        is_first, mask = self._share(v, masked)
        if is_first:
            self._keys[v] = ("der", v)
        if v in self.task.keep or v in self.task.graph.inputs:
            self._shared.add(self._keys[v])
        return Target(self.der(v), not is_first, mask)

    def is_rectified(self, v: str) -> bool:
        """See `Writer`."""
        return v in self._rectified

    def hand_on(self, source: str, v: str, alone: bool) -> list[Call]:
        """See `Writer`: the tensor itself is handed on where nobody is disturbed by that."""
        if v not in self._wanted:
            return []
        key, der = self._keys[source], self.der(source)
        is_only = v not in self._keys and self._pending[v] == 1
        is_free = alone and key not in self._shared
        if v not in self._keys and (is_free or (is_only and v not in self._rectified)):
            _, mask = self._share(v)
            self._keys[v] = key
            if not is_free or v in self.task.keep or v in self.task.graph.inputs:
                self._shared.add(key)
            return [] if mask is None else elementwise.relu_backward(mask, der, der, 0.0, False)
        target = self.target(v)
        assert target is not None
        return elementwise.copy(der, target.der, mask=target.mask, add=target.add)

    def param(self, p: str) -> Tensor:
        """See `Writer`."""
        value = self.task.params[p]
        assert value is not None
        return value

    def param_der(self, p: str) -> Tensor | None:
        """See `Writer`."""
        value = self.task.params[p]
        if value is None or p in self.task.frozen:
            return None
        if self.steps(p):
            self._whole.add(p)
            return self.memory.tensor(("derivative", p), tuple(value.shape))
        if p not in self.param_ders:
            device = "meta" if isinstance(self.memory, Planner) else None
            self.param_ders[p] = torch.empty_like(value, device=device)
        return self.param_ders[p]

    def steps(self, p: str) -> bool:
        """See `Writer`."""
        stepping = self.task.stepping
        return stepping is not None and stepping.serves(p) and p not in self.task.frozen

    def step(self, p: str, der: Tensor, first: int) -> list[Call]:
        """See `Writer`."""
        stepping = self.task.stepping
        assert stepping is not None
        return stepping.calls(p, der, first)

    def saved(self, unit: Unit, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """See `Writer`."""
        return self.memory.tensor(("saved", unit.output), shape, dtype)

    def packed(self, unit: Unit, count: int, pack: Pack) -> Tensor | None:
        """See `Writer`."""
        if not self.task.constant:
            return None
        memory = torch.empty(count, device="meta" if isinstance(self.memory, Planner) else None)
        self._packed += pack(memory)
        return memory

    def scratch(self, count: int) -> Tensor:
        """See `Writer`."""
        self._count += 1
        return self.memory.tensor(("scratch", self._count), (count,))

    def pack(self) -> None:
        """Pack the filters of a program with constant parameters."""
        for call in self._packed:
            call()

    def _made_again(self) -> dict[str, Unit]:
        """Units whose outputs are made again; of two joined by a sum, only one."""
        made: dict[str, Unit] = {}
        for unit in self.units:
            is_open = unit.native and unit.output not in self.task.shown
            if is_open and unit.residual not in made and is_cheap(unit, self.shapes, self.inputs):
                made[unit.output] = unit
        return made

    def _outside(self, v: str) -> Tensor:
        """A stand-in for a tensor from outside, with an address, but never touched."""
        like = torch.empty((), dtype=self._type(v))
        if isinstance(self.memory, Planner):
            like = like.to("meta")
        return empty_map(self.shapes[v], like)

    def _type(self, v: str) -> torch.dtype:
        """Of a variable: a given one; one that no kernel makes or reads; a loss; a map."""
        is_exact = v in self._exact or not self.shapes[v]
        return self.task.types.get(v, torch.float32 if is_exact else self.task.maps)

    def _share(self, v: str, masked: bool = False) -> tuple[bool, Tensor | None]:
        """Count a share of a derivative: is it the first; what masks it, if it is the last.

        masked: it is masked already, so that only other shares need it.
        """
        self._pending[v] -= 1
        is_first = v not in self._keys
        is_last = not self._pending[v] and v in self._rectified and not (is_first and masked)
        return is_first, self.value(v) if is_last else None

    def _active(self) -> list[Unit]:
        """Units that take part in the backward pass: they know the derivatives of their outputs."""
        known, active = set(self.task.ders), []
        for unit in reversed(self.units):
            if known.issuperset(unit.outputs):
                active.append(unit)
                known.update(v for v in self._differentiated(unit) if v in self._wanted)
        return active[::-1]

    def _differentiated(self, unit: Unit) -> list[str]:
        """Inputs that get a share of their derivative from a unit."""
        inputs = unit.node.inputs
        if unit.node.layer.is_loss and unit.native:
            return list(inputs[:1])
        return [*inputs] if unit.residual is None else [*inputs, unit.residual]

    def _eval(self, unit: Unit) -> Step:
        """Forward pass of a layer without kernels."""
        node = unit.node
        fixed = {v: self.value(v) for v in (*node.inputs, *node.outputs)}

        def step(run: Run) -> None:
            inputs = tuple(_single(run.inputs.get(v, fixed[v])) for v in node.inputs)
            given = tuple(run.params[p] for p in node.params)
            outputs, run.saved[node.name] = node.layer.forward(inputs, given, run.ctx)
            for v, value in zip(node.outputs, outputs, strict=True):
                if value.numel() == fixed[v].numel() == 1:
                    value = value.reshape(fixed[v].shape)
                if value.shape != fixed[v].shape:
                    raise ValueError(
                        f"layer {node.name!r} gave {tuple(value.shape)} for {v!r}; its "
                        f"output_sizes promised {tuple(fixed[v].shape)}"
                    )
                fixed[v].copy_(value)

        return step

    def _differentiate(self, unit: Unit) -> Step:
        """Backward pass of a layer without kernels."""
        node, layer = unit.node, unit.node.layer
        needs = {"inputs": node.inputs, "outputs": node.outputs}
        fixed = {v: self.value(v) for kind in layer.needs for v in needs[kind]}
        der_outputs = tuple(self.der(v) for v in node.outputs)
        targets = [self.target(v) for v in node.inputs]
        frozen = self.task.frozen

        def of(kind: str, run: Run) -> tuple[Tensor | None, ...]:
            if kind not in layer.needs:
                return (None,) * len(needs[kind])
            return tuple(_single(run.inputs.get(v, fixed[v])) for v in needs[kind])

        def step(run: Run) -> None:
            call = LayerCall(
                of("inputs", run),
                tuple(run.params[p] for p in node.params),
                of("outputs", run),
                run.saved.pop(node.name),
                run.ctx,
                tuple(target is not None for target in targets),
            )
            ders, der_params = layer.backward(call, tuple(map(_single, der_outputs)))
            for v, target, der in zip(node.inputs, targets, ders, strict=True):
                if target is not None:
                    _deliver(target, der)
                    if der is None and not target.add:
                        run.absent.add(v)
            for p, der in zip(node.params, der_params, strict=True):
                if der is not None and p not in frozen:
                    old = run.param_ders.get(p)
                    run.param_ders[p] = der if old is None else old + der

        return step


def _single(x: Tensor) -> Tensor:
    """A tensor as layers without kernels read it: in float32, or of whole numbers."""
    return x.float() if x.is_floating_point() else x


def _deliver(target: Target, der: Tensor | None) -> None:
    """Write a derivative that was computed without kernels to where it belongs."""
    if der is None:
        if not target.add:
            target.der.zero_()
    elif target.add:
        target.der.add_(der)
    else:
        target.der.copy_(der)
    if target.mask is not None:
        target.der.mul_(target.mask > 0)
