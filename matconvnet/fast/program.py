"""A program: one evaluation of a network, forward and backward, as lists of kernel calls.

What does not change from step to step is settled once: which layers run as one, where every tensor
lies, and with which addresses each kernel is called. A run then takes a few calls of Python in
place of a few for each layer, and no new memory. Layers without kernels run through their own
`forward` and `backward` in between.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from matconvnet.blocks.softmax import Softmax
from matconvnet.executor import OnParam, Record
from matconvnet.fast.lowering import Shapes, hindrance
from matconvnet.fast.memory import Arena, Planner
from matconvnet.fast.native import Call
from matconvnet.fast.section import Run, Section
from matconvnet.fast.units import Unit, units
from matconvnet.fast.writer import ProgramWriter, Task
from matconvnet.graph import Node
from matconvnet.layer import Context


class Program:
    """The calls that compute a task, over one block of memory.

    Values and derivatives in the records that it returns lie in that block: the next run overwrites
    them. report: by layer, what was done, or why nothing was. size: bytes of the block. classes:
    by variable of labels, how many classes there are.
    """

    def __init__(self, task: Task, block: Tensor | None = None):
        """Write the program. block: bytes to use, if they are enough."""
        self.task = task
        reasons = {node.name: self._hindrance(node) for node in task.graph.nodes}
        self.units = units(task.graph, lambda node: not reasons[node.name], task.shown)
        self.report = _report(self.units, reasons)
        planner = Planner()
        ProgramWriter(task, self.units, planner).write()
        arena = Arena(planner, block)
        self.block, self.size = arena.block, arena.size
        self.writer = ProgramWriter(task, self.units, arena)
        forward, backward = self.writer.write()
        self.writer.pack()
        self.forward, self.backward = Section(forward), Section(backward)
        self._users = Counter(p for item in backward for p in item.params)
        self.classes = _classes(self.units, task.shapes)
        self._params = task.params
        calls = [*self.forward.calls, *self.backward.calls]
        outside = {**self.writer.inputs, **task.params}
        self.bindings = {v: Binding(t, calls) for v, t in outside.items() if t is not None}

    def run(
        self,
        inputs: Mapping[str, Tensor],
        params: Mapping[str, Tensor | None],
        ders: Mapping[str, Tensor],
        ctx: Context,
        on_param: OnParam | None = None,
        *,
        timed: bool = True,
    ) -> Record:
        """Compute the task once.

        Args:
            inputs, ders: tensors of the shapes of the task, maps in channels-last memory.
            params: tensors of the shapes and strides of those of the task.
            ctx: mode and random generator.
            on_param: as in `executor.backward`.
            timed: take the time of every layer; else there are none in the record.
        """
        for v, tensor in inputs.items():
            self.bindings[v].move(tensor)
        if params is not self._params:
            for p, tensor in params.items():
                if tensor is not None:
                    self.bindings[p].move(tensor)
            self._params = params
        writer, run = self.writer, Run(inputs, params, ctx)
        record = Record(dict(inputs), ctx=ctx, spent=True)
        self.forward.run(run, _ignore, timed=timed)
        for v, value in writer.values.items():
            record.values[v] = value.clone() if value.dim() == 0 else value
        if timed:
            record.forward_time = self.forward.times()
        if not self.task.ders:
            return record
        for v, der in ders.items():
            given = writer.given[v]
            given.copy_(der.reshape(given.shape) if der.numel() == 1 == given.numel() else der)
        pending = Counter(self._users)

        def complete(run: Run, p: str) -> None:
            pending[p] -= 1
            der = run.param_ders.get(p, writer.param_ders.get(p))
            if pending[p] or der is None:
                return
            if on_param is None:
                record.param_ders[p] = der
            else:
                on_param(p, der)

        self.backward.run(run, complete, timed=timed)
        record.ders = {v: der for v, der in writer.ders.items() if v not in run.absent}
        record.ders.update(ders)
        if timed:
            record.backward_time = self.backward.times()
        return record

    def _hindrance(self, node: Node) -> str:
        if any(self.task.graph.users[p] > 1 for p in node.params):
            return "its parameters are used elsewhere, too"
        if self.task.maps != torch.float32 and isinstance(node.layer, Softmax):
            return "it computes in float32"
        return hindrance(node, self.task.shapes)


class Binding:
    """Addresses within one tensor from outside, wherever calls use them."""

    def __init__(self, tensor: Tensor, calls: Sequence[Call]):
        self.start = tensor.data_ptr()
        end = self.start + tensor.nbytes
        self.places = [
            (call.addresses, i)
            for call in calls
            for i, address in enumerate(call.addresses.tolist())
            if self.start <= address < end
        ]

    def move(self, tensor: Tensor) -> None:
        """Use another tensor in its place."""
        start = tensor.data_ptr()
        if start != self.start:
            for addresses, i in self.places:
                addresses[i] = int(addresses[i]) - self.start + start
            self.start = start


def _ignore(run: Run, p: str) -> None:
    """The forward pass completes no derivative."""


def _classes(all_units: Sequence[Unit], shapes: Shapes) -> dict[str, int]:
    """By variable of labels, the number of classes that kernels know without looking."""
    found: dict[str, int] = {}
    for unit in all_units:
        if unit.native and unit.node.layer.is_loss:
            scores, labels = unit.node.inputs
            found[labels] = min(shapes[scores][2], found.get(labels, shapes[scores][2]))
    return found


def _report(all_units: Sequence[Unit], reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """What was done, layer by layer."""
    lines = []
    for unit in all_units:
        name = unit.node.name
        if not unit.native:
            lines.append((name, f"runs by itself: {reasons[name]}"))
        elif len(unit.nodes) > 1:
            others = ", ".join(node.name for node in unit.nodes[1:])
            lines.append((name, f"kernels, as one with {others}"))
        else:
            lines.append((name, "kernels"))
    return lines
