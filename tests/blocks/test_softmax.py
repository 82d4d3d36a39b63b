"""`softmax`: values, sums, extremes, errors."""

import math

import pytest
import torch
from hypothesis import given, settings

from matconvnet.blocks.softmax import Softmax, softmax, softmax_backward
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
from tests.reference import softmax as reference
from tests.tolerances import CENTRAL_DIFFERENCE, PRINTED, REFERENCE


def pixel(*scores):
    return torch.tensor(scores, dtype=torch.float64).reshape(1, 1, -1, 1)


@settings(deadline=None, max_examples=40)
@given(sizes(), seeds, memory_orders, memory_orders)
def test_like_the_loops(size, seed, order, der_order):
    x, dzdy = 3 * randn(size, seed), randn(size, seed + 1)
    want = reference.softmax(x.numpy())
    der = reference.softmax_backward(x.numpy(), dzdy.numpy())
    x, dzdy = in_memory(x, order), in_memory(dzdy, der_order)
    assert_close(softmax(x), want, REFERENCE[x.dtype])
    assert_close(softmax_backward(x, dzdy), der, REFERENCE[x.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    x = randn((3, 4, 5, 2), 0, dtype)
    assert softmax(x).dtype == softmax_backward(x, x).dtype == dtype
    assert_close(softmax(x), reference.softmax(x.double().numpy()), REFERENCE[dtype])


def test_numerical_derivative():
    x, dzdy = randn((3, 2, 4, 2), 0), randn((3, 2, 4, 2), 1)
    want = central_difference(softmax, x, dzdy)
    assert_close(softmax_backward(x, dzdy), want, CENTRAL_DIFFERENCE)


def test_recorded():
    y = softmax(pixel(1, 2, 3)).flatten()
    assert_close(y, [0.09003057, 0.24472847, 0.66524096], PRINTED)
    dzdx = softmax_backward(pixel(1, 2, 3), pixel(1, 0, 0)).flatten()
    assert_close(dzdx, [0.08192507, -0.02203304, -0.05989203], PRINTED)


def test_extremes():
    assert softmax(pixel(1000, 0, -math.inf)).flatten().tolist() == [1, 0, 0]


def test_sums_to_one_and_ignores_a_shift():
    x = randn((3, 4, 5, 2))
    assert_close(softmax(x).sum(2), torch.ones(3, 4, 2), REFERENCE[x.dtype])
    assert_close(softmax(x + 100), softmax(x), REFERENCE[x.dtype])


def test_shapes():
    x = randn((2, 3, 4))
    assert softmax(x).shape == (2, 3, 4, 1)
    assert softmax_backward(x, x).shape == x.shape


def test_errors():
    x = randn((2, 3, 4, 2))
    with pytest.raises(ValueError, match=r"dzdy has shape \(2, 3, 1, 2\); wanted"):
        softmax_backward(x, randn((2, 3, 1, 2)))
    with pytest.raises(TypeError, match=r"dzdy holds torch.float32, x holds torch.float64"):
        softmax_backward(x, x.float())
    with pytest.raises(ValueError, match=r"x has shape \(1, 1, 1, 1, 2\); wanted 1 to 4 axes"):
        softmax(randn((1, 1, 1, 1, 2)))


def test_layer_reads_only_its_output():
    layer, x = Softmax(), randn((2, 3, 4, 1))
    (y,), saved = layer.forward((x,), (), Context())
    call = Call((None,), (), (y,), saved, Context(), (True,))
    (dzdx,), _ = layer.backward(call, (x,))
    assert torch.equal(dzdx, softmax_backward(x, x))
