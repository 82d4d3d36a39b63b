"""Memory of a program: tensors that live at different times share it.

A program is written twice by the same code. The first time a `Planner` hands out tensors without
memory and notes, for each, from when to when it is used; the second time an `Arena` hands out the
same tensors, in one block of memory, where those that live at the same time do not overlap.
"""

import mmap
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matconvnet.layout import empty_map

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass
class Life:
    """Bytes of a tensor, and the first and last moment when it is used."""

    size: int
    first: int
    last: int


class Planner:
    """Hands out tensors on the meta device, and notes their lives.

    now: the present moment; moments are counted by whoever writes the program.
    """

    def __init__(self) -> None:
        self.now = 0
        self.lives: dict[Hashable, Life] = {}

    def tensor(
        self, key: Hashable, shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The tensor that is called `key`, in use now."""
        like = torch.empty((), dtype=dtype, device="meta")
        found = empty_map(tuple(shape), like)
        life = self.lives.setdefault(key, Life(found.nbytes, self.now, self.now))
        life.size = max(life.size, found.nbytes)
        life.first, life.last = min(life.first, self.now), max(life.last, self.now)
        return found

    def keep(self, key: Hashable, until: int) -> None:
        """Let a tensor live to the moment `until`."""
        self.lives[key].last = max(self.lives[key].last, until)


class Arena:
    """Hands out the tensors that a `Planner` has planned, in one block of memory.

    block: bytes that may be used; None: new ones.
    """

    def __init__(self, planner: Planner, block: Tensor | None = None):
        self.now = 0
        self.offsets, self.size = place(planner.lives)
        if block is None or block.numel() < self.size:
            block = new_block(self.size)
        self.block = block

    def tensor(
        self, key: Hashable, shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The tensor that is called `key`."""
        like = empty_map(tuple(shape), torch.empty((), dtype=dtype, device="meta"))
        start = self.offsets[key]
        memory = self.block[start : start + like.nbytes].view(dtype)
        return memory.as_strided(like.shape, like.stride())

    def keep(self, key: Hashable, until: int) -> None:
        """Nothing: the planner was told."""


def new_block(size: int) -> Tensor:
    """Bytes of this process alone, in pages of 2 MB where the system has them: three times as fast
    when they are first written to.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    pages = mmap.mmap(-1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)


def place(lives: dict[Hashable, Life]) -> tuple[dict[Hashable, int], int]:
    """Offsets by key such that what lives at the same time does not overlap, and bytes in all.

    The largest is placed first, each at the lowest offset that is free during its life.
    """
    offsets: dict[Hashable, int] = {}
    placed: list[tuple[Life, int, int]] = []
    total = 0
    for key, life in sorted(lives.items(), key=lambda item: -item[1].size):
        size = -(-life.size // ALIGNMENT) * ALIGNMENT
        taken = sorted(
            (start, end)
            for other, start, end in placed
            if other.first <= life.last and life.first <= other.last
        )
        offset = 0
        for start, end in taken:
            if start >= offset + size:
                break
            offset = max(offset, end)
        offsets[key] = offset
        placed.append((life, offset, offset + size))
        total = max(total, offset + size)
    return offsets, total
