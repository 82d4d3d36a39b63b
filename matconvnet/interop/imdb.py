"""Image databases in `.mat` files, as the examples of MatConvNet save them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matconvnet.data.imdb import Imdb
from matconvnet.data.lists import Database, ImageList, check_present
from matconvnet.errors import FormatError
from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.values import Cell, Struct

SET_NAMES = ("train", "val", "test")
WHOLE = 1e-3  # by how much single precision may miss a whole number up to 255


def load_imdb_mat(
    path: str | os.PathLike[str], *, folder: str | os.PathLike[str] | None = None
) -> Database:
    """Read the image database in a `.mat` file; labels, from 1 in the file, count from 0.

    Images are those of `images.data`, or files by `images.name`. Where the file holds images
    less their mean and the mean beside them, as cnn_mnist.m stores them, the mean is added again,
    and is what `get_batch` subtracts.

    Args:
        path: the file: its variables are the fields of the database, or one of them is `imdb`.
        folder: where the named files are; None for `imageDir` of the file, or, if there is no such
            folder, that of the .mat file or the folder `images` in it.
    Returns: an Imdb, or an ImageList for names; labels 0, unknown, become -1.
    Raises: FormatError (a ValueError), naming the field that is missing or makes no sense;
        FileNotFoundError, if none of the first named files exists; OSError.
    Source: cnn_mnist.m, cnn_cifar.m, cnn_imagenet_setup_data.m, cnn_toy_data.m.
    """
    path = Path(path)
    fields = read_mat(path)
    fields = fields["imdb"] if isinstance(fields.get("imdb"), Mapping) else fields
    images = fields.get("images")
    if isinstance(images, np.ndarray):  # the toy shapes have all fields on top
        images = Struct(fields, data=images)
    if not isinstance(images, Mapping) or not ({"data", "name"} & images.keys()):
        raise FormatError(
            f"{path}: no image database: wanted images.data or images.name; found the variables "
            f"{', '.join(fields)}"
        )
    try:
        if "data" in images:
            return _read_arrays(images, _class_names(fields))
        return _read_names(path, fields, images, folder)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path}: {error}") from error


def save_imdb_mat(imdb: Database, path: str | os.PathLike[str]) -> None:
    """Write a database so that the examples of MatConvNet read it; labels count from 1.

    Images become single precision, less the mean of the database, with the mean beside them;
    `load_imdb_mat` gives uint8 images back as they were.

    Args:
        imdb: the database.
        path: the file; of version 7, or 7.3 (which wants h5py) if the images exceed 2 GB.
    Raises: ValueError, if the labels are targets rather than classes; OSError.
    """
    if imdb.labels.dtype != np.int64:
        raise ValueError(f"labels are {imdb.labels.dtype}; wanted int64, the classes of images")
    labels = (imdb.labels + 1).astype(np.float64)[None]
    sets = imdb.set.astype(np.float64)[None]
    names = Cell(imdb.classes)
    if isinstance(imdb, ImageList):
        images = Struct(name=Cell(imdb.names), label=labels, set=sets)
        classes = Struct(name=names, description=names)
        variables = Struct(imageDir=str(imdb.folder.resolve()), classes=classes, images=images)
    else:
        data = imdb.images.astype(np.float32)
        images = Struct(data=data, labels=labels, set=sets)
        if imdb.mean is not None:
            data -= imdb.mean[..., None]
            images["data_mean"] = imdb.mean
        variables = Struct(images=images, meta=Struct(sets=Cell(SET_NAMES), classes=names))
    write_mat(path, variables)


def _read_arrays(images: Mapping[str, Any], classes: Sequence[str] | None) -> Imdb:
    labels = _labels(images)
    data = _data(images["data"], labels.size)
    rows = np.ascontiguousarray(data.transpose(3, 0, 1, 2))  # N H W C
    sets = _codes("set", images.get("set"))
    mean = images.get("data_mean")
    if mean is not None:
        mean = _mean(mean, rows.shape[1:])
        if _is_centred(rows[sets == 1], mean):
            rows = _restore(rows, mean)
    if classes is None:
        classes = [str(i + 1) for i in range(labels.max(initial=-1) + 1)]
    return Imdb(rows.transpose(1, 2, 3, 0), labels, sets, tuple(classes), mean)


def _read_names(
    path: Path,
    fields: Mapping[str, Any],
    images: Mapping[str, Any],
    folder: str | os.PathLike[str] | None,
) -> ImageList:
    names = images["name"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError("images.name is no cell of texts")
    names = tuple(name.replace("\\", "/") for name in names)
    has_labels = "label" in images or "labels" in images
    labels = _labels(images) if has_labels else np.full(len(names), -1, np.int64)
    classes = _class_names(fields)
    if classes is None:
        classes = [str(i + 1) for i in range(labels.max(initial=-1) + 1)]
    root = _image_folder(path, fields.get("imageDir"), names) if folder is None else Path(folder)
    check_present(root, names, path)
    return ImageList(root, names, labels, _codes("set", images.get("set")), tuple(classes))


def _image_folder(path: Path, told: Any, names: Sequence[str]) -> Path:
    """The folder that holds the first image; the file may come from another machine."""
    places = [path.parent, path.parent / "images"]
    if isinstance(told, str) and told:
        places.insert(0, path.parent / told.replace("\\", "/"))
    return next((place for place in places if names and (place / names[0]).is_file()), places[0])


def _data(data: Any, count: int) -> np.ndarray:
    """H x W x C x N uint8 or float32; MATLAB drops axes of size 1 on the right."""
    if not isinstance(data, np.ndarray) or data.dtype.kind not in "biuf":
        raise FormatError(f"images.data is {type(data).__name__}; wanted numbers")
    if data.dtype != np.uint8:
        data = data.astype(np.float32, copy=False)
    shape = data.shape
    if data.ndim == 3 and count == shape[2] != 1:
        data = data[:, :, None]
    data = data.reshape((*data.shape, 1, 1)[: max(4, data.ndim)], order="F")
    if data.ndim != 4 or data.shape[3] != count:
        hint = "; the images come first, where they should be last" * (shape[0] == count)
        raise FormatError(
            f"images.data has shape {shape} for {count} labels; wanted H x W x C x {count}{hint}"
        )
    return data


def _labels(images: Mapping[str, Any]) -> np.ndarray:
    name = "labels" if "labels" in images else "label"
    return _codes(name, images.get(name)) - 1


def _codes(name: str, values: Any) -> np.ndarray:
    """A row or a column of whole numbers, of whatever class, as int64."""
    if values is None:
        raise FormatError(f"no field images.{name}")
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.size != max(array.shape, default=1):
        raise FormatError(
            f"images.{name} is {array.dtype} of shape {array.shape}; wanted a row of numbers"
        )
    array = array.reshape(-1)
    codes = array.astype(np.int64, casting="unsafe") if np.isfinite(array).all() else None
    if codes is None or (codes != array).any():
        wrong = next(value for value in array if value != np.floor(value) or not np.isfinite(value))
        raise FormatError(f"images.{name} holds {wrong}; wanted whole numbers")
    return codes


def _class_names(fields: Mapping[str, Any]) -> list[str] | None:
    """The names in `meta.classes`, in `classes.name`, or in `meta.classes.name`."""
    meta = fields.get("meta")
    for value in (
        meta.get("classes") if isinstance(meta, Mapping) else None,
        fields.get("classes"),
    ):
        names = value.get("name") if isinstance(value, Mapping) else value
        if isinstance(names, list) and names:
            return [str(name) for name in names]
    return None


def _mean(mean: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The mean image as H x W x C; one colour serves all pixels."""
    array = np.asarray(mean, np.float32)
    array = array.reshape((*array.shape, 1)[:3], order="F")
    if array.ndim != 3 or array.shape not in (shape, (1, 1, shape[2])):
        raise FormatError(f"images.data_mean has shape {np.shape(mean)}; wanted {shape}")
    return np.ascontiguousarray(np.broadcast_to(array, shape))


def _is_centred(rows: np.ndarray, mean: np.ndarray) -> bool:
    """True, if the mean of the images is nearer to 0 than to `mean`: it was subtracted."""
    found = rows.mean(axis=0, dtype=np.float64) if len(rows) else np.zeros_like(mean)
    return bool(np.abs(found).sum() < np.abs(found - mean).sum())


def _restore(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Images with their mean again; uint8, where they were."""
    rows = rows + mean
    whole = np.rint(rows)
    is_bytes = whole.size and 0 <= whole.min() <= whole.max() <= 255
    return whole.astype(np.uint8) if is_bytes and np.abs(rows - whole).max() < WHOLE else rows
