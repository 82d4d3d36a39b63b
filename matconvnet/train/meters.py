"""What is measured while training: the objective, errors, and speed."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.layout import as4d, to_tensor
from matconvnet.train.options import TrainOptions

Stats = dict[str, float]


def multiclass(x: Tensor, c: Tensor) -> Tensor:
    """Count wrong classes among the best 1 and the best 5.

        top1 = sum of w * [rank of class c > 1],  top5 = sum of w * [rank of class c > min(5, C)]

    over all pixels and images with a label; equal scores rank by class. w is 1, or given. The
    counts are per pixel: those of a map may exceed the number of images.

    Args:
        x: H x W x C x N scores.
        c: classes 0..C-1, -1 = ignore: N elements (one per image), H x W x 1 x N, or H x W x 2M x N
            with M pairs of channels (class, weight w), of which each counts. H = W = 1 serves all
            pixels.

    Returns: (top1, top5), float64.
    Raises: ValueError, if the shape of `c` does not fit.
    Source: error_multiclass of cnn_train.m.
    """
    x = as4d(x, "predictions")
    count, n = x.shape[2], x.shape[3]
    if c.numel() == n:
        c = c.permute(*reversed(range(c.dim()))).reshape(1, 1, 1, n)  # as `loss` reads them
    channels = c.shape[2] if c.dim() == 4 else 0
    fits = (channels == 1 or channels % 2 == 0) and c.shape[3:] == (n,)
    if not fits or tuple(c.shape[:2]) not in (tuple(x.shape[:2]), (1, 1)):
        raise ValueError(
            f"labels have shape {tuple(c.shape)}, predictions {tuple(x.shape)}; "
            f"wanted {n} labels, or {(*x.shape[:2], 1, n)}, or pairs of channels (class, weight)"
        )
    c, weights = (c, None) if channels == 1 else (c[:, :, ::2], c[:, :, 1::2])
    c = c.expand(*x.shape[:2], c.shape[2], n)
    mass = (c >= 0).double() if weights is None else (c >= 0).double() * weights
    c = c.long().clamp(min=0)
    rank = _ranks(x, c) if c.shape[2] == 1 else _many_ranks(x, c)
    wrong = [(mass * (rank >= min(k, count))).sum() for k in (1, 5)]
    return torch.stack(wrong)


def _ranks(x: Tensor, c: Tensor) -> Tensor:
    """How many classes rank before class c, H x W x 1 x N; all, if its score is no number."""
    count = x.shape[2]
    classes = torch.arange(count, device=x.device)[:, None]
    score = x.gather(2, c.clamp(max=count - 1)).masked_fill(c >= count, float("-inf"))
    # Nothing is behind a NaN or a class that is not there: both count as wrong.
    behind = (x < score) | ((x == score) & (classes >= c))
    return count - behind.sum(2, keepdim=True)


def _many_ranks(x: Tensor, c: Tensor) -> Tensor:
    """`_ranks` of several classes per pixel, H x W x M x N, found by sorting once."""
    count = x.shape[2]
    order = x.argsort(dim=2, descending=True, stable=True)
    places = torch.arange(count, device=x.device)[:, None].expand(x.shape)
    ranks = torch.empty_like(order).scatter_(2, order, places)
    ranks.masked_fill_(x.isnan(), count)
    return ranks.gather(2, c.clamp(max=count - 1)).masked_fill_(c >= count, count)


def binary(x: Tensor, c: Tensor) -> Tensor:
    """Count scores on the wrong side of 0.

        binerr = number of elements with x * c < 0

    Args:
        x: H x W x C x N scores.
        c: labels +1 and -1, 0 = ignore: shape of `x`, or as many elements.

    Returns: one number in a vector, float64.
    Source: error_binary of cnn_train.m.
    """
    if c.numel() != x.numel():
        raise ValueError(f"labels have shape {tuple(c.shape)}; wanted {tuple(x.shape)}")
    return (x * c.reshape(x.shape) < 0).sum().double()[None]


def error_function(options: TrainOptions, prediction: str) -> Callable[[Tensor, Any], Tensor]:
    """The error function of the options as a function `(labels, record) -> errors`.

    prediction: the variable that holds the predictions.
    """
    function = options.error_function
    if function == "none":
        return lambda _labels, _record: torch.zeros(0, dtype=torch.float64)
    if isinstance(function, str):
        built_in = {"multiclass": multiclass, "binary": binary}[function]
        return lambda labels, record: built_in(record.values[prediction], labels)

    def custom(labels: Tensor, record: Any) -> Tensor:
        found = to_tensor(function(options, labels, record))
        errors = torch.as_tensor(found, dtype=torch.float64).reshape(-1)
        if errors.numel() < len(options.errors):
            raise ValueError(
                f"error_function returned {errors.numel()} numbers; "
                f"wanted {len(options.errors)}, one per name in error_labels {options.errors}"
            )
        return errors[: len(options.errors)]

    return custom


class Meter:
    """Sums over the images of a phase, in double precision; `stats` are their means.

        statistic = sum / count

    num: images so far.
    """

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)
        self.sums = np.zeros(len(self.labels))
        self.counts = np.zeros(len(self.labels))
        self.clock = Clock()
        self.num = 0

    def tick(self, images: int) -> tuple[float, float]:
        """Note the end of a batch; average speed and that of the batch, in images per second."""
        return self.clock.tick(images)

    def add(self, sums: np.ndarray, counts: np.ndarray, num: int) -> None:
        """Add what was measured on `num` images: a sum and a count per label."""
        self.sums += sums
        self.counts += counts
        self.num += num

    @property
    def stats(self) -> Stats:
        """Means by name, the number of images and the seconds; only these before the first."""
        means = (self.sums / np.maximum(self.counts, 1)).tolist() if self.num else []
        stats: Stats = dict(zip(self.labels, means, strict=False))
        return {**stats, "num": self.num, "time": self.clock.time}

    def state(self) -> dict[str, Any]:
        """All sums, as plain data."""
        return {
            "sums": self.sums.tolist(), "counts": self.counts.tolist(), "num": self.num,
            "time": self.clock.time,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self.sums[:], self.counts[:], self.num = state["sums"], state["counts"], state["num"]
        self.clock = Clock(state["time"], state["num"])


class Clock:
    """Seconds and images per second, corrected for slow first batches.

    After the fourth batch the time is set to four times that batch's. (Source: cnn_train.m.)

    Args:
        spent, images: seconds and images of an earlier clock, which this one goes on from.
    """

    def __init__(self, spent: float = 0.0, images: int = 0):
        self.start = time.perf_counter() - spent
        self.time = self.spent = spent
        self.adjust = 0.0
        self.batches = 0
        self.images = images

    def tick(self, images: int) -> tuple[float, float]:
        """Note the end of a batch; average speed and that of the batch, in images per second."""
        now = time.perf_counter() - self.start + self.adjust
        batch_time, self.time = max(now - self.time, 1e-9), now
        self.batches += 1
        self.images += images
        average = self.images / max(now, 1e-9)
        if self.batches == 4:
            self.time = self.spent + 4 * batch_time
            self.adjust = self.time - now
        return average, images / batch_time
