"""`loss` with labels that are mixtures: pairs of channels, class and weight."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.loss import loss, loss_backward
from tests.blocks.test_loss import CATEGORICAL, pixel, problem
from tests.helpers import (
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
    sizes,
)
from tests.reference import loss as reference
from tests.tolerances import CENTRAL_DIFFERENCE, PRINTED, REFERENCE

MIXING = ("classerror", "topkerror", "log", "softmaxlog")


def mixture(kind, size, seed, pairs):
    """Scores with ties (for errors), and classes and weights H x W x M x N, some to be ignored."""
    x, _, options = problem(kind, size, seed)
    if "error" in kind:
        x = (3 * x).round()
    rng = np.random.default_rng(seed + 1)
    h, w, d, n = size
    classes = rng.integers(-1, d, (h, w, pairs, n))
    weights = rng.uniform(0.1, 2, (h, w, pairs, n)) * (rng.random((h, w, pairs, n)) < 0.8)
    return x, torch.tensor(classes), torch.tensor(weights), options


def paired(classes, weights):
    """Channels that alternate class and weight."""
    h, w, pairs, n = classes.shape
    return torch.stack((classes.to(weights.dtype), weights), 3).reshape(h, w, 2 * pairs, n)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(MIXING), sizes(), st.integers(1, 6), seeds, memory_orders)
def test_mixtures_are_the_sum_over_their_pairs(kind, size, pairs, seed, order):
    x, classes, weights, options = mixture(kind, size, seed, pairs)
    want, der = 0.0, np.zeros(size)
    for m in range(pairs):
        one = {"instance_weights": weights[:, :, m : m + 1].numpy(), **options}
        c = classes[:, :, m : m + 1].numpy()
        want += reference.loss(x.numpy(), c, **one)
        der += reference.loss_backward(x.numpy(), c, -1.7, **one)
    x, c = in_memory(x, order), in_memory(paired(classes, weights), order)
    assert_close(loss(x, c, **options), want, REFERENCE[x.dtype])
    assert_close(loss_backward(x, c, -1.7, **options), der, REFERENCE[x.dtype])


@pytest.mark.parametrize("kind", ["log", "softmaxlog"])
def test_numerical_derivative_of_mixtures(kind):
    x, classes, weights, options = mixture(kind, (2, 3, 4, 2), 1, 3)
    c = paired(classes, weights)
    want = central_difference(lambda x: loss(x, c, **options), x, 1.3)
    assert_close(loss_backward(x, c, 1.3, **options), want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("kind", CATEGORICAL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_pair_is_a_label_with_its_weight_bit_by_bit(kind, dtype):
    x, c, options = problem(kind, (2, 3, 4, 2), 8, dtype)
    weights = randn((2, 3, 1, 2), 9, dtype).abs()
    pair = paired(c, weights)
    want = {"instance_weights": weights, **options}
    assert loss(x, pair, **options) == loss(x, c, **want)
    got = loss_backward(x, pair, 2, **options)
    assert torch.equal(got, loss_backward(x, c, 2, **want))


@pytest.mark.parametrize("kind", MIXING)
def test_mixtures_per_image_and_instance_weights(kind):
    x, classes, weights, options = mixture(kind, (2, 3, 4, 5), 3, 3)
    c = paired(classes, weights)[:1, :1]
    everywhere = c.expand(2, 3, 6, 5)
    assert loss(x, c, **options) == loss(x, everywhere, **options)
    instance = randn((2, 3, 1, 5)).abs()
    scaled = everywhere.clone()
    scaled[:, :, 1::2] *= instance
    want = loss(x, scaled, **options)
    assert_close(loss(x, c, instance_weights=instance, **options), want, REFERENCE[x.dtype])
    want = loss_backward(x, scaled, 1, **options)
    got = loss_backward(x, c, 1, instance_weights=instance, **options)
    assert_close(got, want, REFERENCE[x.dtype])


@pytest.mark.parametrize("kind", MIXING)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_pixels_whose_pairs_are_all_ignored_count_nothing(kind, bad):
    x, classes, weights, options = mixture(kind, (2, 2, 3, 2), 3, 2)
    classes[0, 1], weights[1, 0, 0] = -1, 0
    classes[1, 0, 1] = -1
    c = paired(classes, weights)
    want, der = loss(x, c, **options), loss_backward(x, c, 1, **options)
    x[0, 1], x[1, 0] = bad, bad
    assert loss(x, c, **options) == want
    assert torch.equal(loss_backward(x, c, 1, **options), der)


def test_a_class_of_weight_zero_may_have_probability_zero():
    x = pixel(0.0, 0.5, 0.5)
    c = torch.tensor([0, 0, 1, 2.0]).reshape(1, 1, 4, 1)
    assert_close(loss(x, c, loss="log"), 2 * math.log(2), REFERENCE[x.dtype])
    assert loss(pixel(-math.inf, 0), c) == 0


def test_smoothed_labels_by_hand():
    """Three quarters on class 1, one eighth each on classes 0 and 2, of equal scores."""
    c = torch.tensor([1, 0.75, 0, 0.125, 2, 0.125], dtype=torch.float64).reshape(1, 1, 6, 1)
    assert_close(loss(pixel(7, 7, 7), c), math.log(3), PRINTED)
    der = loss_backward(pixel(7, 7, 7), c, 1).flatten()
    assert_close(der, [1 / 3 - 0.125, 1 / 3 - 0.75, 1 / 3 - 0.125], PRINTED)
    assert loss(pixel(1, 2, 3), c, loss="classerror") == 0.875
    assert loss(pixel(1, 2, 3), c, loss="topkerror", top_k=2) == 0.125
    assert loss(pixel(math.nan, math.nan, math.nan), c, loss="topkerror", top_k=2) == 1
