"""What `matconvnet data` prints: tables, lists of findings, a progress bar."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from matconvnet.data.checks import ImageFact
    from matconvnet.data.lists import Database

SETS = ("train", "val", "test")
LISTED = 10  # findings of a kind that are told one by one
MOST_CLASSES = 40  # rows of a table; of more classes, those with the most and fewest images
COLOUR_SIZE = (64, 64)  # that files are resized to: the mean of the colours hardly changes


def print_classes(imdb: "Database") -> None:
    """A table of the images of every class in every set."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from matconvnet.data.checks import class_counts, class_remarks

    totals = np.bincount(imdb.set, minlength=4)[1:]
    table = Table("class", show_footer=True)
    table.columns[0].footer = counted(len(imdb.classes), "class")
    for name, total in zip(SETS, totals, strict=True):
        table.add_column(name, str(total), justify="right")
    table.add_column("remark")
    counts = class_counts(imdb)
    remarks = class_remarks(counts)
    rows: Iterable[int] = range(len(counts))
    if len(counts) > MOST_CLASSES:
        order = np.argsort(-counts.sum(1), kind="stable")
        half = MOST_CLASSES // 2
        rows = [*order[:half], *order[-half:]]
        table.title = f"{half} classes with the most images, {half} with the fewest"
    for row in rows:
        table.add_row(imdb.classes[row], *map(str, counts[row]), remarks[row])
    unknown = totals - counts.sum(0)
    if unknown.any() and imdb.classes:
        table.add_row("(no label)", *map(str, unknown), "")
    if imdb.labels.dtype == np.float32:
        low, middle, high = np.percentile(imdb.labels, (0, 50, 100))
        table.caption = f"labels are numbers from {low:g} to {high:g}, median {middle:g}"
    Console(highlight=False).print(table)


def print_sizes(facts: Sequence["ImageFact"], total: int) -> None:
    """The spread of heights and widths, and how many images have how many channels."""
    import numpy as np

    if not facts:
        return
    sizes = np.array([fact.size for fact in facts])
    which = "" if len(facts) == total else f" (of {len(facts)} images)"
    if (sizes == sizes[0]).all():
        typer.echo(f"size{which}: {sizes[0, 0]} x {sizes[0, 1]} pixels")
    else:
        typer.echo(f"size{which}: smallest, median, largest")
        for axis, what in enumerate(("height", "width")):
            low, middle, high = np.percentile(sizes[:, axis], (0, 50, 100)).astype(int)
            typer.echo(f"  {what:6}  {low:6d} {middle:6d} {high:6d} pixels")
    channels, counts = np.unique([fact.channels or 0 for fact in facts], return_counts=True)
    parts = [f"{c} in {counted(n, 'image')}" for c, n in zip(channels, counts, strict=True)]
    typer.echo(f"channels{which}: {', '.join(parts)}")


def print_colours(imdb: "Database", indices: list[int]) -> None:
    """Mean and deviation of the colours of some images."""
    import numpy as np

    from matconvnet.data.imdb import Imdb
    from matconvnet.data.reader import FileSource
    from matconvnet.data.statistics import image_statistics

    if not indices:
        return
    source = None
    if not isinstance(imdb, Imdb):
        source = FileSource(image_size=COLOUR_SIZE, crop_size=1.0, keep_aspect=False)
    found = image_statistics(imdb, indices, source=source)
    which = counted(len(indices), "training image")
    typer.echo(f"mean of the pixels of {which}: {_numbers(found.mean)}")
    typer.echo(f"deviation: {_numbers(np.sqrt(np.diag(found.covariance)))}")


def print_list(title: str, lines: Iterable[str]) -> None:
    """A title and the first of the lines; nothing, if there are none."""
    lines = list(lines)
    if not lines:
        return
    typer.echo(title)
    for line in lines[:LISTED]:
        typer.echo(f"  {line}")
    if len(lines) > LISTED:
        typer.echo(f"  ... and {len(lines) - LISTED} more")


def group_text(imdb: "Database", indices: list[int]) -> str:
    """Equal images with their sets and classes."""
    from matconvnet.data.checks import class_name, image_name

    parts = []
    for i in indices[:LISTED]:
        where = f"{SETS[imdb.set[i] - 1]} {class_name(imdb, i)}"
        parts.append(f"{image_name(imdb, i)} ({where.strip()})")
    return " = ".join(parts)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """A progress bar on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def spread(indices: Sequence[int], most: int) -> list[int]:
    """At most so many of the indices, evenly spread over them."""
    step = max(1, -(-len(indices) // most))
    return list(indices[::step])


def kind(imdb: "Database") -> str:
    """Whether the images are in memory, and their size, or where the files are."""
    from matconvnet.data.imdb import Imdb

    if isinstance(imdb, Imdb):
        height, width, channels, _ = imdb.images.shape
        return f"{height} x {width} x {channels} {imdb.images.dtype} in memory"
    return f"files in {imdb.folder}"


def _numbers(values: Any) -> str:
    return "  ".join(f"{value:.2f}" for value in values)


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 image", "2 images"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
