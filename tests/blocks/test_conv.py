"""`conv`: groups, strides, pads, dilation, no filters, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.conv import Conv, conv, conv_backward
from tests.helpers import (
    MEMORY_ORDERS,
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
)
from tests.reference import conv as reference
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE

RAMP = torch.arange(1.0, 13, dtype=torch.float64).reshape(4, 3).t().reshape(3, 4, 1, 1)
EDGES = torch.tensor([[1.0, -1], [2, 0]], dtype=torch.float64)


@st.composite
def problems(draw):
    """A map, filters or none, biases or none, and options that fit them."""
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride, dilate = (draw(st.tuples(*[st.integers(1, 3)] * 2)) for _ in range(2))
    pad, seed = draw(st.tuples(*[st.integers(0, 3)] * 4)), draw(seeds)
    k = groups * draw(st.integers(1, 2))
    fh, fw = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    f = randn((fh, fw, per_group, k), seed)
    if draw(st.integers(0, 4)) == 0:
        f, fh, fw, dilate, k = None, 1, 1, (1, 1), groups * per_group
    h = draw(st.integers(max(1, (fh - 1) * dilate[0] + 1 - pad[0] - pad[1]), 7))
    w = draw(st.integers(max(1, (fw - 1) * dilate[1] + 1 - pad[2] - pad[3]), 7))
    x = in_memory(
        randn((h, w, groups * per_group, draw(st.integers(1, 3))), seed + 1), "rows first"
    )
    b = randn((k,), seed + 2) if draw(st.booleans()) else None
    return x, f, b, {"stride": stride, "pad": pad, "dilate": dilate}


def arrays(*tensors):
    return [None if t is None else t.numpy() for t in tensors]


@settings(deadline=None, max_examples=120)
@given(problems(), memory_orders, memory_orders)
def test_like_the_loops(problem, order, der_order):
    x, f, b, options = problem
    want = reference.conv(*arrays(x, f, b), **options)
    x = in_memory(x, order)
    y = conv(x, f, b, **options)
    assert_close(y, want, REFERENCE[x.dtype])
    dzdy = in_memory(randn(want.shape), der_order)
    wanted = reference.conv_backward(*arrays(x, f, b, dzdy), **options)
    for got, der in zip(conv_backward(x, f, b, dzdy, **options), wanted, strict=True):
        if der is None:
            assert got is None
        else:
            assert_close(got, der, REFERENCE[x.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(3, 2, 2, 4), (5, 6, 4, 4)], ids=["window", "full"])
def test_type(dtype, size):
    x, f, b = randn((5, 6, 4, 3), 0, dtype), randn(size, 1, dtype), randn((4,), 2, dtype)
    y = conv(x, f, b)
    want = reference.conv(*arrays(x.double(), f.double(), b.double()))
    assert y.dtype == dtype
    assert_close(y, want, REFERENCE[dtype])
    ders = conv_backward(x, f, b, torch.ones_like(y))
    wanted = reference.conv_backward(*arrays(x.double(), f.double(), b.double()), np.ones(y.shape))
    for der, want in zip(ders, wanted, strict=True):
        assert der.dtype == dtype
        assert_close(der, want, REFERENCE[dtype])


@pytest.mark.parametrize("size", [(3, 2, 2, 4), (5, 6, 4, 3)], ids=["window", "full"])
def test_numerical_derivative(size):
    x, f, b = randn((5, 6, 4, 2), 0), randn(size, 1), randn(size[3:], 2)
    options = {"stride": (2, 1), "pad": (1, 0, 2, 1), "dilate": (1, 2)} if size[0] == 3 else {}
    dzdy = randn(conv(x, f, b, **options).shape, 3)
    ders = conv_backward(x, f, b, dzdy, **options)
    functions = (
        lambda t: conv(t, f, b, **options),
        lambda t: conv(x, t, b, **options),
        lambda t: conv(x, f, t, **options),
    )
    for function, value, der in zip(functions, (x, f, b), ders, strict=True):
        assert_close(der, central_difference(function, value, dzdy), CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("order", MEMORY_ORDERS)
@pytest.mark.parametrize("filter_order", MEMORY_ORDERS)
def test_one_filter_in_any_memory(order, filter_order):
    """The torch kernel of float64 refuses one filter, depending on the memory order."""
    x, f, b = randn((3, 4, 2, 2)), randn((2, 1, 2, 1)), randn((1,))
    dzdy = randn((2, 4, 1, 2))
    wanted = reference.conv_backward(*arrays(x, f, b, dzdy))
    ders = conv_backward(in_memory(x, order), in_memory(f, filter_order), b, dzdy)
    for der, want in zip(ders, wanted, strict=True):
        assert_close(der, want, REFERENCE[x.dtype])


def test_recorded():
    options = {"pad": (1, 0, 0, 1), "stride": (2, 1)}
    b = torch.tensor([10.0], dtype=torch.float64)
    y = conv(RAMP, EDGES, b, **options)
    assert y[:, :, 0, 0].tolist() == [[12, 18, 24, 30], [13, 19, 25, 45]]
    dzdx, dzdf, dzdb = conv_backward(RAMP, EDGES, b, torch.ones_like(y), **options)
    assert dzdx[:, :, 0, 0].tolist() == [[2, 2, 2, 2], [1, 0, 0, 0], [2, 2, 2, 2]]
    assert dzdf.tolist() == [[26, 24], [52, 48]]
    assert dzdb.tolist() == [8]


def test_recorded_dilated():
    assert conv(RAMP, EDGES, dilate=(2, 3)).flatten().tolist() == [-3]


def test_recorded_without_filters():
    y = conv(RAMP, None, torch.tensor([100.0]).double(), stride=2, pad=(1, 1, 0, 0))
    assert y[:, :, 0, 0].tolist() == [[100, 100], [102, 108], [100, 100]]


def test_windows_in_the_padding_yield_the_bias():
    y = conv(randn((5, 6, 1, 1)), randn((2, 2, 1, 1)), torch.tensor([7.0]).double(), pad=5)
    assert y.shape == (14, 15, 1, 1)
    assert (y[:4] == 7).all()
    assert (y[-4:] == 7).all()


@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 1, 4), (4, 1)])
def test_biases_of_any_shape(shape):
    x, f, b = randn((3, 4, 2, 2)), randn((2, 2, 2, 4)), randn((4,))
    y = conv(x, f, b)
    assert torch.equal(conv(x, f, b.reshape(shape)), y)
    dzdb = conv_backward(x, f, b.reshape(shape), y)[2]
    assert torch.equal(dzdb, conv_backward(x, f, b, y)[2].reshape(shape))


@pytest.mark.parametrize("size", [(2, 2, 2, 4), (3, 4, 2, 4)], ids=["window", "full"])
@pytest.mark.parametrize("unwanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_unwanted_derivatives(size, unwanted):
    x, f, b = randn((3, 4, 2, 2)), randn(size), randn((4,))
    dzdy = randn(conv(x, f, b).shape)
    flags = ("der_data", "der_filters", "der_biases")
    ders = conv_backward(x, f, b, dzdy, **{flags[k]: False for k in unwanted})
    for k, want in enumerate(conv_backward(x, f, b, dzdy)):
        if k in unwanted:
            assert ders[k] is None
        else:
            assert_close(ders[k], want, REFERENCE[x.dtype])


def test_unwanted_data_without_filters_sums_all_images():
    x, b = randn((3, 4, 2, 5)), randn((2,))
    dzdx, dzdf, dzdb = conv_backward(x, None, b, torch.ones_like(x), der_data=False)
    assert dzdx is None
    assert dzdf is None
    assert dzdb.tolist() == [60, 60]


@pytest.mark.parametrize("size", [(2, 2, 2, 4), (3, 4, 2, 4)], ids=["window", "full"])
def test_no_images(size):
    x, f, b = randn((3, 4, 2, 0)), randn(size), randn((4,))
    y = conv(x, f, b)
    assert y.shape == (4 - size[0], 5 - size[1], 4, 0)
    dzdx, dzdf, dzdb = conv_backward(x, f, b, y)
    assert dzdx.shape == x.shape
    assert torch.equal(dzdf, torch.zeros_like(f))
    assert torch.equal(dzdb, torch.zeros_like(b))
    assert conv(x, None, None, stride=2).shape == (2, 2, 2, 0)


def test_trailing_axes_may_be_left_out():
    x, f = randn((5, 4)), randn((2, 3))
    y = conv(x, f)
    assert y.shape == (4, 2, 1, 1)
    dzdx, dzdf, _ = conv_backward(x, f, None, y[:, :, 0, 0])
    assert dzdx.shape == x.shape
    assert dzdf.shape == f.shape


def test_groups_see_their_channels_only():
    x, f = randn((4, 4, 6, 2)), randn((2, 2, 2, 3))
    for g in range(3):
        alone = conv(x[:, :, 2 * g : 2 * g + 2], f[..., g : g + 1])
        assert_close(conv(x, f)[:, :, g : g + 1], alone, REFERENCE[x.dtype])


F22 = randn((2, 2, 4, 3))


@pytest.mark.parametrize(
    ("f", "b", "options", "message"),
    [
        (F22, None, {"stride": 0}, r"stride is 0; wanted whole numbers >= 1"),
        (F22, None, {"stride": (1, 2, 1)}, r"stride is \(1, 2, 1\), 3 numbers; wanted 1 or 2"),
        (F22, None, {"stride": 1.5}, r"stride is 1.5; wanted whole numbers"),
        (F22, None, {"pad": -1}, r"pad is -1; wanted whole numbers >= 0"),
        (F22, None, {"pad": (1, 1)}, r"pad is \(1, 1\), 2 numbers; wanted 1 or 4"),
        (F22, None, {"dilate": 0}, r"dilate is 0; wanted whole numbers >= 1"),
        (F22, None, {"dilate": 5}, r"extend over \(6, 6\) pixels, the padded map has \(5, 6\)"),
        (None, None, {"dilate": 2}, r"dilate is \(2, 2\); wanted 1 where there are no filters"),
        (randn((6, 2, 4, 1)), None, {}, r"extend over \(6, 2\) pixels"),
        (randn((2, 2, 3, 1)), None, {}, r"f has 3 input channels, x has 4; wanted a divisor of 4"),
        (randn((2, 2, 8, 1)), None, {}, r"f has 8 input channels"),
        (randn((2, 2, 2, 3)), None, {}, r"f has 3 filters for 2 groups"),
        (randn((0, 2, 4, 3)), None, {}, r"f has shape \(0, 2, 4, 3\); wanted no axis of size 0"),
        (F22, randn((4,)), {}, r"b has 4 elements, shape \(4,\); wanted 3"),
        (None, randn((3,)), {}, r"b has 3 elements, shape \(3,\); wanted 4"),
    ],
)
def test_errors(f, b, options, message):
    x = randn((5, 6, 4, 2))
    with pytest.raises(ValueError, match=message):
        conv(x, f, b, **options)
    with pytest.raises(ValueError, match=message):
        conv_backward(x, f, b, x, **options)


def test_errors_of_types():
    x = randn((5, 6, 4, 2))
    with pytest.raises(TypeError, match=r"f holds torch.float32, x holds torch.float64"):
        conv(x, F22.float())
    with pytest.raises(TypeError, match=r"b holds torch.float32"):
        conv(x, F22, randn((3,), dtype=torch.float32))
    with pytest.raises(TypeError, match=r"dzdy holds torch.float32"):
        conv_backward(x, F22, None, conv(x, F22).float())
    with pytest.raises(TypeError, match=r"x holds torch.int64; wanted floats"):
        conv(torch.ones(3, 3, 1, 1, dtype=torch.int64), None)
    with pytest.raises(TypeError, match=r"x is list"):
        conv([[1.0]], None)


def test_errors_of_shapes():
    x = randn((5, 6, 4, 2))
    with pytest.raises(
        ValueError, match=r"dzdy has shape \(5, 6, 4, 2\); wanted .* \(4, 5, 3, 2\)"
    ):
        conv_backward(x, F22, None, x)
    with pytest.raises(ValueError, match=r"x has shape \(1, 1, 1, 1, 1\); wanted 1 to 4 axes"):
        conv(randn((1, 1, 1, 1, 1)), None)


def test_layer_sizes_and_receptive_field():
    layer = Conv(stride=(2, 1), pad=(1, 0, 2, 1), dilate=(1, 2))
    shapes = [(3, 2, 4, 6), (6,)]
    x, f = randn((7, 6, 4, 2)), randn(shapes[0])
    y = conv(x, f, stride=(2, 1), pad=(1, 0, 2, 1), dilate=(1, 2))
    assert layer.output_sizes([tuple(x.shape)], shapes) == (tuple(y.shape),)
    field = layer.receptive_field(shapes)
    assert (field.size, field.stride, field.offset) == ((3, 3), (2, 1), (0, -1))
    assert layer.multiply_adds([tuple(x.shape)], shapes) == y.numel() * 3 * 2 * 4
