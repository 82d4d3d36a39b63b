"""One direction of a program: kernel calls joined to tapes, with steps in Python between them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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


Work = Call | Step


class Item(NamedTuple):
    """Calls of kernels, and steps in Python, of a unit; parameters whose derivative they give."""

    unit: Unit
    work: Sequence[Work]
    params: tuple[str, ...] = ()


class Section:
    """Items in the order in which they run; they are joined where Python has nothing to do."""

    def __init__(self, items: Sequence[Item]):
        self.units = list(dict.fromkeys(item.unit for item in items))
        self.calls = [one for item in items for one in item.work if isinstance(one, Call)]
        number = {unit: i for i, unit in enumerate(self.units)}
        self.parts: list[tuple[Tape | Step, np.ndarray, tuple[str, ...]]] = []
        self._none = dict.fromkeys((n.name for unit in self.units for n in unit.nodes), 0.0)
        self._owners = np.array([number[item.unit] for item in items for _ in item.work], int)
        self._seconds = np.zeros(len(self._owners))  # of every call and step, in their order
        calls, end = list[Call](), 0

        def close(params: tuple[str, ...] = ()) -> None:
            if calls or params:
                seconds = self._seconds[end - len(calls) : end]
                self.parts.append((Tape(calls, seconds), seconds, params))
                calls.clear()

        for _, work, params in items:
            for one in work:
                if isinstance(one, Call):
                    calls.append(one)
                    end += 1
                    continue
                close()
                end += 1
                self.parts.append((one, self._seconds[end - 1 : end], ()))
            if params:
                close(params)
        close()

    def run(self, run: Run, on_param: Callable[[Run, str], None], *, timed: bool = True) -> None:
        """Run every part, and tell of parameters whose derivative is complete.

        timed: take the time of every call, for `times`.
        """
        if timed:
            self._seconds.fill(0)
        for work, seconds, params in self.parts:
            if isinstance(work, Tape):
                work(timed)
            else:
                start = perf_counter()
                work(run)
                if timed:
                    seconds[0] = perf_counter() - start
            for p in params:
                on_param(run, p)

    def kernels(self) -> Iterator[tuple[str, str, float]]:
        """Main layer, kernel and seconds of every call of the last timed run."""
        first = 0
        for work, seconds, _ in self.parts:
            if isinstance(work, Tape):
                owners = self._owners[first : first + len(work.calls)]
                for call, owner, taken in zip(work.calls, owners, seconds.tolist(), strict=True):
                    yield self.units[owner].node.name, call.name, taken
            first += len(seconds)

    def times(self) -> dict[str, float]:
        """Seconds of the last timed run by layer; those of a unit stand at its main layer."""
        names = (unit.node.name for unit in self.units)
        seconds = np.bincount(self._owners, self._seconds, len(self.units))
        return {**self._none, **dict(zip(names, seconds.tolist(), strict=True))}
