"""`spnorm`: odd, even, rectangular windows, and windows larger than the map."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.spnorm import SpNorm, spnorm, spnorm_backward
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
from tests.reference import spnorm as reference
from tests.tolerances import CENTRAL_DIFFERENCE, PRINTED, REFERENCE

windows = st.integers(1, 9)


@settings(deadline=None, max_examples=40)
@given(sizes(6, 6, 3, 2), seeds, memory_orders, windows, windows, st.floats(0, 2), st.floats(-1, 2))
def test_like_the_loops(size, seed, order, height, width, alpha, beta):
    x, p = in_memory(randn(size, seed), order), in_memory(randn(size, seed + 1), order)
    param = (height, width, alpha, beta)
    assert_close(spnorm(x, param), reference.spnorm(x.numpy(), param), REFERENCE[x.dtype])
    want = reference.spnorm_backward(x.numpy(), p.numpy(), param)
    assert_close(spnorm_backward(x, p, param), want, REFERENCE[x.dtype])


def test_recorded():
    x = torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64)[..., None, None]
    param = (2, 3, 0.5, 1)
    want = [[0.21052632, 0.42105263], [0.41379310, 0.55172414]]
    assert_close(spnorm(x, param)[..., 0, 0], want, PRINTED)
    want = [[0.17728532, 0.14404432], [-0.16155415, -0.26138254]]
    assert_close(spnorm_backward(x, torch.ones_like(x), param)[..., 0, 0], want, PRINTED)


def test_param_may_be_any_sequence_of_four():
    x = randn((4, 5, 2, 1))
    want = spnorm(x, (3, 2, 0.5, 1))
    assert torch.equal(spnorm(x, [3, 2, 0.5, 1]), want)
    assert torch.equal(spnorm(x, torch.tensor([3, 2, 0.5, 1])), want)
    assert (spnorm(x.numpy(), np.array([[3, 2, 0.5, 1]])) == want.numpy()).all()


@pytest.mark.parametrize("param", [(3, 3, 0.1, 0.75), (2, 4, 1, 0.5), (9, 9, 0.3, 1)])
def test_numerical_derivative(param):
    x, p = randn((4, 5, 2, 2)), randn((4, 5, 2, 2), 1)
    want = central_difference(lambda x: spnorm(x, param), x, p)
    assert_close(spnorm_backward(x, p, param), want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    x, p, param = randn((4, 5, 2, 2), dtype=dtype), randn((4, 5, 2, 2), 1, dtype), (3, 2, 0.5, 1)
    y, der = spnorm(x, param), spnorm_backward(x, p, param)
    assert y.dtype == der.dtype == dtype
    assert_close(y, reference.spnorm(x.double().numpy(), param), REFERENCE[dtype])
    want = reference.spnorm_backward(x.double().numpy(), p.double().numpy(), param)
    assert_close(der, want, REFERENCE[dtype])


def test_no_images():
    x = torch.zeros(2, 3, 4, 0)
    param = (3, 2, 0.5, 1)
    assert spnorm(x, param).shape == spnorm_backward(x, x, param).shape == x.shape


def test_fewer_axes():
    x, param = randn((4, 5)), (3, 2, 0.5, 1)
    assert spnorm(x, param).shape == (4, 5, 1, 1)
    assert spnorm_backward(x, x, param).shape == (4, 5)


def test_arrays():
    assert isinstance(spnorm(np.ones((2, 3, 4, 1)), np.array([3, 2, 0.5, 1])), np.ndarray)


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("param", "error", "message"),
    [
        ((3, 3, 1), ValueError, r"param is \(3, 3, 1\), 3 numbers; wanted 4"),
        ((0, 3, 1, 1), ValueError, r"the window, is .*wanted whole numbers >= 1"),
        ((2.5, 3, 1, 1), ValueError, r"the window, is .*wanted whole numbers"),
        ((3, 3, math.nan, 1), ValueError, "alpha is nan"),
        ((3, 3, 1, math.inf), ValueError, "beta is inf"),
        (None, TypeError, "param is None"),
    ],
)
def test_errors(param, error, message):
    with pytest.raises(error, match=message):
        spnorm(X, param)
    with pytest.raises(error, match=message):
        spnorm_backward(X, X, param)


def test_projection_errors():
    with pytest.raises(ValueError, match="dzdy has shape"):
        spnorm_backward(X, X[:1], (3, 3, 1, 1))


def test_layer():
    x, layer = randn((4, 5, 2, 3)), SpNorm(param=(3, 2, 0.5, 1))
    (y,), saved = layer.forward((x,), (), Context())
    assert torch.equal(y, spnorm(x, layer.param))
    (dzdx,), _ = layer.backward(Call((x,), (), (None,), saved, Context(), (True,)), (y,))
    assert torch.equal(dzdx, spnorm_backward(x, y, layer.param))
    assert layer.receptive_field([]) == Field((3, 2), (1, 1), (0, 0.5))
    assert SpNorm().param == (2, 2, 10, 2)
