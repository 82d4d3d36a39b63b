"""A picture of images with what a network makes of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from matconvnet.data.imdb import Imdb
from matconvnet.data.lists import Database
from matconvnet.images import read_image, resize

COLUMNS = 8
CELL = (1.1, 1.35)  # inches: width and height of an image with its caption
HEADER = 0.5  # inches
THUMBNAIL = 96  # pixels of the shorter side
RIGHT, WRONG = "#1a7f37", "#cf222e"


def save_gallery(
    path: Path,
    images: Sequence[np.ndarray],
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    title: str,
) -> None:
    """Draw a grid of images, framed green where the network is right and red where it is wrong.

    Args:
        path: of the PNG file.
        images: N of H x W x C, values 0 to 255, C 1 or 3.
        labels: N, 0-based.
        probabilities: N x K.
        classes: K names.
        title: a line above the grid.
    """
    count = len(images)
    rows = -(-count // COLUMNS)
    width, height = COLUMNS * CELL[0], rows * CELL[1] + HEADER
    figure = Figure(figsize=(width, height), dpi=120)
    figure.text(0.5, 1 - 0.5 * HEADER / height, title, ha="center", va="center")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    figure.subplots_adjust(0.01, 0.25 / height, 0.99, 1 - HEADER / height, 0.05, 0.45)
    for axis in grid[count:]:
        axis.set_axis_off()
    guesses = probabilities.argmax(1)
    for i, axis in enumerate(grid[:count]):
        is_right = guesses[i] == labels[i]
        colour = RIGHT if is_right else WRONG
        caption = f"{classes[guesses[i]]}  {100 * probabilities[i, guesses[i]]:.0f} %"
        if not is_right:
            caption += f"\nis {classes[labels[i]]}"
        image = images[i].astype(np.uint8)
        axis.imshow(image if image.shape[2] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
        axis.set_xlabel(caption, color=colour, fontsize=8, labelpad=2)
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=colour, linewidth=2)
    figure.savefig(path)


def thumbnails(imdb: Database, indices: np.ndarray) -> list[np.ndarray]:
    """Some images of a database, H x W x C; small, if they come from files."""
    if isinstance(imdb, Imdb):
        return [imdb.images[..., i] for i in indices]
    found = []
    for i in indices:
        image = read_image(imdb.path(int(i)))
        scale = THUMBNAIL / min(image.shape[:2])
        height, width = (max(1, round(scale * side)) for side in image.shape[:2])
        found.append(resize(image, (height, width), method="bilinear").clip(0, 255))
    return found


def choose(labels: np.ndarray, probabilities: np.ndarray, mistakes: int, others: int) -> np.ndarray:
    """Indices of the most confident mistakes, then of right answers, evenly spread."""
    guesses = probabilities.argmax(1)
    confidence = probabilities.max(1)
    wrong = np.flatnonzero(guesses != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:mistakes]
    right = np.flatnonzero(guesses == labels)
    spread = np.linspace(0, right.size, min(others, right.size), endpoint=False).astype(int)
    return np.concatenate((wrong, right[spread]))
