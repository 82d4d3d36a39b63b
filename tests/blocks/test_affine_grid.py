"""`affine_grid`: which number moves what, grids of one row, what the sampler makes of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.affine_grid import AffineGrid, affine_grid, affine_grid_backward
from matconvnet.blocks.sampler import bilinear_sampler
from matconvnet.layer import Call, Context
from tests.helpers import (
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
)
from tests.reference import affine_grid as reference
from tests.tolerances import AUTOGRAD, CENTRAL_DIFFERENCE, REFERENCE


def numbers(*six):
    return torch.tensor(six, dtype=torch.float64).reshape(1, 1, 6, 1)


IDENTITY = numbers(1, 0, 0, 1, 0, 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), seeds, memory_orders)
def test_like_the_loops(height, width, images, seed, order):
    a = in_memory(randn((1, 1, 6, images), seed), order)
    grid, tol = affine_grid(a, height, width), REFERENCE[a.dtype]
    assert_close(grid, reference.affine_grid(a.numpy(), height, width), tol)
    p = in_memory(randn(grid.shape, seed + 1), order)
    want = reference.affine_grid_backward(a.numpy(), p.numpy(), height, width)
    assert_close(affine_grid_backward(a, p, height, width), want, tol)


def test_identity():
    v, u = affine_grid(IDENTITY, 3, 5)[..., 0]
    assert v.tolist() == [[-1] * 5, [0] * 5, [1] * 5]
    assert u.tolist() == [[-1, -0.5, 0, 0.5, 1]] * 3


@pytest.mark.parametrize(
    ("six", "corner"),
    [
        ((2, 0, 0, 1, 0, 0), (-2, 1)),
        ((1, 3, 0, 1, 0, 0), (2, 1)),
        ((1, 0, 3, 1, 0, 0), (-1, -2)),
        ((1, 0, 0, 2, 0, 0), (-1, 2)),
        ((1, 0, 0, 1, 5, 0), (4, 1)),
        ((1, 0, 0, 1, 0, 5), (-1, 6)),
    ],
)
def test_where_the_upper_right_corner_goes(six, corner):
    assert tuple(affine_grid(numbers(*six), 3, 4)[:, 0, -1, 0].tolist()) == corner


def test_one_row_or_column_lies_at_the_end():
    assert affine_grid(IDENTITY, 1, 3)[0].flatten().tolist() == [1, 1, 1]
    assert affine_grid(IDENTITY, 3, 1)[1].flatten().tolist() == [1, 1, 1]


def test_the_identity_reads_a_map_as_it_is():
    x = randn((4, 5, 3, 2))
    grid = affine_grid(IDENTITY.expand(1, 1, 6, 2), 4, 5)
    assert_close(bilinear_sampler(x, grid), x, REFERENCE[x.dtype])


def test_numerical_derivative_and_autograd():
    a, p = randn((1, 1, 6, 3)), randn((2, 3, 4, 3), 1)
    der = affine_grid_backward(a, p, 3, 4)
    want = central_difference(lambda a: affine_grid(a, 3, 4), a, p)
    assert_close(der, want, CENTRAL_DIFFERENCE)
    (affine_grid(a.requires_grad_(), 3, 4) * p).sum().backward()
    assert_close(der, a.grad, AUTOGRAD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_type(dtype):
    a, p = randn((1, 1, 6, 2), 0, dtype), randn((2, 20, 30, 2), 1, dtype)
    arrays = a.double().numpy(), p.double().numpy()
    grid, der = affine_grid(a, 20, 30), affine_grid_backward(a, p, 20, 30)
    assert grid.dtype == der.dtype == dtype
    assert_close(grid, reference.affine_grid(arrays[0], 20, 30), REFERENCE[dtype])
    assert_close(der, reference.affine_grid_backward(*arrays, 20, 30), REFERENCE[dtype])


def test_fewer_axes():
    a = randn((1, 1, 6))
    grid = affine_grid(a, 2, 3)
    assert grid.shape == (2, 2, 3, 1)
    assert affine_grid_backward(a, grid[..., 0], 2, 3).shape == a.shape


def test_arrays():
    a = np.zeros((1, 1, 6, 2), np.float32)
    grid = affine_grid(a, 2, 3)
    assert grid.dtype == np.float32
    assert isinstance(affine_grid_backward(a, grid, 2, 3), np.ndarray)


A = torch.zeros(1, 1, 6, 2)


@pytest.mark.parametrize(
    ("a", "size", "error", "message"),
    [
        (A[:, :, :3], (2, 3), ValueError, r"a has shape \(1, 1, 3, 2\); wanted 1 x 1 x 6 x N"),
        (A.reshape(6, 1, 1, 2), (2, 3), ValueError, "wanted 1 x 1 x 6 x N"),
        (A.long(), (2, 3), TypeError, "a holds torch.int64"),
        (A, (0, 3), ValueError, "height is 0; wanted whole numbers >= 1"),
        (A, (2, 0.5), ValueError, "width is 0.5; wanted whole numbers"),
        (A, ((2, 2), 3), ValueError, r"height is \(2, 2\)"),
    ],
)
def test_errors(a, size, error, message):
    with pytest.raises(error, match=message):
        affine_grid(a, *size)
    with pytest.raises(error, match=message):
        affine_grid_backward(a, torch.zeros(2, 2, 3, 2), *size)


def test_projection_errors():
    with pytest.raises(ValueError, match=r"dzdy has shape .*, \(2, 2, 3, 2\)"):
        affine_grid_backward(A, torch.zeros(2, 3, 2, 2), 2, 3)
    with pytest.raises(TypeError, match="dzdy holds"):
        affine_grid_backward(A, torch.zeros(2, 2, 3, 2).double(), 2, 3)


def test_layer():
    a, layer = randn((1, 1, 6, 2)), AffineGrid(height=3, width=4)
    (grid,), saved = layer.forward((a,), (), Context())
    assert torch.equal(grid, affine_grid(a, 3, 4))
    (der,), _ = layer.backward(Call((a,), (), (None,), saved, Context(), (True,)), (grid,))
    assert torch.equal(der, affine_grid_backward(a, grid, 3, 4))
    assert layer.output_sizes([(1, 1, 6, 2)], []) == ((2, 3, 4, 2),)
    assert layer.receptive_fields(1, []) == (None,)
    with pytest.raises(ValueError, match="height is 0"):
        AffineGrid().forward((a,), (), Context())
