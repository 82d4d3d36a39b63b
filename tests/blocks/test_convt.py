"""`convt`: the adjoint of `conv`, upsampling, crops, groups, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.conv import conv
from matconvnet.blocks.convt import ConvTranspose, convt, convt_backward
from tests.helpers import (
    MEMORY_ORDERS,
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
)
from tests.reference import convt as reference
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE


@st.composite
def problems(draw):
    """A map, filters, biases or none, and options that leave at least one pixel."""
    groups, seed = draw(st.integers(1, 3)), draw(seeds)
    h, w, fh, fw = (draw(st.integers(1, 4)) for _ in range(4))
    upsample = draw(st.tuples(*[st.integers(1, 3)] * 2))
    room = (h - 1) * upsample[0] + fh - 1, (w - 1) * upsample[1] + fw - 1
    top, left = draw(st.integers(0, room[0])), draw(st.integers(0, room[1]))
    bottom, right = (
        draw(st.integers(0, room[0] - top)),
        draw(st.integers(0, room[1] - left)),
    )
    d, k = groups * draw(st.integers(1, 2)), draw(st.integers(1, 3))
    x = randn((h, w, d, draw(st.integers(1, 3))), seed)
    f = randn((fh, fw, k, d), seed + 1)
    b = randn((k * groups,), seed + 2) if draw(st.booleans()) else None
    crop = (top, bottom, left, right)
    return x, f, b, {"upsample": upsample, "crop": crop, "num_groups": groups}


def arrays(*tensors):
    return [None if t is None else t.numpy() for t in tensors]


@settings(deadline=None, max_examples=120)
@given(problems(), memory_orders, memory_orders)
def test_like_the_loops(problem, order, der_order):
    x, f, b, options = problem
    want = reference.convt(*arrays(x, f, b), **options)
    x = in_memory(x, order)
    assert_close(convt(x, f, b, **options), want, REFERENCE[x.dtype])
    dzdy = in_memory(randn(want.shape), der_order)
    wanted = reference.convt_backward(*arrays(x, f, b, dzdy), **options)
    for got, der in zip(convt_backward(x, f, b, dzdy, **options), wanted, strict=True):
        if der is None:
            assert got is None
        else:
            assert_close(got, der, REFERENCE[x.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_type(dtype):
    x, f, b = randn((3, 2, 4, 3), 0, dtype), randn((3, 2, 2, 4), 1, dtype), randn((4,), 2, dtype)
    y = convt(x, f, b, upsample=2, num_groups=2)
    doubles = arrays(x.double(), f.double(), b.double())
    assert y.dtype == dtype
    assert_close(y, reference.convt(*doubles, upsample=2, num_groups=2), REFERENCE[dtype])
    ders = convt_backward(x, f, b, torch.ones_like(y), upsample=2, num_groups=2)
    wanted = reference.convt_backward(*doubles, np.ones(y.shape), upsample=2, num_groups=2)
    for der, want in zip(ders, wanted, strict=True):
        assert der.dtype == dtype
        assert_close(der, want, REFERENCE[dtype])


def test_numerical_derivative():
    x, f, b = randn((3, 2, 4, 2), 0), randn((3, 4, 2, 4), 1), randn((4,), 2)
    options = {"upsample": (2, 3), "crop": (1, 0, 2, 1), "num_groups": 2}
    dzdy = randn(convt(x, f, b, **options).shape, 3)
    ders = convt_backward(x, f, b, dzdy, **options)
    functions = (
        lambda t: convt(t, f, b, **options),
        lambda t: convt(x, t, b, **options),
        lambda t: convt(x, f, t, **options),
    )
    for function, value, der in zip(functions, (x, f, b), ders, strict=True):
        assert_close(der, central_difference(function, value, dzdy), CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("order", MEMORY_ORDERS)
@pytest.mark.parametrize("filter_order", MEMORY_ORDERS)
def test_one_channel_in_any_memory(order, filter_order):
    """The torch kernel of float64 refuses one filter, depending on the memory order."""
    x, f, b = randn((2, 3, 1, 2)), randn((2, 2, 2, 1)), randn((2,))
    dzdy = randn((3, 4, 2, 2))
    wanted = reference.convt_backward(*arrays(x, f, b, dzdy))
    ders = convt_backward(in_memory(x, order), in_memory(f, filter_order), b, dzdy)
    for der, want in zip(ders, wanted, strict=True):
        assert_close(der, want, REFERENCE[x.dtype])


def test_recorded():
    x = torch.tensor([[1.0, 2], [3, 4]]).double()
    f = torch.tensor([[1.0, 2], [3, 4], [5, 6]]).double()
    b, options = torch.tensor([7.0]).double(), {"upsample": (2, 3), "crop": (1, 0, 0, 1)}
    y = convt(x, f, b, **options)
    want = [[10, 11, 7, 13], [15, 19, 7, 21], [16, 19, 7, 19], [22, 25, 7, 27]]
    assert y[:, :, 0, 0].tolist() == want
    dzdx, dzdf, dzdb = convt_backward(x, f, b, torch.ones_like(y), **options)
    assert dzdx.tolist() == [[18, 8], [21, 9]]
    assert dzdf.tolist() == [[7, 3], [10, 4], [10, 4]]
    assert dzdb.tolist() == [16]


@pytest.mark.parametrize(("groups", "want"), [(2, [1, 10, 200, 2000]), (1, [201, 2010])])
def test_recorded_groups(groups, want):
    x = torch.tensor([1.0, 2]).reshape(1, 1, 2, 1)
    f = torch.tensor([[1.0, 100], [10, 1000]]).reshape(1, 1, 2, 2)
    assert convt(x, f, num_groups=groups).flatten().tolist() == want


@settings(deadline=None, max_examples=40)
@given(problems())
def test_adjoint_of_conv(problem):
    """<convt(x), p> = <x, conv(p)> with the filters, stride and pad of the convolution."""
    x, f, _, options = problem
    upsample, crop, groups = options["upsample"], options["crop"], options["num_groups"]
    y = convt(x, f, **options)
    p, k, d = randn(y.shape), f.shape[2], x.shape[2] // groups
    there = (y * p).sum()
    back = 0
    for g in range(groups):
        part, filters = p[:, :, g * k : (g + 1) * k], f[..., g * d : (g + 1) * d]
        q = conv(part, filters, stride=upsample, pad=crop)
        back += (q * x[:, :, g * d : (g + 1) * d]).sum()
    assert_close(back, there, REFERENCE[x.dtype] * x.numel())


def test_upsampling_beyond_the_filter_leaves_the_bias():
    y = convt(randn((2, 2, 1, 1)), randn((1, 1, 1, 1)), torch.tensor([7.0]).double(), upsample=3)
    assert y.shape == (4, 4, 1, 1)
    assert (y[1:3] == 7).all()
    assert (y[:, 1:3] == 7).all()
    assert (y[::3, ::3] != 7).all()


@pytest.mark.parametrize("unwanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_unwanted_derivatives(unwanted):
    x, f, b = randn((3, 4, 2, 2)), randn((2, 2, 3, 2)), randn((3,))
    dzdy = randn(convt(x, f, b).shape)
    flags = ("der_data", "der_filters", "der_biases")
    ders = convt_backward(x, f, b, dzdy, **{flags[k]: False for k in unwanted})
    for k, want in enumerate(convt_backward(x, f, b, dzdy)):
        if k in unwanted:
            assert ders[k] is None
        else:
            assert_close(ders[k], want, REFERENCE[x.dtype])


@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 1, 4)])
def test_biases_of_any_shape(shape):
    x, f, b = randn((3, 4, 2, 2)), randn((2, 2, 2, 2)), randn((4,))
    y = convt(x, f, b, num_groups=2)
    assert torch.equal(convt(x, f, b.reshape(shape), num_groups=2), y)
    assert convt_backward(x, f, b.reshape(shape), y, num_groups=2)[2].shape == shape


def test_no_images():
    x, f, b = randn((3, 4, 2, 0)), randn((2, 2, 3, 2)), randn((3,))
    y = convt(x, f, b, upsample=2)
    assert y.shape == (6, 8, 3, 0)
    dzdx, dzdf, dzdb = convt_backward(x, f, b, y, upsample=2)
    assert dzdx.shape == x.shape
    assert torch.equal(dzdf, torch.zeros_like(f))
    assert torch.equal(dzdb, torch.zeros_like(b))


F = randn((2, 3, 3, 4))


@pytest.mark.parametrize(
    ("f", "b", "options", "message"),
    [
        (None, None, {}, r"f is empty \(shape None\)"),
        (randn((0, 2, 1, 4)), None, {}, r"f is empty \(shape \(0, 2, 1, 4\)\)"),
        (randn((2, 2, 3, 5)), None, {}, r"f has 5 filters on its last axis, x has 4 channels"),
        (F, None, {"num_groups": 3}, r"num_groups is 3; wanted a divisor of the 4 channels"),
        (F, None, {"num_groups": 0}, r"num_groups.* is 0; wanted whole numbers >= 1"),
        (F, None, {"num_groups": (1, 1)}, r"num_groups is \(1, 1\), 2 numbers; wanted 1"),
        (F, None, {"upsample": 0}, r"upsample is 0; wanted whole numbers >= 1"),
        (F, None, {"crop": -1}, r"crop is -1; wanted whole numbers >= 0"),
        (F, None, {"crop": (1, 2)}, r"crop is \(1, 2\), 2 numbers; wanted 1 or 4"),
        (F, None, {"crop": (3, 3, 0, 0)}, r"leaves 0 x 8 pixels"),
        (F, None, {"crop": (9, 3, 0, 0)}, r"leaves -6 x 8 pixels"),
        (F, randn((4,)), {}, r"b has 4 elements, shape \(4,\); wanted 3"),
        (F, randn((3,)), {"num_groups": 2}, r"b has 3 elements, shape \(3,\); wanted 6"),
    ],
)
def test_errors(f, b, options, message):
    x = randn((5, 6, 4, 2))
    with pytest.raises(ValueError, match=message):
        convt(x, f, b, **options)
    with pytest.raises(ValueError, match=message):
        convt_backward(x, f, b, x, **options)


def test_errors_of_types_and_shapes():
    x = randn((5, 6, 4, 2))
    with pytest.raises(TypeError, match=r"f holds torch.float32, x holds torch.float64"):
        convt(x, F.float())
    with pytest.raises(TypeError, match=r"b holds torch.float32"):
        convt(x, F, randn((3,), dtype=torch.float32))
    with pytest.raises(
        ValueError, match=r"dzdy has shape \(5, 6, 4, 2\); wanted .* \(6, 8, 3, 2\)"
    ):
        convt_backward(x, F, None, x)


def test_layer_sizes_and_receptive_field():
    layer = ConvTranspose(upsample=(2, 3), crop=(1, 0, 2, 1), num_groups=2)
    shapes = [(3, 4, 2, 4), (4,)]
    x = randn((3, 2, 4, 2))
    y = convt(x, randn(shapes[0]), upsample=(2, 3), crop=(1, 0, 2, 1), num_groups=2)
    assert layer.output_sizes([tuple(x.shape)], shapes) == (tuple(y.shape),)
    field = layer.receptive_field(shapes)
    assert field.size == (2, 2)
    assert field.stride == (1 / 2, 1 / 3)
    assert layer.multiply_adds([tuple(x.shape)], shapes) == x.numel() * 3 * 4 * 2
