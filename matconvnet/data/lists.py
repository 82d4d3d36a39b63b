"""Databases of image files: what the files are called, their labels and sets; and lists of them."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matconvnet.data.imdb import TEST, TRAIN, VAL, Imdb, check_codes
from matconvnet.data.tables import read_csv, read_parquet
from matconvnet.errors import FormatError

SETS = {
    **dict.fromkeys(("train", "training", "1"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "2"), VAL),
    **dict.fromkeys(("test", "testing", "3"), TEST),
}
"""The sets by the names, or codes, that folders and lists have for them."""

FILE_COLUMNS = ("file", "filename", "file_name", "path", "name", "image")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target")
SET_COLUMNS = ("set", "split", "subset")
WHOLE_FLOAT = re.compile(r"^(-?\d+)\.0+$")  # how tables write whole numbers beside missing ones
UNKNOWN = ("", "-1")
VAL_SHARE = 0.1
TRIED = 10  # files looked for, to tell a wrong folder from a missing file


@dataclass(frozen=True, eq=False)
class ImageList:
    """A database of N image files, which stay on the disk until a batch wants them.

    Args:
        folder: what the names are relative to.
        names: N paths with "/" between folders; absolute ones are taken as they are.
        labels: N int64, 0-based; -1 = unknown. Or N float32, numbers to be predicted.
        set: N int64: 1 train, 2 val, 3 test.
        classes: the name of every class; none, where labels are float32.
    Raises: ValueError, if lengths disagree or a label or a set is out of range; TypeError, if an
        array has another type.
    Source: `imdb.images.name` and `imdb.imageDir` of cnn_imagenet_setup_data.m.
    """

    folder: Path
    names: tuple[str, ...]
    labels: np.ndarray
    set: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self):
        if self.labels.dtype == np.float32:
            _check_targets(self.labels, len(self), self.classes)
        else:
            check_codes("labels", self.labels, len(self), -1, len(self.classes) - 1)
        check_codes("set", self.set, len(self), TRAIN, TEST)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.folder / self.names[index]


Database = Imdb | ImageList


def load_list(
    path: str | os.PathLike[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    file_column: str | None = None,
    label_column: str | None = None,
    set_column: str | None = None,
    val_share: float = VAL_SHARE,
) -> ImageList:
    """Read a list of image files: a CSV file with a line of headings, or a Parquet file.

    Labels are the names of classes, or numbers. Whole numbers, too, are names, except where
    the classes are given and the numbers are not among them: then they count the classes from 0.
    An empty label or -1 is unknown. Numbers that are not all whole become float32 targets.

    Args:
        path: the list; its suffix .parquet or .pq tells Parquet. CSV may have commas, semicolons
            or tabs.
        folder: what the file names are relative to; None for the folder of the list.
        classes: their names in the order of their labels; None for the lines of a classes.txt
            beside the list, or, without one, for the labels that occur, sorted.
        file_column: heading of the file names; None for one of file, filename, path, name, image.
        label_column: heading of the labels; None for one of label, class, category, target.
        set_column: heading of the sets, train, val and test or 1, 2 and 3; None for one of set,
            split, subset. Without such a column `split_by_name` makes the sets.
        val_share: the share of images that `split_by_name` puts into the set val.
    Returns: the database, in the order of the list.
    Raises: FormatError (a ValueError), naming the line, or in Parquet the row, that is wrong;
        FileNotFoundError, if there is no list, or none of its first files; ImportError, if the
        list is Parquet and pyarrow is not installed.
    """
    path = Path(path)
    is_parquet = path.suffix.lower() in (".parquet", ".pq")
    headings, rows = read_parquet(path) if is_parquet else read_csv(path)
    file = _column(path, headings, file_column, FILE_COLUMNS, "file names")
    if file is None:
        raise FormatError(
            f"{path}: no column of file names; wanted one of {', '.join(FILE_COLUMNS)}; found "
            f"{', '.join(headings)}"
        )
    label = _column(path, headings, label_column, LABEL_COLUMNS, "labels")
    group = _column(path, headings, set_column, SET_COLUMNS, "sets")
    names, texts, sets, places = [], [], [], []
    for place, row in rows:
        if not row[file]:
            raise FormatError(f"{place}: column {headings[file]!r} is empty; wanted a file name")
        names.append(row[file])
        texts.append("" if label is None else WHOLE_FLOAT.sub(r"\1", row[label]))
        if group is not None:
            sets.append(_set_code(row[group], headings[group], place))
        places.append(place)
    if not names:
        raise FormatError(f"{path}: found headings but no images below them")
    beside = path.parent / "classes.txt"
    if classes is None and beside.is_file():
        classes = [line.strip() for line in beside.read_text("utf-8").splitlines() if line.strip()]
    labels, classes = _labels(texts, classes, places)
    root = path.parent if folder is None else Path(folder)
    check_present(root, names, path)
    codes = split_by_name(names, val_share) if group is None else np.array(sets, np.int64)
    return ImageList(root, tuple(names), labels, codes, classes)


def split_by_name(names: Sequence[str], val_share: float = VAL_SHARE) -> np.ndarray:
    """Put every image into the training or the validation set by a hash of its name.

        val, if the first 8 bytes of SHA-256(name) / 2^64 < val_share

    An image stays in its set whatever other images come or go.

    Returns: a set code per name, int64: 1 train, 2 val.
    Raises: ValueError, if `val_share` is not from 0 to below 1.
    """
    if not 0 <= val_share < 1:
        raise ValueError(f"val_share is {val_share}; wanted 0 to below 1")
    digests = (hashlib.sha256(name.encode()).digest() for name in names)
    shares = [int.from_bytes(digest[:8]) / 2**64 for digest in digests]
    return np.where(np.array(shares) < val_share, VAL, TRAIN).astype(np.int64)


def sort_classes(names: set[str]) -> list[str]:
    """Class names in order; if all are whole numbers, in the order of the numbers."""
    if all(map(_is_whole, names)):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def check_present(folder: Path, names: Sequence[str], owner: Path) -> None:
    """Raise FileNotFoundError if none of the first files exists: the folder is another one."""
    if not any((folder / name).exists() for name in names[:TRIED]):
        raise FileNotFoundError(
            f"{owner}: no file {str(folder / names[0])!r}, nor any of the next; names are looked "
            f"for in {str(folder)!r}, another place is the argument `folder`"
        )


def _column(
    path: Path, headings: list[str], wanted: str | None, usual: tuple[str, ...], what: str
) -> int | None:
    """The place of a column, by the name wanted, or by one of the usual names in any case."""
    if wanted is not None:
        if wanted not in headings:
            found = ", ".join(headings)
            raise FormatError(f"{path}: no column {wanted!r} of {what}; found {found}")
        return headings.index(wanted)
    lower = [heading.lower() for heading in headings]
    return next((lower.index(name) for name in usual if name in lower), None)


def _set_code(text: str, heading: str, place: str) -> int:
    code = SETS.get(text.lower())
    if code is None:
        raise FormatError(
            f"{place}: column {heading!r} is {text!r}; wanted train, val or test, or 1, 2 or 3"
        )
    return code


def _labels(
    texts: list[str], classes: Sequence[str] | None, places: list[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels from what the list says, and the names of the classes."""
    known = {text for text in texts if text not in UNKNOWN}
    if classes is None and not all(map(_is_whole, known)) and all(map(_is_number, known)):
        missing = next((p for p, t in zip(places, texts, strict=True) if not _is_number(t)), None)
        if missing:
            raise FormatError(f"{missing}: no label; wanted a number, as in the other rows")
        return np.array([float(text) for text in texts], np.float32), ()
    names = list(sort_classes(known) if classes is None else classes)
    codes = {name: i for i, name in enumerate(names)}
    if len(codes) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"classes name {twice!r} more than once")
    if not known <= codes.keys() and all(map(_is_whole, known)):
        codes = {str(i): i for i in range(len(names))}
    codes |= dict.fromkeys(UNKNOWN, -1)
    for text, place in zip(texts, places, strict=True):
        if text not in codes:
            raise FormatError(
                f"{place}: label {text!r} is none of the {len(names)} classes "
                f"({', '.join(names[:5])}{', ...' * (len(names) > 5)})"
            )
    return np.array([codes[text] for text in texts], np.int64), tuple(names)


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text)).item()
    except ValueError:
        return False


def _check_targets(targets: np.ndarray, count: int, classes: tuple[str, ...]) -> None:
    if targets.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one per image; found {targets.shape}")
    if classes:
        raise ValueError(f"labels are float32 but there are {len(classes)} classes; wanted none")
