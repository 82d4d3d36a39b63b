"""Recordings: a function of tensors as a CUDA graph, and a few of them by what they are for."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from matconvnet.fast.rewrite import Step

T = TypeVar("T")
Tensors = Mapping[Any, Tensor]

MOST_SHAPES = 3
"""Recordings in one mode: each holds its memory, and sizes that change for ever gain nothing."""

WARM_UPS = 3
"""Evaluations before a recording, in which libraries choose their kernels and take memory."""


class Recording(Generic[T]):
    """A function of tensors, recorded as a CUDA graph.

    made: what the function returned; `replay` computes the same tensors anew.
    """

    def __init__(
        self,
        function: Callable[[Tensors], T],
        tensors: Tensors,
        device: torch.device,
        generator: torch.Generator | None = None,
        older: "Recording[T] | None" = None,
    ):
        """Record a function, which must not change its arguments.

        Args:
            function: what to record.
            tensors: its arguments; later ones have the same shapes and types.
            device: the GPU.
            generator: what it draws random numbers from, besides the generator of the device; both
                are afterwards in the state that they are in now.
            older: a recording whose memory, but for its results, this one may use as well.

        Raises: RecordingError, if the function does what cannot be recorded; other errors, if it
            fails by itself.
        """
        self.device = device
        self.inputs = {
            name: torch.empty_like(t, device=device).copy_(t) for name, t in tensors.items()
        }
        self.staged: dict[Any, Tensor] = {}
        self.copies = torch.cuda.Stream(self.device)
        self.arrived, self.taken = torch.cuda.Event(), torch.cuda.Event()
        self.graph = torch.cuda.CUDAGraph()
        own = torch.cuda.default_generators[device.index or 0]
        states = [(g, g.get_state()) for g in (own, generator) if g is not None]
        present = torch.cuda.current_stream(self.device)
        try:
            self._warm_up(function, present)
            if generator is not None and generator.device.type == "cuda":
                self.graph.register_generator_state(generator)
            pool = None if older is None else older.graph.pool()
            with torch.cuda.device(self.device):
                self.made = self._record(function, pool)
        finally:
            torch.cuda.set_stream(present)  # a capture that fails leaves its own stream in place
            for g, state in states:
                g.set_state(state)

    def _warm_up(self, function: Callable[[Tensors], T], present: torch.cuda.Stream) -> None:
        side = torch.cuda.Stream(self.device)
        side.wait_stream(present)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function(self.inputs)
        present.wait_stream(side)

    def _record(self, function: Callable[[Tensors], T], pool: Any) -> T:
        own = torch.cuda.Stream(self.device)
        try:
            # "thread_local": other threads, which load data, may use the device meanwhile.
            with torch.cuda.graph(self.graph, pool, own, capture_error_mode="thread_local"):
                made = function(self.inputs)
        except Exception as error:
            raise RecordingError(str(error).splitlines()[0]) from error
        return made

    def replay(self, tensors: Tensors) -> T:
        """Compute the function of other tensors, on the device or, best pinned, on the CPU."""
        present = torch.cuda.current_stream(self.device)
        outside = [name for name, t in tensors.items() if t.device.type == "cpu"]
        if outside:
            self._stage({name: tensors[name] for name in outside}, present)
        for name, t in tensors.items():
            self.inputs[name].copy_(self.staged[name] if name in outside else t)
        if outside:
            self.taken.record(present)
        self.graph.replay()
        return self.made

    def _stage(self, tensors: Tensors, present: torch.cuda.Stream) -> None:
        """Copy tensors to the device on a stream of their own, while the last replay still runs."""
        for name in tensors.keys() - self.staged.keys():
            self.staged[name] = torch.empty_like(self.inputs[name])
            self.taken.record(present)  # the new memory may still be in use until here
        self.copies.wait_event(self.taken)
        with torch.cuda.stream(self.copies):
            for name, t in tensors.items():
                self.staged[name].copy_(t, non_blocking=True)
            self.arrived.record(self.copies)
        present.wait_event(self.arrived)


class RecordingError(RuntimeError):
    """A function that does what a CUDA graph cannot, such as waiting for the device."""


class Recordings(Generic[T]):
    """Recordings by what they are for: a few of each mode, and why there are no more.

    report: what was recorded, and what was not.
    """

    def __init__(self, record: Callable[..., Recording[T]] = Recording):
        """record: makes a recording; tests replace it, where there is no GPU."""
        self.record = record
        self.report: list[Step] = []
        self._made: dict[tuple[str, Hashable], Recording[T]] = {}
        self._failed, self._cleared = False, 0

    def find(
        self,
        mode: str,
        key: Hashable,
        function: Callable[[Tensors], T],
        tensors: Tensors,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Recording[T] | None:
        """The recording for `key`, made if need be; None, if there is to be none.

        Args:
            mode: "normal" or "test".
            key: what else tells one recording from another.
            function, tensors, device, generator: see `Recording`.
        """
        made = self._made.get((mode, key))
        if made is not None or self._failed:
            return made
        if sum(of == mode for of, _ in self._made) == MOST_SHAPES:
            self.say(f"inputs of more than {MOST_SHAPES} kinds in mode {mode!r}; not recorded")
            return None
        try:
            older = next(iter(self._made.values()), None)
            made = self.record(function, tensors, device, generator, older)
        except RecordingError as error:
            self._failed = True
            self.say(f"cannot be recorded: {error}")
            return None
        self._made[mode, key] = made
        sizes = ", ".join(" x ".join(map(str, t.shape)) for t in tensors.values() if t.dim())
        self.say(f"recorded in mode {mode!r} for inputs of {sizes}")
        return made

    def say(self, what: str) -> None:
        """Add a line to the report, once."""
        if Step("", what) not in self.report:
            self.report.append(Step("", what))

    def clear(self) -> None:
        """Forget what was recorded, whose memory is not what is meant any more.

        Where that happens again and again, nothing is recorded any more.
        """
        self._cleared += bool(self._made)
        self._made.clear()
        if self._cleared > MOST_SHAPES:
            self._failed = True
            self.say("parameters or structure change again and again; not recorded")
