"""CIFAR-10, in the files for MATLAB or the binary ones, prepared as MatConvNet's example does."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from matconvnet.data.imdb import TEST, TRAIN, Imdb
from matconvnet.errors import FormatError
from matconvnet.interop.mat import read_mat

SIZE, CHANNELS = 32, 3
PIXELS = SIZE * SIZE * CHANNELS
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
NAMES_FILES = ("batches.meta.mat", "batches.meta.txt")
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
LEAST_CONTRAST = 40.0  # of pixels 0 to 255; flatter images are not blown up any more
LEAST_DEVIATION = 10.0  # of a direction of the pixels


def load_cifar(
    folder: str | os.PathLike[str],
    *,
    contrast_normalization: bool = False,
    whiten_data: bool = False,
) -> Imdb:
    """Load CIFAR-10, or a set in files of the same names.

    Args:
        folder: holds data_batch_1 to data_batch_5 and test_batch, each .mat or .bin, or at least
            data_batch_1; class names are those of batches.meta.mat or batches.meta.txt.
        contrast_normalization: see `normalize_contrast`.
        whiten_data: see `whiten`. cnn_cifar.m does both, in this order, after the mean image of
            the training set is subtracted.
    Returns: the training images (set 1), then the test images (set 3), H x W x 3 x N: uint8 and the
        mean image beside them, or, if they were prepared, float32 without a mean.
    Raises: FileNotFoundError, if data_batch_1 is missing; FormatError (a ValueError), if a file is
        damaged; OSError.
    Source: cnn_cifar.m.
    """
    folder = Path(folder)
    paths = [path for name in BATCHES if (path := find_batch(folder, name))]
    if find_batch(folder, BATCHES[0]) is None:
        raise FileNotFoundError(
            f"folder {str(folder)!r} lacks data_batch_1.mat or .bin; wanted CIFAR-10 for MATLAB, "
            "or its binary version"
        )
    batches = [_read_mat(p) if p.suffix == ".mat" else _read_binary(p) for p in paths]
    sizes = [len(labels) for _, labels in batches]
    codes = [TEST if path.stem == "test_batch" else TRAIN for path in paths]
    rows = np.concatenate([rows for rows, _ in batches])  # N C H W
    imdb = Imdb.from_arrays(
        np.ascontiguousarray(rows.transpose(0, 2, 3, 1)).transpose(1, 2, 3, 0),
        np.concatenate([labels for _, labels in batches]),
        np.repeat(codes, sizes),
        _class_names(folder),
    )
    if not (contrast_normalization or whiten_data) or imdb.mean is None:
        return imdb
    images = imdb.images - imdb.mean[..., None]
    if contrast_normalization:
        images = normalize_contrast(images)
    if whiten_data:
        images = whiten(images, imdb.set == TRAIN)
    return replace(imdb, images=images, mean=None)


def normalize_contrast(images: np.ndarray) -> np.ndarray:
    """Give all images the same contrast.

        y_n = (x_n - mean(x_n)) * mean(s) / max(s_n, 40),   s_n = standard deviation of x_n

    over the pixels and channels of every image, with one less than their number as divisor.

    Args:
        images: H x W x C x N float32, values that span 0 to 255 or as much.
    Returns: the same shape and type; the memory order N, H, W, C.
    Source: cnn_cifar.m, `contrastNormalization`.
    """
    rows = images.transpose(3, 0, 1, 2)  # N H W C
    shape = rows.shape
    flat = rows.reshape(len(rows), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    deviations = flat.std(axis=1, ddof=1)
    flat *= (deviations.mean() / deviations.clip(LEAST_CONTRAST))[:, None]
    return flat.reshape(shape).transpose(1, 2, 3, 0)


def whiten(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Make the directions of the pixels vary alike.

        Y = V diag(m / max(sqrt(d), 10)) V' Z,   V diag(d) V' = Z_train Z_train' / N,
        m = sqrt(mean(d))

    where a column of Z is an image, and N counts all images, not only those of the training set.

    Args:
        images: H x W x C x N float32, less their mean.
        train: N bool, which images are in the training set.
    Returns: the same shape and type; the memory order N, H, W, C.
    Source: cnn_cifar.m, `whitenData`.
    """
    rows = images.transpose(3, 0, 1, 2)  # N H W C
    shape = rows.shape
    flat = rows.reshape(len(rows), -1)  # N x pixels, the transpose of Z
    known = flat[train].astype(np.float64)
    variances, directions = np.linalg.eigh(known.T @ known / len(flat))
    variances = variances.clip(0)  # rounding makes a variance of 0 negative
    gains = np.sqrt(variances.mean()) / np.sqrt(variances).clip(LEAST_DEVIATION)
    filters = (directions * gains @ directions.T).astype(np.float32)
    return (flat @ filters).reshape(shape).transpose(1, 2, 3, 0)


def find_batch(folder: Path, name: str) -> Path | None:
    """The file of a batch, for MATLAB or binary, if there is one."""
    paths = (folder / f"{name}{suffix}" for suffix in (".mat", ".bin"))
    return next((path for path in paths if path.is_file()), None)


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images, N C H W uint8, and labels."""
    fields = read_mat(path)
    data, labels = (np.asarray(fields.get(name, ())) for name in ("data", "labels"))
    if data.dtype != np.uint8 or data.shape != (labels.size, PIXELS):
        raise FormatError(
            f"{path}: wanted data, N x {PIXELS} uint8, and N labels; found "
            f"{', '.join(f'{k} {np.shape(v)}' for k, v in fields.items())}"
        )
    return _images(data), labels.reshape(-1).astype(np.int64)


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data = np.fromfile(path, np.uint8)
    if not data.size or data.size % (PIXELS + 1):
        raise FormatError(
            f"{path}: found {data.size} bytes; wanted {PIXELS + 1} for every image: a label and "
            "the pixels"
        )
    data = data.reshape(-1, PIXELS + 1)
    return _images(data[:, 1:]), data[:, 0].astype(np.int64)


def _images(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), CHANNELS, SIZE, SIZE)


def _class_names(folder: Path) -> tuple[str, ...]:
    """The names in the file beside the batches, or those of CIFAR-10."""
    for path in (folder / name for name in NAMES_FILES):
        if not path.is_file():
            continue
        if path.suffix == ".txt":
            names: Any = path.read_text("utf-8").split()
        else:
            fields: Mapping[str, Any] = read_mat(path)
            names = fields.get("label_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise FormatError(f"{path}: no label_names, a cell of texts")
        return tuple(names)
    return CLASSES
