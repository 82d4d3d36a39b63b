"""`bilinear_sampler`: points in, on and off the borders, several grids per image, lost points."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.sampler import (
    BilinearSampler,
    bilinear_sampler,
    bilinear_sampler_backward,
)
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
from tests.reference import sampler as reference
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE


def column(*values):
    """A map of one column."""
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def grid_of(vertical, horizontal=0.0):
    """A grid 2 x Y x 1 x 1 with these vertical coordinates."""
    v = torch.as_tensor(vertical, dtype=torch.float64).reshape(-1)
    return torch.stack((v, torch.full_like(v, horizontal)))[..., None, None]


def check(x, grid, p):
    """Compare with the loops: value and both derivatives."""
    tol = REFERENCE[x.dtype]
    arrays = x.double().numpy(), grid.double().numpy()
    assert_close(bilinear_sampler(x, grid), reference.sampler(*arrays), tol)
    got = bilinear_sampler_backward(x, grid, p)
    want = reference.sampler_backward(*arrays, p.double().numpy())
    for name, der, expected in zip(("x", "grid"), got, want, strict=True):
        assert_close(der, expected, tol, name)


@settings(deadline=None, max_examples=60)
@given(sizes(), sizes(3, 3, 1, 3), seeds, memory_orders)
def test_like_the_loops(size, points, seed, order):
    grids = points[3] * size[3]
    grid = in_memory(1.5 * randn((2, *points[:2], grids), seed + 1), order)
    p = in_memory(randn((*points[:2], size[2], grids), seed + 2), order)
    check(in_memory(randn(size, seed), order), grid, p)


@settings(deadline=None, max_examples=60)
@given(sizes(5, 5), st.integers(1, 2), seeds)
def test_like_the_loops_on_pixels(size, per_image, seed):
    """Integer coordinates, from two pixels before the map to two behind it, in exact numbers."""
    h, w, c, n = (*(2 ** int(math.log2(s)) + 1 for s in size[:2]), *size[2:])  # 2, 3 or 5 pixels
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-2, h + 2, (4, 3, n * per_image), generator=generator).double()
    columns = torch.randint(-2, w + 2, (4, 3, n * per_image), generator=generator).double()
    grid = torch.stack((2 * rows / (h - 1) - 1, 2 * columns / (w - 1) - 1))
    check(randn((h, w, c, n), seed), grid, randn((4, 3, c, n * per_image), seed + 1))


def test_recorded():
    x = torch.tensor([[1.0, 2], [3, 5]], dtype=torch.float64)[..., None, None]
    grid, one = grid_of([0.5], -0.5), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert bilinear_sampler(x, grid) == 2.9375
    dzdx, dzdgrid = bilinear_sampler_backward(x, grid, one)
    assert dzdx[..., 0, 0].tolist() == [[0.1875, 0.0625], [0.5625, 0.1875]]
    assert dzdgrid.flatten().tolist() == [1.125, 0.875]


def test_slope_on_a_pixel_is_towards_larger_coordinates():
    x, grid = column(1, 2, 4, 8, 16), grid_of([-1, -0.5, 0, 0.5, 1])
    _, dzdgrid = bilinear_sampler_backward(x, grid, torch.ones_like(x))
    assert dzdgrid[0].flatten().tolist() == [2, 4, 8, 16, -32]
    assert not dzdgrid[1].any()


def test_fades_within_a_pixel_of_the_map_on_both_sides():
    pixels = torch.tensor([4, 4.25, 4.5, 5, 5.5, 0, -0.25, -0.5, -1, -1.5], dtype=torch.float64)
    x, grid = column(15, 1, 2, 3, 15), grid_of(pixels / 2 - 1)
    y = bilinear_sampler(x, grid)
    assert y.flatten().tolist() == [15, 11.25, 7.5, 0, 0] * 2


@pytest.mark.parametrize("shape", [(1, 4, 2, 1), (4, 1, 2, 1), (1, 1, 2, 1)])
def test_one_row_or_column_is_met_whatever_the_coordinate(shape):
    x = randn(shape)
    grid = torch.stack((torch.tensor([-9.0, 0.0, 1e30]), torch.zeros(3))).double()
    if shape[0] > 1:
        grid = grid.flip(0)
    grid = grid.reshape(2, 3, 1, 1)
    y = bilinear_sampler(x, grid)
    assert torch.equal(y[0], y[1])
    assert torch.equal(y[2], y[1])
    assert y.any()


@pytest.mark.parametrize(
    ("bad", "shape"),
    [
        *((bad, (3, 4, 2, 1)) for bad in (math.nan, math.inf, -math.inf, 1e30, -3e38)),
        *((bad, (1, 1, 2, 1)) for bad in (math.nan, math.inf, -math.inf)),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lost_points_read_zero_and_give_nothing(bad, shape, axis, dtype):
    x = randn(shape, dtype=dtype)
    grid = torch.zeros(2, 2, 1, 1, dtype=dtype)
    grid[axis, 0] = bad
    y, p = bilinear_sampler(x, grid), torch.ones(2, 1, 2, 1, dtype=dtype)
    assert not y[0].any()
    assert y[1].any()
    dzdx, dzdgrid = bilinear_sampler_backward(x, grid, p)
    assert torch.equal(dzdx, bilinear_sampler_backward(x, grid[:, 1:], p[1:])[0])
    assert not dzdgrid[:, 0].any()


def test_consecutive_grids_belong_to_one_image():
    x = torch.tensor([1.0, 10.0]).reshape(1, 1, 1, 2)
    assert bilinear_sampler(x, torch.zeros(2, 1, 1, 6)).flatten().tolist() == [1] * 3 + [10] * 3


def test_numerical_derivatives():
    x, grid = randn((3, 4, 2, 2)), 0.7 * randn((2, 3, 2, 4), 1)
    p = randn((3, 2, 2, 4), 2)
    dzdx, dzdgrid = bilinear_sampler_backward(x, grid, p)
    want = central_difference(lambda x: bilinear_sampler(x, grid), x, p)
    assert_close(dzdx, want, CENTRAL_DIFFERENCE)
    want = central_difference(lambda grid: bilinear_sampler(x, grid), grid, p)
    assert_close(dzdgrid, want, CENTRAL_DIFFERENCE)


def test_type():
    x, grid, p = (randn(s, dtype=torch.float32) for s in ((5, 4, 3, 2), (2, 3, 2, 4), (3, 2, 3, 4)))
    check(x, grid, p)
    assert bilinear_sampler(x, grid).dtype == torch.float32


@pytest.mark.parametrize("images", [0, 2])
def test_no_grids(images):
    x, grid = torch.ones(3, 4, 2, images), torch.zeros(2, 5, 6, 0)
    assert bilinear_sampler(x, grid).shape == (5, 6, 2, 0)
    dzdx, dzdgrid = bilinear_sampler_backward(x, grid, torch.zeros(5, 6, 2, 0))
    assert torch.equal(dzdx, torch.zeros_like(x))
    assert dzdgrid.shape == grid.shape


def test_fewer_axes():
    x, grid = randn((3, 4)), randn((2, 5))
    assert bilinear_sampler(x, grid).shape == (5, 1, 1, 1)
    dzdx, dzdgrid = bilinear_sampler_backward(x, grid, randn((5,)))
    assert dzdx.shape == (3, 4)
    assert dzdgrid.shape == (2, 5)


def test_arrays():
    y = bilinear_sampler(np.ones((3, 4, 2, 1)), np.zeros((2, 1, 1, 1)))
    assert isinstance(y, np.ndarray)


X, GRID = torch.zeros(3, 4, 2, 2), torch.zeros(2, 5, 6, 4)


@pytest.mark.parametrize(
    ("x", "grid", "error", "message"),
    [
        (X, GRID[:1], ValueError, "grid has 1 rows; wanted 2"),
        (X, GRID[..., :3], ValueError, "grid has 3 grids for 2 images"),
        (X[..., :0], GRID, ValueError, "grid has 4 grids for 0 images"),
        (X[:0], GRID, ValueError, "wanted at least one pixel"),
        (X, GRID.double(), TypeError, "grid holds torch.float64"),
        (X, GRID.long(), TypeError, "grid holds torch.int64"),
        (X, None, TypeError, "grid is NoneType"),
    ],
)
def test_errors(x, grid, error, message):
    with pytest.raises(error, match=message):
        bilinear_sampler(x, grid)
    with pytest.raises(error, match=message):
        bilinear_sampler_backward(x, grid, torch.zeros(5, 6, 2, 4))


def test_projection_errors():
    with pytest.raises(ValueError, match=r"dzdy has shape .*, \(5, 6, 2, 4\)"):
        bilinear_sampler_backward(X, GRID, torch.zeros(5, 6, 2, 2))


def test_layer():
    inputs, layer = (randn((3, 4, 2, 2)), randn((2, 5, 6, 4), 1)), BilinearSampler()
    (y,), saved = layer.forward(inputs, (), Context())
    assert torch.equal(y, bilinear_sampler(*inputs))
    assert layer.output_sizes([t.shape for t in inputs], []) == (tuple(y.shape),)
    ders, _ = layer.backward(Call(inputs, (), (None,), saved, Context(), (True, True)), (y,))
    for der, want in zip(ders, bilinear_sampler_backward(*inputs, y), strict=True):
        assert torch.equal(der, want)
    assert layer.receptive_fields(2, []) == (None, None)
