"""`pool`: clipped windows, four-sided pads, ties, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.pool import Pooling, pool, pool_backward
from matconvnet.layer import Call, Context
from matconvnet.layout import hwcn, nchw
from matconvnet.window import quad
from tests.helpers import (
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
)
from tests.reference import pool as reference
from tests.tolerances import CENTRAL_DIFFERENCE, PRINTED, REFERENCE

RAMP = torch.arange(1.0, 13, dtype=torch.float64).reshape(4, 3).t().reshape(3, 4, 1, 1)


def distinct(size, seed=0):
    """Whole numbers, all of them different: no ties, and no kink within a step of 0.5."""
    generator = torch.Generator().manual_seed(seed)
    count = int(np.prod(size))
    return (torch.randperm(count, generator=generator) - count // 2).double().reshape(size)


@st.composite
def problems(draw, h=8, w=8):
    """The size of a map, and the arguments of a pooling that fits it."""
    size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride = draw(st.tuples(*[st.integers(1, 5)] * 2))
    top, bottom = draw(st.tuples(*[st.integers(0, size[0] - 1)] * 2))
    left, right = draw(st.tuples(*[st.integers(0, size[1] - 1)] * 2))
    height = draw(st.integers(max(1, size[0] - top - bottom), h))
    width = draw(st.integers(max(1, size[1] - left - right), w))
    shape = (height, width, draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    return shape, size, {"stride": stride, "pad": (top, bottom, left, right)}


@settings(deadline=None, max_examples=150)
@given(problems(), seeds, st.sampled_from(["max", "avg"]), memory_orders, memory_orders)
def test_like_the_loops(problem, seed, method, order, der_order):
    shape, size, options = problem
    options["method"] = method
    x = distinct(shape, seed)
    want = reference.pool(x.numpy(), size, **options)
    dzdy = randn(want.shape, seed)
    der = reference.pool_backward(x.numpy(), dzdy.numpy(), size, **options)
    x, dzdy = in_memory(x, order), in_memory(dzdy, der_order)
    assert_close(pool(x, size, **options), want, REFERENCE[x.dtype])
    assert_close(pool_backward(x, dzdy, size, **options), der, REFERENCE[x.dtype])


@settings(deadline=None, max_examples=60)
@given(problems(), seeds, st.sampled_from(["max", "avg"]), memory_orders, memory_orders)
def test_layer_like_the_function(problem, seed, method, order, der_order):
    """The layer may free its input and remember the winners: the same derivative."""
    shape, size, options = problem
    layer = Pooling(size, method=method, **options)
    x = in_memory(distinct(shape, seed), order)
    (y,), saved = layer.forward((x,), (), Context())
    assert torch.equal(y, pool(x, size, method=method, **options))
    assert layer.output_sizes([shape], []) == (tuple(y.shape),)
    dzdy = in_memory(randn(y.shape, seed), der_order)
    kept = (x,) if "inputs" in layer.needs else (None,)
    (dzdx,), _ = layer.backward(Call(kept, (), (None,), saved, Context(), (True,)), (dzdy,))
    want = pool_backward(x, dzdy, size, method=method, **options)
    assert_close(dzdx, want, REFERENCE[x.dtype])


@pytest.mark.parametrize("method", ["max", "avg"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype, method):
    x = distinct((5, 6, 3, 2)).to(dtype)
    options = {"stride": (1, 2), "pad": (1, 0, 0, 2), "method": method}
    y = pool(x, (2, 3), **options)
    assert y.dtype == dtype
    assert_close(y, reference.pool(x.double().numpy(), (2, 3), **options), REFERENCE[dtype])
    dzdy = randn(y.shape, 1, dtype)
    dzdx = pool_backward(x, dzdy, (2, 3), **options)
    want = reference.pool_backward(x.double().numpy(), dzdy.double().numpy(), (2, 3), **options)
    assert dzdx.dtype == dtype
    assert_close(dzdx, want, REFERENCE[dtype])


@pytest.mark.parametrize("method", ["max", "avg"])
def test_numerical_derivative(method):
    x, size = distinct((5, 4, 2, 2)), (3, 2)
    options = {"stride": (2, 1), "pad": (1, 2, 0, 1), "method": method}
    dzdy = randn(pool(x, size, **options).shape)
    want = central_difference(lambda x: pool(x, size, **options), x, dzdy)
    assert_close(pool_backward(x, dzdy, size, **options), want, CENTRAL_DIFFERENCE)


def image(y):
    return y[:, :, 0, 0].tolist()


def test_recorded_max():
    assert image(pool(RAMP, 2, stride=2)) == [[5, 11]]
    assert image(pool(RAMP, 2, stride=3, pad=1)) == [[1, 10], [3, 12]]
    options = {"pad": (1, 0, 0, 2)}
    y = pool(-RAMP, (2, 3), **options)
    assert image(y) == [[-1, -4, -7, -10], [-1, -4, -7, -10], [-2, -5, -8, -11]]
    dzdx = pool_backward(-RAMP, RAMP, (2, 3), **options)
    assert image(dzdx) == [[3, 9, 15, 21], [3, 6, 9, 12], [0, 0, 0, 0]]


def test_recorded_mean():
    options = {"pad": (1, 0, 0, 2), "method": "avg"}
    assert image(pool(RAMP, 2, stride=3, pad=1, method="avg")) == [[1, 8.5], [3, 10.5]]
    want = [[4, 7, 8.5, 10], [4.5, 7.5, 9, 10.5], [5.5, 8.5, 10, 11.5]]
    assert_close(pool(RAMP, (2, 3), **options)[:, :, 0, 0], want, PRINTED)
    dzdx = pool_backward(RAMP, torch.ones_like(RAMP), (2, 3), **options)
    want = [
        [1 / 2, 1, 7 / 4, 11 / 4],
        [1 / 3, 2 / 3, 7 / 6, 11 / 6],
        [1 / 6, 1 / 3, 7 / 12, 11 / 12],
    ]
    assert_close(dzdx[:, :, 0, 0], want, PRINTED)


@pytest.mark.parametrize("values", [[[1, 5], [5, 1]], [[5, 5], [5, 5]]])
def test_ties_keep_the_sum_on_one_maximum(values):
    x = torch.tensor(values, dtype=torch.float64)
    dzdx = pool_backward(x, torch.tensor([3.0]).double(), 2)
    assert sorted(dzdx.flatten().tolist()) == [0, 0, 0, 3]
    assert x[dzdx == 3].tolist() == [5]


def test_all_minus_infinity():
    x = torch.full((2, 2, 1, 1), -torch.inf)
    assert pool(x, 2).item() == -torch.inf


@pytest.mark.parametrize("method", ["MAX", "Avg"])
def test_method_in_any_case(method):
    x = distinct((4, 4, 1, 1))
    assert torch.equal(pool(x, 2, method=method), pool(x, 2, method=method.lower()))


@pytest.mark.parametrize("method", ["max", "avg"])
def test_no_images(method):
    x = randn((4, 5, 2, 0))
    y = pool(x, 2, method=method)
    assert y.shape == (3, 4, 2, 0)
    assert pool_backward(x, y, 2, method=method).shape == x.shape


def test_trailing_axes_may_be_left_out():
    x = distinct((5, 4))
    assert pool(x, 2).shape == (4, 3, 1, 1)
    assert pool_backward(x, randn((4, 3)), 2).shape == x.shape


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (0, {}, r"size is 0; wanted whole numbers >= 1"),
        (-2, {}, r"size is -2; wanted whole numbers >= 1"),
        ((2, 2, 2), {}, r"size is \(2, 2, 2\), 3 numbers; wanted 1 or 2"),
        (2.5, {}, r"size is 2.5; wanted whole numbers"),
        (2, {"stride": 0}, r"stride is 0"),
        (2, {"pad": -1}, r"pad is -1"),
        (2, {"pad": (0, 1, 0)}, r"pad is \(0, 1, 0\), 3 numbers; wanted 1 or 4"),
        (2, {"pad": 2}, r"pad \(2, 2, 2, 2\) .* must be smaller than the window \(2, 2\)"),
        ((2, 3), {"pad": (0, 2, 0, 0)}, r"pad \(0, 2, 0, 0\) .* smaller than the window"),
        ((6, 1), {}, r"size \(6, 1\) exceeds the padded map of \(5, 6\) pixels"),
        (2, {"method": "median"}, r"method is 'median'; wanted 'max' or 'avg'"),
        (2, {"method": 1}, r"method is 1; wanted 'max' or 'avg'"),
    ],
)
def test_errors(size, options, message):
    x = randn((5, 6, 4, 2))
    with pytest.raises(ValueError, match=message):
        pool(x, size, **options)
    with pytest.raises(ValueError, match=message):
        pool_backward(x, x, size, **options)


def test_errors_of_the_projection():
    x = randn((5, 6, 4, 2))
    with pytest.raises(
        ValueError, match=r"dzdy has shape \(5, 6, 4, 2\); wanted .* \(4, 5, 4, 2\)"
    ):
        pool_backward(x, x, 2)
    with pytest.raises(TypeError, match=r"dzdy holds torch.float32, x holds torch.float64"):
        pool_backward(x, pool(x, 2).float(), 2)


def test_receptive_field():
    field = Pooling((3, 2), stride=(2, 1), pad=(1, 0, 0, 1)).receptive_field([])
    assert (field.size, field.stride, field.offset) == ((3, 2), (2, 1), (0, 0.5))


WIDE = {  # bytes of a winner: by the width of the map, and the window
    "one byte": ((20, 56, 8, 9), (3, 3), 1),
    "many images at once": ((6, 10, 2, 600), (2, 2), 1),
    "rows a multiple of 256 apart": ((12, 256, 8, 6), (2, 3), 2),
    "rows 128 apart, of three": ((12, 128, 8, 6), (3, 2), 2),
    "rows too far apart for two bytes": ((3, 32768, 1, 2), (3, 2), 8),
    "few": ((6, 10, 2, 2), (2, 2), 8),
}


@pytest.mark.parametrize("pad", [0, (1, 0, 0, 1), (0, 1, 1, 1)])
@pytest.mark.parametrize(("shape", "size", "width"), WIDE.values(), ids=WIDE)
def test_winners_take_little_memory_and_lose_nothing(shape, size, width, pad, monkeypatch):
    """Bit by bit what torch does with all indices; ties included."""
    if width != 8:
        monkeypatch.setattr("matconvnet.blocks.pool.FEW_WINNERS", 1)
    x, layer = randn(shape).mul(4).round(), Pooling(size, stride=(2, 1), pad=pad)
    (y,), saved = layer.forward((x,), (), Context())
    top, bottom, left, right = quad(pad, "pad")
    wide = torch.nn.functional.pad(nchw(x), (left, right, top, bottom), value=-torch.inf)
    want, indices = torch.ops.aten.max_pool2d_with_indices(wide, size, (2, 1))
    assert torch.equal(y, hwcn(want))
    assert pad or saved[1].element_size() == width  # padding makes rows longer
    dzdy = randn(y.shape, 1)
    (der,), _ = layer.backward(Call((None,), (), (None,), saved, Context(), (True,)), (dzdy,))
    all_ders = torch.ops.aten.max_pool2d_with_indices_backward(
        nchw(dzdy), wide, size, (2, 1), (0, 0), (1, 1), False, indices
    )
    inside = all_ders[..., top : top + shape[0], left : left + shape[1]]
    assert torch.equal(der, hwcn(inside))


def test_a_layer_keeps_no_map():
    assert Pooling(3, stride=1).needs == Pooling(2, stride=2).needs == frozenset()


def test_what_was_not_saved_is_made_again():
    x, layer = randn((6, 8, 2, 3)), Pooling(3, stride=2)
    dzdy = randn(layer.forward((x,), (), Context())[0][0].shape, 1)
    (der,), _ = layer.backward(Call((x,), (), (None,), None, Context(), (True,)), (dzdy,))
    assert torch.equal(der, pool_backward(x, dzdy, 3, stride=2))
