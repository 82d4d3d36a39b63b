"""`scale`: factors and biases along any axes, each with its own; as inputs and as parameters."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.scale import Scale, scale, scale_backward
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
from tests.reference import scale as reference
from tests.tolerances import AUTOGRAD, CENTRAL_DIFFERENCE, REFERENCE

SIZE = (2, 3, 4, 2)
SHARED = list(itertools.product([True, False], repeat=4))
"""Which axes have size 1: all sixteen ways."""

axes = st.tuples(*[st.booleans()] * 4)


def shape(size, shared):
    return tuple(1 if is_one else s for s, is_one in zip(size, shared, strict=True))


@settings(deadline=None, max_examples=60)
@given(sizes(), seeds, memory_orders, axes, st.none() | axes)
def test_like_the_loops(size, seed, order, of_a, of_b):
    x, a = randn(size, seed), randn(shape(size, of_a), seed + 1)
    b = None if of_b is None else randn(shape(size, of_b), seed + 2)
    dzdy, tol = randn(size, seed + 3), REFERENCE[x.dtype]
    arrays = [None if t is None else t.numpy() for t in (x, a, b)]
    want = reference.scale_backward(*arrays, dzdy.numpy())
    x, a, b, dzdy = (None if t is None else in_memory(t, order) for t in (x, a, b, dzdy))
    assert_close(scale(x, a, b), reference.scale(*arrays), tol)
    for name, der, expected in zip("xab", scale_backward(x, a, b, dzdy), want, strict=True):
        if expected is None:
            assert der is None
        else:
            assert_close(der, expected, tol, name)


@pytest.mark.parametrize("of_a", SHARED)
def test_numerical_derivatives(of_a):
    of_b = tuple(not is_one for is_one in of_a)
    tensors = [randn(SIZE), randn(shape(SIZE, of_a), 1), randn(shape(SIZE, of_b), 2)]
    p = randn(SIZE, 3)
    for k, der in enumerate(scale_backward(*tensors, p)):
        want = central_difference(
            lambda t, k=k: scale(*tensors[:k], t, *tensors[k + 1 :]), tensors[k], p
        )
        assert_close(der, want, CENTRAL_DIFFERENCE, "xab"[k])


@pytest.mark.parametrize("of_a", SHARED)
def test_autograd(of_a):
    tensors = [randn(SIZE), randn(shape(SIZE, of_a), 1), randn(shape(SIZE, of_a[::-1]), 2)]
    p = randn(SIZE, 3)
    ders = scale_backward(*tensors, p)
    (scale(*(t.requires_grad_() for t in tensors)) * p).sum().backward()
    for tensor, der in zip(tensors, ders, strict=True):
        assert_close(der, tensor.grad, AUTOGRAD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    size = (20, 30, 4, 2)
    x, a, b, p = (randn(s, k, dtype) for k, s in enumerate((size, (1, 1, 4), (1, 1, 4), size)))
    arrays = [t.double().numpy() for t in (x, a[..., None], b[..., None], p)]
    y, ders = scale(x, a, b), scale_backward(x, a, b, p)
    assert y.dtype == dtype
    assert_close(y, reference.scale(*arrays[:3]), REFERENCE[dtype])
    for der, want in zip(ders, reference.scale_backward(*arrays), strict=True):
        assert der.dtype == dtype
        assert_close(der, want.reshape(der.shape), REFERENCE[dtype])


def test_sums_of_half_types_do_not_round_on_the_way():
    x, p = torch.full((2, 64, 64, 1, 2), 1 + 2**-7, dtype=torch.bfloat16)
    x[:32], p[:32] = -(1 + 2**-6), 1  # and (1 + 2^-7)^2 = 1 + 2^-6 + 2^-14, too fine for the type
    one = torch.ones(1, dtype=torch.bfloat16)
    _, dzda, dzdb = scale_backward(x, one, one, p)
    assert dzda == 4096 * 2**-14
    assert dzdb == (4096 * (2 + 2**-7) * one).item()


def test_memory_order_is_kept():
    x = in_memory(randn((5, 4, 3, 2)), "channels last")
    a = randn((1, 1, 3, 1), 1)
    assert scale(x, a, a).stride() == scale(x, a).stride() == x.stride()
    assert scale_backward(x, a, a, x)[0].stride() == x.stride()


def test_fewer_axes():
    x, a, b = randn((3, 4)), randn((3,), 1), randn((1, 4), 2)
    assert torch.equal(scale(x, a, b), torch.addcmul(b, x, a[:, None])[..., None, None])
    ders = scale_backward(x, a, b, randn((3, 4)))
    assert [der.shape for der in ders] == [x.shape, a.shape, b.shape]


def test_no_images():
    x, a = torch.zeros(3, 4, 2, 0), torch.ones(1, 1, 2)
    assert scale(x, a).shape == x.shape
    dzdx, dzda, dzdb = scale_backward(x, a, None, x)
    assert dzdx.shape == x.shape
    assert torch.equal(dzda, torch.zeros_like(a))
    assert dzdb is None


def test_arrays():
    x, a = np.ones((3, 4, 2, 1), np.float32), np.ones((1, 1, 2), np.float32)
    assert scale(x, a).dtype == np.float32
    assert [type(der) for der in scale_backward(x, a, a, x)] == [np.ndarray] * 3


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("a", "error", "message"),
    [
        (torch.ones(1, 1, 3), ValueError, r" has shape \(1, 1, 3\); .* to x, \(2, 3, 4, 5\)"),
        (torch.ones(4), ValueError, r" has shape \(4,\)"),
        (torch.ones(1, 1, 1, 1, 1), ValueError, "wanted 1 to 4 axes"),
        (torch.tensor(1.0), ValueError, "wanted 1 to 4 axes"),
        (X.double(), TypeError, r" holds torch\.float64"),
        (2.0, TypeError, " is float; wanted a tensor"),
    ],
)
def test_errors(a, error, message):
    with pytest.raises(error, match="a" + message if message[0] == " " else message):
        scale(X, a)
    with pytest.raises(error, match="b" + message if message[0] == " " else message):
        scale(X, X, a)
    with pytest.raises(error, match=message):
        scale_backward(X, a, None, X)


def test_a_map_is_not_stretched_to_its_factors():
    with pytest.raises(ValueError, match=r"a has shape \(2, 3, 4, 5\); .* \(1, 1, 4, 5\)"):
        scale(X[:1, :1], X)


def test_projection_errors():
    with pytest.raises(ValueError, match=r"dzdy has shape .*, \(2, 3, 4, 5\)"):
        scale_backward(X, X, None, X[:1])
    with pytest.raises(TypeError, match="dzdy holds"):
        scale_backward(X, X, None, X.double())


TENSORS = (randn(SIZE), randn((1, 1, 4, 2), 1), randn((2, 1, 1, 1), 2))


@pytest.mark.parametrize("inputs", [1, 2, 3])
@pytest.mark.parametrize("has_bias", [True, False])
def test_layer_takes_inputs_then_parameters(inputs, has_bias):
    given_tensors = TENSORS if has_bias else TENSORS[:2]
    given_inputs, params = given_tensors[:inputs], given_tensors[inputs:]
    layer = Scale(has_bias=has_bias)
    (y,), saved = layer.forward(given_inputs, params, Context())
    assert torch.equal(y, scale(*given_tensors))
    call = Call(given_inputs, params, (None,), saved, Context(), (True,) * inputs)
    ders, param_ders = layer.backward(call, (y,))
    assert (len(ders), len(param_ders)) == (len(given_inputs), len(params))
    want = scale_backward(*(*given_tensors, None)[:3], y)
    for got, expected in zip((*ders, *param_ders), want, strict=False):
        assert torch.equal(got, expected)


def test_a_bias_may_be_absent():
    x, a, _ = TENSORS
    (y,), _ = Scale().forward((x,), (a, None), Context())
    assert torch.equal(y, scale(x, a))
    call = Call((x,), (a, None), (None,), None, Context(), (True,))
    assert Scale().backward(call, (y,))[1][1] is None


@pytest.mark.parametrize(
    ("has_bias", "params", "message"),
    [
        (True, 1, "Scale has 1 inputs and 1 parameters; wanted 3 in all: x, a, b"),
        (True, 3, "1 inputs and 3 parameters"),
        (False, 2, "1 inputs and 2 parameters; wanted 2 in all: x, a"),
    ],
)
def test_layer_counts_its_tensors(has_bias, params, message):
    x = TENSORS[0]
    with pytest.raises(ValueError, match=message):
        Scale(has_bias=has_bias).forward((x,), (x,) * params, Context())


def test_initial_parameters():
    a, b = Scale((1, 1, 3)).init_params()
    assert torch.equal(a, torch.ones(1, 1, 3, 1))
    assert torch.equal(b, torch.zeros(1, 1, 3, 1))
    assert len(Scale((1, 1, 3), has_bias=False).init_params()) == 1
    for size in (None, ()):
        with pytest.raises(ValueError, match="Scale has no size; wanted size="):
            Scale(size).init_params()
    with pytest.raises(ValueError, match=r"size is .* wanted whole numbers >= 1"):
        Scale((1, 0)).init_params()


def test_geometry():
    sizes = [(5, 6, 3, 2), (1, 1, 3, 2), (1, 1, 3, 1)]
    assert Scale().output_sizes(sizes, []) == (sizes[0],)
    assert Scale().receptive_fields(2, []) == (Field(),) * 2
