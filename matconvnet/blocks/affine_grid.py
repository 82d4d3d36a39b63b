"""Affine grids: the points at which `bilinear_sampler` reads a turned, stretched, shifted map."""

from dataclasses import dataclass

import torch
from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_projection
from matconvnet.layer import Layer
from matconvnet.layout import array_api
from matconvnet.window import integers


@array_api
def affine_grid(a: Tensor, height: int, width: int) -> Tensor:
    """Map a regular grid of `height` x `width` points by the six numbers in `a`.

        grid[0,i,j,n] = a0 * v[i] + a1 * u[j] + a4,  a0 .. a5 = a[0,0,:,n]
        grid[1,i,j,n] = a2 * v[i] + a3 * u[j] + a5

    v rises evenly from -1 to 1 (the first to the last row), u likewise with the columns; a grid of
    one row has v = 1. (1, 0, 0, 1, 0, 0) maps every point to itself.

    Args:
        a: 1 x 1 x 6 x N, floats.
        height, width: Y and X, the points of the grid, >= 1.

    Returns: 2 x Y x X x N, the vertical and the horizontal coordinate of every point.
    Raises: ValueError, if `a` has another shape, or a size is below 1.
    Source: dagnn.AffineGridGenerator.
    """
    a4, v, u = _check(a, height, width)
    p = a4[0, 0][:, None, None].to(v.dtype)
    along_v, along_u, shift = p[0:4:2], p[1:4:2], p[4:]  # 2 x 1 x 1 x N
    grid = (along_v * v[:, None, None] + shift) + along_u * u[:, None]
    return grid.to(a.dtype)


@array_api
def affine_grid_backward(a: Tensor, dzdy: Tensor, height: int, width: int) -> Tensor:
    """Derivative of `affine_grid` projected on `dzdy` (2 x Y x X x N); returns the shape of `a`.

        dzda0 = sum of v * dzdy[0],  dzda1 = sum of u * dzdy[0],  dzda4 = sum of dzdy[0]
        dzda2 = sum of v * dzdy[1],  dzda3 = sum of u * dzdy[1],  dzda5 = sum of dzdy[1]

    Raises: as `affine_grid`; ValueError, if `dzdy` has not the shape of the output.
    Source: dagnn.AffineGridGenerator, which always answers in single precision.
    """
    a4, v, u = _check(a, height, width)
    p = check_projection(dzdy, (2, len(v), len(u), a4.shape[3]), a).to(v.dtype)
    of_rows, of_columns = p.sum(2), p.sum(1)  # 2 x Y x N, 2 x X x N
    along_v = (of_rows * v[:, None]).sum(1)  # 2 x N
    along_u = (of_columns * u[:, None]).sum(1)
    ders = torch.cat((torch.stack((along_v, along_u), 1).flatten(0, 1), of_rows.sum(1)))
    return ders.to(a.dtype).reshape(a.shape)


def _check(a: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """`a` with four axes, and the coordinates v and u in the type of sums."""
    a4 = check_map(a, "a")
    if a4.shape[:3] != (1, 1, 6):
        raise ValueError(f"a has shape {tuple(a.shape)}; wanted 1 x 1 x 6 x N")
    return a4, _line(height, "height", a), _line(width, "width", a)


def _line(count: int, name: str, a: Tensor) -> Tensor:
    """Coordinates from -1 to 1; one alone is 1, as linspace has it in MATLAB."""
    (points,) = integers(count, name, (1,), 1)
    first = -1 if points > 1 else 1
    return torch.linspace(first, 1, points, dtype=acc_dtype(a), device=a.device)


@dataclass(frozen=True)
class Grid(Layer):
    """A layer that makes grids of `height` x `width` points for `bilinear_sampler`."""

    dag_names = {"height": "Ho", "width": "Wo"}  # noqa: RUF012
    height: int = 0
    width: int = 0

    def output_sizes(self, sizes, param_shapes):
        """Two coordinates of every point, a grid for every image."""
        return ((2, self.height, self.width, sizes[0][3]),)

    def receptive_field(self, param_shapes):
        """None: every point depends on all numbers of the input, which has no pixels."""


@dataclass(frozen=True)
class AffineGrid(Grid):
    """Layer form of `affine_grid`."""

    type_name, dag_type = "affinegrid", "AffineGridGenerator"

    def forward(self, inputs, params, ctx):
        """See `affine_grid`."""
        return (affine_grid(inputs[0], self.height, self.width),), None

    def backward(self, call, der_outputs):
        """See `affine_grid_backward`."""
        a = call.inputs[0]
        return (affine_grid_backward(a, der_outputs[0], self.height, self.width),), ()
