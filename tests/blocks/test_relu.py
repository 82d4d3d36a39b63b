"""`relu`: leaks, the derivative at 0 and from the output, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.relu import ReLU, relu, relu_backward
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
from tests.reference import relu as reference
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE

leaks = st.sampled_from([0, 0.0, 0.125, 0.3, 1, 1.5])


@settings(deadline=None, max_examples=60)
@given(sizes(), seeds, leaks, memory_orders, memory_orders)
def test_like_the_loops(size, seed, leak, order, der_order):
    x, dzdy = randn(size, seed).round(decimals=1), randn(size, seed + 1)
    want = reference.relu(x.numpy(), leak)
    der = reference.relu_backward(x.numpy(), dzdy.numpy(), leak)
    x, dzdy = in_memory(x, order), in_memory(dzdy, der_order)
    y = relu(x, leak=leak)
    assert_close(y, want, REFERENCE[x.dtype])
    assert_close(relu_backward(x, dzdy, leak=leak), der, REFERENCE[x.dtype])
    assert_close(relu_backward(y, dzdy, leak=leak), der, REFERENCE[x.dtype])


@pytest.mark.parametrize("leak", [0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype, leak):
    x = randn((3, 4, 2, 2), 0, dtype)
    assert relu(x, leak=leak).dtype == relu_backward(x, x, leak=leak).dtype == dtype
    want = reference.relu(x.double().numpy(), leak)
    assert_close(relu(x, leak=leak), want, REFERENCE[dtype])


@pytest.mark.parametrize("leak", [0, 0.2, 1.5])
def test_numerical_derivative(leak):
    x, dzdy = randn((3, 4, 2, 2), 0), randn((3, 4, 2, 2), 1)
    want = central_difference(lambda x: relu(x, leak=leak), x, dzdy)
    assert_close(relu_backward(x, dzdy, leak=leak), want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("leak", [0, 0.25])
def test_derivative_at_zero_is_the_leak(leak):
    x = torch.zeros(3)
    assert relu_backward(x, torch.tensor([1.0, 2, -4]), leak=leak).tolist() == [
        leak,
        2 * leak,
        -4 * leak,
    ]


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (1, 2, 3, 4), (1, 2, 1, 2, 3)])
def test_shape_is_kept(shape):
    x = randn(shape)
    assert relu(x).shape == relu_backward(x, x).shape == x.shape


@pytest.mark.parametrize("leak", [0, 0.25])
def test_minus_infinity(leak):
    want = 0 if leak == 0 else -math.inf
    assert relu(torch.tensor([-math.inf]), leak=leak).item() == want


@pytest.mark.parametrize("leak", [-0.1, math.nan])
def test_errors_of_the_leak(leak):
    x = randn((2, 2))
    with pytest.raises(ValueError, match=rf"leak is {leak}; wanted a number >= 0"):
        relu(x, leak=leak)
    with pytest.raises(ValueError, match=rf"leak is {leak}; wanted a number >= 0"):
        relu_backward(x, x, leak=leak)


def test_errors():
    x = randn((2, 3))
    with pytest.raises(ValueError, match=r"dzdy has shape \(3,\); wanted .* \(2, 3\)"):
        relu_backward(x, randn((3,)))
    with pytest.raises(TypeError, match=r"dzdy holds torch.float32, x holds torch.float64"):
        relu_backward(x, x.float())
    with pytest.raises(TypeError, match=r"x holds torch.int64; wanted floats"):
        relu(torch.ones(3, dtype=torch.int64))


def test_layer_reads_only_its_output():
    layer, x = ReLU(leak=0.2), randn((2, 3, 4, 1))
    (y,), saved = layer.forward((x,), (), Context())
    call = Call((None,), (), (y,), saved, Context(), (True,))
    (dzdx,), _ = layer.backward(call, (x,))
    assert torch.equal(dzdx, relu_backward(x, x, leak=0.2))


@pytest.mark.parametrize("count", [1, 7, 8, 65, 4096])
@pytest.mark.parametrize("few", [1, 10**6])
def test_a_sparing_layer_gives_the_same(count, few, monkeypatch):
    monkeypatch.setattr("matconvnet.blocks.relu.FEW", few)
    x, dzdy = randn((3, count, 5, 2)), randn((3, count, 5, 2), 1)
    x[0, 0, :3, 0] = torch.tensor([0.0, torch.nan, -0.0])
    dzdy[0, 0, :3, 1] = torch.tensor([torch.inf, torch.nan, -torch.inf])
    layer = ReLU().sparing()
    assert layer.needs == frozenset()
    (y,), saved = layer.forward((x,), (), Context())
    torch.testing.assert_close(y, relu(x), rtol=0, atol=0, equal_nan=True)
    assert saved.nbytes <= (y.nbytes if few > 1 else y.numel() / 8 + 1)
    call = Call((None,), (), (None,), saved, Context(), (True,))
    for der in (dzdy, in_memory(dzdy, "channels last")):
        (dzdx,), _ = layer.backward(call, (der,))
        torch.testing.assert_close(dzdx, relu_backward(y, der), rtol=0, atol=0, equal_nan=True)
    (dzdx,), _ = layer.backward(call._replace(inputs=(x,), saved=None), (dzdy,))
    torch.testing.assert_close(dzdx, relu_backward(y, dzdy), rtol=0, atol=0, equal_nan=True)


def test_a_leak_spares_nothing():
    layer = ReLU(leak=0.1)
    assert layer.sparing() is layer
