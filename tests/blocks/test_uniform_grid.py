"""`uniform_grid`: zoom and shift, and that it is the affine grid it says it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.uniform_grid import UniformGrid, uniform_grid, uniform_grid_backward
from matconvnet.layer import Call, Context
from tests.helpers import (
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
)
from tests.reference import uniform_grid as reference
from tests.tolerances import AUTOGRAD, CENTRAL_DIFFERENCE, REFERENCE


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), seeds, memory_orders)
def test_like_the_loops(height, width, images, seed, order):
    a = in_memory(randn((1, 1, 3, images), seed), order)
    grid, tol = uniform_grid(a, height, width), REFERENCE[a.dtype]
    assert_close(grid, reference.uniform_grid(a.numpy(), height, width), tol)
    p = in_memory(randn(grid.shape, seed + 1), order)
    want = reference.uniform_grid_backward(a.numpy(), p.numpy(), height, width)
    assert_close(uniform_grid_backward(a, p, height, width), want, tol)


def test_scale_then_vertical_then_horizontal_shift():
    v, u = uniform_grid(torch.tensor([2.0, 10, 20]).reshape(1, 1, 3, 1), 3, 2)[..., 0]
    assert v.tolist() == [[8, 8], [10, 10], [12, 12]]
    assert u.tolist() == [[18, 22]] * 3


def test_numerical_derivative_and_autograd():
    a, p = randn((1, 1, 3, 3)), randn((2, 3, 4, 3), 1)
    der = uniform_grid_backward(a, p, 3, 4)
    want = central_difference(lambda a: uniform_grid(a, 3, 4), a, p)
    assert_close(der, want, CENTRAL_DIFFERENCE)
    (uniform_grid(a.requires_grad_(), 3, 4) * p).sum().backward()
    assert_close(der, a.grad, AUTOGRAD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    a, p = randn((1, 1, 3, 2), 0, dtype), randn((2, 20, 30, 2), 1, dtype)
    arrays = a.double().numpy(), p.double().numpy()
    grid, der = uniform_grid(a, 20, 30), uniform_grid_backward(a, p, 20, 30)
    assert grid.dtype == der.dtype == dtype
    assert_close(grid, reference.uniform_grid(arrays[0], 20, 30), REFERENCE[dtype])
    assert_close(der, reference.uniform_grid_backward(*arrays, 20, 30), REFERENCE[dtype])


def test_fewer_axes_and_arrays():
    a = np.zeros((1, 1, 3), np.float32)
    grid = uniform_grid(a, 2, 3)
    assert isinstance(grid, np.ndarray)
    assert grid.shape == (2, 2, 3, 1)
    assert uniform_grid_backward(a, grid, 2, 3).shape == a.shape


A = torch.zeros(1, 1, 3, 2)


@pytest.mark.parametrize(
    ("a", "size", "error", "message"),
    [
        (torch.zeros(1, 1, 6, 2), (2, 3), ValueError, "a has shape .* wanted 1 x 1 x 3 x N"),
        (torch.zeros(1, 3, 1, 2), (2, 3), ValueError, "wanted 1 x 1 x 3 x N"),
        (A.long(), (2, 3), TypeError, "a holds torch.int64"),
        (A, (0, 3), ValueError, "height is 0; wanted whole numbers >= 1"),
        (A, (2, -1), ValueError, "width is -1"),
    ],
)
def test_errors(a, size, error, message):
    with pytest.raises(error, match=message):
        uniform_grid(a, *size)
    with pytest.raises(error, match=message):
        uniform_grid_backward(a, torch.zeros(2, 2, 3, 2), *size)


def test_projection_errors():
    with pytest.raises(ValueError, match=r"dzdy has shape .*, \(2, 2, 3, 2\)"):
        uniform_grid_backward(A, torch.zeros(2, 3, 2, 2), 2, 3)


def test_layer():
    a, layer = randn((1, 1, 3, 2)), UniformGrid(height=3, width=4)
    (grid,), saved = layer.forward((a,), (), Context())
    assert torch.equal(grid, uniform_grid(a, 3, 4))
    (der,), _ = layer.backward(Call((a,), (), (None,), saved, Context(), (True,)), (grid,))
    assert torch.equal(der, uniform_grid_backward(a, grid, 3, 4))
    assert layer.output_sizes([(1, 1, 3, 2)], []) == ((2, 3, 4, 2),)
    assert layer.receptive_fields(1, []) == (None,)
