"""`softmaxloss`: equals `loss`, but for its labels, which may carry weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.loss import loss, loss_backward
from matconvnet.blocks.softmaxloss import SoftmaxLoss, softmaxloss, softmaxloss_backward
from matconvnet.layer import Call, Context
from tests.helpers import (
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
    sizes,
)
from tests.reference import softmaxloss as reference
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE


def labels(size, seed, weighted, per_image=False):
    """Labels from -2 on, on request with a channel of weights, per pixel or per image."""
    h, w, d, n = size
    if per_image:
        h = w = 1
    generator = torch.Generator().manual_seed(seed)
    c = torch.randint(-2, d, (h, w, 1, n), generator=generator).double()
    return torch.cat((c, randn(c.shape, seed).abs()), 2) if weighted else c


@settings(deadline=None, max_examples=40)
@given(sizes(), seeds, memory_orders, st.booleans(), st.booleans())
def test_like_the_loops(size, seed, order, weighted, per_image):
    x, c = randn(size, seed), labels(size, seed, weighted, per_image)
    want = reference.softmaxloss(x.numpy(), c.numpy())
    der = reference.softmaxloss_backward(x.numpy(), c.numpy(), 0.7)
    x = in_memory(x, order)
    assert_close(softmaxloss(x, c), want, REFERENCE[x.dtype])
    assert_close(softmaxloss_backward(x, c, 0.7), der, REFERENCE[x.dtype])


def test_equals_loss():
    x, c = randn((3, 4, 10, 3)), labels((3, 4, 10, 3), 1, weighted=True)
    classes, weights = c[:, :, :1].clamp(min=-1), c[:, :, 1:]
    assert softmaxloss(x, c) == loss(x, classes, instance_weights=weights)
    want = loss_backward(x, classes, 2, instance_weights=weights)
    assert torch.equal(softmaxloss_backward(x, c, 2), want)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("scale", [0.01, 1, 30])
def test_numerical_derivative(weighted, scale):
    size = (2, 2, 4, 2)
    x, c = randn(size) * scale, labels(size, 2, weighted)
    want = central_difference(lambda x: softmaxloss(x, c), x, 1.3)
    assert_close(softmaxloss_backward(x, c, 1.3), want, CENTRAL_DIFFERENCE)


def test_all_negative_labels_are_ignored():
    x = randn((2, 2, 3, 4))
    x[..., 1:3] = math.nan
    c = torch.tensor([1, -1, -7, 0])
    assert softmaxloss(x, c) == loss(x[..., ::3], c[::3])
    assert not softmaxloss_backward(x, c, 1)[..., 1:3].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_labels_of_any_type(dtype):
    x, c = randn((2, 2, 3, 4)), torch.tensor([1, 2, 1, 0])
    assert softmaxloss(x, c.to(dtype)) == loss(x, c)


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("c", "error", "message"),
    [
        (torch.zeros(2, 3, 3, 5), ValueError, r"c has shape \(2, 3, 3, 5\); wanted .*pairs"),
        (torch.zeros(2, 2, 1, 5), ValueError, r"c has shape \(2, 2, 1, 5\)"),
        (torch.zeros(1, 1, 2, 4), ValueError, r"c has shape \(1, 1, 2, 4\)"),
        (torch.full((2, 3, 1, 5), 4), ValueError, "c holds labels between 4 and 4"),
        (torch.full((2, 3, 1, 5), 0.5), ValueError, "whole numbers"),
        (torch.tensor(1), ValueError, r"c has shape \(\)"),
        (None, TypeError, "c is NoneType"),
    ],
)
def test_errors(c, error, message):
    with pytest.raises(error, match=message):
        softmaxloss(X, c)
    with pytest.raises(error, match=message):
        softmaxloss_backward(X, c, 1)


def test_projection_is_one_number():
    with pytest.raises(ValueError, match=r"dzdy has shape \(5,\); wanted one number"):
        softmaxloss_backward(X, torch.zeros(5), torch.ones(5))


def test_mixtures_are_those_of_loss():
    x = randn((2, 3, 4, 5))
    classes = torch.arange(20).reshape(1, 1, 4, 5) % 4
    c = torch.stack((classes, classes / 7), 3).reshape(1, 1, 8, 5)
    c[0, 0, 2, 3] = -1
    assert softmaxloss(x, c) == loss(x, c)
    assert torch.equal(softmaxloss_backward(x, c, 2), loss_backward(x, c, 2))
    c[0, 0, 2, 3] = -8  # any negative class is ignored here
    assert torch.equal(softmaxloss_backward(x, c, 2), loss_backward(x, c.clamp(min=-1), 2))


def test_layer():
    x, c, layer = randn((2, 3, 4, 5)), torch.arange(-1, 4), SoftmaxLoss()
    (y,), saved = layer.forward((x, c), (), Context())
    assert y == softmaxloss(x, c)
    call = Call((x, c), (), (None,), saved, Context(), (True, False))
    (dzdx, dzdc), _ = layer.backward(call, (torch.tensor(2.0),))
    assert torch.equal(dzdx, softmaxloss_backward(x, c, 2))
    assert dzdc is None
    assert SoftmaxLoss.is_loss
