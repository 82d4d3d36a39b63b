"""Mean image, mean colour and covariance of the colours of many images, in one pass."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from matconvnet.data.augment import ArraySource
from matconvnet.data.batches import index_vector
from matconvnet.data.imdb import TRAIN, Imdb
from matconvnet.data.lists import Database
from matconvnet.data.pipeline import Source
from matconvnet.files import write_atomic
from matconvnet.layout import pixels, to_numpy, to_tensor

BATCH = 256
BLOCK = 1 << 20  # numbers that are in double precision at a time


class ImageStatistics(NamedTuple):
    """What images have in common.

    average_image: H x W x C; mean: C, of the colours of all pixels; covariance: C x C, of these
    colours, divided by their number. All float64.
    """

    average_image: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray


def image_statistics(
    imdb: Database,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    source: Source | None = None,
    batch_size: int = BATCH,
    cache: str | os.PathLike[str] | None = None,
) -> ImageStatistics:
    """Compute the statistics of some images of a database, as they are without augmentation.

        average = sum of x_n / N
        mean = sum of z_p / P
        covariance = sum of z_p z_p' / P - mean mean'

    over N images and the colours z of their P pixels, in double precision.

    Args:
        imdb: the database.
        indices: of the images; None for the training set.
        source: what makes batches of them, all of one size and without an average subtracted; may
            be left out for an Imdb, whose own mean is not subtracted.
        batch_size: images per batch; the result does not depend on it.
        cache: an .npz file to keep the result of a list of files in; it is computed anew where the
            names, the indices or the source have changed. None for nothing.
    Returns: the statistics.
    Raises: ValueError, if there are no images, their sizes differ, or `cache` is given for arrays;
        TypeError, if a list of files has no source.
    Source: getImageStats.m, which weighs a smaller last batch too much.
    """
    rows = np.flatnonzero(imdb.set == TRAIN) if indices is None else indices
    rows, key = index_vector(rows, len(imdb)), ""
    if isinstance(imdb, Imdb):
        if cache is not None:
            raise ValueError(f"cache is {str(cache)!r}; wanted None, as the images are in memory")
        imdb = replace(imdb, mean=None)
    elif source is None:
        raise TypeError("source is None; wanted a FileSource, for a list of files")
    elif cache is not None:
        key = _key([imdb.names[row] for row in rows], source)
        if found := _read(Path(cache), key):
            return found
    found = batch_statistics(_batches(imdb, rows, source or ArraySource(), batch_size))
    if cache is not None:
        write_atomic(cache, lambda path: _write(path, found, key))
    return found


def batch_statistics(batches: Iterable[Tensor]) -> ImageStatistics:
    """Compute the statistics of the images in batches of H x W x C x B; see `image_statistics`.

    Raises: ValueError, if there are no images or their sizes differ.
    """
    count = 0
    total = squares = origin = np.zeros(0)
    for batch in batches:
        if not batch.shape[3]:
            continue
        if not count:
            # Colours are taken from a point amidst them: squares of large numbers would cancel.
            origin = to_numpy(batch[..., 0].double().mean((0, 1)))
            total, squares = np.zeros(batch.shape[:3]), np.zeros((len(origin),) * 2)
        if batch.shape[:3] != total.shape:
            found = tuple(batch.shape[:3])
            raise ValueError(f"images have shapes {total.shape} and {found}; wanted one for all")
        for block in batch.split(max(1, BLOCK // total.size), dim=3):
            block = block.double() - to_tensor(origin)[:, None]
            total += to_numpy(block.sum(3))
            colours = to_numpy(pixels(block))  # P x C
            squares += colours.T @ colours
        count += batch.shape[3]
    if not count:
        raise ValueError("there are no images; wanted one or more")
    average = total / count
    shift = average.mean((0, 1))
    covariance = squares * shift.size / (count * total.size) - np.outer(shift, shift)
    return ImageStatistics(origin + average, origin + shift, covariance)


def rgb_deviation(covariance: np.ndarray) -> np.ndarray:
    """A square root of the covariance of colours: the colours that they vary by.

        V sqrt(D)   with   covariance = V D V'

    Args:
        covariance: C x C, symmetric.
    Returns: C x C float64, the least variation first; a standard normal vector multiplied by it has
        the covariance given.
    Source: cnn_imagenet.m, which jitters the brightness by a tenth of it.
    """
    variances, directions = np.linalg.eigh(np.asarray(covariance, np.float64))
    return directions * np.sqrt(variances.clip(0))  # rounding makes a variance of 0 negative


def _batches(imdb: Database, rows: np.ndarray, source: Source, size: int) -> Iterator[Tensor]:
    """Some images without jitter, less those that could not be read."""
    ignored = getattr(source, "ignored", None)
    for first in range(0, rows.size, size):
        part = rows[first : first + size]
        batch = source.batch(imdb, part, training=False, seed=0)
        yield batch if ignored is None else batch[..., ~torch.from_numpy(ignored(imdb, part))]


def _key(names: list[str], source: Source) -> str:
    """A digest of all that the statistics depend on, except for what is in the files."""
    return hashlib.sha256("\0".join([repr(source), *names]).encode()).hexdigest()


def _read(path: Path, key: str) -> ImageStatistics | None:
    """What the cache holds, if it is what was asked for."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            return ImageStatistics(*(file[name] for name in ImageStatistics._fields))
    except (
        ValueError,
        KeyError,
        OSError,
        EOFError,
        BadZipFile,
    ):  # damaged, or another file: made anew
        return None


def _write(path: Path, found: ImageStatistics, key: str) -> None:
    arrays: dict[str, Any] = {"key": np.array(key), **found._asdict()}
    with path.open("wb") as file:  # savez would add a suffix to a name
        np.savez(file, **arrays)
