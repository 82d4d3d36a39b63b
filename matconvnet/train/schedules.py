"""Learning rates that change while a network is trained: functions of how far training has come."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from matconvnet.train.stopping import Epochs, series


class Progress(NamedTuple):
    """How far training has come.

    epoch: the current epoch, from 1. done: epochs completed, with the fraction of the current one.
    num_epochs: epochs wanted in all. stats: statistics of all finished epochs, a list per phase.
    """

    epoch: int
    done: float
    num_epochs: int
    stats: Mapping[str, Epochs]


Schedule = Callable[[Progress], float]
"""A learning rate as a pure function of the progress: no state, so that a run can be resumed."""


@dataclass(frozen=True)
class PerEpoch:
    """One rate per epoch; the last holds from then on."""

    rates: tuple[float, ...]

    def __post_init__(self):
        if not self.rates:
            raise ValueError("rates is empty; wanted at least one number")
        for rate in self.rates:
            _check("rates", rate)

    def __call__(self, progress: Progress) -> float:
        """The rate of the current epoch."""
        return self.rates[min(progress.epoch, len(self.rates)) - 1]


@dataclass(frozen=True)
class Steps:
    """A rate that falls in steps.

        rate * factor^(number of entries of `at` that are <= done)

    Args:
        rate: at the start.
        at: epochs after which the rate falls, increasing; 30: epoch 31 is the first that is slower.
        factor: what the rate is multiplied by.
    """

    rate: float
    at: Sequence[float] = (30, 60)
    factor: float = 0.1

    def __post_init__(self):
        _check("rate", self.rate)
        _check("factor", self.factor)
        object.__setattr__(self, "at", tuple(self.at))
        for epoch in self.at:
            _check("at", epoch)
        if list(self.at) != sorted(set(self.at)):
            raise ValueError(f"at is {self.at}; wanted increasing numbers of epochs")

    def __call__(self, progress: Progress) -> float:
        """The rate now."""
        return self.rate * self.factor ** sum(epoch <= progress.done for epoch in self.at)


@dataclass(frozen=True)
class Cosine:
    """A rate that falls along half a wave of the cosine, over all the epochs.

        final + (rate - final) * (1 + cos(pi * done / num_epochs)) / 2

    Args:
        rate: at the start.
        final: at the end of the last epoch, and after it.
    """

    rate: float
    final: float = 0.0

    def __post_init__(self):
        _check("rate", self.rate)
        _check("final", self.final)

    def __call__(self, progress: Progress) -> float:
        """The rate now."""
        share = min(progress.done / max(progress.num_epochs, 1), 1.0)
        return self.final + (self.rate - self.final) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class WarmUp:
    """A linear rise to the rate that another schedule has, which goes on underneath.

        start + (schedule - start) * done / epochs,  while done < epochs

    Args:
        schedule: the schedule, or a number or a list of them.
        epochs: how long the rise takes; fractions are allowed.
        start: rate of the first update.
    """

    schedule: Schedule | float | Sequence[float]
    epochs: float
    start: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "schedule", as_schedule(self.schedule, "schedule"))
        _check("epochs", self.epochs)
        _check("start", self.start)

    def __call__(self, progress: Progress) -> float:
        """The rate now."""
        rate = as_schedule(self.schedule)(progress)
        if progress.done >= self.epochs:
            return rate
        return self.start + (rate - self.start) * progress.done / self.epochs


@dataclass(frozen=True)
class Plateau:
    """A rate that falls whenever a statistic stops getting better.

        rate * factor^(number of falls), but never less than `least`

    The rate falls when `patience` epochs in a row were not better than the best before them, by
    more than `threshold` * |best|; then as many epochs must pass again before the next fall.

    Args:
        rate: at the start.
        factor: what the rate is multiplied by, 0..1.
        patience: epochs without improvement that are borne.
        metric: name of the statistic; smaller is better, unless the name follows a minus sign.
        phase: whose statistic, "train" or "val".
        least: the rate falls no further.
        threshold: share of the best value that does not count as an improvement.
    """

    rate: float
    factor: float = 0.1
    patience: int = 5
    metric: str = "objective"
    phase: str = "val"
    least: float = 0.0
    threshold: float = 1e-4

    def __post_init__(self):
        for name in ("rate", "factor", "least", "threshold"):
            _check(name, getattr(self, name))
        if self.factor > 1:
            raise ValueError(f"factor is {self.factor}; wanted a number from 0 to 1")
        if self.least > self.rate:
            raise ValueError(f"least is {self.least}; wanted at most rate, {self.rate}")
        if isinstance(self.patience, bool) or not isinstance(self.patience, int):
            raise TypeError(f"patience is {self.patience!r}; wanted a whole number")
        if self.patience < 1:
            raise ValueError(f"patience is {self.patience}; wanted 1 or more")
        if self.phase not in ("train", "val"):
            raise ValueError(f"phase is {self.phase!r}; wanted 'train' or 'val'")

    def __call__(self, progress: Progress) -> float:
        """The rate now: all finished epochs are gone through again, so nothing is remembered."""
        rate, best, bad = self.rate, math.inf, 0
        for value in series(progress.stats[self.phase], self.metric):
            better = value < best - self.threshold * abs(best) if best < math.inf else value < best
            best, bad = (value, 0) if better else (best, bad + 1)
            if bad == self.patience:
                rate, bad = max(rate * self.factor, self.least), 0
        return rate


def as_schedule(value: Any, name: str = "learning_rate") -> Schedule:
    """Read a learning rate as a schedule.

    Args:
        value: a number; a list or an array of numbers, one per epoch, the last of which holds from
            then on; or a schedule, which is returned as it is.
        name: what errors call it.
    Raises: TypeError, ValueError, if it is none of these, or a number is negative or not finite.
    """
    if callable(value):
        return cast(Schedule, value)
    rates = value.ravel().tolist() if isinstance(value, np.ndarray) else value
    rates = [rates] if not isinstance(rates, Sequence) or isinstance(rates, str) else rates
    if not rates:
        raise ValueError(f"{name} is empty; wanted a number, a list of numbers or a schedule")
    for rate in rates:
        _check(name, rate, "a number, a list of numbers or a schedule")
    return PerEpoch(tuple(float(rate) for rate in rates))


FORMS = "0.01, cosine:0.1, steps:0.1@30,60 or plateau:0.01, and +warmup:5 after any of them"


def parse_schedule(text: str) -> Schedule:
    """Read a schedule that was written in a line.

        0.01                  a constant rate
        cosine:0.1            Cosine(0.1)
        steps:0.1@30,60       Steps(0.1, at=(30, 60))
        plateau:0.01          Plateau(0.01)
        cosine:0.1+warmup:5   WarmUp(Cosine(0.1), 5)

    Raises: ValueError, which shows these forms.
    """
    main, has_warm_up, epochs = text.strip().partition("+warmup:")
    try:
        schedule = _parse_main(main)
        return WarmUp(schedule, float(epochs)) if has_warm_up else schedule
    except ValueError as error:
        raise ValueError(f"learning rate is {text!r}; wanted a form like {FORMS}") from error


def _parse_main(text: str) -> Schedule:
    kind, has_kind, rest = text.partition(":")
    if not has_kind:
        return as_schedule(float(kind))
    if kind == "steps":
        rate, _, at = rest.partition("@")
        return Steps(float(rate), tuple(float(epoch) for epoch in at.split(",")))
    if kind not in ("cosine", "plateau"):
        raise ValueError(f"schedule is {kind!r}; wanted cosine, steps or plateau")
    return {"cosine": Cosine, "plateau": Plateau}[kind](float(rest))


def _check(name: str, value: Any, wanted: str = "a number") -> None:
    """Raise unless `value` is a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} is {value!r}; wanted {wanted}")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; wanted a finite number >= 0")
