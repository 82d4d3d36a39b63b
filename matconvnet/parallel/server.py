"""The parameter server: where derivatives go as soon as they are complete, and come back summed.

Source: ParameterServer of MatConvNet.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Slot(NamedTuple):
    """What a parameter was registered as."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class ParameterServer(ABC):
    """Sum over workers of the tensors that each pushes.

    Call `register` for every tensor, then `start`; then, every step, `push` each tensor once,
    `sync`, and `pull` the sums; at last `stop`.
    """

    def __init__(self):
        self.slots: dict[str, Slot] = {}
        self.started = False

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
        if name not in self.slots:
            raise KeyError(f"{name!r} is not registered; wanted one of {list(self.slots)}")
        slot = self.slots[name]
        if (value.shape, value.dtype, value.device) != slot:
            found = Slot(tuple(value.shape), value.dtype, value.device)
            raise ValueError(f"{name!r} is {found}; it was registered as {slot}")

    @abstractmethod
    def push(self, name: str, value: Tensor) -> None:
        """Hand over this worker's value; returns at once."""

    @abstractmethod
    def sync(self) -> None:
        """Wait until everything that was pushed is on its way to the other workers."""

    @abstractmethod
    def pull(self, name: str) -> Tensor:
        """The sum over all workers of what was pushed under `name` in this step."""


class LocalServer(ParameterServer):
    """The server of a single worker: the sum is what it pushed."""

    def __init__(self):
        super().__init__()
        self._values: dict[str, Tensor] = {}

    def push(self, name: str, value: Tensor) -> None:
        """Keep `value` until the next push of `name`."""
        self.check(name, value)
        self._values[name] = value

    def sync(self) -> None:
        """Nothing to wait for."""

    def pull(self, name: str) -> Tensor:
        """What was pushed; zeros, if nothing was."""
        if name not in self.slots:
            raise KeyError(f"{name!r} is not registered; wanted one of {list(self.slots)}")
        if name not in self._values:
            slot = self.slots[name]
            return torch.zeros(slot.shape, dtype=slot.dtype, device=slot.device)
        return self._values[name]

    def stop(self) -> None:
        """Close the exchange and forget what was pushed."""
        super().stop()
        self._values.clear()


class RecordingServer(LocalServer):
    """A local server that also writes down the order of the pushes, to watch a backward pass."""

    def __init__(self):
        super().__init__()
        self.pushed: list[str] = []

    def push(self, name: str, value: Tensor) -> None:
        """Keep `value`, and note that it came."""
        super().push(name, value)
        self.pushed.append(name)
