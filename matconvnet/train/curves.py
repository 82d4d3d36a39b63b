"""The lines of `stats.jsonl` as curves: what the page draws and `matconvnet runs` compares."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Rows = Sequence[Mapping[str, Any]]
Points = list[tuple[int, float]]

PHASES = ("train", "val")

NOT_MEASURED = {
    "epoch", "phase", "learning_rate", "num", "time", "data_time", "images_per_second",
    "update_ratio",
}  # fmt: skip
"""Fields of a line of `stats.jsonl` that are no statistics of the network."""


def number(value: Any) -> float | None:
    """A statistic as a finite number, the first of several; None, if it is none."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def statistics(rows: Rows) -> list[str]:
    """Names of the statistics in the lines of `stats.jsonl`, in the order of the lines."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in NOT_MEASURED))


def curve(rows: Rows, phase: str, name: str) -> Points:
    """(epoch, value) of a field in a phase, wherever it is a finite number."""
    found = [(row["epoch"], number(row.get(name))) for row in rows if row["phase"] == phase]
    return [(epoch, value) for epoch, value in found if value is not None]


class Best(NamedTuple):
    """The best value of the statistic that is monitored, and where it was."""

    phase: str
    name: str
    epoch: int
    value: float


def best(rows: Rows, monitor: str | None = None) -> Best | None:
    """The best epoch so far, by the rules of `stopping.best_epoch`; None, if no epoch has a value.

    Args:
        rows: the lines of `stats.jsonl`.
        monitor: a statistic, the smaller the better, or with a minus sign before it, the larger.
            None: the first error (a name that ends in "err" or "error"), or else the objective.
    """
    measured = {
        phase: statistics([row for row in rows if row["phase"] == phase]) for phase in PHASES
    }
    phase = "val" if measured["val"] else "train"
    name = (monitor or _monitored(measured[phase])).removeprefix("-")
    points = curve(rows, phase, name)
    if not points:
        return None
    return Best(phase, name, *best_point(points, monitor == f"-{name}"))


def best_point(points: Points, is_larger_better: bool = False) -> tuple[int, float]:
    """The first of the points with the smallest value, or with the largest."""
    return (max if is_larger_better else min)(points, key=lambda point: point[1])


def _monitored(names: Sequence[str]) -> str:
    errors = [name for name in names if name.lower().endswith(("err", "error"))]
    return next(iter([*errors, *names]), "objective")
