"""Looking at a database before hours are spent on it: its numbers, and what is wrong with it."""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from matconvnet.data.decode import decode as decode_picture
from matconvnet.data.imdb import Imdb
from matconvnet.data.lists import Database, ImageList

HUGE_SIDE = 4096  # pixels; a larger image costs more to decode than to train on
TINY_SIDE = 8
SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "PNG": {".png"},
    "GIF": {".gif"},
    "BMP": {".bmp"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
}
"""Suffixes of the formats that are often named wrongly."""
GREY_MODES = ("1", "L", "LA", "I", "I;16", "F")
ORIENTATION = 0x0112  # of EXIF
AHEAD = 64  # images per thread that are under way

FEW, MANY = 1 / 4, 4
"""A class is odd with less or more than these times the images of the median class."""


class ImageFact(NamedTuple):
    """What was found about the image at the place `at` of a database.

    size: (height, width); channels: 1 or 3, as it is decoded; digest: of its bytes;
    broken: why it cannot be used; odd: what is unusual about it. None where it is not known.
    """

    at: int
    size: tuple[int, int] | None
    channels: int | None
    digest: bytes | None
    broken: str | None
    odd: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """What is wrong with a database of images; all indices are those of the database.

    broken: (index, why) of images that cannot be used. odd: indices by what is unusual. across:
    groups of equal images in different sets; within: in one set. disagreeing: groups of equal
    images with different labels.
    """

    count: int
    broken: list[tuple[int, str]]
    odd: dict[str, list[int]]
    across: list[list[int]]
    within: list[list[int]]
    disagreeing: list[list[int]]


def image_facts(
    imdb: Database, indices: Sequence[int] | None = None, *, threads: int = 4, decode: bool = True
) -> Iterator[ImageFact]:
    """Look at images one after the other, opening files in threads.

    Args:
        imdb: the database.
        indices: of the images; None for all.
        threads: that read files.
        decode: whether to read all of a file; else only its head, which tells its size.
    Returns: an iterator over what was found, in the order of the indices. It never ends early: an
        image that cannot be read is one whose `broken` says why.
    """
    indices = range(len(imdb)) if indices is None else indices
    if isinstance(imdb, Imdb):
        rows = imdb.images.transpose(3, 0, 1, 2)
        yield from (_array_fact(rows[i], i) for i in indices)
        return

    def look(index: int) -> ImageFact:
        return file_fact(imdb.path(index), index, decode=decode)

    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # Pillow's, on what is told here
        for first in range(0, len(indices), AHEAD * threads):
            yield from pool.map(look, indices[first : first + AHEAD * threads])


def file_fact(path: Path, index: int = 0, *, decode: bool = True) -> ImageFact:
    """Look at one image file; see `image_facts`."""
    nothing = ImageFact(index, None, None, None, None)
    try:
        data = path.read_bytes() if decode else None
        digest = None if data is None else hashlib.sha256(data).digest()
        pixels = None if data is None else decode_picture(data)
        with Image.open(path if data is None else BytesIO(data)) as image:
            size, odd = (image.height, image.width), tuple(_oddities(image, path))
            channels = 1 if image.mode in GREY_MODES else 3
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over
        return nothing._replace(broken=_reason(error))
    return ImageFact(
        index, size, channels if pixels is None else pixels.shape[2], digest, None, odd
    )


def check_database(
    imdb: Database,
    *,
    threads: int = 4,
    progress: Callable[[int], object] | None = None,
) -> Findings:
    """Open every image of a database and compare all of them.

    Args:
        imdb: the database.
        threads: that read files.
        progress: called with the number of images done, after each.
    Returns: the findings.
    """
    broken: list[tuple[int, str]] = []
    odd: dict[str, list[int]] = defaultdict(list)
    equal: dict[bytes, list[int]] = defaultdict(list)
    grey: list[int] = []
    for done, fact in enumerate(image_facts(imdb, threads=threads), 1):
        if fact.broken is not None:
            broken.append((fact.at, fact.broken))
        for what in fact.odd:
            odd[what].append(fact.at)
        if fact.digest is not None:
            equal[fact.digest].append(fact.at)
        if fact.channels == 1:
            grey.append(fact.at)
        if progress is not None:
            progress(done)
    if 0 < len(grey) < len(imdb) - len(broken):
        odd["grey, where others have colours"] = grey
    groups = [group for group in equal.values() if len(group) > 1]
    across = [group for group in groups if len(np.unique(imdb.set[group])) > 1]
    return Findings(
        len(imdb),
        broken,
        dict(sorted(odd.items())),
        across,
        [group for group in groups if len(np.unique(imdb.set[group])) == 1],
        [group for group in groups if len(np.unique(imdb.labels[group])) > 1],
    )


def class_counts(imdb: Database) -> np.ndarray:
    """Images of every class in every set: K x 3, for the sets 1, 2 and 3."""
    counts = np.zeros((len(imdb.classes), 3), np.int64)
    if not imdb.classes:
        return counts
    known = imdb.labels >= 0
    np.add.at(counts, (imdb.labels[known], imdb.set[known] - 1), 1)
    return counts


def class_remarks(counts: np.ndarray) -> list[str]:
    """What is wrong with the number of images of each class, in the sets that there are."""
    used = [s for s in range(3) if counts[:, s].any()]
    names = ("train", "val", "test")
    remarks = []
    for row in counts:
        words = [f"none in {names[s]}" for s in used if not row[s]]
        if used and row[used[0]]:
            ratio = row[used[0]] / np.median(counts[:, used[0]])
            words += [
                word for word, holds in (("few", ratio < FEW), ("many", ratio > MANY)) if holds
            ]
        remarks.append(", ".join(words))
    return remarks


def image_name(imdb: Database, index: int) -> str:
    """What an image is called: its file, or its place in the database."""
    return imdb.names[index] if isinstance(imdb, ImageList) else f"image {index}"


def class_name(imdb: Database, index: int) -> str:
    """The name of the class of an image, the number it is labelled with, or "" for unknown."""
    label = imdb.labels[index]
    if imdb.labels.dtype == np.float32:
        return f"{label:g}"
    return imdb.classes[label] if label >= 0 else ""


def _array_fact(image: np.ndarray, index: int) -> ImageFact:
    height, width, channels = image.shape
    finite = image.dtype == np.uint8 or bool(np.isfinite(image).all())
    digest = hashlib.sha256(image.tobytes()).digest()
    flat = image.size > 0 and image.min() == image.max()
    return ImageFact(
        index,
        (height, width),
        channels,
        digest if finite else None,
        None if finite else "holds values that are not finite",
        ("all pixels are equal",) if finite and flat else (),
    )


def _oddities(image: Image.Image, path: Path) -> Iterator[str]:
    """What is unusual about an image, as its head tells."""
    kind = image.format or "unknown"
    if path.suffix.lower() not in SUFFIXES.get(kind, {path.suffix.lower()}):
        yield f"{kind} named {path.suffix}"
    if image.mode in ("CMYK", "YCCK"):
        yield "CMYK"
    if image.mode.startswith(("I", "F")):
        yield "more than 8 bits"
    if image.has_transparency_data:
        yield "transparent"
    if getattr(image, "n_frames", 1) > 1:
        yield "several frames"
    if image.getexif().get(ORIENTATION, 1) != 1:
        yield "has an EXIF orientation, which training ignores"
    if max(image.size) > HUGE_SIDE:
        yield f"over {HUGE_SIDE} pixels wide or high"
    if min(image.size) < TINY_SIDE:
        yield f"under {TINY_SIDE} pixels wide or high"


def _reason(error: Exception) -> str:
    """Why a file cannot be read, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
