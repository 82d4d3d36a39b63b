"""Label smoothing and mixup."""

import numpy as np
import pytest
import torch

from matconvnet.blocks.loss import loss
from matconvnet.data.mixing import Mix
from matconvnet.layout import channels_last
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

INDICES = np.array([40, 3, 17, 8, 99, 21])
LABELS = np.array([2, 0, 1, 1, 3, 0])


def images(count=6, dtype=torch.float32):
    return channels_last(randn((5, 4, 3, count), 1, dtype))


def pairs(labels):
    """Classes and weights, M x B each."""
    assert labels.shape[:2] == (1, 1)
    return labels[0, 0, ::2].numpy(), labels[0, 0, 1::2].numpy()


def shares_and_partners(x, mixed):
    """Found by least squares: which image each was mixed with, and how."""
    found = []
    columns = x.reshape(-1, x.shape[3]).double().numpy()
    for i, y in enumerate(mixed.reshape(-1, x.shape[3]).double().numpy().T):
        part, *_ = np.linalg.lstsq(columns, y, rcond=None)
        assert np.allclose(columns @ part, y, atol=1e-5)
        others = [j for j in np.flatnonzero(np.abs(part) > 1e-4) if j != i]
        assert len(others) <= 1
        found.append((part[i], others[0] if others else i))
    return found


def test_nothing_to_do():
    x = images()
    got, labels = Mix(4)(x, LABELS, INDICES, 0)
    assert got is x
    assert labels is LABELS


def test_smoothing():
    x = images()
    got, labels = Mix(4, label_smoothing=0.2)(x, LABELS, INDICES, 0)
    classes, weights = pairs(labels)
    assert got is x
    assert labels.shape == (1, 1, 8, 6)
    for i, label in enumerate(LABELS):
        assert classes[:, i].tolist() == [0, 1, 2, 3]
        want = [0.05 + 0.8 * (k == label) for k in range(4)]
        assert weights[:, i].tolist() == pytest.approx(want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixup_mixes_images_and_labels_alike(dtype):
    x = images(dtype=dtype)
    before = x.clone()
    mixed, labels = Mix(4, mixup=1.0)(x, LABELS, INDICES, 7)
    assert torch.equal(x, before)
    assert (mixed.dtype, mixed.stride()) == (dtype, x.stride())
    classes, weights = pairs(labels)
    found = shares_and_partners(x, mixed)
    assert sum(j != i for i, (_, j) in enumerate(found)) >= 3
    for i, (share, partner) in enumerate(found):
        assert classes[:, i].tolist() == [LABELS[i], LABELS[partner]]
        assert weights[:, i].sum() == pytest.approx(1)
        if partner != i:
            assert weights[0, i] == pytest.approx(share, abs=1e-4)


def test_both():
    x = images()
    plain, two = Mix(4, mixup=0.7)(x, LABELS, INDICES, 7)
    both, all_classes = Mix(4, mixup=0.7, label_smoothing=0.2)(x, LABELS, INDICES, 7)
    assert torch.equal(both, plain)
    (classes, weights), (every, smooth) = pairs(two), pairs(all_classes)
    for i in range(6):
        want = np.full(4, 0.05)
        for k, w in zip(classes[:, i], weights[:, i], strict=True):
            want[int(k)] += 0.8 * w
        assert every[:, i].tolist() == [0, 1, 2, 3]
        assert smooth[:, i].tolist() == pytest.approx(want.tolist())


def test_the_same_sub_batch_is_mixed_the_same_way_and_others_are_not():
    x, mix = images(), Mix(4, mixup=1.0)
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first, labels = mix(x, LABELS, INDICES, 7)
    again, same = mix(x, torch.tensor(LABELS), INDICES.tolist(), 7)
    assert torch.equal(first, again)
    assert torch.equal(labels, same)
    assert np.array_equal(np.random.get_state()[1], state[0])
    assert torch.equal(torch.get_rng_state(), state[1])
    for indices, seed in ((INDICES, 8), (INDICES + 1, 7), (INDICES[::-1], 7), (INDICES, -7)):
        assert not torch.equal(mix(x, LABELS, indices, seed)[0], first)


def test_shares_have_the_beta_distribution():
    """Mean 1/2 and variance 1 / (8 * alpha + 4), of 4000 draws: within 4 standard errors."""
    count = 4000
    x, labels, indices = torch.zeros(1, 1, 1, count), np.arange(count) % 2, np.arange(count)
    for alpha in (0.2, 1.0, 5.0):
        _, weights = pairs(Mix(2, mixup=alpha)(x, labels, indices, 3)[1])
        variance = 1 / (8 * alpha + 4)
        assert weights[0].mean() == pytest.approx(0.5, abs=4 * (variance / count) ** 0.5)
        assert weights[0].var() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_images_without_a_label_stay_as_they_are(smoothing):
    x = images()
    labels = np.array([2, -1, 1, -1, 3, 0])
    mixed, out = Mix(4, smoothing, mixup=1.0)(x, labels, INDICES, 5)
    classes, _ = pairs(out)
    for i, (_, partner) in enumerate(shares_and_partners(x, mixed)):
        assert labels[partner] >= 0 or partner == i
        if labels[i] < 0:
            assert torch.equal(mixed[..., i], x[..., i])
            assert set(classes[:, i]) == {-1} if smoothing else classes[0, i] == -1
    scores = randn((1, 1, 4, 6), 3, torch.float32)
    scores[..., [1, 3]] = float("nan")
    assert torch.isfinite(loss(scores, out))


def test_the_loss_of_smoothed_labels_is_the_mean_over_all_classes_mixed_in():
    scores = randn((1, 1, 4, 6), 3, torch.float32)
    _, labels = Mix(4, label_smoothing=0.2)(scores, LABELS, INDICES, 0)
    every = sum(loss(scores, torch.full((6,), k)) for k in range(4)) / 4
    want = 0.8 * loss(scores, torch.tensor(LABELS)) + 0.2 * every
    assert_close(loss(scores, labels), want, REFERENCE[torch.float32])


def test_one_image_is_its_own_partner():
    x = images(1)
    mixed, labels = Mix(4, mixup=1.0)(x, LABELS[:1], INDICES[:1], 0)
    assert_close(mixed, x, REFERENCE[torch.float32])
    assert labels[0, 0, ::2, 0].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.zeros((5, 4, 1, 6)),
            r"labels have shape \(5, 4, 1, 6\), and there are 6 images; .* no",
        ),
        (np.zeros((1, 1, 2, 6)), "one class per image, no maps and no weights"),
        (np.array([0, 1, 2, 3, 4, 0]), r"a label is 4; wanted 0\.\.3, or -1 = ignore"),
        (np.array([0, 1, 2, 3, -2, 0]), "a label is -2"),
        (np.array([0, 1, 2, 3, 0.5, 0]), r"a label is 0\.5"),
    ],
)
def test_wrong_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        Mix(4, label_smoothing=0.1)(images(), labels, INDICES, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1,), ValueError, "classes is 1; wanted 2 or more"),
        ((2.5,), TypeError, "classes is 2.5; wanted a whole number"),
        ((4, 1.0), ValueError, "label_smoothing is 1.0; wanted a number from 0 to below 1"),
        ((4, -0.1), ValueError, "label_smoothing is -0.1"),
        ((4, 0.0, -1), ValueError, "mixup is -1; wanted a finite number >= 0"),
        ((4, 0.0, float("inf")), ValueError, "mixup is inf"),
    ],
)
def test_wrong_options(arguments, error, message):
    with pytest.raises(error, match=message):
        Mix(*arguments)
