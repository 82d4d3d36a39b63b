"""The image database ("imdb"): images, labels and the set (train, val, test) of every image."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from matconvnet.data.idx import read_idx
from matconvnet.errors import FormatError

TRAIN, VAL, TEST = 1, 2, 3
DIGITS = tuple("0123456789")
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
NPZ_ARRAYS = ("images", "labels", "set", "classes")
MEAN_BLOCK = 1024  # images cast to float64 at a time


@dataclass(frozen=True, eq=False)
class Imdb:
    """A database of N images in memory; `Imdb.from_arrays` makes one from any arrays.

    Args:
        images: H x W x C x N, uint8 or float32. Batches are fastest where the memory order is
            N, H, W, C, as the constructors below make it.
        labels: N int64, 0-based; -1 = unknown.
        set: N int64: 1 train, 2 val, 3 test.
        classes: the name of every class.
        mean: H x W x C float32, what `get_batch` subtracts from every image; None for nothing.
    Raises: ValueError, if shapes disagree or a label or a set is out of range; TypeError, if an
        array has another type.
    Source: `imdb.images` of the MatConvNet examples.
    """

    images: np.ndarray
    labels: np.ndarray
    set: np.ndarray
    classes: tuple[str, ...]
    mean: np.ndarray | None = None

    def __post_init__(self):
        _check_images(self.images)
        check_codes("labels", self.labels, len(self), -1, len(self.classes) - 1)
        check_codes("set", self.set, len(self), TRAIN, TEST)
        if self.mean is not None:
            _check_mean(self.mean, self.images.shape[:3])

    def __len__(self) -> int:
        return self.images.shape[3]

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any,
        set: Any = None,
        classes: Sequence[str] | None = None,
    ) -> "Imdb":
        """Build a database and compute the mean image of its training set.

        Args:
            images: H x W x C x N, uint8 or float32; copied unless its memory order is N, H, W, C.
            labels: N integers, 0-based; -1 = unknown.
            set: N integers: 1 train, 2 val, 3 test; None for all in the training set.
            classes: the name of every class; None for "0", "1", ... up to the largest label.
        Returns: the database; its `mean` is None if no image is in the training set.
        Raises: ValueError and TypeError as `Imdb` does.
        """
        images = np.asarray(images)
        _check_images(images)
        rows = np.ascontiguousarray(images.transpose(3, 0, 1, 2))  # N H W C
        labels = _integers("labels", labels)
        codes = np.full(len(rows), TRAIN, np.int64) if set is None else _integers("set", set)
        if classes is None:
            classes = [str(c) for c in range(labels.max(initial=-1) + 1)]
        imdb = cls(rows.transpose(1, 2, 3, 0), labels, codes, tuple(classes))
        return replace(imdb, mean=_mean_image(rows, np.flatnonzero(codes == TRAIN)))


def load_mnist(folder: str | os.PathLike[str]) -> Imdb:
    """Load MNIST, or a set in the same four files such as Fashion-MNIST.

    Args:
        folder: holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte; each may end in .gz.
    Returns: the training images (set 1), then the test images (set 3), H x W x 1 x N uint8 with
        values 0..255; classes "0" to "9".
    Raises: FileNotFoundError, if a file is missing; FormatError (a ValueError), if one is damaged
        or does not belong to the others.
    Source: cnn_mnist.m.
    """
    folder = Path(folder)
    paths = [_find(folder, name) for name in MNIST_FILES]
    missing = [name for name, path in zip(MNIST_FILES, paths, strict=True) if path is None]
    if missing:
        raise FileNotFoundError(
            f"folder {str(folder)!r} lacks {', '.join(missing)} (each with or without .gz)"
        )
    train_x, train_y, test_x, test_y = arrays = [read_idx(path) for path in paths if path]
    for name, array, axes in zip(MNIST_FILES, arrays, (3, 1, 3, 1), strict=True):
        if array.ndim != axes or array.dtype != np.uint8:
            raise FormatError(
                f"{folder / name}: found {array.ndim} axes of {array.dtype}, wanted {axes} of uint8"
            )
    if train_x.shape[1:] != test_x.shape[1:]:
        raise FormatError(
            f"{folder}: training images of {train_x.shape[1:]} pixels, "
            f"test images of {test_x.shape[1:]}"
        )
    for part, x, y in (("train", train_x, train_y), ("t10k", test_x, test_y)):
        if len(x) != len(y):
            raise FormatError(f"{folder}: {part} files with {len(x)} images and {len(y)} labels")
    images = np.concatenate((train_x, test_x))[..., None]  # N H W 1
    return Imdb.from_arrays(
        images.transpose(1, 2, 3, 0),
        np.concatenate((train_y, test_y)),
        set=np.repeat((TRAIN, TEST), (len(train_y), len(test_y))),
        classes=DIGITS,
    )


def load_digits() -> Imdb:
    """Load the 10,000 MNIST digits of this package: 8,000 in set 1 (train), 2,000 in set 3 (test).

    Returns: a database with 28 x 28 x 1 x 10000 images, uint8 with values 0..255.
    Source: digits/README.md.
    """
    with resources.as_file(resources.files("matconvnet.data") / "digits") as folder:
        return load_mnist(folder)


def load_npz(path: str | os.PathLike[str]) -> Imdb:
    """Load a database from the arrays in a file of NumPy.

    Args:
        path: an .npz file with the arrays `images`, `labels`, and if there are any `set` and
            `classes`, all as `Imdb.from_arrays` takes them.
    Returns: the database.
    Raises: FormatError (a ValueError), if the file is none of NumPy, or an array is missing or is
        not what `Imdb` wants; OSError.
    """
    with open(path, "rb") as file:
        try:
            arrays = np.load(file, allow_pickle=False)
            names = [] if isinstance(arrays, np.ndarray) else arrays.files
            found = {name: arrays[name] for name in NPZ_ARRAYS if name in names}
        except (ValueError, EOFError, BadZipFile) as error:
            raise FormatError(f"{path}: cannot be read as arrays of NumPy: {error}") from error
    if "images" not in found or "labels" not in found:
        raise FormatError(f"{path}: wanted the arrays images and labels; found {', '.join(names)}")
    shape, count = found["images"].shape, found["labels"].size
    if len(shape) == 4 and shape[0] == count != shape[3]:
        raise FormatError(
            f"{path}: images have shape {shape}, with the {count} images first; wanted "
            "H x W x C x N: images.transpose(1, 2, 3, 0)"
        )
    classes = found.pop("classes", None)
    try:
        return Imdb.from_arrays(**found, classes=None if classes is None else classes.tolist())
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path}: {error}") from error


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _mean_image(rows: np.ndarray, train: np.ndarray) -> np.ndarray | None:
    """The H x W x C mean of some of the N x H x W x C rows, accumulated in float64."""
    if not train.size:
        return None
    total = np.zeros(rows.shape[1:], np.float64)
    for first in range(0, train.size, MEAN_BLOCK):
        total += rows[train[first : first + MEAN_BLOCK]].sum(axis=0, dtype=np.float64)
    if not np.isfinite(total).all():  # one image would spoil all the others
        wrong = [int(i) for i in train if not np.isfinite(rows[i]).all()]
        raise ValueError(f"images {wrong[:10]} have values that are not finite; wanted numbers")
    return (total / train.size).astype(np.float32)


def _integers(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, found {array.dtype}")
    return array.astype(np.int64)


def _check_images(images: np.ndarray) -> None:
    if images.dtype not in (np.uint8, np.float32):
        raise TypeError(f"images are {images.dtype}; wanted uint8 or float32")
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}; wanted H x W x C x N")


def check_codes(name: str, codes: np.ndarray, count: int, low: int, high: int) -> None:
    """Raise TypeError or ValueError unless `codes` are `count` int64 from `low` to `high`."""
    if codes.dtype != np.int64:
        raise TypeError(f"{name} must be int64, found {codes.dtype}")
    if codes.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one per image; found {codes.shape}")
    wrong = np.flatnonzero((codes < low) | (codes > high))
    if wrong.size:
        raise ValueError(f"{name}[{wrong[0]}] is {codes[wrong[0]]}; wanted {low} to {high}")


def _check_mean(mean: np.ndarray, shape: tuple[int, ...]) -> None:
    if mean.dtype != np.float32:
        raise TypeError(f"mean is {mean.dtype}; wanted float32")
    if mean.shape != shape:
        raise ValueError(f"mean has shape {mean.shape}; wanted {shape}, that of one image")
