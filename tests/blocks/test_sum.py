"""`add`: any number of maps, derivatives as views, sizes that are known in part."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.sum import Sum, add, add_backward
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
from tests.reference import sum as reference
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE


@settings(deadline=None, max_examples=40)
@given(sizes(), seeds, st.lists(memory_orders, min_size=1, max_size=4))
def test_like_the_loops(size, seed, orders):
    inputs = [in_memory(randn(size, seed + k), order) for k, order in enumerate(orders)]
    arrays = [x.numpy() for x in inputs]
    assert_close(add(inputs), reference.add(arrays), REFERENCE[torch.float64])
    dzdy = in_memory(randn(size, seed + 9), orders[0])
    want = reference.add_backward(arrays, dzdy.numpy())
    given_sizes = add_backward(None, dzdy, input_sizes=[size] * len(inputs))
    for got in (add_backward(inputs, dzdy), given_sizes):
        for k, (der, expected) in enumerate(zip(got, want, strict=True)):
            assert_close(der, expected, REFERENCE[torch.float64], f"derivative {k}")


def test_numerical_derivatives():
    inputs, p = [randn((2, 3, 2, 2), seed) for seed in range(3)], randn((2, 3, 2, 2), 9)
    for k, der in enumerate(add_backward(inputs, p)):
        want = central_difference(
            lambda x, k=k: add([*inputs[:k], x, *inputs[k + 1 :]]), inputs[k], p
        )
        assert_close(der, want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_output_is_new_and_inputs_stay(count):
    inputs = [torch.ones(2, 3, 1, 1) for _ in range(count)]
    add(inputs).zero_()
    assert all(x.all() for x in inputs)


def test_the_same_map_twice():
    x = randn((2, 3, 4, 1))
    assert torch.equal(add([x, x, x]), 3 * x)
    ders = add_backward([x, x], x)
    assert all(der.data_ptr() == x.data_ptr() for der in ders)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    inputs = [randn((3, 2, 4, 2), seed, dtype) for seed in range(3)]
    y = add(inputs)
    assert y.dtype == dtype
    assert_close(y, reference.add([x.double().numpy() for x in inputs]), REFERENCE[dtype])


def test_fewer_axes():
    x, y = randn((3, 4)), randn((3, 4, 1, 1), 1)
    assert torch.equal(add([x, y]), x[..., None, None] + y)
    for dzdy in (x, y):
        assert [der.shape for der in add_backward([x, y], dzdy)] == [(3, 4), (3, 4, 1, 1)]
        ders = add_backward(None, dzdy, input_sizes=[(3, 4), (3, 4, 1)])
        assert [der.shape for der in ders] == [(3, 4), (3, 4, 1)]


def test_no_elements():
    x = torch.zeros(3, 4, 2, 0)
    assert add([x, x]).shape == x.shape
    assert [der.shape for der in add_backward([x, x], x)] == [x.shape] * 2


def test_arrays():
    x = np.ones((3, 4, 2, 1), np.float32)
    assert isinstance(add([x, x]), np.ndarray)
    assert add((x, x)).dtype == np.float32
    assert all(isinstance(der, np.ndarray) for der in add_backward([x, x], x))


X = torch.zeros(3, 4, 2, 5)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([], ValueError, "inputs is empty; wanted at least one map"),
        ([X, X[:1]], ValueError, r"inputs\[1\] has size \(1, 4, 2, 5\); .* \(3, 4, 2, 5\)"),
        ([X, X, X[..., :1]], ValueError, r"inputs\[2\] has size \(3, 4, 2, 1\)"),
        ([X, X.double()], TypeError, r"inputs\[1\] holds torch\.float64"),
        ([X, X.long()], TypeError, r"inputs\[1\] holds torch\.int64"),
        ([X, None], TypeError, r"inputs\[1\] is NoneType"),
        ([X[None]], ValueError, r"inputs\[0\] has shape .* 1 to 4 axes"),
    ],
)
def test_errors(inputs, error, message):
    with pytest.raises(error, match=message):
        add(inputs)
    with pytest.raises(error, match=message):
        add_backward(inputs, X)


def test_projection_errors():
    with pytest.raises(ValueError, match=r"dzdy has shape .* \(3, 4, 2, 5\)"):
        add_backward([X, X], X[:2])
    with pytest.raises(TypeError, match=r"dzdy holds torch\.float64"):
        add_backward([X, X], X.double())
    with pytest.raises(ValueError, match="inputs is empty"):
        add_backward(None, X)
    with pytest.raises(ValueError, match=r"input_sizes\[1\] has size \(3, 4, 1, 1\)"):
        add_backward(None, X, input_sizes=[X.shape, (3, 4)])


def test_layer():
    inputs, layer = tuple(randn((3, 4, 2, 2), seed) for seed in range(3)), Sum()
    (y,), saved = layer.forward(inputs, (), Context())
    assert torch.equal(y, add(inputs))
    withheld = Call((None,) * 3, (), (None,), saved, Context(), (True,) * 3)
    forgotten = Call(inputs, (), (None,), None, Context(), (True,) * 3)
    for call in (withheld, forgotten):
        ders, param_ders = layer.backward(call, (y,))
        assert len(ders) == 3
        assert all(torch.equal(der, y) for der in ders)
        assert param_ders == ()
    assert layer.receptive_fields(3, []) == (Field(),) * 3
    assert layer.num_inputs is None


NAN = math.nan


@pytest.mark.parametrize("second", [(3, 4, 2, 5), (3, NAN, NAN, 5), (NAN,) * 4])
def test_size_is_that_of_the_first_input(second):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Sum().output_sizes([(3, 4, 2, 5), second], []) == ((3, 4, 2, 5),)


def test_a_size_that_differs_warns():
    sizes = [(3, 4, NAN, 5), (3, 4, 2, 5), (3, NAN, 2, 1)]
    with pytest.warns(UserWarning, match=r"input 2 of a Sum has size \(3, nan, 2, 1\)") as caught:
        (size,) = Sum().output_sizes(sizes, [])
    assert len(caught) == 1
    assert size is sizes[0]
