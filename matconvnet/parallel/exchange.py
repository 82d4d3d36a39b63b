"""A sum of a bucket that is under way, with its times on the clock of its device."""

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter
from typing import TypeAlias

import torch

from matconvnet.parallel.buckets import Bucket
from matconvnet.parallel.links import Link

Mark: TypeAlias = "float | torch.cuda.Event"


class Exchange:
    """A bucket whose sum has begun.

    begin, done: when it began, and when it was done.
    """

    def __init__(self, bucket: Bucket, link: Link):
        self.bucket, self._link = bucket, link
        done: list[Mark] = []
        device = bucket.device
        self.begin = mark(device)
        self._work = link.sum(bucket.flat)
        # On a GPU the callback runs at once, on a stream that waits for the sum.
        self._marked = self._work.get_future().then(lambda _: done.append(mark(device)))
        self._done = done

    @property
    def done(self) -> Mark:
        """When the sum was there; known after `wait`."""
        return self._done[0]

    def wait(self) -> None:
        """Wait for the sum; on a GPU, let what comes next on its stream wait."""
        self._link.wait(self._work, "summing derivatives")
        self._marked.wait()


def mark(device: torch.device) -> Mark:
    """This moment, or that when the GPU will have done what it has been told so far."""
    if device.type != "cuda":
        return perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds(start: Mark, end: Mark) -> float:
    """Time from one mark of a device to another."""
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        end.synchronize()
        return start.elapsed_time(end) / 1000
    assert isinstance(start, float)
    assert isinstance(end, float)
    return end - start


def time_under_way(exchanges: Sequence[Exchange]) -> float:
    """Seconds in which at least one of the exchanges was under way; they are done in order."""
    total = sum(seconds(e.begin, e.done) for e in exchanges[:1])
    for before, after in pairwise(exchanges):
        since_begin = seconds(after.begin, after.done)
        total += max(0.0, min(since_begin, seconds(before.done, after.done)))
    return total
