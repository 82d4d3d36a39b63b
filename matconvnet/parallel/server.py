"""The parameter server: where derivatives go as soon as they are complete, and come back summed.

Source: ParameterServer of MatConvNet.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Slot(NamedTuple):
    """What a parameter was registered as."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass
class Traffic:
    """What a server has moved since it was made.

    bytes: handed to the exchange by this worker. under_way: seconds in which some exchange was
    under way. waited: those of them that `sync` waited for. steps: calls of `sync`.
    """

    bytes: int = 0
    under_way: float = 0.0
    waited: float = 0.0
    steps: int = 0

    @property
    def overlap(self) -> float:
        """The share of the exchange, from 0 to 1, that computation hid."""
        return 1 - min(1.0, self.waited / self.under_way) if self.under_way else 0.0


class ParameterServer(ABC):
    """Sum over workers of the tensors that each pushes.

    Call `register` for every tensor, then `start`; then, every step, `push` each tensor at most
    once, `sync`, and `pull` the sums; at last `stop`. A worker that does not push a tensor adds
    zeros. All workers call `start` and `sync` equally often.
    """

    def __init__(self):
        self.slots: dict[str, Slot] = {}
        self.started = False
        self.traffic = Traffic()

    def register(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Declare a tensor; all workers declare the same ones in the same order."""
        if self.started:
            raise RuntimeError(f"register({name!r}) after start; register every tensor before it")
        if name in self.slots:
            raise ValueError(f"name {name!r} is registered already; wanted a new one")
        self.slots[name] = Slot(tuple(shape), dtype, torch.device(device))

    def start(self) -> None:
        """Open the exchange."""
        self.started = True

    def stop(self) -> None:
        """Close the exchange and forget what was pushed."""
        self.started = False

    def check(self, name: str, value: Tensor) -> None:
        """Raise unless `value` is what `name` was registered as, and the server runs."""
        if not self.started:
            raise RuntimeError(f"push({name!r}) before start; call start after the last register")
        slot = self.slot(name)
        if (value.shape, value.dtype, value.device) != slot:
            found = Slot(tuple(value.shape), value.dtype, value.device)
            raise ValueError(f"{name!r} is {found}; it was registered as {slot}")

    def slot(self, name: str) -> Slot:
        """What `name` was registered as."""
        if name not in self.slots:
            raise KeyError(f"{name!r} is not registered; wanted one of {list(self.slots)}")
        return self.slots[name]

    @abstractmethod
    def push(self, name: str, value: Tensor) -> None:
        """Hand over this worker's value; returns at once."""

    @abstractmethod
    def sync(self) -> None:
        """End the step: wait until all sums are there."""

    @abstractmethod
    def pull(self, name: str) -> Tensor:
        """The sum over all workers of what they pushed under `name` in the step that ended."""

    @abstractmethod
    def arrived(self) -> list[str]:
        """Names that some worker pushed in the step that ended, in the order of registration."""


class LocalServer(ParameterServer):
    """The server of a single worker: the sum is what it pushed."""

    def __init__(self):
        super().__init__()
        self._values: dict[str, Tensor] = {}
        self._pushed: set[str] = set()
        self._arrived: list[str] = []

    def push(self, name: str, value: Tensor) -> None:
        """Keep `value` until the next push of `name`."""
        self.check(name, value)
        self._values[name] = value
        self._pushed.add(name)

    def sync(self) -> None:
        """Forget what was pushed in earlier steps only."""
        self._arrived = [name for name in self.slots if name in self._pushed]
        self._values = {name: self._values[name] for name in self._arrived}
        self._pushed.clear()
        self.traffic.steps += 1

    def pull(self, name: str) -> Tensor:
        """What was pushed; zeros, if nothing was."""
        slot = self.slot(name)
        if name not in self._values:
            return torch.zeros(slot.shape, dtype=slot.dtype, device=slot.device)
        return self._values[name]

    def arrived(self) -> list[str]:
        """Names that were pushed in the step that ended, in the order of registration."""
        return list(self._arrived)

    def stop(self) -> None:
        """Close the exchange and forget what was pushed."""
        super().stop()
        self._values.clear()
        self._pushed.clear()
        self._arrived.clear()


class RecordingServer(LocalServer):
    """A local server that also writes down the order of the pushes, to watch a backward pass."""

    def __init__(self):
        super().__init__()
        self.pushed: list[str] = []

    def push(self, name: str, value: Tensor) -> None:
        """Keep `value`, and note that it came."""
        super().push(name, value)
        self.pushed.append(name)
