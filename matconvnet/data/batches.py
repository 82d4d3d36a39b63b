"""Batches: which images go together, and the tensors of some images of a database."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from matconvnet.data.imdb import Imdb
from matconvnet.layout import channels_last, to_tensor


class Batch(NamedTuple):
    """One batch as one worker sees it.

    `size` counts the images of all workers, the number that derivatives are divided by. `parts`
    are the sub-batches of this worker, arrays of indices that are never empty; a worker without
    a share of a small last batch has no parts but still takes part in the update.
    """

    size: int
    parts: list[np.ndarray]


def batch_indices(
    count_or_indices: int | np.integer | Sequence[int] | np.ndarray,
    batch_size: int,
    num_sub_batches: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Cut a sequence of images into batches, and these into the sub-batches of one worker.

        part s of the batch at t:  indices[t + rank + s*world_size : t + size : S*world_size]

    with S = num_sub_batches and size = min(batch_size, number of images - t): sub-batches and
    workers are interleaved, so that each has the same share of every stretch of the sequence.

    Args:
        count_or_indices: indices into a database in the order of use, or n for 0 .. n-1.
        batch_size: images per batch, over all workers.
        num_sub_batches: parts that every worker makes of its share of a batch, to save memory.
        rank: this worker, 0 to world_size-1.
        world_size: the number of workers.
    Returns: an iterator over the batches; the last may be smaller.
    Raises: ValueError, if `batch_size`, `num_sub_batches` or `world_size` is not positive, or
        `rank` is not one of 0 .. world_size-1; TypeError, if the indices are not integers.
    Source: processEpoch of cnn_train.m; empty sub-batches are dropped rather than passed over.
    """
    sizes = {"batch_size": batch_size, "num_sub_batches": num_sub_batches, "world_size": world_size}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; wanted 1 or more")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}; wanted 0 to {world_size - 1}")
    if isinstance(count_or_indices, int | np.integer):
        indices = np.arange(count_or_indices)
    else:
        indices = index_vector(count_or_indices)

    def cut(first: int) -> Batch:
        batch = indices[first : first + batch_size]
        parts = [
            batch[rank + s * world_size :: num_sub_batches * world_size]
            for s in range(num_sub_batches)
        ]
        return Batch(batch.size, [part for part in parts if part.size])

    return (cut(first) for first in range(0, indices.size, batch_size))


def get_batch(imdb: Imdb, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
    """Gather images and labels, less the mean image of the database.

    Args:
        imdb: the database.
        indices: B integers from 0 to N-1, in any order, repeated or not.
    Returns: x, H x W x C x B float32, and c, B int64 labels, on the CPU; the memory order of x is
        B, H, W, C.
    Raises: TypeError, if `imdb` is a list of files or `indices` is not a vector of integers;
        ValueError, if an index is out of range.
    Source: getBatch of cnn_mnist.m.
    """
    if not isinstance(imdb, Imdb):
        raise TypeError(
            f"imdb is {type(imdb).__name__}; wanted an Imdb (files are read by "
            "Pipeline(FileSource(...)))"
        )
    rows = index_vector(indices, len(imdb))
    x = float_batch(imdb.images.transpose(3, 0, 1, 2)[rows], imdb.mean)  # N H W C; a copy
    return x, torch.from_numpy(imdb.labels[rows])


def float_batch(rows: np.ndarray, mean: np.ndarray | None) -> Tensor:
    """B x H x W x C images, less the mean of the database, as an H x W x C x B float32 map."""
    x = channels_last(torch.from_numpy(rows.transpose(1, 2, 3, 0)).float())
    if mean is not None:
        x -= to_tensor(mean)[..., None]
    return x


def index_vector(indices: Sequence[int] | np.ndarray, count: int | None = None) -> np.ndarray:
    """Indices as a vector of integers; ValueError unless all are below `count`, if that is given.

    Raises: TypeError, if they are not a vector of integers.
    """
    vector = np.asarray(indices)
    if vector.size == 0:
        vector = vector.astype(np.int64)  # NumPy takes an empty list for floats
    if vector.ndim != 1 or vector.dtype.kind not in "iu":
        raise TypeError(
            f"indices are {vector.dtype} of shape {vector.shape}; wanted a vector of integers"
        )
    if count is not None and vector.size and not 0 <= vector.min() <= vector.max() < count:
        raise ValueError(f"indices span {vector.min()} to {vector.max()}; wanted 0 to {count - 1}")
    return vector
