"""`concat`: every axis, inputs of size zero, sizes in place of inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.concat import Concat, concat, concat_backward
from matconvnet.layer import Call, Context, Field
from tests.helpers import assert_close, in_memory, memory_orders, randn, seeds, sizes
from tests.reference import concat as reference
from tests.tolerances import REFERENCE


@settings(deadline=None, max_examples=40)
@given(sizes(), seeds, memory_orders, st.integers(0, 3), st.lists(st.integers(0, 4), min_size=1))
def test_like_the_loops(size, seed, order, dim, lengths):
    inputs = []
    for k, length in enumerate(lengths):
        shape = (*size[:dim], length, *size[dim + 1 :])
        inputs.append(in_memory(randn(shape, seed + k), order))
    arrays = [x.numpy() for x in inputs]
    y = concat(inputs, dim=dim)
    assert_close(y, reference.concat(arrays, dim), REFERENCE[y.dtype])
    dzdy = randn(y.shape, seed - 1)
    want = reference.concat_backward(arrays, dzdy.numpy(), dim)
    for ders in (
        concat_backward(inputs, dzdy, dim=dim),
        concat_backward(None, dzdy, dim=dim, input_sizes=[x.shape for x in inputs]),
    ):
        for der, expected in zip(ders, want, strict=True):
            assert_close(der, expected, REFERENCE[y.dtype])


@pytest.mark.parametrize("shape", [(0,), (0, 0)])
@pytest.mark.parametrize("dim", range(4))
def test_empty_input_adds_nothing(shape, dim):
    x, empty = randn((2, 3, 4, 5)), torch.zeros(shape).double()
    y = concat([empty, x, empty, x], dim=dim)
    assert torch.equal(y, torch.cat((x, x), dim))
    ders = concat_backward([empty, x, empty, x], y, dim=dim)
    assert [tuple(der.shape) for der in ders] == [shape, x.shape, shape, x.shape]
    assert torch.equal(ders[1], x)
    assert torch.equal(ders[3], x)


def test_channels_by_default():
    x = randn((2, 3, 4, 5))
    assert concat([x, x]).shape == (2, 3, 8, 5)
    assert [der.shape[2] for der in concat_backward([x, x[:, :, :1]], randn((2, 3, 5, 5)))] == [
        4,
        1,
    ]


def test_channels_last_memory_is_kept():
    x = in_memory(randn((2, 3, 4, 5)), "channels last")
    assert concat([x, x]).stride() == in_memory(randn((2, 3, 8, 5)), "channels last").stride()


def test_fewer_axes():
    x = randn((2, 3))
    assert concat([x, x[..., None]]).shape == (2, 3, 2, 1)
    assert [der.shape for der in concat_backward([x, x], randn((2, 3, 2)))] == [(2, 3)] * 2


def test_arrays():
    x = np.ones((2, 3, 4, 5), np.float32)
    y = concat([x, x], dim=3)
    assert isinstance(y, np.ndarray)
    assert y.shape == (2, 3, 4, 10)
    ders = concat_backward([x, x], y, dim=3)
    assert all(isinstance(der, np.ndarray) for der in ders)


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("inputs", "dim", "error", "message"),
    [
        ([], 2, ValueError, "inputs has 0 elements"),
        ([torch.zeros(0)], 2, ValueError, "inputs has 1 elements, none of them a map"),
        ([X, X[:1]], 2, ValueError, r"inputs\[1\] has size \(1, 3, 4, 5\), another input has"),
        ([X, X[..., :0]], 2, ValueError, r"inputs\[1\] has size \(2, 3, 4, 0\)"),
        ([X, X.double()], 2, TypeError, r"inputs\[1\] holds torch.float64"),
        ([X, X], 4, ValueError, "dim is 4; wanted 0"),
        ([X, X], -1, ValueError, "dim is -1"),
        ([X, None], 2, TypeError, r"inputs\[1\] is NoneType"),
        ([X[None]], 2, ValueError, r"inputs\[0\] has shape"),
    ],
)
def test_errors(inputs, dim, error, message):
    with pytest.raises(error, match=message):
        concat(inputs, dim=dim)
    with pytest.raises(error, match=message):
        concat_backward(inputs, X, dim=dim)


@pytest.mark.parametrize("channels", [7, 9])
def test_projection_must_be_as_long_as_the_inputs(channels):
    dzdy = torch.zeros(2, 3, channels, 5)
    with pytest.raises(ValueError, match=r"dzdy has shape .*, \(2, 3, 8, 5\)"):
        concat_backward([X, X], dzdy)
    with pytest.raises(ValueError, match=r"dzdy has shape .*, \(2, 3, 8, 5\)"):
        concat_backward(None, dzdy, input_sizes=[X.shape, X.shape])


def test_backward_wants_inputs_or_sizes():
    with pytest.raises(ValueError, match="inputs has 0 elements"):
        concat_backward(None, X)
    with pytest.raises(ValueError, match=r"input_sizes\[0\] is"):
        concat_backward(None, X, input_sizes=[(2, 3, 4, 5, 1)])


@pytest.mark.parametrize("dim", range(4))
def test_layer(dim):
    x, z, layer = randn((2, 3, 4, 5)), randn((2, 3, 4, 5), 1), Concat(dim=dim)
    (y,), saved = layer.forward((x, z), (), Context())
    assert torch.equal(y, torch.cat((x, z), dim))
    assert layer.output_sizes([x.shape, z.shape], []) == (tuple(y.shape),)
    withheld = Call((None, None), (), (None,), saved, Context(), (True, True))
    forgotten = Call((x, z), (), (None,), None, Context(), (True, True))
    for call in (withheld, forgotten):
        ders, _ = layer.backward(call, (y,))
        assert torch.equal(ders[0], x)
        assert torch.equal(ders[1], z)
    assert layer.receptive_fields(2, []) == ((Field() if dim >= 2 else None),) * 2
