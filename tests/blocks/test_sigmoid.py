"""`sigmoid`: values, saturation, errors."""

import math

import pytest
import torch
from hypothesis import given, settings

from matconvnet.blocks.sigmoid import Sigmoid, sigmoid, sigmoid_backward
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
from tests.reference import sigmoid as reference
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE


@settings(deadline=None, max_examples=40)
@given(sizes(), seeds, memory_orders, memory_orders)
def test_like_the_loops(size, seed, order, der_order):
    x, dzdy = 5 * randn(size, seed), randn(size, seed + 1)
    want = reference.sigmoid(x.numpy())
    der = reference.sigmoid_backward(x.numpy(), dzdy.numpy())
    x, dzdy = in_memory(x, order), in_memory(dzdy, der_order)
    assert_close(sigmoid(x), want, REFERENCE[x.dtype])
    assert_close(sigmoid_backward(x, dzdy), der, REFERENCE[x.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    x = randn((3, 4, 2, 2), 0, dtype)
    assert sigmoid(x).dtype == sigmoid_backward(x, x).dtype == dtype
    assert_close(sigmoid(x), reference.sigmoid(x.double().numpy()), REFERENCE[dtype])


def test_numerical_derivative():
    x, dzdy = randn((3, 4, 2, 2), 0), randn((3, 4, 2, 2), 1)
    want = central_difference(sigmoid, x, dzdy)
    assert_close(sigmoid_backward(x, dzdy), want, CENTRAL_DIFFERENCE)


def test_recorded():
    zero, one = torch.zeros(1), torch.ones(1)
    assert sigmoid(zero).item() == 0.5
    assert sigmoid_backward(zero, one).item() == 0.25


@pytest.mark.parametrize("size", [90, 1000, math.inf])
def test_saturation(size):
    x = torch.tensor([size, -size], dtype=torch.float32)
    y, dzdx = sigmoid(x), sigmoid_backward(x, torch.ones(2))
    assert y[0] == 1
    assert 0 <= y[1] < 1e-38
    assert dzdx[0] == 0
    assert 0 <= dzdx[1] < 1e-38


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (1, 2, 1, 2, 3)])
def test_shape_is_kept(shape):
    x = randn(shape)
    assert sigmoid(x).shape == sigmoid_backward(x, x).shape == x.shape


def test_errors():
    x = randn((2, 3))
    with pytest.raises(ValueError, match=r"dzdy has shape \(3,\); wanted .* \(2, 3\)"):
        sigmoid_backward(x, randn((3,)))
    with pytest.raises(TypeError, match=r"dzdy holds torch.float32, x holds torch.float64"):
        sigmoid_backward(x, x.float())
    with pytest.raises(TypeError, match=r"x holds torch.bool; wanted floats"):
        sigmoid(torch.ones(3, dtype=torch.bool))


def test_layer_reads_only_its_output():
    layer, x = Sigmoid(), randn((2, 3, 4, 1))
    (y,), saved = layer.forward((x,), (), Context())
    call = Call((None,), (), (y,), saved, Context(), (True,))
    (dzdx,), _ = layer.backward(call, (x,))
    assert torch.equal(dzdx, sigmoid_backward(x, x))
