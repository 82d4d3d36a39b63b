"""Tensors packed side by side into flat memory, so that few large sums replace many small ones."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from matconvnet.layout import empty_map
from matconvnet.parallel.server import Slot

BUCKET_BYTES = 25 << 20
ALIGNMENT = 64  # bytes: the widest registers of a CPU

SUM_DTYPE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
"""Half types are added in float32 and rounded once, when they are pulled."""


class Bucket:
    """A flat memory that holds the sums of some tensors, and how many workers pushed each.

    The last number of the memory counts tensors that were pushed but have no bucket yet.

    Args:
        slots: the tensors, of one type and device.
    """

    def __init__(self, slots: Mapping[str, Slot]):
        first = next(iter(slots.values()))
        self.device, dtype = first.device, _sum_dtype(first)
        step = ALIGNMENT // dtype.itemsize
        starts, end = {}, 0
        for name, slot in slots.items():
            starts[name] = end
            end += -(-prod(slot.shape) // step) * step
        self.flat = torch.zeros(end + len(slots) + 1, dtype=dtype, device=self.device)
        self.views = {name: _view(self.flat, starts[name], slots[name].shape) for name in slots}
        self.counts = self.flat[end:]
        self.pushed: set[str] = set()

    @property
    def is_full(self) -> bool:
        """True, if this worker pushed all tensors."""
        return len(self.pushed) == len(self.views)

    def put(self, name: str, value: Tensor) -> None:
        """Take the value of a tensor; one that was computed in place is there already."""
        view = self.views[name]
        if not _is_same_memory(value, view):
            if value.untyped_storage().data_ptr() == view.untyped_storage().data_ptr():
                value = value.clone()  # it may overlap with what is written
            view.copy_(value)
        self.pushed.add(name)

    def close(self, without_bucket: int) -> None:
        """Make ready for the sum: zeros for what did not come, and the counters."""
        for name in self.views.keys() - self.pushed:
            self.views[name].zero_()
        counts = [name in self.pushed for name in self.views]
        self.counts.copy_(torch.tensor([*counts, without_bucket]))
        self.pushed.clear()


def fill(order: Sequence[str], slots: Mapping[str, Slot], most: int) -> list[Bucket]:
    """Share out tensors to buckets, in the order in which they come.

    Args:
        order: names, in the order of the pushes.
        slots: what they were registered as; a bucket holds one type on one device.
        most: bytes in a bucket; a larger tensor has one for itself.

    Returns: the buckets, in the order in which the last of their tensors comes.
    """
    groups: list[list[str]] = []
    latest: dict[tuple[torch.dtype, torch.device], tuple[list[str], int]] = {}
    for name in order:
        slot = slots[name]
        size = prod(slot.shape) * _sum_dtype(slot).itemsize
        group, filled = latest.get((slot.dtype, slot.device), ([], 0))
        if not group or filled + size > most:
            group, filled = [], 0
            groups.append(group)
        group.append(name)
        latest[slot.dtype, slot.device] = group, filled + size
    position = {name: i for i, name in enumerate(order)}
    groups.sort(key=lambda group: position[group[-1]])
    return [Bucket({name: slots[name] for name in group}) for group in groups]


def _sum_dtype(slot: Slot) -> torch.dtype:
    return SUM_DTYPE.get(slot.dtype, slot.dtype)


def _view(flat: Tensor, start: int, shape: Sequence[int]) -> Tensor:
    """A part of a flat memory as a tensor, in the memory order of parameters."""
    strides = empty_map(shape, torch.empty(0, device="meta")).stride()
    return flat.as_strided(tuple(shape), strides, start)


def _is_same_memory(a: Tensor, b: Tensor) -> bool:
    """True, if two tensors of the same shape have their elements at the same places."""
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    return (
        a.dtype == b.dtype
        and a.data_ptr() == b.data_ptr()
        and all(size == 1 or one == other for size, one, other in strides)
    )
