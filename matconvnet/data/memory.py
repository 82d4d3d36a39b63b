"""Memory of batches, used again once nobody holds it: fresh pages cost much time."""

from collections import deque
from collections.abc import Sequence
from math import prod

import numpy as np

MOST = 4  # pieces of memory that wait for use: of two batches ahead, one in use and one asked for


class BatchMemory:
    """Makes arrays in the memory of earlier ones that nobody holds any more.

    What holds the array, a view of it, a tensor of it, or a view of that tensor, also holds the
    owner of the memory; nothing but the end of the owner hands the memory back.
    """

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=MOST)

    def take(self, shape: Sequence[int]) -> np.ndarray:
        """An unwritten float32 array."""
        size = prod(shape)
        try:
            memory = self._free.popleft()
            while memory.size < size:
                memory = self._free.popleft()
        except IndexError:
            memory = np.empty(size, np.float32)
        return np.asarray(_Owner(memory, shape, self._free))

    def clear(self) -> None:
        """Free what waits for use."""
        self._free.clear()


class _Owner:
    """The owner of an array (its `base`), which outlives all views of it."""

    def __init__(self, memory: np.ndarray, shape: Sequence[int], free: deque[np.ndarray]):
        self._memory, self._free = memory, free
        self.__array_interface__ = memory[: prod(shape)].reshape(shape).__array_interface__

    def __del__(self) -> None:
        self._free.append(self._memory)
