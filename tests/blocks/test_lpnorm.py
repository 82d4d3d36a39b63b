"""`lpnorm`: exponents, axes, given norms, the zero vector."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.lpnorm import LpNorm, lpnorm, lpnorm_backward
from matconvnet.layer import Call, Context, Field
from tests.helpers import (
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
    sizes,
)
from tests.reference import lpnorm as reference
from tests.tolerances import CENTRAL_DIFFERENCE, PRINTED, REFERENCE

SUBSETS = [dims for k in range(1, 5) for dims in itertools.combinations(range(4), k)]


def pixel(*channels):
    """One pixel with these channels."""
    return torch.tensor(channels, dtype=torch.float64).reshape(1, 1, -1, 1)


@settings(deadline=None, max_examples=60)
@given(
    sizes(), seeds, memory_orders, st.sampled_from(SUBSETS), st.sampled_from([1, 2, 2.5, 3, 4, 6]),
    st.sampled_from([1e-2, 0.5]), st.booleans(),
)  # fmt: skip
def test_like_the_loops(size, seed, order, dims, exponent, epsilon, with_norms):
    x, p = randn(size, seed), randn(size, seed + 1)
    if exponent % 2:
        x = x.abs() + 0.01
    options = {"exponent": exponent, "epsilon": epsilon, "dims": dims}
    norms = None
    if with_norms:
        shape = [1 if axis in dims else length for axis, length in enumerate(size)]
        norms = randn(shape, seed + 2).abs() + 0.5
    loops = {**options, "norms": None if norms is None else norms.numpy()}
    want, n = reference.lpnorm(x.numpy(), **loops)
    der = reference.lpnorm_backward(x.numpy(), p.numpy(), **loops)
    x, p = in_memory(x, order), in_memory(p, order)
    y, got = lpnorm(x, norms=norms, return_norms=True, **options)
    tol = REFERENCE[x.dtype]
    assert_close(y, want, tol)
    assert_close(got, n, tol)
    dzdx, got = lpnorm_backward(x, p, norms=norms, return_norms=True, **options)
    assert_close(dzdx, der, tol)
    assert_close(got, n, tol)


def test_recorded():
    x = pixel(3, 4)
    y, n = lpnorm(x, epsilon=0, return_norms=True)
    assert_close(y.flatten(), [0.6, 0.8], PRINTED)
    assert n == 5
    assert_close(lpnorm_backward(x, pixel(1, 0), epsilon=0).flatten(), [0.128, -0.096], PRINTED)
    y, n = lpnorm(x, return_norms=True)
    assert_close(y.flatten(), [0.59988004, 0.79984005], PRINTED)
    assert_close(n.flatten(), [5.0009999], PRINTED)
    _, n = lpnorm(pixel(1, 2), exponent=4, epsilon=1, return_norms=True)
    assert_close(n.flatten(), [2.0597671], PRINTED)


def test_zero_vector():
    assert not lpnorm(pixel(0, 0)).any()
    assert torch.equal(lpnorm_backward(pixel(0, 0), pixel(1, 2)), pixel(10, 20))


def test_signed_sum_of_exponent_one():
    assert_close(lpnorm(pixel(-1, -3), exponent=1, epsilon=0).flatten(), [0.25, 0.75], PRINTED)


def test_axes_may_be_given_more_than_once_and_in_any_order():
    x = randn((2, 3, 4, 2))
    want = lpnorm(x, dims=(0, 2))
    assert torch.equal(lpnorm(x, dims=[2, 0, 2]), want)
    assert torch.equal(lpnorm(x, dims=2), lpnorm(x))


def test_given_norms_come_back_unchanged():
    x, norms = randn((2, 3, 4, 2)), randn((2, 3, 1, 2), 1)
    assert lpnorm(x, norms=norms, return_norms=True)[1] is norms
    assert lpnorm_backward(x, x, norms=norms, return_norms=True)[1] is norms


@pytest.mark.parametrize("dims", SUBSETS)
@pytest.mark.parametrize("exponent", [2, 4])
def test_numerical_derivative(dims, exponent):
    x, p = randn((2, 3, 3, 2)), randn((2, 3, 3, 2), 1)
    options = {"dims": dims, "exponent": exponent, "epsilon": 0.1}
    want = central_difference(lambda x: lpnorm(x, **options), x, p)
    assert_close(lpnorm_backward(x, p, **options), want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    x, p = randn((2, 3, 100, 2), dtype=dtype), randn((2, 3, 100, 2), 1, dtype)
    (y, n), der = lpnorm(20 * x, return_norms=True), lpnorm_backward(x, p)
    assert y.dtype == n.dtype == der.dtype == dtype
    want, norms = reference.lpnorm((20 * x).double().numpy())
    assert_close(y, want, REFERENCE[dtype])
    assert_close(n, norms, REFERENCE[dtype])
    want = reference.lpnorm_backward(x.double().numpy(), p.double().numpy())
    assert_close(der, want, REFERENCE[dtype])


def test_no_images():
    x = torch.zeros(2, 3, 4, 0)
    assert lpnorm(x).shape == lpnorm_backward(x, x).shape == x.shape


def test_fewer_axes():
    x = randn((2, 3))
    assert lpnorm(x).shape == (2, 3, 1, 1)
    assert lpnorm_backward(x, x).shape == (2, 3)


def test_arrays():
    y, n = lpnorm(np.ones((2, 3, 4, 1)), return_norms=True)
    assert isinstance(y, np.ndarray)
    assert isinstance(n, np.ndarray)


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"exponent": 0}, ValueError, "exponent is 0; wanted a finite number > 0"),
        ({"exponent": -2}, ValueError, "exponent is -2"),
        ({"exponent": (1, 2)}, ValueError, r"exponent is \(1, 2\); wanted one number"),
        ({"epsilon": -1e-2}, ValueError, "epsilon is -0.01; wanted a finite number >= 0"),
        ({"epsilon": math.nan}, ValueError, "epsilon is nan"),
        ({"dims": ()}, ValueError, r"dims is \(\); wanted one or more axes from 0 to 3"),
        ({"dims": 4}, ValueError, "dims is 4; wanted"),
        ({"dims": -1}, ValueError, "dims is .*-1"),
        ({"dims": 0.5}, ValueError, "dims is .*0.5"),
        ({"norms": X}, ValueError, r"norms has shape \(2, 3, 4, 5\); wanted \(2, 3, 1, 5\)"),
        ({"norms": X[:, :, :1].double()}, TypeError, "norms holds torch.float64"),
        ({"norms": 1.0}, TypeError, "norms is float"),
    ],
)
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        lpnorm(X, **options)
    with pytest.raises(error, match=message):
        lpnorm_backward(X, X, **options)


def test_projection_errors():
    with pytest.raises(ValueError, match="dzdy has shape"):
        lpnorm_backward(X, X[:1])


def test_layer():
    x, layer = randn((2, 3, 4, 5)), LpNorm(exponent=4, epsilon=0.1, dims=(2, 3))
    options = layer.options()
    (y,), saved = layer.forward((x,), (), Context())
    assert torch.equal(y, lpnorm(x, **options))
    call = Call((x,), (), (None,), saved, Context(), (True,))
    (dzdx,), _ = layer.backward(call, (y,))
    assert torch.equal(dzdx, lpnorm_backward(x, y, **options))
    assert layer.receptive_field([]) == Field()
    assert LpNorm(dims=(0, 2)).receptive_field([]) is None
