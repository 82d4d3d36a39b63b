"""Error functions, means and speeds."""

import itertools
import json

import numpy as np
import pytest
import torch

from matconvnet.executor import Record
from matconvnet.train import meters
from matconvnet.train.meters import Clock, Meter, binary, error_function, multiclass
from tests.train.common import Data, options, small_net, train


def scores(*images):
    """Scores of images of one pixel, 1 x 1 x C x N."""
    return torch.tensor(images, dtype=torch.float64).T[None, None]


def naive_multiclass(x, c, w):
    """Loops over the pixels: sort by falling score, lower classes first."""
    wrong = [0.0, 0.0]
    for i, j, n in itertools.product(*(range(s) for s in (x.shape[0], x.shape[1], x.shape[3]))):
        if c[i, j, 0, n] < 0:
            continue
        ranked = sorted(range(x.shape[2]), key=lambda d: (-x[i, j, d, n], d))
        for e, k in enumerate((1, 5)):
            wrong[e] += float(w[i, j, 0, n]) * (int(c[i, j, 0, n]) not in ranked[:k])
    return wrong


def test_ignored_labels_never_count():
    """Four images whose best class is wrong, labels 1, 0, 3, 4 of the original: three errors."""
    x = scores([0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0])
    assert multiclass(x, torch.tensor([0, -1, 2, 3])).tolist() == [3, 0]


def test_weights():
    """Labels 1 to 4 with weights .5, 1, 2, 0, images 1 and 3 wrong: 2.5, as in the original."""
    x = scores([0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1])
    c = torch.tensor([[0, 1, 2, 3], [0.5, 1, 2, 0]])[None, None]
    assert multiclass(x, c)[0] == 2.5


def test_equal_scores_rank_by_class():
    x = scores([1.0] * 6)
    assert multiclass(x, torch.tensor([0])).tolist() == [0, 0]
    assert multiclass(x, torch.tensor([4])).tolist() == [1, 0]
    assert multiclass(x, torch.tensor([5])).tolist() == [1, 1]


@pytest.mark.parametrize("channels", [1, 3, 5, 6, 9])
@pytest.mark.parametrize("weighted", [False, True])
def test_maps_against_loops(channels, weighted):
    rng = np.random.default_rng(channels)
    x = torch.tensor(rng.integers(0, 4, (3, 2, channels, 4)).astype(np.float32))  # many ties
    c = torch.tensor(rng.integers(-1, channels, (3, 2, 1, 4)))
    w = torch.tensor(rng.random((3, 2, 1, 4)))
    labels = torch.cat((c.double(), w), 2) if weighted else c
    want = naive_multiclass(x, c, w if weighted else torch.ones_like(w))
    assert multiclass(x, labels).tolist() == pytest.approx(want)


@pytest.mark.parametrize("pairs", [1, 2, 5])
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_mixtures_against_loops(pairs, channels):
    rng = np.random.default_rng(channels)
    x = torch.tensor(rng.integers(0, 4, (3, 2, channels, 4)).astype(np.float32))
    c = torch.tensor(rng.integers(-1, channels, (3, 2, pairs, 4)))
    w = torch.tensor(rng.random((3, 2, pairs, 4)))
    labels = torch.stack((c.double(), w), 3).reshape(3, 2, 2 * pairs, 4)
    each = [naive_multiclass(x, c[:, :, m : m + 1], w[:, :, m : m + 1]) for m in range(pairs)]
    assert multiclass(x, labels).tolist() == pytest.approx(np.sum(each, 0).tolist())
    per_image = labels[:1, :1]
    everywhere = per_image.expand(3, 2, 2 * pairs, 4)
    assert torch.equal(multiclass(x, per_image), multiclass(x, everywhere))


def test_in_mixtures_too_no_number_and_no_such_class_are_errors():
    x = scores([1, 2], [float("nan"), 0], [float("-inf"), float("-inf")])
    labels = torch.tensor([[1, 0.5, 7, 0.25], [0, 0.5, 1, 0.25], [1, 0.5, 9, 0.25]]).T[None, None]
    assert multiclass(x, labels).tolist() == [0.25 + 0.75 + 0.75, 0.25 + 0.5 + 0.25]


def test_one_label_for_a_map_and_any_shape_of_labels():
    x = torch.zeros(2, 3, 4, 2)
    x[:, :, 1] = 1
    assert multiclass(x, torch.tensor([1, 2])).tolist() == [6, 0]
    for labels in (torch.tensor([[1.0], [2.0]]), torch.tensor([[1, 2]]), torch.tensor([1, 2])):
        assert multiclass(x[:1, :1], labels)[0] == 1


def test_a_class_that_is_not_there_and_a_score_that_is_no_number_are_errors():
    x = scores([1, 2], [float("nan"), 0], [float("-inf"), float("-inf")])
    assert multiclass(x, torch.tensor([7, 0, 9])).tolist() == [3, 3]


