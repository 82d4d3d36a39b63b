"""`smooth_l1`: both sides of the border between its pieces, weights, sigma."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import matconvnet as mcn
from matconvnet.blocks.smooth_l1 import SmoothL1, smooth_l1, smooth_l1_backward
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
from tests.reference import smooth_l1 as reference
from tests.tolerances import AUTOGRAD, CENTRAL_DIFFERENCE, REFERENCE, REORDERED

SIGMAS = (0.5, 1.0, 3.0)


@settings(deadline=None, max_examples=60)
@given(
    sizes(), seeds, memory_orders, st.sampled_from(SIGMAS),
    st.sampled_from([None, 0.7, "pixel", "full"]),
)  # fmt: skip
def test_like_the_loops(size, seed, order, sigma, weights):
    x, x0, tol = randn(size, seed), randn(size, seed + 1), REFERENCE[torch.float64]
    if isinstance(weights, str):
        weights = randn(size if weights == "full" else size[:2], seed + 2)
    loops = {"sigma": sigma, "instance_weights": None if weights is None else np.asarray(weights)}
    want = reference.smooth_l1(x.numpy(), x0.numpy(), **loops)
    ders = reference.smooth_l1_backward(x.numpy(), x0.numpy(), 1.3, **loops)
    x, x0, options = (
        in_memory(x, order),
        in_memory(x0, order),
        {**loops, "instance_weights": weights},
    )
    assert_close(smooth_l1(x, x0, **options), want, tol)
    for name, der, expected in zip(
        ("x", "x0"), smooth_l1_backward(x, x0, 1.3, **options), ders, strict=True
    ):
        assert_close(der, expected, tol, name)


@pytest.mark.parametrize(
    ("d", "sigma", "value", "slope"),
    [
        (0.5, 1, 0.125, 0.5),
        (1, 1, 0.5, 1),
        (-3, 1, 2.5, -1),
        (0.25, 2, 0.125, 1),
        (0.125, 2, 0.03125, 0.5),
        (-1, 2, 0.875, -1),
        (0, 1, 0, 0),
    ],
)
def test_by_hand(d, sigma, value, slope):
    x, x0 = torch.tensor([7.0 + d]), torch.tensor([7.0])
    assert smooth_l1(x, x0, sigma=sigma) == value
    dzdx, dzdx0 = smooth_l1_backward(x, x0, 2, sigma=sigma)
    assert (dzdx.item(), dzdx0.item()) == (2 * slope, -2 * slope)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_numerical_derivatives_and_autograd(sigma):
    x, x0 = randn((2, 3, 4, 2)), 2 * randn((2, 3, 4, 2), 1)
    options = {"sigma": sigma, "instance_weights": randn((2, 3, 1, 2), 2)}
    dzdx, dzdx0 = smooth_l1_backward(x, x0, 1, **options)
    one = torch.tensor(1.0).double()
    for der, k in ((dzdx, 0), (dzdx0, 1)):
        want = central_difference(
            lambda t, k=k: smooth_l1(*((t, x0) if k == 0 else (x, t)), **options), (x, x0)[k], one
        )
        assert_close(der, want, CENTRAL_DIFFERENCE)
    smooth_l1(x.requires_grad_(), x0.requires_grad_(), **options).backward()
    assert_close(dzdx, x.grad, AUTOGRAD)
    assert_close(dzdx0, x0.grad, AUTOGRAD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    x, x0 = (randn((10, 9, 4, 2), seed, dtype) for seed in range(2))
    y, ders = smooth_l1(x, x0), smooth_l1_backward(x, x0, 1)
    arrays = x.double().numpy(), x0.double().numpy()
    assert y.dtype == ders[0].dtype == ders[1].dtype == dtype
    assert y.dim() == 0
    assert_close(y, reference.smooth_l1(*arrays), REFERENCE[dtype])
    for der, want in zip(ders, reference.smooth_l1_backward(*arrays, 1), strict=True):
        assert_close(der, want, REFERENCE[dtype])


def test_elements_without_weight_do_not_count():
    x, x0, w = randn((2, 3, 4, 2)), randn((2, 3, 4, 2), 1), torch.ones(2, 3, 4, 2).double()
    w[0] = 0
    y = smooth_l1(x, x0, instance_weights=w)
    assert_close(y, smooth_l1(x[1:], x0[1:]), REFERENCE[x.dtype])
    dzdx, dzdx0 = smooth_l1_backward(x, x0, 1, instance_weights=w)
    assert not dzdx[0].any()
    assert dzdx[1].all()
    assert torch.equal(dzdx0, -dzdx)


def test_fewer_axes_and_none():
    x, x0 = randn((3, 4)), randn((3, 4, 1, 1), 1)
    assert [der.shape for der in smooth_l1_backward(x, x0, 1)] == [x.shape, x0.shape]
    empty = torch.zeros(3, 4, 2, 0)
    assert smooth_l1(empty, empty) == 0
    assert smooth_l1_backward(empty, empty, 1)[0].shape == empty.shape


def test_arrays():
    x = np.ones((3, 2), np.float32)
    assert smooth_l1(x, 3 * x) == 9
    assert isinstance(smooth_l1_backward(x, x, 1)[1], np.ndarray)


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("x0", "options", "error", "message"),
    [
        (X[:1], {}, ValueError, r"x0 has shape \(1, 3, 4, 5\); wanted that of x, \(2, 3, 4, 5\)"),
        (X.double(), {}, TypeError, "x0 holds torch.float64"),
        (None, {}, TypeError, "x0 is NoneType"),
        (X, {"sigma": 0}, ValueError, "sigma is 0; wanted a finite number > 0"),
        (X, {"sigma": -1}, ValueError, "sigma is -1"),
        (X, {"sigma": math.nan}, ValueError, "sigma is nan"),
        (X, {"instance_weights": X[:, :2]}, ValueError, "instance_weights has shape"),
    ],
)
def test_errors(x0, options, error, message):
    with pytest.raises(error, match=message):
        smooth_l1(X, x0, **options)
    with pytest.raises(error, match=message):
        smooth_l1_backward(X, x0, 1, **options)


def test_projection_errors():
    with pytest.raises(ValueError, match="wanted one number"):
        smooth_l1_backward(X, X, X)


def test_layer():
    x, x0, weights = randn((2, 3, 4, 5)), randn((2, 3, 4, 5), 1), randn((2, 3, 4, 5), 2)
    layer = SmoothL1(sigma=2)
    for inputs in ((x, x0), (x, x0, weights)):
        options = {"sigma": 2, "instance_weights": (*inputs, None)[2]}
        (y,), saved = layer.forward(inputs, (), Context())
        assert y == smooth_l1(x, x0, **options)
        call = Call(inputs, (), (None,), saved, Context(), (True,) * len(inputs))
        ders, param_ders = layer.backward(call, (torch.tensor(3.0),))
        assert len(ders) == len(inputs)
        for der, want in zip(ders, smooth_l1_backward(x, x0, 3, **options), strict=False):
            assert torch.equal(der, want)
        assert ders[2:] == (None,) * (len(inputs) - 2)
        assert param_ders == ()
    assert layer.is_loss
    assert layer.output_sizes([x.shape] * 3, []) == ((1, 1, 1, 1),)
    assert layer.receptive_fields(3, []) == (None,) * 3
    with pytest.raises(ValueError, match="SmoothL1 has 1 inputs; wanted x, its labels or targets"):
        layer.forward((x,), (), Context())


def test_targets_of_a_chain_are_taken_as_they_are():
    x, x0 = randn((2, 3, 4, 5)), randn((2, 3, 4, 5), 1)
    net = mcn.vl_simplenn_tidy({"layers": [{"type": "smoothl1", "sigma": 2.0, "class": x0}]})
    assert_close(mcn.vl_simplenn(net, x)[-1].x, smooth_l1(x, x0, sigma=2), REORDERED)


def test_derivative_checker_knows_that_targets_have_a_derivative():
    net = mcn.SimpleNN([SmoothL1()], meta={"inputSize": [2, 3, 4]})
    report = mcn.check_derivatives(net)
    assert report.ok, f"\n{report}"
    assert [row.name for row in report.rows] == ["x0", "label"]
