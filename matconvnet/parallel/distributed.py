"""The parameter server of several workers: sums in buckets, begun during the backward pass."""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from matconvnet.parallel.buckets import BUCKET_BYTES, Bucket, fill
from matconvnet.parallel.exchange import Exchange, mark, seconds, time_under_way
from matconvnet.parallel.server import ParameterServer

if TYPE_CHECKING:
    from matconvnet.parallel.world import World


class DistributedServer(ParameterServer):
    """A parameter server that sums over the workers of a world, the same bits for all of them.

    The first step gathers its tensors, agrees on the order in which they came (that of the worker
    with the most pushes), and packs them into buckets. From then on a bucket is summed as soon as
    it and all before it are full, while the backward pass goes on; `sync` closes the others, with
    zeros for what this worker did not push, and waits. Tensors that first come in a later step are
    added to the buckets in that step.

    What `pull` returns is a part of a bucket, in the memory order of parameters (`empty_map`). It
    is valid until the next push of its name, or the next sync; a derivative that is computed into
    it is not copied. Half types are summed in float32, and rounded once.

    Args:
        world: the workers.
        bucket_bytes: bytes in a bucket, the same for all workers.
    """

    def __init__(self, world: "World", bucket_bytes: int = BUCKET_BYTES):
        super().__init__()
        self._world, self._bucket_bytes = world, bucket_bytes
        self._forget()

    def register(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Declare a tensor; all workers declare the same ones in the same order."""
        device = torch.device(device)
        if device == torch.device(self._world.device.type):
            device = self._world.device  # "cuda" is the GPU of this worker
        devices = sorted({"cpu", str(self._world.device)})
        if str(device) not in devices:
            raise ValueError(f"{name!r} is on {str(device)!r}; wanted one of {devices}")
        if not dtype.is_floating_point:
            raise TypeError(f"{name!r} is of type {dtype}; wanted a floating point type")
        super().register(name, shape, dtype, device)

    def start(self) -> None:
        """Open the exchange.

        Raises: ValueError on all workers, if they registered different tensors.
        """
        entries = [
            [name, list(slot.shape), str(slot.dtype), slot.device.type]
            for name, slot in self.slots.items()
        ]
        everyone = self._world.gather(entries)
        for rank, others in enumerate(everyone):
            if others != everyone[0]:
                raise ValueError(_first_difference(rank, others, everyone[0]))
        self._world.agree("bucket_bytes", str(self._bucket_bytes))
        super().start()

    def stop(self) -> None:
        """Close the exchange and forget what was pushed; waits for nobody."""
        super().stop()
        self._forget()

    def push(self, name: str, value: Tensor) -> None:
        """Hand over this worker's value: it is copied, unless it was computed in place."""
        self.check(name, value)
        if name in self._pushed:
            raise RuntimeError(f"{name!r} was pushed already in this step; call sync first")
        self._pushed.add(name)
        bucket = self._bucket_of.get(name)
        if bucket is None:
            self._held[name] = value.clone()
            return
        bucket.put(name, value)
        # The last bucket goes at sync: it also tells how many tensors have no bucket.
        while len(self._waiting) > 1 and self._waiting[0].is_full:
            self._begin()

    def sync(self) -> None:
        """End the step: wait until all sums are there.

        Raises: ConnectionError, if another worker ended or kept silent for too long.
        """
        if not self.started:
            raise RuntimeError("sync before start; call start after the last register")
        self._counts.clear()
        is_complete = bool(self._buckets) and self._finish()
        if not is_complete:
            self._add_buckets()
            self._finish()
        self._waiting = list(self._buckets)
        self._pushed.clear()
        self.traffic.steps += 1

    def pull(self, name: str) -> Tensor:
        """The sum over all workers of what they pushed; zeros, if none did."""
        slot = self.slot(name)
        if self._pushed:
            raise RuntimeError(f"pull({name!r}) after a push; call sync first, on every worker")
        if name not in self._bucket_of:
            return torch.zeros(slot.shape, dtype=slot.dtype, device=slot.device)
        return self._bucket_of[name].views[name].to(slot.dtype)

    def arrived(self) -> list[str]:
        """Names that some worker pushed in the step that ended, in the order of registration."""
        return [name for name in self.slots if self._counts.get(name)]

    def _forget(self) -> None:
        """Be as before the first step.

        _waiting: buckets that are still to be summed in this step, in order. _held: what was
        pushed, but has no bucket. _counts: how many workers pushed a tensor, in the step that
        ended.
        """
        self._buckets: list[Bucket] = []
        self._bucket_of: dict[str, Bucket] = {}
        self._waiting: list[Bucket] = []
        self._under_way: list[Exchange] = []
        self._pushed: set[str] = set()
        self._held: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def _begin(self) -> None:
        """Begin to sum the next bucket."""
        bucket = self._waiting.pop(0)
        bucket.close(len(self._held))
        link = self._world.links.data[bucket.device.type]
        self._under_way.append(Exchange(bucket, link))
        self.traffic.bytes += bucket.flat.nbytes

    def _finish(self) -> bool:
        """Sum the buckets that are left, and wait; true, if no worker holds a further tensor."""
        devices = {bucket.device for bucket in self._buckets}
        ready = {device: mark(device) for device in devices}
        while self._waiting:
            self._begin()
        for exchange in self._under_way:
            exchange.wait()
        end = {device: mark(device) for device in devices}
        held = 0.0
        for exchange in self._under_way:
            *counts, held = exchange.bucket.counts.tolist()
            self._counts.update(zip(exchange.bucket.views, counts, strict=True))
        for device in devices:
            mine = [e for e in self._under_way if e.bucket.device == device]
            self.traffic.under_way += time_under_way(mine)
            self.traffic.waited += seconds(ready[device], end[device])
        self._under_way.clear()
        return not held

    def _add_buckets(self) -> None:
        """Give a bucket to every tensor that some worker holds without one, and fill it."""
        orders = self._world.gather(list(self._held))
        order = list(dict.fromkeys(chain(max(orders, key=len), *orders)))
        self._waiting = fill(order, self.slots, self._bucket_bytes)
        self._buckets += self._waiting
        self._bucket_of |= {name: bucket for bucket in self._waiting for name in bucket.views}
        for name, value in self._held.items():
            self._bucket_of[name].put(name, value)
        self._held.clear()


def _first_difference(rank: int, others: list[Any], wanted: list[Any]) -> str:
    """Say where the tensors that a worker registered first differ from those of rank 0."""
    longest = max(len(others), len(wanted))
    i = next(i for i in range(longest) if others[i : i + 1] != wanted[i : i + 1])
    return (
        f"rank {rank} registered other tensors than rank 0: the first that differs is number {i}, "
        f"{_described(others, i)} on rank {rank} and {_described(wanted, i)} on rank 0"
    )


def _described(entries: list[Any], i: int) -> str:
    if i >= len(entries):
        return "none"
    name, shape, dtype, kind = entries[i]
    size = " x ".join(map(str, shape)) or "scalar"
    return f"{name!r} ({size}, {dtype.removeprefix('torch.')}, {kind})"
