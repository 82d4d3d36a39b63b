"""The best epoch, and the end of patience."""

import math

import pytest

from matconvnet.train.stopping import best_epoch, is_over, monitored

IDLE = {"num": 0, "time": 0.0}


def stats_of(val, train=None):
    """Statistics with one dict per epoch."""
    return {"train": train or [IDLE] * len(val), "val": val}


def errors(*values):
    """Epochs whose objective rises while the errors are these."""
    return [
        {"objective": float(n), "top1err": value, "top5err": -n, "num": 3, "time": 1.0}
        for n, value in enumerate(values)
    ]


def test_the_best_epoch_is_the_first_of_the_smallest():
    assert best_epoch(stats_of(errors(0.5, 0.2, 0.3, 0.2))) == 2
    assert best_epoch(stats_of(errors(0.5, 0.2, 0.3, 0.1)), "objective") == 1
    assert best_epoch(stats_of(errors(0.5, 0.2, 0.3, 0.1)), "-objective") == 4
    assert best_epoch(stats_of([])) is None


def test_without_monitor_the_first_error_counts_then_the_objective():
    assert monitored(stats_of(errors(0.5, 0.2))) == [0.5, 0.2]
    losses = [{"objective": 3.0, "aux": 1.0, "num": 1, "time": 1.0}]
    assert monitored(stats_of(losses)) == [3.0]
    assert monitored(stats_of([{"objective": 3.0, "aux": 1.0, "error": 0.5}])) == [0.5]


def test_training_counts_where_nothing_was_validated():
    both = stats_of([IDLE] * 3, errors(0.5, 0.2, 0.3))
    assert best_epoch(both) == 2
    assert best_epoch(stats_of(errors(0.1, 0.2, 0.3), errors(0.5, 0.2, 0.3))) == 1


def test_what_is_no_number_is_never_the_best():
    assert best_epoch(stats_of(errors(math.nan, 0.3, math.nan))) == 2
    assert best_epoch(stats_of(errors(math.nan, math.nan))) is None
    assert best_epoch(stats_of([IDLE, *errors(0.3, 0.4)])) == 2


def test_patience():
    values = (0.5, 0.4, 0.4, 0.6, 0.3, 0.4)
    over = [is_over(stats_of(errors(*values[:n])), None, 2) for n in range(len(values) + 1)]
    assert over == [False, False, False, False, True, False, False]
    assert is_over(stats_of(errors(math.nan, math.nan)), None, 2)
    assert not is_over(stats_of(errors(0.5)), None, 1)
    assert is_over(stats_of(errors(0.5, 0.5)), None, 1)


@pytest.mark.parametrize("name", ["top1", "-top1", "num", "time", ""])
def test_an_unknown_statistic_is_told_what_there_is(name):
    with pytest.raises(KeyError, match=f"monitor is '{name}'; wanted one of objective, top1err, t"):
        best_epoch(stats_of(errors(0.5)), name)
    with pytest.raises(KeyError, match="wanted one of objective"):
        is_over(stats_of(errors(0.5)), name, 3)
    assert best_epoch(stats_of([]), name) is None
