"""Trainings side by side: the tables of `matconvnet runs`. Imported only when one is printed."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from matconvnet.cli.runs import Run
from matconvnet.train.text import described, duration, short

DASH = "\N{EN DASH}"
GAP = "  "
SPARED = ("train", "val", "speed")  # columns left out where there is no room
STYLES = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "bold red"}


def runs_table(found: Sequence[Run], width: int) -> Table:
    """A line per run; in a narrow terminal without the columns that matter least."""
    columns = _columns(found)
    needed = sum(max(len(text.plain) for text in column) + len(GAP) for column in columns.values())
    table = Table(box=None, padding=(0, len(GAP), 0, 0), header_style="bold underline")
    shown = [name for name in columns if needed <= width or name not in SPARED]
    for name in shown:
        head, *_ = columns[name]
        is_text = name in ("run", "status", "solver")
        table.add_column(
            head, justify="left" if is_text else "right", no_wrap=name != "run", overflow="fold"
        )
    for line in zip(*(columns[name][1:] for name in shown), strict=True):
        table.add_row(*line)
    return table


def _columns(found: Sequence[Run]) -> dict[str, list[Text]]:
    """The columns by name: heading and a cell per run. Settings that differ are yellow."""
    names = {run.statistic for run in found}
    statistic = _cell(next(iter(names))).removeprefix("-") if len(names) == 1 else "best"

    def where(run: Run) -> str:
        best = short(run.best) + (f" ({run.best_epoch})" if run.best_epoch else "")
        return best if len(names) == 1 else f"{_cell(run.statistic).removeprefix('-')} {best}"

    def setting(name: str, values: list[str]) -> list[Text]:
        style = "yellow" if len(set(values)) > 1 else ""
        return [Text(name), *(Text(value, style) for value in values)]

    def plain(name: str, values: Iterable[str]) -> list[Text]:
        return [Text(name), *map(Text, values)]

    return {
        "run": plain("run", (_cell(run.name) for run in found)),
        "status": [
            Text("status"),
            *(Text(_cell(run.status), STYLES.get(run.status or "", "")) for run in found),
        ],
        "epochs": plain("epochs", (f"{r.epochs}/{_cell(r.num_epochs)}" for r in found)),
        "best": [Text(f"{statistic} (epoch)"), *(Text(where(run), "bold") for run in found)],
        "last": plain("last", (short(run.last) for run in found)),
        "train": plain("train obj.", (short(run.train) for run in found)),
        "val": plain("val obj.", (short(run.val) for run in found)),
        "rate": setting("rate", [short(run.learning_rate) for run in found]),
        "batch": setting("batch", [_cell(run.batch_size) for run in found]),
        "solver": setting("solver", [_cell(run.solver) for run in found]),
        "speed": plain("images/s", (_whole(run.images_per_second) for run in found)),
        "time": plain("time", (duration(run.time) for run in found)),
    }


def options_table(found: Sequence[Run]) -> Table | None:
    """The options that are not the same in all runs, a line per run; None, if there are none."""
    names = dict.fromkeys(name for run in found for name in run.options if name != "exp_dir")
    shown = {
        name: [described(run.options[name]) if name in run.options else "" for run in found]
        for name in names
    }
    shown = {name: values for name, values in shown.items() if len(set(values)) > 1}
    if not shown:
        return None
    table = Table(box=None, padding=(0, len(GAP), 0, 0), header_style="bold underline")
    table.add_column("run", overflow="fold")
    for name in shown:
        table.add_column(Text(_cell(name)), overflow="fold")
    for run, *values in zip(found, *shown.values(), strict=True):
        table.add_row(Text(_cell(run.name)), *(Text(_cell(value)) for value in values))
    return table


def _whole(value: float | None) -> str:
    return DASH if value is None else f"{value:.0f}"


def _cell(value: Any) -> str:
    """Any value on a line of a terminal, which a file name must not be able to control."""
    if value is None:
        return DASH
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value)
    )
