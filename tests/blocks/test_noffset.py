"""`noffset`: the clamp of tiny norms, powers, errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.noffset import NormOffset, noffset, noffset_backward
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
from tests.reference import noffset as reference
from tests.tolerances import CENTRAL_DIFFERENCE, PRINTED, REFERENCE


def pixel(*channels):
    """One pixel with these channels."""
    return torch.tensor(channels, dtype=torch.float64).reshape(1, 1, -1, 1)


@settings(deadline=None, max_examples=40)
@given(sizes(), seeds, memory_orders, st.tuples(st.floats(-2, 2), st.floats(0.25, 2)))
def test_like_the_loops(size, seed, order, param):
    x, p = in_memory(randn(size, seed), order), in_memory(randn(size, seed + 1), order)
    want = reference.noffset(x.numpy(), param)
    assert_close(noffset(x, param), want, REFERENCE[x.dtype])
    want = reference.noffset_backward(x.numpy(), p.numpy(), param)
    assert_close(noffset_backward(x, p, param), want, REFERENCE[x.dtype])


def test_recorded():
    x = pixel(3, 4)
    assert_close(noffset(x, (0.5, 0.5)).flatten(), [0.5, 1.5], PRINTED)
    assert_close(noffset_backward(x, pixel(1, 2), (0.5, 0.5)).flatten(), [0.1, 0.8], PRINTED)


def test_second_term_stays_where_the_norm_is_clamped():
    der = noffset_backward(pixel(1e-5, 0, 0), pixel(1, 1, 1), (0.5, 0.5))
    assert_close(der.flatten(), [0.85, 1, 1], PRINTED)


def test_zero_vector():
    assert_close(noffset(pixel(0, 0), (2, 0.5)).flatten(), [-2e-4, -2e-4], PRINTED)
    assert torch.equal(noffset_backward(pixel(0, 0), pixel(1, 2), (2, 0.5)), pixel(1, 2))


@pytest.mark.parametrize("param", [(0.34, 0.5), (2, 1), (-0.7, 1.3)])
def test_numerical_derivative(param):
    x, p = randn((2, 3, 4, 2)), randn((2, 3, 4, 2), 1)
    want = central_difference(lambda x: noffset(x, param), x, p)
    assert_close(noffset_backward(x, p, param), want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    x, p, param = randn((2, 3, 50, 2), dtype=dtype), randn((2, 3, 50, 2), 1, dtype), (0.5, 0.5)
    y, der = noffset(x, param), noffset_backward(x, p, param)
    assert y.dtype == der.dtype == dtype
    assert_close(y, reference.noffset(x.double().numpy(), param), REFERENCE[dtype])
    want = reference.noffset_backward(x.double().numpy(), p.double().numpy(), param)
    assert_close(der, want, REFERENCE[dtype])


def test_no_images():
    x = torch.zeros(2, 3, 4, 0)
    assert noffset(x, (1, 0.5)).shape == noffset_backward(x, x, (1, 0.5)).shape == x.shape


def test_fewer_axes():
    x = randn((2, 3))
    assert noffset(x, (1, 0.5)).shape == (2, 3, 1, 1)
    assert noffset_backward(x, x, (1, 0.5)).shape == (2, 3)


def test_arrays():
    assert isinstance(noffset(np.ones((2, 3, 4, 1)), np.array([1, 0.5])), np.ndarray)


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("param", "error", "message"),
    [
        ((1,), ValueError, r"param is \(1,\), 1 numbers; wanted 2"),
        ((1, 2, 3), ValueError, "param is .*, 3 numbers"),
        ((math.nan, 1), ValueError, "param is nan"),
        (None, TypeError, "param is None"),
    ],
)
def test_errors(param, error, message):
    with pytest.raises(error, match=message):
        noffset(X, param)
    with pytest.raises(error, match=message):
        noffset_backward(X, X, param)


def test_projection_errors():
    with pytest.raises(ValueError, match="dzdy has shape"):
        noffset_backward(X, X[:, :, :1], (1, 0.5))


def test_layer():
    x, layer = randn((2, 3, 4, 5)), NormOffset()
    (y,), saved = layer.forward((x,), (), Context())
    assert torch.equal(y, noffset(x, (1, 0.5)))
    (dzdx,), _ = layer.backward(Call((x,), (), (None,), saved, Context(), (True,)), (y,))
    assert torch.equal(dzdx, noffset_backward(x, y, (1, 0.5)))
