"""`matconvnet runs`: trainings side by side."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

WIDTH = 200  # of a table that goes to a file


@dataclass(frozen=True)
class Run:
    """A training, as its folder tells of it; None: that is not known.

    statistic: "val top1err", say, or "-val accuracy" where larger is better: `best` is its best
    value, in epoch `best_epoch`, `last` that of the last epoch. train, val: the objective at last.
    learning_rate: of the last epoch. time: seconds of all epochs.
    """

    name: str
    folder: str
    status: str | None
    network: str | None
    started: str | None
    epochs: int
    num_epochs: int | None
    statistic: str | None
    best: float | None
    best_epoch: int | None
    last: float | None
    train: float | None
    val: float | None
    learning_rate: float | None
    batch_size: Any
    solver: Any
    images_per_second: float | None
    time: float
    options: dict[str, Any]


def runs(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Where runs are below.")],
    sort: Annotated[
        Literal["best", "name", "epochs", "time", "speed"], typer.Option(help="What comes first.")
    ] = "best",
    options: Annotated[
        bool, typer.Option("--options", help="Also show the options that differ.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all as JSON.")] = False,
) -> None:
    """Compare the trainings whose folders lie below DIR: their best and last values, and options.

    A folder of a training holds stats.jsonl and run.json. What cannot be read is named and left
    out. The best value is that of the statistic the training monitored, on val if there is one.
    """
    from rich.console import Console

    from matconvnet.cli.comparison import options_table, runs_table

    found = list(_found(folders))
    if not found:
        named = ", ".join(map(str, folders))
        raise ValueError(f"there are no runs below {named}; wanted folders that hold stats.jsonl")
    found.sort(key=lambda run: _rank(run, sort))
    if as_json:
        typer.echo(json.dumps([asdict(run) for run in found], indent=1))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(runs_table(found, console.width))
    if options:
        console.print()
        console.print(options_table(found) or "No options differ.")


def _found(folders: Sequence[Path]) -> Iterator[Run]:
    """The runs at and below the folders, by name; a warning for each that cannot be read."""
    import os
    import warnings

    from matconvnet.train.report import ABOUT_FILE, STATS_FILE

    seen = set()
    for top in folders:
        if not top.is_dir():
            raise ValueError(f"{top} is not a folder; wanted one with runs below it")
        for here, below, files in os.walk(top):
            below.sort()
            folder = Path(here)
            if folder.resolve() in seen or not {ABOUT_FILE, STATS_FILE} & set(files):
                continue
            seen.add(folder.resolve())
            try:
                yield replace(read_run(folder), name=_name(folder, top, len(folders) == 1))
            except (ValueError, OSError) as error:
                warnings.warn(f"{folder} is left out: {error}", stacklevel=2)


def _name(folder: Path, top: Path, is_relative: bool) -> str:
    """The folder as the user will know it: below the only DIR, or else with all its path."""
    return str(folder.relative_to(top)) if is_relative and folder != top else str(folder)


def read_run(folder: Path) -> Run:
    """Sum up what the files of a run hold; ValueError, OSError, if they are damaged."""
    from matconvnet.train.curves import best, curve, number
    from matconvnet.train.report import read_about, read_stats

    rows, about = read_stats(folder), read_about(folder)
    options = about.get("options")
    options = options if isinstance(options, dict) else {}
    monitor = options.get("monitor")
    monitor = monitor if isinstance(monitor, str) else None
    found = best(rows, monitor)

    def last(phase: str, name: str) -> float | None:
        return next((value for _, value in reversed(curve(rows, phase, name))), None)

    network = about.get("network")
    if isinstance(network, dict):
        network = network.get("name") or network.get("kind")
    num_epochs = number(options.get("num_epochs"))
    sign = "-" if found and monitor == f"-{found.name}" else ""
    return Run(
        name=str(folder),
        folder=str(folder),
        status=_text(about.get("status")),
        network=_text(network),
        started=_text(about.get("started")),
        epochs=max((row["epoch"] for row in rows), default=0),
        num_epochs=None if num_epochs is None else int(num_epochs),
        statistic=f"{sign}{found.phase} {found.name}" if found else None,
        best=found.value if found else None,
        best_epoch=found.epoch if found else None,
        last=last(found.phase, found.name) if found else None,
        train=last("train", "objective"),
        val=last("val", "objective"),
        learning_rate=last("train", "learning_rate"),
        batch_size=options.get("batch_size"),
        solver=options.get("solver") or ("sgd" if options else None),
        images_per_second=last("train", "images_per_second"),
        time=sum(number(row.get("time")) or 0 for row in rows),
        options=options,
    )


def _rank(run: Run, sort: str) -> tuple[Any, ...]:
    """What a run is sorted by; the statistics of different names stay apart."""
    if sort == "best":
        sign = -1 if (run.statistic or "").startswith("-") else 1
        return (run.best is None, run.statistic or "", sign * (run.best or 0), run.name)
    keys = {"epochs": -run.epochs, "time": run.time, "speed": -(run.images_per_second or 0)}
    return (keys.get(sort, 0), run.name)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
