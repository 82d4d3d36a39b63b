"""`bnorm`: moments given and returned, one element per channel, bad scaling, memory, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.bnorm import BatchNorm, bnorm, bnorm_backward
from matconvnet.layer import Call, Context
from tests.helpers import (
    MEMORY_ORDERS,
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
    sizes,
)
from tests.reference import bnorm as reference
from tests.tolerances import CENTRAL_DIFFERENCE, PRINTED, REFERENCE

EPSILON = 0.3


def problem(size, seed=0, dtype=torch.float64):
    """A map that is neither centred nor scaled, multipliers, biases, projection."""
    c = size[2]
    x = 2 * randn(size, seed) + randn((c, 1), seed + 1)
    values = x, randn((c,), seed + 2), randn((c,), seed + 3), randn(size, seed + 4)
    return [value.to(dtype) for value in values]


def arrays(*tensors):
    return [t.double().numpy() for t in tensors]


@settings(deadline=None, max_examples=80)
@given(sizes(), seeds, st.booleans(), memory_orders, memory_orders)
def test_like_the_loops(size, seed, given_moments, order, der_order):
    x, g, b, dzdy = problem(size, seed)
    moments = torch.stack((g, b.abs() + 0.1), 1) if given_moments else None
    options = {"epsilon": EPSILON, "moments": moments}
    want = reference.bnorm(*arrays(x, g, b), EPSILON, None if moments is None else moments.numpy())
    wanted = reference.bnorm_backward(
        *arrays(x, g, b, dzdy), EPSILON, None if moments is None else moments.numpy()
    )
    x, dzdy = in_memory(x, order), in_memory(dzdy, der_order)
    for got, value in zip(bnorm(x, g, b, **options), want, strict=True):
        assert_close(got, value, REFERENCE[x.dtype])
    for got, value in zip(bnorm_backward(x, g, b, dzdy, **options), wanted, strict=True):
        assert_close(got, value, REFERENCE[x.dtype])


@pytest.mark.parametrize(
    "size", [(5, 4, 3, 1), (1, 6, 3, 1), (1, 2, 3, 5), (1, 1, 5, 6), (4, 4, 1, 1)]
)
@pytest.mark.parametrize("order", MEMORY_ORDERS)
@pytest.mark.parametrize("der_order", MEMORY_ORDERS)
def test_axes_of_size_one_in_any_memory(size, order, der_order):
    """The torch kernel confuses the memory orders of maps with an axis of size 1."""
    x, g, b, dzdy = problem(size)
    wanted = reference.bnorm_backward(*arrays(x, g, b, dzdy), EPSILON)
    x, dzdy = in_memory(x, order), in_memory(dzdy, der_order)
    for got, want in zip(bnorm_backward(x, g, b, dzdy, epsilon=EPSILON), wanted, strict=True):
        assert_close(got, want, REFERENCE[x.dtype])


def test_multipliers_and_moments_with_gaps():
    x, g, b, dzdy = problem((4, 3, 5, 2))
    moments = bnorm(x, g, b)[1]
    wanted = bnorm_backward(x, g, b, dzdy, moments=moments)
    gaps = randn((5, 2, 2))
    gaps[:, :, 0], g2, b2 = moments, g.repeat_interleave(2)[::2], b.repeat_interleave(3)[::3]
    for got, want in zip(
        bnorm_backward(x, g2, b2, dzdy, moments=gaps[:, :, 0]), wanted, strict=True
    ):
        assert_close(got, want, REFERENCE[x.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    x, g, b, dzdy = problem((5, 4, 3, 6), dtype=dtype)
    values = (*bnorm(x, g, b, epsilon=EPSILON), *bnorm_backward(x, g, b, dzdy, epsilon=EPSILON))
    wanted = (
        *reference.bnorm(*arrays(x, g, b), EPSILON),
        *reference.bnorm_backward(*arrays(x, g, b, dzdy), EPSILON),
    )
    for got, want in zip(values, wanted, strict=True):
        assert got.dtype == dtype
        assert_close(got, want, REFERENCE[dtype])


def test_numerical_derivative():
    x, g, b, dzdy = problem((3, 2, 2, 3))
    ders = bnorm_backward(x, g, b, dzdy, epsilon=EPSILON)
    functions = (
        lambda t: bnorm(t, g, b, epsilon=EPSILON)[0],
        lambda t: bnorm(x, t, b, epsilon=EPSILON)[0],
        lambda t: bnorm(x, g, t, epsilon=EPSILON)[0],
    )
    for function, value, der in zip(functions, (x, g, b), ders, strict=False):
        assert_close(der, central_difference(function, value, dzdy), CENTRAL_DIFFERENCE)


def test_numerical_derivative_with_constant_moments():
    x, g, b, dzdy = problem((3, 2, 2, 3))
    moments = torch.stack((randn((2,), 7), randn((2,), 8).abs() + 0.5), 1)
    ders = bnorm_backward(x, g, b, dzdy, moments=moments, frozen=True)
    functions = (
        lambda t: bnorm(t, g, b, moments=moments)[0],
        lambda t: bnorm(x, t, b, moments=moments)[0],
        lambda t: bnorm(x, g, t, moments=moments)[0],
    )
    for function, value, der in zip(functions, (x, g, b), ders, strict=False):
        assert_close(der, central_difference(function, value, dzdy), CENTRAL_DIFFERENCE)


def test_recorded():
    x = torch.tensor([[1.0, 3], [2, 6]]).double().reshape(1, 1, 2, 2)
    g, b = torch.tensor([2.0, 1]).double(), torch.tensor([0.0, 1]).double()
    y, moments = bnorm(x, g, b, epsilon=1)
    assert_close(y[0, 0].t().flatten(), [-1.41421356, 0.10557281, 1.41421356, 1.89442719], PRINTED)
    assert_close(moments, [[2, 1.41421356], [4, 2.23606798]], PRINTED)
    dzdy = torch.tensor([[1.0, 0], [1, 2]]).double().reshape(1, 1, 2, 2)
    dzdx = bnorm_backward(x, g, b, dzdy, epsilon=1)[0]
    want = [0.35355339, -0.04472136, -0.35355339, 0.04472136]
    assert_close(dzdx[0, 0].t().flatten(), want, PRINTED)


def test_given_moments_are_used_and_returned():
    x, g, b, dzdy = problem((4, 3, 5, 2))
    y, moments = bnorm(x, g, b, epsilon=EPSILON)
    again, returned = bnorm(x, g, b, epsilon=17, moments=moments)
    assert_close(again, y, REFERENCE[x.dtype])
    assert returned is moments
    ders = bnorm_backward(x, g, b, dzdy, epsilon=17, moments=moments)
    for got, want in zip(ders, bnorm_backward(x, g, b, dzdy, epsilon=EPSILON), strict=True):
        assert_close(got, want, REFERENCE[x.dtype])


def test_one_element_per_channel():
    x, g, b, dzdy = problem((1, 1, 3, 1))
    y, moments = bnorm(x, g, b, epsilon=EPSILON)
    assert torch.equal(y.flatten(), b)
    assert_close(moments[:, 1], [math.sqrt(EPSILON)] * 3, REFERENCE[x.dtype])
    dzdx, dzdg, dzdb, _ = bnorm_backward(x, g, b, dzdy, epsilon=EPSILON)
    assert not dzdx.any()
    assert not dzdg.any()
    assert torch.equal(dzdb, dzdy.flatten())


def test_constant_channel():
    x, g, b, _ = problem((4, 3, 2, 2))
    x[:, :, 1] = 5.25
    y, moments = bnorm(x, g, b, epsilon=EPSILON)
    assert (y[:, :, 1] == b[1]).all()
    assert_close(moments[1], [5.25, math.sqrt(EPSILON)], REFERENCE[x.dtype])


def test_deviation_far_smaller_than_the_mean():
    """The original loses all digits of sigma here (0.803 in place of 0.106)."""
    x = (1000 + 0.1 * randn((32, 32, 2, 4))).float()
    one, zero = torch.ones(2), torch.zeros(2)
    y, moments = bnorm(x, one, zero, epsilon=1e-3)
    want, wanted = reference.bnorm(*arrays(x, one, zero), 1e-3)
    assert_close(moments, wanted, REFERENCE[torch.float32])
    assert_close(moments[:, 1], wanted[:, 1], REFERENCE[torch.float32] * 100)
    assert_close(y, want, 1e-3)
    assert y.mean((0, 1, 3)).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1), (1, 1, 4), (2, 2)])
def test_multipliers_and_biases_of_any_shape(shape):
    x, g, b, dzdy = problem((3, 2, 4, 3))
    wanted = bnorm(x, g, b)[0]
    g2, b2 = g.reshape(shape), b.reshape(shape)
    assert torch.equal(bnorm(x, g2, b2)[0], wanted)
    ders, want = bnorm_backward(x, g2, b2, dzdy), bnorm_backward(x, g, b, dzdy)
    assert torch.equal(ders[1], want[1].reshape(shape))
    assert torch.equal(ders[2], want[2].reshape(shape))


def test_no_images():
    x, g, b, dzdy = problem((3, 2, 4, 0))
    assert bnorm(x, g, b)[0].shape == x.shape
    dzdx, dzdg, dzdb, _ = bnorm_backward(x, g, b, dzdy)
    assert dzdx.shape == x.shape
    assert torch.equal(dzdg, torch.zeros_like(g))
    assert torch.equal(dzdb, torch.zeros_like(b))


X, G, B, P = problem((3, 2, 4, 3))


@pytest.mark.parametrize(
    ("g", "b", "options", "message"),
    [
        (None, B, {}, r"g has nothing; wanted 4, one per channel"),
        (G, None, {}, r"b has nothing; wanted 4"),
        (G[:3], B, {}, r"g has 3 elements; wanted 4"),
        (G, randn((4, 2)), {}, r"b has 8 elements; wanted 4"),
        (G, B, {"epsilon": -1e-4}, r"epsilon is -0.0001; wanted a number >= 0"),
        (G, B, {"moments": randn((2, 4))}, r"moments has shape \(2, 4\); wanted \(4, 2\)"),
        (G, B, {"moments": randn((8, 1))}, r"moments has shape \(8, 1\); wanted \(4, 2\)"),
    ],
)
def test_errors(g, b, options, message):
    with pytest.raises(ValueError, match=message):
        bnorm(X, g, b, **options)
    with pytest.raises(ValueError, match=message):
        bnorm_backward(X, g, b, P, **options)


def test_errors_of_types_and_shapes():
    with pytest.raises(TypeError, match=r"g holds torch.float32, x holds torch.float64"):
        bnorm(X, G.float(), B)
    with pytest.raises(TypeError, match=r"b holds torch.float32"):
        bnorm(X, G, B.float())
    with pytest.raises(TypeError, match=r"dzdy holds torch.float32"):
        bnorm_backward(X, G, B, P.float())
    with pytest.raises(ValueError, match=r"dzdy has shape \(3, 2, 4, 1\); wanted"):
        bnorm_backward(X, G, B, P[..., :1])


def test_layer_uses_stored_moments_in_test_mode_as_constants():
    layer, stored = BatchNorm(epsilon=EPSILON), torch.stack((G, B.abs() + 0.1), 1)
    ctx = Context(training=False)
    (y,), saved = layer.forward((X,), (G, B, stored), ctx)
    assert torch.equal(y, bnorm(X, G, B, moments=stored)[0])
    call = Call((X,), (G, B, stored), (y,), saved, ctx, (True,))
    (dzdx,), (dzdg, dzdb, _) = layer.backward(call, (P,))
    want = central_difference(lambda x: bnorm(x, G, B, moments=stored)[0], X, P)
    assert_close(dzdx, want, CENTRAL_DIFFERENCE)
    assert dzdg.shape == G.shape
    assert_close(dzdb, P.sum((0, 1, 3)), REFERENCE[P.dtype])


def test_layer_pushes_moments_times_images():
    layer, stored = BatchNorm(epsilon=EPSILON), torch.zeros(4, 2).double()
    (y,), saved = layer.forward((X,), (G, B, stored), Context())
    call = Call((X,), (G, B, stored), (y,), saved, Context(), (True,))
    _, (_, _, moments) = layer.backward(call, (P,))
    want = bnorm(X, G, B, epsilon=EPSILON)[1] * X.shape[3]
    assert_close(moments, want, REFERENCE[X.dtype])