def test_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"labels have shape \(2, 2, 1, 3\), predictions \(3, 2"):
        multiclass(torch.zeros(3, 2, 4, 3), torch.zeros(2, 2, 1, 3))
    with pytest.raises(ValueError, match=r"labels have shape \(3, 2, 1, 3\); wanted \(3, 2, 4, 3"):
        binary(torch.zeros(3, 2, 4, 3), torch.zeros(3, 2, 1, 3))


def test_binary():
    x = torch.tensor([0.5, -0.5, 0.0, 2.0, -1.0])[None, None, None]
    assert binary(x, torch.tensor([1, 1, -1, 0, -1])).tolist() == [1]


def test_own_function():
    record = Record({"x": torch.ones(2)})
    made = options(
        error_function=lambda o, c, r: [o.batch_size, c.sum(), r.values["x"].sum(), 99],
        error_labels=["a", "b", "c"],
    )
    assert error_function(made, "x")(torch.tensor([3, 4]), record).tolist() == [5, 7, 2]
    made = options(error_function=lambda *_: np.array([1.0]), error_labels=["a", "b"])
    with pytest.raises(ValueError, match="returned 1 numbers; wanted 2"):
        error_function(made, "x")(torch.tensor([3, 4]), record)


def test_own_function_of_a_run_is_averaged_over_the_images():
    trainer = train(
        small_net(), Data(), batch_size=4, num_sub_batches=3, num_epochs=1,
        error_function=lambda o, labels, record: 2 * len(labels), error_labels=["twos"],
    )  # fmt: skip
    for phase in ("train", "val"):
        stats = trainer.history.stats[phase][0]
        assert list(stats) == ["objective", "twos", "num", "time"]
        assert stats["twos"] == 2


def test_without_errors():
    trainer = train(small_net(), Data(), error_function="none", num_epochs=1)
    assert list(trainer.history.stats["val"][0]) == ["objective", "num", "time"]


def test_means_are_over_counts_of_their_own():
    """An objective per image and an error per pixel of two maps; sums are double."""
    meter = Meter(["objective", "e"])
    meter.add(np.array([2.0**24, 1]), np.array([1, 6]), 1)
    meter.add(np.array([1.0, 2]), np.array([1, 6]), 1)
    meter.add(np.array([1.0, 3]), np.array([1, 0]), 1)
    assert meter.stats["objective"] == (2**24 + 2) / 3
    assert (meter.stats["e"], meter.stats["num"]) == (0.5, 3)


def test_before_the_first_image_there_are_no_means():
    meter = Meter(["objective", "aux"])
    assert meter.stats == {"num": 0, "time": 0.0}
    meter.add(np.array([0.0, 4]), np.array([0, 2]), 2)
    assert (meter.stats["objective"], meter.stats["aux"]) == (0, 2)


def test_a_restored_meter_goes_on_exactly():
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal(2) / 3, np.array([5, 7]), 5) for _ in range(6)]
    whole = Meter(["objective", "e"])
    for batch in batches:
        whole.add(*batch)
    first = Meter(["objective", "e"])
    for batch in batches[:3]:
        first.add(*batch)
    resumed = Meter(["objective", "e"])
    resumed.restore(json.loads(json.dumps(first.state())))
    first.add(*batches[0])  # shares nothing with the restored one
    for batch in batches[3:]:
        resumed.add(*batch)
    assert {**resumed.stats, "time": 0} == {**whole.stats, "time": 0}


def test_a_restored_clock_goes_on(monkeypatch):
    seconds = iter([100.0, 107.0, 108.0, 109.0, 111.0, 113.0])
    monkeypatch.setattr(meters.time, "perf_counter", lambda: next(seconds))
    clock = Clock(spent=3.0, images=12)
    assert clock.tick(8) == (2, 8 / 7)  # 20 images in 10 seconds
    assert clock.time == 10
    for _ in range(3):
        clock.tick(8)
    assert clock.time == 3 + 4 * 2  # the correction leaves the earlier seconds alone
    assert clock.tick(8) == (52 / 13, 4)


def test_speed_is_corrected_after_the_fourth_batch(monkeypatch):
    seconds = iter([0.0, 10.0, 11.0, 12.0, 14.0, 16.0])
    monkeypatch.setattr(meters.time, "perf_counter", lambda: next(seconds))
    clock = Clock()
    speeds = [clock.tick(8) for _ in range(4)]
    assert speeds[0] == (0.8, 0.8)
    assert speeds[3] == (32 / 14, 4)
    assert clock.time == 8  # four times the two seconds of the fourth batch
    assert clock.tick(8) == (40 / 10, 4)
    assert clock.time == 10
