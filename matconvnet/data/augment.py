"""Augmentation of databases in memory: every image flipped, shifted and covered by chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from matconvnet.data.batches import float_batch, index_vector
from matconvnet.data.draws import uniform
from matconvnet.data.imdb import Imdb

FLIP, DOWN, RIGHT, ROW, COLUMN = range(5)
"""What each of the random numbers of an image decides."""


@dataclass(frozen=True)
class ArraySource:
    """Batches of a database in memory, for `Pipeline`; what an image becomes depends on its index
    and the seed alone.

        y[i,j] = x[clip(i - down), clip(j - right)] - mean[i,j]   and 0 in the covered square

    Outside of the training phase images are what `get_batch` makes of them.

    Args:
        flip: mirror left-right with probability 1/2.
        shift: the most pixels by which an image moves up, down, left and right, every whole number
            with the same probability. Pixels at the edge are repeated where something is missing.
        cutout: side in pixels of a square, at any place that has its centre in the image, that
            becomes 0, the mean of the database.
    Raises: ValueError, if `shift` or `cutout` is negative.
    Source: Krizhevsky, Sutskever and Hinton, 2012 (flip, shift); DeVries and Taylor,
        arXiv:1708.04552 (cutout).
    """

    flip: bool = False
    shift: int = 0
    cutout: int = 0

    def __post_init__(self):
        for name in ("shift", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted 0 or more pixels")

    def batch(
        self, imdb: Imdb, indices: Sequence[int] | np.ndarray, *, training: bool, seed: int
    ) -> Tensor:
        """Make the input of a network of some images.

        Args:
            imdb: the database.
            indices: B integers from 0 to N-1, in any order, repeated or not.
            training: whether to augment.
            seed: of the random numbers; another one for every epoch.
        Returns: H x W x C x B float32 in channels-last memory, less the mean of the database.
        Raises: TypeError, if `indices` is not a vector of integers; ValueError, if one is out of
            range.
        """
        wanted = index_vector(indices, len(imdb))
        images = imdb.images.transpose(3, 0, 1, 2)  # N H W C
        if not (training and (self.flip or self.shift or self.cutout)):
            return float_batch(images[wanted], imdb.mean)
        draws = uniform(seed, wanted, 5, stream="augment").T
        x = float_batch(self._gather(images, wanted, draws), imdb.mean)
        if self.cutout:
            x *= torch.from_numpy(self._outside(images.shape[1:3], draws)).permute(1, 2, 0)[
                :, :, None
            ]
        return x

    def _gather(self, images: np.ndarray, wanted: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Flipped and shifted images, B x H x W x C: every pixel is taken whence it came."""
        if not (self.flip or self.shift):
            return images[wanted]
        if not images.flags.c_contiguous:
            images, wanted = images[wanted], np.arange(len(wanted))
        _, height, width, channels = images.shape
        rows = self._sources(height, draws[DOWN])
        columns = self._sources(width, draws[RIGHT])
        if self.flip:
            columns = np.where(draws[FLIP, :, None] < 0.5, width - 1 - columns, columns)
        places = ((wanted[:, None] * height + rows) * width)[..., None] + columns[:, None]
        if channels == 1:  # single numbers are faster to take than rows of one
            return images.reshape(-1).take(places)[..., None]
        return images.reshape(-1, channels).take(places, axis=0)

    def _sources(self, length: int, draws: np.ndarray) -> np.ndarray:
        """Which pixel of an axis stands at every place after the shift, B x length."""
        moves = np.floor(draws * (2 * self.shift + 1)).astype(np.intp) - self.shift
        return (np.arange(length) - moves[:, None]).clip(0, length - 1)

    def _outside(self, size: tuple[int, ...], draws: np.ndarray) -> np.ndarray:
        """0 in the covered square of an image and 1 elsewhere, B x H x W float32."""
        inside = []
        for length, draw in zip(size, draws[[ROW, COLUMN]], strict=True):
            first = np.floor(draw * length).astype(np.intp)[:, None] - self.cutout // 2
            inside.append((np.arange(length) >= first) & (np.arange(length) < first + self.cutout))
        return 1 - (inside[0][:, :, None] & inside[1][:, None]).astype(np.float32)
