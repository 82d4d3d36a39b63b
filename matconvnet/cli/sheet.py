"""A contact sheet: images as they are, and as a network sees them with and without augmentation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matconvnet.data.checks import class_name, image_name
from matconvnet.data.decode import read_picture
from matconvnet.data.imdb import TRAIN, Imdb
from matconvnet.data.lists import Database
from matconvnet.errors import FormatError
from matconvnet.layout import to_numpy

CELL = 1.35  # inches, of an image
NAMES = 1.6  # inches, left of the images
HEADER, FOOTER = 0.75, 0.5  # inches
SETS = ("train", "val", "test")
LEAST_ASPECT = 0.5  # height over width of a cell
LONGEST = 24  # characters of a name


class Views(NamedTuple):
    """What becomes of K images.

    indices: K, in the database; originals: K arrays H x W x C, or None for a file that cannot be
    read; test: H x W x C x K, without augmentation; training: maps of that size, one per draw.
    """

    indices: np.ndarray
    originals: list[np.ndarray | None]
    test: np.ndarray
    training: list[np.ndarray]


def choose(imdb: Database, count: int, seed: int) -> np.ndarray:
    """Indices of images of the training set, taken from one class after the other."""
    known = np.flatnonzero(imdb.set == TRAIN)
    order = np.random.default_rng(seed).permutation(known if known.size else len(imdb))
    labels = imdb.labels[order] if imdb.classes else np.zeros(len(order), np.int64)
    turns = np.empty(len(order), np.int64)  # an image is the first, second, ... of its class
    for label in np.unique(labels):
        turns[labels == label] = np.arange((labels == label).sum())
    return order[np.lexsort((labels, turns))][:count]


def look(imdb: Database, source: Any, indices: np.ndarray, draws: int, seed: int) -> Views:
    """Make the views of some images; every draw has a seed of its own."""

    def batch(training: bool, seed: int) -> np.ndarray:
        return to_numpy(source.batch(imdb, indices, training=training, seed=seed))

    originals = [_original(imdb, int(i)) for i in indices]
    training = [batch(True, seed + draw) for draw in range(draws)]
    return Views(indices, originals, batch(False, seed), training)


def save_sheet(
    path: Path, imdb: Database, views: Views, average: np.ndarray | float, title: str
) -> None:
    """Draw a row for every image: itself, what a test makes of it, and what training draws.

    Args:
        path: of the PNG file.
        imdb: the database.
        views: of the images.
        average: what was subtracted from them, and is added again to show them.
        title: a line above the sheet.
    """
    headings = ["in the database", "in a test"]
    headings += [f"draw {i + 1}" for i in range(len(views.training))]
    rows, columns = len(views.indices), len(headings)
    shape = views.test.shape
    tall = CELL * min(max(shape[0] / shape[1], LEAST_ASPECT), 1)
    width, height = NAMES + columns * CELL, rows * tall + HEADER + FOOTER
    figure = Figure(figsize=(width, height), dpi=110)
    figure.text(0.01, 1 - 0.1 / height, title, va="top", fontsize=10)
    figure.text(0.01, 0.23 / height, _range_text(views, average), va="center", fontsize=9)
    for i, heading in enumerate(headings):
        place = ((NAMES + (i + 0.5) * CELL) / width, 1 - (HEADER - 0.08) / height)
        figure.text(*place, heading, ha="center", va="bottom", fontsize=9)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        NAMES / width, FOOTER / height, 0.995, 1 - HEADER / height, wspace=0.06, hspace=0.06
    )
    limits = _limits(imdb, views)
    for row, index in enumerate(views.indices):
        shown = [view[..., row] + average for view in (views.test, *views.training)]
        for axes, image in zip(grid[row], [views.originals[row], *shown], strict=True):
            _draw(axes, image, limits)
        middle = 1 - (HEADER + (row + 0.5) * tall) / height
        caption = _caption(imdb, int(index))
        figure.text((NAMES - 0.1) / width, middle, caption, ha="right", va="center", fontsize=8)
    figure.savefig(path)


def _draw(axes: Axes, image: np.ndarray | None, limits: tuple[float, float]) -> None:
    axes.set(xticks=[], yticks=[])
    if image is None:
        axes.text(0.5, 0.5, "cannot\nbe read", ha="center", va="center", color="#cf222e")
        return
    low, high = limits
    values = ((image.astype(np.float64) - low) / ((high - low) or 1)).clip(0, 1)
    grey = values.shape[2] != 3
    axes.imshow(values[..., 0] if grey else values, cmap="gray" if grey else None, vmin=0, vmax=1)


def _original(imdb: Database, index: int) -> np.ndarray | None:
    if isinstance(imdb, Imdb):
        return imdb.images[..., index]
    try:
        return read_picture(imdb.path(index))
    except (OSError, FormatError):
        return None


def _limits(imdb: Database, views: Views) -> tuple[float, float]:
    """The values that are black and white: those of bytes, or the least and the largest."""
    known = [image for image in views.originals if image is not None]
    if not known or not isinstance(imdb, Imdb) or imdb.images.dtype == np.uint8:
        return 0, 255
    return min(image.min() for image in known), max(image.max() for image in known)


def _caption(imdb: Database, index: int) -> str:
    name = image_name(imdb, index).rpartition("/")[2]
    parts = (class_name(imdb, index) or "(no label)", SETS[imdb.set[index] - 1], name)
    return "\n".join(text if len(text) <= LONGEST else f"{text[:LONGEST]}..." for text in parts)


def _range_text(views: Views, average: np.ndarray | float) -> str:
    """What the numbers are like that reach the network."""
    maps: Sequence[np.ndarray] = views.training or [views.test]
    values = np.stack(maps)
    ending = "shown with the average added again" if np.any(average) else "no average is subtracted"
    size = " x ".join(map(str, views.test.shape[:3]))
    return (
        f"input {size}, {ending}\nvalues {values.min():.4g} to {values.max():.4g}, "
        f"mean {values.mean():.4g}, deviation {values.std():.4g}"
    )
