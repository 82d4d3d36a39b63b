"""`pdist`: exponents on both sides of 1 and 2, broadcast targets, weights, clamps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet import executor
from matconvnet.blocks.pdist import PDist, pdist, pdist_backward
from matconvnet.blocks.sum import Sum
from matconvnet.geometry import receptive_fields, variable_sizes
from matconvnet.graph import Node, build
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
from tests.reference import pdist as reference
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE

EXPONENTS = (0.3, 0.5, 1, 1.5, 2, 3)
PRINTED = 5e-6  # of numbers with six digits


def pixel(*channels):
    """One pixel with these channels."""
    return torch.tensor(channels, dtype=torch.float64).reshape(1, 1, -1, 1)


@settings(deadline=None, max_examples=60)
@given(
    sizes(), seeds, memory_orders, st.sampled_from(EXPONENTS), st.booleans(), st.booleans(),
    st.booleans(), st.sampled_from([None, 0.7, "map", "full"]), st.sampled_from([1e-6, 0.8]),
)  # fmt: skip
def test_like_the_loops(size, seed, order, p, no_root, aggregate, broadcast, weights, epsilon):
    h, w, d, n = size
    x, x0 = randn(size, seed), randn((1, 1, d, n) if broadcast else size, seed + 1)
    if weights == "map":
        weights = randn((h, w), seed)
    elif weights == "full":
        weights = randn((h, w, 1, n), seed)
    options = {"no_root": no_root, "epsilon": epsilon, "aggregate": aggregate}
    dzdy = 1.3 if aggregate else randn((h, w, 1, n), seed + 2)
    loops = {**options, "instance_weights": np.asarray(weights) if weights is not None else None}
    want = reference.pdist(x.numpy(), x0.numpy(), p, **loops)
    ders = reference.pdist_backward(x.numpy(), x0.numpy(), np.asarray(dzdy), p, **loops)
    x, x0 = in_memory(x, order), in_memory(x0, order)
    tol = REFERENCE[x.dtype]
    assert_close(pdist(x, x0, p, instance_weights=weights, **options), want, tol)
    got = pdist_backward(x, x0, dzdy, p, instance_weights=weights, **options)
    for name, der, expected in zip(("x", "x0"), got, ders, strict=True):
        assert_close(der, expected, tol, name)


@pytest.mark.parametrize(
    ("p", "root", "no_root"),
    [
        (0.5, (8, 4, -4), (2.82843, 0.707107, -0.707107)),
        (1, (4, 2, -2), (4, 2, -2)),
        (2, (2.82843, 1.41421, -1.41421), (8, 8, -8)),
        (3, (2.51984, 1.25992, -1.25992), (16, 24, -24)),
    ],
)
def test_recorded(p, root, no_root):
    x, x0, dzdy = pixel(1, 2, 3), pixel(1, 0, 5), torch.full((1, 1, 1, 1), 2.0).double()
    for flag, (value, *slopes) in ((False, root), (True, no_root)):
        assert_close(pdist(x, x0, p, no_root=flag).flatten(), [value], PRINTED)
        dzdx, dzdx0 = pdist_backward(x, x0, dzdy, p, no_root=flag)
        assert_close(dzdx.flatten(), [0, *slopes], PRINTED)
        assert torch.equal(dzdx0, -dzdx)


def test_clamp_is_in_the_derivative_only():
    x, dzdy = pixel(1e-4, 1e-4, 1e-4), torch.full((1, 1, 1, 1), 2.0).double()
    assert_close(pdist(x, pixel(0, 0, 0), 2).flatten(), [1.73205e-4], PRINTED)
    dzdx, _ = pdist_backward(x, pixel(0, 0, 0), dzdy, 2)
    assert_close(dzdx.flatten(), [0.2, 0.2, 0.2], PRINTED)


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("no_root", [True, False])
@pytest.mark.parametrize("epsilon", [1e-6, 0])
def test_no_slope_at_distance_zero(p, no_root, epsilon):
    x, dzdy = pixel(1, 2), torch.ones(1, 1, 1, 1).double()
    assert pdist(x, x, p, no_root=no_root, epsilon=epsilon) == 0
    for der in pdist_backward(x, x, dzdy, p, no_root=no_root, epsilon=epsilon):
        assert not der.any()
    moved = pixel(1, 3)
    dzdx, _ = pdist_backward(moved, x, dzdy, p, no_root=no_root, epsilon=epsilon)
    assert dzdx.flatten()[0] == 0
    assert dzdx.flatten()[1] > 0


@pytest.mark.parametrize("p", EXPONENTS)
@pytest.mark.parametrize("no_root", [True, False])
@pytest.mark.parametrize("broadcast", [True, False])
def test_numerical_derivative(p, no_root, broadcast):
    size = (2, 3, 4, 2)
    x, x0 = randn(size), randn((1, 1, 4, 2) if broadcast else size, 1)
    x += 0.2 * (x - x0).sign()  # away from the kink
    weights, dzdy = randn((2, 3), 2), randn((2, 3, 1, 2), 3)
    options = {"no_root": no_root, "instance_weights": weights, "epsilon": 1e-9}
    dzdx, dzdx0 = pdist_backward(x, x0, dzdy, p, **options)
    want = central_difference(lambda x: pdist(x, x0, p, **options), x, dzdy)
    assert_close(dzdx, want, CENTRAL_DIFFERENCE)
    want = central_difference(lambda x0: pdist(x, x0, p, **options), x0, dzdy)
    assert_close(dzdx0, want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    x, x0, p = (randn((3, 2, 40, 2), s, dtype) for s in range(3))
    y, ders = pdist(x, x0, 2), pdist_backward(x, x0, p[:, :, :1], 2)
    arrays = [t.double().numpy() for t in (x, x0, p[:, :, :1])]
    assert y.dtype == ders[0].dtype == ders[1].dtype == dtype
    assert_close(y, reference.pdist(*arrays[:2], 2), REFERENCE[dtype])
    for der, want in zip(ders, reference.pdist_backward(*arrays, 2), strict=True):
        assert_close(der, want, REFERENCE[dtype])


def test_no_images():
    x = torch.zeros(2, 3, 4, 0)
    assert pdist(x, x, 2).shape == (2, 3, 1, 0)
    assert pdist(x, x, 2, aggregate=True) == 0
    dzdx, dzdx0 = pdist_backward(x, x[:1, :1], torch.zeros(2, 3, 1, 0), 2)
    assert dzdx.shape == (2, 3, 4, 0)
    assert dzdx0.shape == (1, 1, 4, 0)


X = torch.zeros(2, 3, 4, 5)
P = torch.zeros(2, 3, 1, 5)


@pytest.mark.parametrize(
    ("x0", "p", "options", "error", "message"),
    [
        (X, 0, {}, ValueError, "p is 0; wanted a finite number > 0"),
        (X, -1, {}, ValueError, "p is -1"),
        (X, math.inf, {}, ValueError, "p is inf"),
        (X, [1, 2], {}, ValueError, r"p is \[1, 2\]; wanted one number"),
        (X, 2, {"epsilon": -1e-3}, ValueError, "epsilon is -0.001; wanted a finite number >= 0"),
        (X[:1], 2, {}, ValueError, r"x0 has shape \(1, 3, 4, 5\)"),
        (X[:, :, :2], 2, {}, ValueError, r"x0 has shape .* that of x, \(2, 3, 4, 5\)"),
        (X[:1, :1, :, :1], 2, {}, ValueError, "x0 has shape"),
        (X.double(), 2, {}, TypeError, "x0 holds torch.float64"),
        (X, 2, {"instance_weights": X}, ValueError, r"broadcasts to \(2, 3, 1, 5\)"),
        (X, 2, {"instance_weights": math.nan}, ValueError, "instance_weights is nan"),
        (None, 2, {}, TypeError, "x0 is NoneType"),
    ],
)
def test_errors(x0, p, options, error, message):
    with pytest.raises(error, match=message):
        pdist(X, x0, p, **options)
    with pytest.raises(error, match=message):
        pdist_backward(X, x0, P, p, **options)


@pytest.mark.parametrize(
    ("dzdy", "aggregate", "error", "message"),
    [
        (X, False, ValueError, r"dzdy has shape .*, \(2, 3, 1, 5\)"),
        (1.0, False, TypeError, "dzdy is float"),
        (P, True, ValueError, "wanted one number"),
    ],
)
def test_projection_errors(dzdy, aggregate, error, message):
    with pytest.raises(error, match=message):
        pdist_backward(X, X, dzdy, 2, aggregate=aggregate)


def test_layer():
    x, x0, weights = randn((2, 3, 4, 5)), randn((1, 1, 4, 5), 1), randn((2, 3), 2)
    layer = PDist(p=3, no_root=True, aggregate=True)
    options = {"no_root": True, "aggregate": True, "epsilon": 1e-3}
    for inputs in ((x, x0), (x, x0, weights)):
        options["instance_weights"] = inputs[2] if len(inputs) == 3 else None
        (y,), saved = layer.forward(inputs, (), Context())
        assert y == pdist(x, x0, 3, **options)
        call = Call(inputs, (), (None,), saved, Context(), (True,) * len(inputs))
        ders, _ = layer.backward(call, (torch.tensor(2.0),))
        assert len(ders) == len(inputs)
        for der, want in zip(ders, pdist_backward(x, x0, 2, 3, **options), strict=False):
            assert torch.equal(der, want)
    shapes = [(2, 3, 4, 5), (1, 1, 4, 5)]
    assert layer.output_sizes(shapes, []) == ((1, 1, 1, 1),)
    assert PDist().output_sizes(shapes, []) == ((2, 3, 1, 5),)
    assert PDist().receptive_fields(3, []) == (None,) * 3
    with pytest.raises(ValueError, match="PDist has 4 inputs; wanted x, its labels or targets"):
        layer.forward((x,) * 4, (), Context())


@pytest.mark.parametrize("aggregate", [True, False])
def test_weights_as_an_input_of_a_graph(aggregate):
    """They win over those of the layer, and have no derivative."""
    x, x0, weights = randn((2, 3, 4, 5)), randn((2, 3, 4, 5), 1), randn((2, 3, 1, 5), 2)
    options = {"aggregate": aggregate, "epsilon": 1e-3}
    graph = build(
        [
            Node("double", Sum(), ("x", "x"), ("xx",)),
            Node("distance", PDist(aggregate=aggregate, instance_weights=9.0),
                 ("xx", "x0", "w"), ("y",)),
        ]
    )  # fmt: skip
    given_values = {"x": x, "x0": x0, "w": weights}
    record = executor.forward(graph, {}, given_values, derivative=True, conserve_memory=True)
    assert_close(record.values["y"], pdist(2 * x, x0, 2, instance_weights=weights, **options),
                 REFERENCE[x.dtype])  # fmt: skip
    p = randn(record.values["y"].shape, 3)
    ders = executor.backward(graph, {}, record, {"y": p}, conserve_memory=True).ders
    dzdx, dzdx0 = pdist_backward(2 * x, x0, p, 2, instance_weights=weights, **options)
    assert_close(ders["x"], 2 * dzdx, REFERENCE[x.dtype])
    assert_close(ders["x0"], dzdx0, REFERENCE[x.dtype])
    assert "w" not in ders
    size = variable_sizes(graph, {"x": x.shape, "w": weights.shape}, {})["y"]
    assert size == ((1, 1, 1, 1) if aggregate else (2, 3, 1, 5))
    assert receptive_fields(graph, "x", {})["y"] is None
