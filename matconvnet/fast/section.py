"""One direction of a program: kernel calls joined to tapes, with steps in Python between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from matconvnet.fast.native import Call, Tape
from matconvnet.fast.units import Unit
from matconvnet.layer import Context


@dataclass
class Run:
    """One run: what came from outside, and what layers without kernels left for one another.

    absent: variables that turned out to have no derivative.
    """

    inputs: Mapping[str, Tensor]
    params: Mapping[str, Tensor | None]
    ctx: Context
    saved: dict[str, Any] = field(default_factory=dict)
    param_ders: dict[str, Tensor] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)


Step = Callable[[Run], None]


class Item(NamedTuple):
    """Calls of kernels, or a step in Python, of a unit; parameters whose derivative it gives."""

    unit: Unit
    work: list[Call] | Step
    params: tuple[str, ...] = ()


class Section:
    """Items in the order in which they run; they are joined where Python has nothing to do."""

    def __init__(self, items: Sequence[Item]):
        self.units = list(dict.fromkeys(item.unit for item in items))
        self.calls = [call for item in items if isinstance(item.work, list) for call in item.work]
        number = {unit: i for i, unit in enumerate(self.units)}
        self.parts: list[tuple[Tape | Step, np.ndarray, tuple[str, ...]]] = []
        self._none = dict.fromkeys((n.name for unit in self.units for n in unit.nodes), 0.0)
        calls, owners = list[Call](), list[int]()

        def close(params: tuple[str, ...] = ()) -> None:
            if calls or params:
                self.parts.append((Tape(calls), np.array(owners, int), params))
                calls.clear()
                owners.clear()

        for unit, work, params in items:
            if isinstance(work, list):
                calls += work
                owners += [number[unit]] * len(work)
                if params:
                    close(params)
            else:
                close()
                self.parts.append((work, np.array([number[unit]]), params))
        close()
        self.seconds = np.zeros(len(self.units))

    def run(self, run: Run, on_param: Callable[[Run, str], None]) -> None:
        """Run every part, and tell of parameters whose derivative is complete."""
        self.seconds[:] = 0
        for work, owners, params in self.parts:
            if isinstance(work, Tape):
                work.seconds[:] = 0
                work(timed=True)
                self.seconds += np.bincount(owners, work.seconds, len(self.seconds))
            else:
                start = perf_counter()
                work(run)
                self.seconds[owners] += perf_counter() - start
            for p in params:
                on_param(run, p)

    def times(self) -> dict[str, float]:
        """Seconds of the last run by layer; those of a unit stand at its main layer."""
        names = (unit.node.name for unit in self.units)
        return {**self._none, **dict(zip(names, self.seconds.tolist(), strict=True))}
