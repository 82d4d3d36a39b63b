"""Which epoch is the best so far, and whether it is time to give up hope of a better one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Epochs = Sequence[Mapping[str, Any]]
"""Statistics of a phase: a dict per finished epoch."""

NOT_MONITORED = ("num", "time")


def best_epoch(stats: Mapping[str, Epochs], monitor: str | None = None) -> int | None:
    """The epoch, from 1, with the smallest value of a statistic; the first of equal ones.

    Args:
        stats: of "train" and "val", a list of dicts, one per finished epoch.
        monitor: name of a statistic of "val", or of "train" where nothing was validated. Smaller
            is better, unless the name follows a minus sign: "-accuracy". None: the first error
            (a name that ends in "err" or "error"), or else the first statistic, the objective.

    Returns: None, if no epoch has a value that is a number.
    Raises: KeyError, if no epoch has that statistic.
    """
    values = monitored(stats, monitor)
    numbers = [value for value in values if not math.isnan(value)]
    return values.index(min(numbers)) + 1 if numbers else None


def is_over(stats: Mapping[str, Epochs], monitor: str | None, patience: int) -> bool:
    """Tell whether the last `patience` epochs brought nothing better than the one before them.

    Args:
        stats, monitor: as in `best_epoch`.
        patience: epochs without improvement that end training, 1 or more.

    Raises: KeyError, as `best_epoch`.
    """
    return len(monitored(stats, monitor)) - (best_epoch(stats, monitor) or 0) >= patience


def monitored(stats: Mapping[str, Epochs], monitor: str | None = None) -> list[float]:
    """The values that `best_epoch` compares, one per finished epoch; the smallest is the best."""
    was_validated = any(_names(epoch) for epoch in stats["val"])
    epochs = stats["val" if was_validated else "train"]
    if monitor is None:
        names = [name for epoch in epochs for name in _names(epoch)]
        errors = [name for name in names if name.lower().endswith(("err", "error"))]
        monitor = next(iter(errors + names), "objective")
    return series(epochs, monitor, "monitor")


def series(epochs: Epochs, name: str, argument: str = "metric") -> list[float]:
    """A statistic of every epoch as a number that is better if smaller; NaN where it is missing.

    Args:
        epochs: statistics, a dict per epoch.
        name: which; a minus sign before it turns the sign of the values.
        argument: what errors call `name`.

    Raises: KeyError, if there are epochs, and none has that statistic.
    """
    key, sign = (name[1:], -1.0) if name.startswith("-") else (name, 1.0)
    if epochs and not any(key in _names(epoch) for epoch in epochs):
        known = dict.fromkeys(known for epoch in epochs for known in _names(epoch))
        raise KeyError(f"{argument} is {name!r}; wanted one of {', '.join(known) or '(none)'}")
    return [sign * float(epoch.get(key, math.nan)) for epoch in epochs]


def _names(epoch: Mapping[str, Any]) -> list[str]:
    return [name for name in epoch if name not in NOT_MONITORED]
