"""Statistics as curves, and the best of them."""

import math

import pytest

from matconvnet.train.curves import Best, best, curve, number, statistics
from matconvnet.train.stopping import best_epoch


def rows(**values):
    """Lines of "val" with a value per epoch of each statistic, and "train" with an objective."""
    epochs = len(next(iter(values.values())))
    return [
        row
        for i in range(epochs)
        for row in (
            {"epoch": i + 1, "phase": "train", "learning_rate": 0.1, "objective": 9.0 - i},
            {"epoch": i + 1, "phase": "val", **{name: v[i] for name, v in values.items()},
             "num": 2, "time": 1.0, "images_per_second": 2.0},
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (2, 2.0), (0.5, 0.5), ([0.25, 9], 0.25), (None, None), (math.nan, None), (-math.inf, None),
        (True, None), ("1", None), ([], None), ({}, None), (10**400, None),
    ],
)  # fmt: skip
def test_numbers(value, want):
    assert number(value) == want


def test_curves_leave_out_what_is_missing():
    found = rows(objective=[3.0, None, 1.0])
    assert curve(found, "val", "objective") == [(1, 3.0), (3, 1.0)]
    assert curve(found, "train", "objective") == [(1, 9.0), (2, 8.0), (3, 7.0)]
    assert curve(found, "val", "top1err") == []
    assert statistics(found) == ["objective"]


def test_the_best_value_is_that_of_the_first_error():
    found = rows(objective=[3.0, 2.0, 1.0], top1err=[0.5, 0.2, 0.2], top5err=[0.0, 0.1, 0.2])
    assert best(found) == Best("val", "top1err", 2, 0.2)
    assert best(found, "objective") == Best("val", "objective", 3, 1.0)
    assert best(found, "-top5err") == Best("val", "top5err", 3, 0.2)
    assert best(found, "nothing") is None
    assert best([]) is None


def test_without_validation_training_counts():
    found = [
        {"epoch": 1, "phase": "train", "objective": 3.0},
        {"epoch": 1, "phase": "val", "num": 0},
    ]
    assert best(found) == Best("train", "objective", 1, 3.0)


LOSSES = {"loss": [3.0, 1.0, 2.0], "objective": [1.0, 2.0, 3.0]}
ERRORS = {"objective": [3.0, 1.0, 2.0], "top5err": [0.2, math.nan, 0.1], "top1err": [0.1, 0.2, 0.3]}


@pytest.mark.parametrize(
    ("values", "monitor"),
    [
        ({"objective": [3.0, 1.0, 1.0]}, None),
        (LOSSES, None),
        (LOSSES, "objective"),
        (LOSSES, "-objective"),
        (ERRORS, None),
        (ERRORS, "top1err"),
        (ERRORS, "-top5err"),
    ],
)
def test_the_best_epoch_is_that_of_training(values, monitor):
    """The trainer keeps the best epoch by `stopping`, people see it by `curves`: one rule."""
    epochs = [dict(zip(values, v, strict=True)) for v in zip(*values.values(), strict=True)]
    want = best_epoch({"train": [], "val": epochs}, monitor)
    found = best(rows(**values), monitor)
    assert found is not None
    assert found.epoch == want
