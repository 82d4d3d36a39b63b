"""Databases from folders of images: train/CLASS/*.jpg, val/CLASS/*.jpg, or CLASS/*.jpg alone."""

import os
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from matconvnet.data.imdb import TEST, TRAIN
from matconvnet.data.lists import SETS, VAL_SHARE, ImageList, sort_classes, split_by_name
from matconvnet.errors import FormatError

SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
"""Of the files that `read_picture` reads."""
LAYOUT = (
    "wanted train/CLASS/IMAGE with val/CLASS/IMAGE and test/CLASS/IMAGE if there are such sets, "
    "or CLASS/IMAGE, a folder for every class"
)
LISTED = 5  # names in a message


def load_folder(path: str | os.PathLike[str], *, val_share: float = VAL_SHARE) -> ImageList:
    """List the images of a folder: the folder of an image is its class.

    There are folders train, val and test (or training, valid, validation, testing) with a folder
    for every class in them; or folders of classes alone, and `split_by_name` makes the sets.
    Images may lie deeper within the folder of their class. Those of test may lie outside of one:
    they have no label. Names that begin with a dot, and files that are no images by their
    suffix, are passed over. No image is opened.

    Args:
        path: the folder.
        val_share: the share of images that `split_by_name` puts into the set val.
    Returns: the database; the classes are those of the training set, sorted by name, or by
        number, where all are numbers; the images are sorted by set, class and name.
    Raises: FormatError (a ValueError), if no class is found, a class has no images, or a class of
        val or test is none of train; FileNotFoundError, NotADirectoryError or PermissionError, if
        a folder cannot be read.
    """
    root = Path(path)
    folders, sets = _folders(root), _set_folders(root)
    if sets:
        groups = [_find_set(root, sets[code], code) for code in sorted(sets)]
    else:
        groups = [[_Image(file, name, TRAIN) for name in folders for file in _walk(root, name)]]
        _check_found(root, groups[0], folders)
    names = {image.label for image in groups[0] if image.label is not None}
    labels: dict[str | None, int] = {name: i for i, name in enumerate(sort_classes(names))}
    for group in groups[1:]:
        _check_labels(root, group, labels, groups[0][0])
    labels[None] = -1
    images = [image for group in groups for image in group]
    images.sort(key=lambda image: (image.set, labels[image.label], image.name))
    files = tuple(image.name for image in images)
    codes = np.array([image.set for image in images], np.int64)
    return ImageList(
        root,
        files,
        np.array([labels[image.label] for image in images], np.int64),
        codes if sets else split_by_name(files, val_share),
        tuple(name for name in labels if name is not None),
    )


class _Image(NamedTuple):
    name: str  # of the file, relative to the root
    label: str | None  # name of the class
    set: int


def _set_folders(root: Path) -> dict[int, str]:
    """The folders of sets by their codes; none, where "train" must be a class, of vehicles."""
    folders = _folders(root)
    found = [name for name in folders if name.isalpha() and name.lower() in SETS]
    if len(found) < len(folders) and not any(_folders(root / name) for name in found):
        return {}
    sets = {SETS[name.lower()]: name for name in found}
    if len(sets) < len(found):
        raise FormatError(f"{root}: some of the folders {', '.join(found)} are the same set")
    return sets


def _find_set(root: Path, name: str, code: int) -> list[_Image]:
    """The images of a set: in folders of classes; those of the test set also without."""
    folders = _folders(root / name)
    images = [
        _Image(file, label, code) for label in folders for file in _walk(root, f"{name}/{label}")
    ]
    if code == TEST:
        files = sorted(entry.name for entry in _visible(root / name) if _is_image(entry))
        images += [_Image(f"{name}/{file}", None, code) for file in files]
    _check_found(root / name, images, folders)
    return images


def _walk(root: Path, folder: str) -> Iterator[str]:
    """The names of all images in a folder and the folders within it, relative to the root."""
    seen = set()
    for place, folders, files in os.walk(root / folder, onerror=_fail, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder that holds it
            folders.clear()
            continue
        seen.add(real)
        relative = Path(place).relative_to(root).as_posix()
        yield from (f"{relative}/{name}" for name in files if is_image_name(name))


def is_image_name(name: str) -> bool:
    """True for the name of an image file that is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and is_image_name(entry.name)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _visible(folder) if entry.is_dir())


def _fail(error: OSError) -> NoReturn:
    raise error


def _check_found(folder: Path, images: list[_Image], labels: list[str]) -> None:
    """Raise FormatError unless there are images, and some of every class."""
    if not images and not any(_has_files(folder / label) for label in labels):
        raise FormatError(f"{folder}: no images in folders of classes; {LAYOUT}; {_found(folder)}")
    empty = sorted(set(labels) - {image.label for image in images})
    if empty:
        raise FormatError(
            f"{folder / empty[0]}: no images of class {empty[0]!r}; {_found(folder / empty[0])}; "
            "wanted images (.jpg, .png, ...), as every folder beside this one is taken for a class"
            + (f"; empty as well: {_listed(empty[1:])}" if empty[1:] else "")
        )


def _check_labels(
    root: Path, images: list[_Image], labels: Container[str | None], first: _Image
) -> None:
    """Raise FormatError if a class of a later set is none of the first."""
    other = sorted({i.label for i in images if i.label is not None and i.label not in labels})
    if other:
        folder, known = (name.split("/")[0] for name in (images[0].name, first.name))
        raise FormatError(
            f"{root / folder}: found the classes {_listed(other)}, which {known!r} lacks; wanted "
            "the same classes in all sets"
        )


def _found(folder: Path) -> str:
    """What a folder holds, in a few words."""
    entries = sorted(_visible(folder), key=lambda entry: entry.name)
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    files = [entry.name for entry in entries if not entry.is_dir()]
    parts = [
        f"{len(names)} {what}{'s' * (len(names) > 1)} ({_listed(names)})"
        for names, what in ((folders, "folder"), (files, "file"))
        if names
    ]
    return "found " + (" and ".join(parts) or "nothing")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + ", ..." * (len(names) > LISTED)


def _has_files(folder: Path) -> bool:
    return any(files for _, _, files in os.walk(folder))
