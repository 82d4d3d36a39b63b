"""Learning rates as functions of the progress."""

import math

import numpy as np
import pytest

from matconvnet.train.schedules import (
    Cosine,
    PerEpoch,
    Plateau,
    Progress,
    Steps,
    WarmUp,
    as_schedule,
    parse_schedule,
)


def at(schedule, done, num_epochs=100, **stats):
    """The rate when so many epochs are done."""
    stats = {"train": [], "val": [], **stats}
    return schedule(Progress(math.floor(done) + 1, done, num_epochs, stats))


def objectives(*values):
    return [{"objective": value, "num": 5, "time": 1.0} for value in values]


def test_one_rate_per_epoch():
    schedule = as_schedule([0.3, 0.2, 0.1])
    assert [at(schedule, done) for done in (0, 0.9, 1, 2, 2.5, 3, 50)] == [
        0.3, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1
    ]  # fmt: skip


@pytest.mark.parametrize("value", [0.25, np.float32(0.25), [0.25], np.array(0.25), (0.25, 0.25)])
def test_numbers_are_schedules(value):
    schedule = as_schedule(value)
    assert [at(schedule, done) for done in (0, 7)] == [0.25, 0.25]
    assert isinstance(at(schedule, 0), float)


def test_a_schedule_is_taken_as_it_is():
    function = lambda progress: progress.done  # noqa: E731
    assert as_schedule(function) is function


def test_steps_fall_after_the_epochs_named():
    schedule = Steps(8.0, at=[2, 3], factor=0.5)
    rates = [at(schedule, done) for done in (0, 1.99, 2, 2.5, 3, 9)]
    assert rates == [8, 8, 4, 4, 2, 2]


def test_cosine():
    schedule = Cosine(3.0, final=1.0)
    for done, want in ((0, 3), (2, 2 + math.sqrt(0.5)), (4, 2), (8, 1), (9, 1)):
        assert at(schedule, done, num_epochs=8) == pytest.approx(want, abs=1e-12)
    assert at(Cosine(3.0), 0, num_epochs=0) == 3


def test_warm_up_is_a_line_to_the_schedule_underneath():
    schedule = WarmUp(0.8, epochs=4)
    assert [at(schedule, done) for done in (0, 1, 3.5, 4, 5)] == pytest.approx(
        [0, 0.2, 0.7, 0.8, 0.8]
    )
    schedule = WarmUp(Steps(1.0, at=(2,), factor=0.5), epochs=4, start=0.3)
    assert [at(schedule, done) for done in (0, 1, 2, 4)] == pytest.approx([0.3, 0.475, 0.4, 0.5])
    assert at(WarmUp([0.5, 0.25], epochs=0), 0) == 0.5


def test_plateau_falls_after_epochs_that_are_not_better():
    schedule = Plateau(1.0, factor=0.5, patience=2, threshold=0)
    history = [9, 8, 8, 8.5, 8, 7, 7, 6, 6, 6, 6, 6]
    rates = [at(schedule, n, val=objectives(*history[:n])) for n in range(len(history) + 1)]
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_plateau_does_not_count_what_is_hardly_better():
    values = objectives(10, 9.95, 9.9, 9.85)
    assert at(Plateau(1.0, patience=3, threshold=0.02), 4, val=values) == pytest.approx(0.1)
    assert at(Plateau(1.0, patience=3, threshold=0.001), 4, val=values) == 1
    assert at(Plateau(1.0, patience=2), 3, val=objectives(8, 10, 9)) == pytest.approx(0.1)
    rising = [{"accuracy": 0.5}, {"accuracy": 0.6}, {"accuracy": 0.7}]
    assert at(Plateau(1.0, patience=2, metric="-accuracy", phase="train"), 3, train=rising) == 1
    falling = rising[::-1]
    schedule = Plateau(1.0, patience=2, metric="-accuracy", phase="train")
    assert at(schedule, 3, train=falling) == pytest.approx(0.1)


def test_plateau_bears_numbers_that_are_none_and_stops_at_the_least():
    values = objectives(math.nan, math.nan, 3, math.nan, math.nan)
    assert at(Plateau(1.0, patience=2, least=0.3), 5, val=values) == 0.3
    assert at(Plateau(1.0, patience=2, least=0.3), 3, val=values[:3]) == 0.3
    assert at(Plateau(1.0, patience=2), 1, val=values[:1]) == 1


def test_plateau_names_what_there_is():
    schedule = Plateau(1.0, metric="top1err")
    with pytest.raises(KeyError, match="metric is 'top1err'; wanted one of objective"):
        at(schedule, 1, val=objectives(3))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("0.01", PerEpoch((0.01,))),
        ("1e-3", PerEpoch((0.001,))),
        ("cosine:0.1", Cosine(0.1)),
        ("steps:0.1@30,60", Steps(0.1, (30, 60))),
        ("plateau:0.01", Plateau(0.01)),
        (" cosine:0.1+warmup:5", WarmUp(Cosine(0.1), 5)),
        ("0.01+warmup:0.5", WarmUp(0.01, 0.5)),
        ("1e+1+warmup:2", WarmUp(10, 2)),
    ],
)
def test_a_line_of_text(text, want):
    assert parse_schedule(text) == want


@pytest.mark.parametrize(
    "text",
    ["", "fast", "cosine", "cosine:", "cosine:fast", "sine:0.1", "steps:0.1", "steps:0.1@", "-1",
     "steps:0.1@60,30", "nan", "0.1+warmup:", "cosine:0.1+warmup:-2", "warmup:5"],
)  # fmt: skip
def test_a_text_that_is_no_schedule_is_told_the_forms(text):
    with pytest.raises(ValueError, match=r"learning rate is .*cosine:0.1, steps:0.1@30,60"):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: as_schedule([]), ValueError, "learning_rate is empty"),
        (lambda: as_schedule("0.1"), TypeError, "learning_rate is '0.1'; wanted a number, a list"),
        (lambda: as_schedule([0.1, None]), TypeError, "learning_rate is None"),
        (lambda: as_schedule([0.1, -1]), ValueError, "learning_rate is -1; wanted a finite"),
        (lambda: as_schedule(math.nan), ValueError, "learning_rate is nan"),
        (lambda: as_schedule(True), TypeError, "learning_rate is True"),
        (lambda: PerEpoch(()), ValueError, "rates is empty"),
        (lambda: Steps(-0.1), ValueError, "rate is -0.1; wanted a finite number >= 0"),
        (lambda: Steps(0.1, at=(3, 3)), ValueError, r"at is \(3, 3\); wanted increasing"),
        (lambda: Steps(0.1, factor=math.inf), ValueError, "factor is inf"),
        (lambda: Cosine(0.1, final=None), TypeError, "final is None; wanted a number"),
        (lambda: WarmUp("x", 3), TypeError, "schedule is 'x'"),
        (lambda: WarmUp(0.1, -3), ValueError, "epochs is -3"),
        (lambda: Plateau(0.1, patience=0), ValueError, "patience is 0; wanted 1 or more"),
        (lambda: Plateau(0.1, patience=2.5), TypeError, "patience is 2.5; wanted a whole number"),
        (lambda: Plateau(0.1, factor=2), ValueError, "factor is 2; wanted a number from 0 to 1"),
        (lambda: Plateau(0.1, phase="test"), ValueError, "phase is 'test'; wanted 'train' or"),
        (lambda: Plateau(0.1, least=0.2), ValueError, "least is 0.2; wanted at most rate, 0.1"),
    ],
)  # fmt: skip
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
