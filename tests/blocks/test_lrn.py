"""`lrn`: odd and even windows, zero energy, exact power, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.lrn import LRN, lrn, lrn_backward
from tests.helpers import (
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
    sizes,
)
from tests.reference import lrn as reference
from tests.tolerances import CENTRAL_DIFFERENCE, PRINTED, REFERENCE

params = st.tuples(
    st.integers(1, 13),
    st.sampled_from([0.1, 1, 2]),
    st.sampled_from([0.5, 1.1]),
    st.sampled_from([0.25, 0.5, 0.75, 1, 2]),
)


def pixel(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).reshape(1, 1, -1, 1)


@settings(deadline=None, max_examples=80)
@given(sizes(), seeds, params, memory_orders, memory_orders)
def test_like_the_loops(size, seed, param, order, der_order):
    x, dzdy = randn(size, seed), randn(size, seed + 1)
    want = reference.lrn(x.numpy(), param)
    der = reference.lrn_backward(x.numpy(), dzdy.numpy(), param)
    x, dzdy = in_memory(x, order), in_memory(dzdy, der_order)
    assert_close(lrn(x, param), want, REFERENCE[x.dtype])
    assert_close(lrn_backward(x, dzdy, param), der, REFERENCE[x.dtype])


def test_many_pixels_are_processed_in_strips(monkeypatch):
    x, dzdy, param = randn((5, 4, 3, 2), 0), randn((5, 4, 3, 2), 1), (3, 1, 1.1, 0.75)
    want, der = lrn(x, param), lrn_backward(x, dzdy, param)
    monkeypatch.setattr("matconvnet.blocks.lrn.STRIP", 7)
    assert torch.equal(lrn(x, param), want)
    assert torch.equal(lrn_backward(x, dzdy, param), der)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    x, dzdy, param = randn((3, 2, 7, 2), 0, dtype), randn((3, 2, 7, 2), 1, dtype), (5, 1, 0.5, 0.75)
    y, dzdx = lrn(x, param), lrn_backward(x, dzdy, param)
    assert y.dtype == dzdx.dtype == dtype
    doubles = x.double().numpy(), dzdy.double().numpy()
    assert_close(y, reference.lrn(doubles[0], param), REFERENCE[dtype])
    assert_close(dzdx, reference.lrn_backward(*doubles, param), REFERENCE[dtype])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_numerical_derivative(n, beta):
    x, dzdy, param = randn((2, 2, 5, 2), 0), randn((2, 2, 5, 2), 1), (n, 0.7, 1.1, beta)
    want = central_difference(lambda x: lrn(x, param), x, dzdy)
    assert_close(lrn_backward(x, dzdy, param), want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize(
    ("n", "want"),
    [
        (2, [0.39079497, 0.44130012, 0.42596207, 0.76980036]),
        (3, [0.39079497, 0.42044821, 0.38403648, 0.56794943]),
        (4, [0.21022410, 0.25, 0.38403648, 0.56794943]),
    ],
)
def test_recorded(n, want):
    assert_close(lrn(pixel(1, 2, 3, 4), (n, 1, 0.5, 0.75)).flatten(), want, PRINTED)


def test_window_over_all_channels_gives_unit_norm():
    y = lrn(randn((3, 2, 10, 4)), (20, 0, 1, 0.5))
    assert_close(y.square().sum(2), torch.ones(3, 2, 4), REFERENCE[torch.float64])


def test_large_value_leaves_its_neighbours_exact():
    y = lrn(pixel(1e5, 1, 1, 1, dtype=torch.float32), (1, 1, 1, 1)).flatten()
    assert_close(y[1:], [0.5, 0.5, 0.5], REFERENCE[torch.float32])


@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_no_energy(beta):
    """Where the window is all zero and kappa = 0: 0, and no contribution to other channels."""
    x, param = pixel(0, 0, 0, 2), (3, 0, 1, beta)
    want = [0, 0, 0, 2 * 4**-beta]
    assert_close(lrn(x, param).flatten(), want, REFERENCE[x.dtype])
    dzdx = lrn_backward(x, torch.ones_like(x), param).flatten()
    assert torch.isfinite(dzdx).all()
    assert dzdx[:2].tolist() == [0, 0]
    assert_close(dzdx[2], 4**-beta, REFERENCE[x.dtype])
    assert not lrn(torch.zeros(2, 2, 3, 1), param).any()
    assert not lrn_backward(torch.zeros(2, 2, 3, 1), torch.ones(2, 2, 3, 1), param).any()


def test_trailing_axes_and_no_images():
    x = randn((2, 3))
    assert lrn(x).shape == (2, 3, 1, 1)
    assert lrn_backward(x, x).shape == x.shape
    empty = randn((2, 3, 4, 0))
    assert lrn(empty).shape == lrn_backward(empty, empty).shape == empty.shape


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ((5, 1, 1), r"param is \(5, 1, 1\); wanted four numbers \(n, kappa, alpha, beta\)"),
        ((0, 1, 1, 1), r"window n, is 0; wanted whole numbers >= 1"),
        ((-3, 1, 1, 1), r"window n, is -3; wanted whole numbers >= 1"),
        ((2.5, 1, 1, 1), r"window n, is 2.5; wanted whole numbers"),
        ((5, math.nan, 1, 1), r"wanted finite numbers"),
        ((5, 1, math.inf, 1), r"wanted finite numbers"),
    ],
)
def test_errors(param, message):
    x = randn((2, 3, 4, 1))
    with pytest.raises(ValueError, match=message):
        lrn(x, param)
    with pytest.raises(ValueError, match=message):
        lrn_backward(x, x, param)


def test_errors_of_types_and_shapes():
    x = randn((2, 3, 4, 1))
    with pytest.raises(TypeError, match=r"param is \('a', 1, 1, 1\)"):
        lrn(x, ("a", 1, 1, 1))
    with pytest.raises(TypeError, match=r"dzdy holds torch.float32, x holds torch.float64"):
        lrn_backward(x, x.float())
    with pytest.raises(ValueError, match=r"dzdy has shape \(2, 3, 4\); wanted"):
        lrn_backward(randn((2, 3, 4, 2)), x[..., 0])


def test_layer_has_the_default_of_the_block():
    x = 30 * randn((2, 3, 6, 1))
    (y,), _ = LRN().forward((x,), (), None)
    assert torch.equal(y, lrn(x))
