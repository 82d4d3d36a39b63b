"""`crop`: asymmetric borders, the whole map, sizes in place of the input; cropping to a map."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.crop import Crop, crop, crop_backward
from matconvnet.layer import Call, Context, Field
from tests.helpers import assert_close, in_memory, memory_orders, randn, seeds, sizes
from tests.reference import crop as reference
from tests.tolerances import REFERENCE


@settings(deadline=None, max_examples=40)
@given(sizes(6, 6), seeds, memory_orders, st.data())
def test_like_the_loops(size, seed, order, data):
    borders = []
    for length in size[:2]:
        before = data.draw(st.integers(0, length))
        borders += [before, data.draw(st.integers(0, length - before))]
    x = in_memory(randn(size, seed), order)
    y = crop(x, borders)
    assert_close(y, reference.crop(x.numpy(), borders), REFERENCE[x.dtype])
    dzdy = in_memory(randn(y.shape, seed + 1), order)
    want = reference.crop_backward(x.numpy(), dzdy.numpy(), borders)
    assert_close(crop_backward(x, dzdy, borders), want, REFERENCE[x.dtype])
    got = crop_backward(None, dzdy, borders, input_size=size)
    assert_close(got, want, REFERENCE[x.dtype])


def test_order_of_the_borders():
    x = torch.arange(20.0).reshape(4, 5, 1, 1)
    assert crop(x, (1, 2, 0, 3))[..., 0, 0].tolist() == [[5, 6]]


def test_output_is_not_a_view():
    x = torch.ones(3, 3, 1, 1)
    crop(x, (0, 0, 0, 0)).zero_()
    assert x.all()


def test_size_wins_over_the_input():
    assert crop_backward(
        torch.zeros(2, 2), torch.ones(4, 5), (1, 0, 0, 0), input_size=(5, 5)
    ).shape == (5, 5)


def test_fewer_axes():
    x = randn((3, 4))
    assert crop(x, (1, 0, 0, 1)).shape == (2, 3, 1, 1)
    assert crop_backward(x, randn((2, 3)), (1, 0, 0, 1)).shape == (3, 4)


def test_arrays():
    x = np.ones((3, 4, 2, 1))
    assert isinstance(crop(x, np.array([1, 0, 0, 1])), np.ndarray)
    assert isinstance(crop_backward(None, x, (1, 0, 0, 1), input_size=(4, 5, 2, 1)), np.ndarray)


X = torch.zeros(3, 4, 2, 5)


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        (1, "crop is 1, 1 numbers; wanted 4"),
        ((1, 1), "crop is .* wanted 4"),
        ((-1, 0, 0, 0), "crop is .* wanted whole numbers >= 0"),
        ((0.5, 0, 0, 0), "crop is .* wanted whole numbers"),
        ((2, 2, 0, 0), r"crop is \(2, 2, 0, 0\) .*, x has \(3, 4\) pixels"),
        ((0, 0, 5, 0), r"crop is \(0, 0, 5, 0\)"),
    ],
)
def test_errors(borders, message):
    with pytest.raises(ValueError, match=message):
        crop(X, borders)
    with pytest.raises(ValueError, match=message):
        crop_backward(X, X, borders)
    with pytest.raises(ValueError, match=message):
        crop_backward(None, X, borders, input_size=X.shape)


def test_projection_errors():
    with pytest.raises(ValueError, match=r"dzdy has shape \(3, 4, 2, 5\); .* \(2, 4, 2, 5\)"):
        crop_backward(X, X, (1, 0, 0, 0))
    with pytest.raises(ValueError, match="dzdy has shape"):
        crop_backward(X, torch.tensor(1.0), (1, 0, 0, 0))
    with pytest.raises(TypeError, match="dzdy is float"):
        crop_backward(X, 1.0, (1, 0, 0, 0))
    with pytest.raises(TypeError, match=r"dzdy holds torch\.float64"):
        crop_backward(X, X[1:].double(), (1, 0, 0, 0))
    with pytest.raises(ValueError, match="x and input_size are None"):
        crop_backward(None, X, (0, 0, 0, 0))


@pytest.mark.parametrize(
    ("offset", "borders"),
    [
        ((0, 0), (0, 2, 0, 3)),
        ((1, 2), (1, 1, 2, 1)),
        ((2, 3), (2, 0, 3, 0)),
        ((9, 9), (2, 0, 3, 0)),
    ],
)
def test_layer_crops_to_the_reference(offset, borders):
    x, ref, layer = randn((5, 7, 2, 3)), randn((3, 4, 9, 3)), Crop(crop=offset)
    (y,), saved = layer.forward((x, ref), (), Context())
    assert torch.equal(y, crop(x, borders))
    assert layer.output_sizes([x.shape, ref.shape], []) == (tuple(y.shape),)
    withheld = Call((None, None), (), (None,), saved, Context(), (True, True))
    forgotten = Call((x, ref), (), (None,), None, Context(), (True, True))
    for call in (withheld, forgotten):
        (dzdx, dzdref), _ = layer.backward(call, (y,))
        assert torch.equal(dzdx, crop_backward(x, y, borders))
        assert dzdref is None
    assert layer.receptive_fields(2, []) == (Field(offset=offset),)  # none in the reference


def test_layer_refuses_a_larger_reference():
    with pytest.raises(ValueError, match=r"x has \(3, 4\) pixels, the reference \(4, 4\)"):
        Crop().forward((X, torch.zeros(4, 4, 2, 5)), (), Context())
