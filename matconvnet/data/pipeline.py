"""Batches made in the background, ahead of the training that uses them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
Indices = Sequence[int] | np.ndarray
Phase = Literal["train", "val"]


class Source(Protocol):
    """What makes pictures: `FileSource` of files, `ArraySource` of arrays.

    It may also have `ignored(imdb, indices)`, which is True for pictures that could not be read,
    and `report()`, which warns of them.
    """

    def batch(self, imdb: Any, indices: Indices, *, training: bool, seed: int) -> Tensor:
        """H x W x C x B float32; picture i depends on the seed and indices[i] alone."""
        ...


class Mix(Protocol):
    """What mixes pictures or labels of a batch, such as mixup and label smoothing."""

    def __call__(self, x: Tensor, labels: Tensor, indices: Indices, seed: int) -> Pair:
        """The new pictures and labels."""
        ...


class Pipeline:
    """A `get_batch` that loads the next batches while the network computes.

    Args:
        source: of pictures.
        mix: applied to the batches of training.
        ahead: how many batches are loaded, or ready, before they are asked for.
    Raises: ValueError, if `ahead` is not positive.
    """

    def __init__(self, source: Source, *, mix: Mix | None = None, ahead: int = 2):
        if ahead < 1:
            raise ValueError(f"ahead is {ahead}; wanted 1 or more")
        self.source, self.mix, self.ahead = source, mix, ahead

    def __call__(self, imdb: Any, indices: Indices) -> Pair:
        """Some pictures of a database without jitter, and their labels.

        Returns: H x W x C x B float32; B labels, -1 for pictures that could not be read.
        """
        pair = self._load(imdb, indices, "val", 0, pin=False)
        self._report()
        return pair

    def batches(
        self,
        imdb: Any,
        parts: Sequence[Indices],
        *,
        phase: Phase,
        seed: int,
        device: str | torch.device = "cpu",
    ) -> Iterator[Pair]:
        """Load parts of a database, in order.

        Args:
            imdb: the database; `labels` has int64, -1 ignored, or floats.
            parts: the pictures of every batch.
            phase: "train", with jitter and mixing; or "val".
            seed: what is random about a picture depends on it and on the picture's index alone.
            device: of the batches. To a GPU they are copied while the training goes on.
        Returns: an iterator of (pictures, labels). An error is raised where its part is due.
            Closing the iterator ends the loading.
        """
        target = torch.device(device)
        pin = target.type == "cuda"
        pool = ThreadPoolExecutor(self.ahead, "pipeline")
        todo = (pool.submit(self._load, imdb, part, phase, seed, pin) for part in parts)
        under_way = deque(islice(todo, self.ahead))
        try:
            while under_way:
                pair = under_way.popleft().result()
                under_way.extend(islice(todo, 1))
                self._report()
                yield _moved(pair, target)
        finally:
            pool.shutdown(cancel_futures=True)

    def _load(self, imdb: Any, indices: Indices, phase: Phase, seed: int, pin: bool) -> Pair:
        x = self.source.batch(imdb, indices, training=phase == "train", seed=seed)
        labels = torch.from_numpy(np.asarray(imdb.labels)[np.asarray(indices, np.int64)])
        if ignored := getattr(self.source, "ignored", None):
            labels[torch.from_numpy(ignored(imdb, indices))] = -1
        if self.mix is not None and phase == "train":
            x, labels = self.mix(x, labels, indices, seed)
        return (x.pin_memory(), labels.pin_memory()) if pin else (x, labels)

    def _report(self) -> None:
        """Warn of bad files, in the thread of the training."""
        if report := getattr(self.source, "report", None):
            report()


def _moved(pair: Pair, device: torch.device) -> Pair:
    return pair[0].to(device, non_blocking=True), pair[1].to(device, non_blocking=True)
