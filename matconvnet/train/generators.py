"""Random numbers of training: seeded for every epoch, kept in checkpoints, given back at the end.

Functions of the user, such as `get_batch`, draw from the global generators of Python, NumPy and
torch; these are seeded too, and are afterwards what they were before.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

RANK_STRIDE = 1_000_003
"""Seeds of the masks of neighbouring workers are this far apart, epochs are 1 apart."""


class Generators:
    """All random numbers of one epoch.

    orders: for the order of the images, the same for all workers. masks: for dropout, which differ
    between workers.
    """

    def __init__(self, seed: int, device: torch.device, rank: int = 0):
        self.device = device
        self.orders = self.masks = torch.Generator().manual_seed(seed)
        own = seed + rank * RANK_STRIDE
        if device.type != "cpu" or rank:
            self.masks = torch.Generator(device).manual_seed(own)
        random.seed(own)
        np.random.seed(own % 2**32)
        torch.manual_seed(own)

    def state(self) -> dict[str, Any]:
        """All states, as plain data."""
        name, keys, *rest = np.random.get_state(legacy=True)
        states = {"masks": self.masks.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            **{key: state.numpy().tobytes().hex() for key, state in states.items()},
            "numpy": [name, np.asarray(keys).tolist(), *rest],
            "python": _listed(random.getstate()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self.masks.set_state(_bytes(state["masks"]))
        torch.set_rng_state(_bytes(state["torch"]))
        if "cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(_bytes(state["cuda"]), self.device)
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, np.array(keys, np.uint32), *rest))
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))


@contextmanager
def global_generators_kept(device: torch.device) -> Iterator[None]:
    """Give the global generators back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
