"""Uniform grids: affine grids that only zoom and shift."""

from dataclasses import dataclass

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_map
from matconvnet.blocks.affine_grid import Grid, affine_grid, affine_grid_backward
from matconvnet.layout import array_api


@array_api
def uniform_grid(a: Tensor, height: int, width: int) -> Tensor:
    """Zoom and shift a regular grid of `height` x `width` points by the three numbers in `a`.

        grid[0,i,j,n] = s * v[i] + ty,  (s, ty, tx) = a[0,0,:,n]
        grid[1,i,j,n] = s * u[j] + tx

    v and u are those of `affine_grid`: this is its grid for (s, 0, 0, s, ty, tx).

    Args:
        a: 1 x 1 x 3 x N, floats.
        height, width: Y and X, the points of the grid, >= 1.

    Returns: 2 x Y x X x N, the vertical and the horizontal coordinate of every point.
    Raises: ValueError, if `a` has another shape, or a size is below 1.
    Source: dagnn.UniformScalingGridGenerator.
    """
    return affine_grid(_six(a), height, width)


@array_api
def uniform_grid_backward(a: Tensor, dzdy: Tensor, height: int, width: int) -> Tensor:
    """Derivative of `uniform_grid` projected on `dzdy` (2 x Y x X x N); returns the shape of `a`.

        dzds = sum of v * dzdy[0] + u * dzdy[1],  dzdty = sum of dzdy[0],  dzdtx = sum of dzdy[1]

    Raises: as `uniform_grid`; ValueError, if `dzdy` has not the shape of the output.
    Source: dagnn.UniformScalingGridGenerator, which always answers in single precision.
    """
    six = affine_grid_backward(_six(a), dzdy, height, width)
    ders = torch.cat((six[:, :, :1] + six[:, :, 3:4], six[:, :, 4:]), 2)
    return ders.reshape(a.shape)


def _six(a: Tensor) -> Tensor:
    """The numbers (s, 0, 0, s, ty, tx) of an affine grid."""
    a4 = check_map(a, "a")
    if a4.shape[:3] != (1, 1, 3):
        raise ValueError(f"a has shape {tuple(a.shape)}; wanted 1 x 1 x 3 x N")
    s, none = a4[:, :, :1], torch.zeros_like(a4[:, :, :2])
    return torch.cat((s, none, s, a4[:, :, 1:]), 2)


@dataclass(frozen=True)
class UniformGrid(Grid):
    """Layer form of `uniform_grid`."""

    type_name, dag_type = "uniformgrid", "UniformScalingGridGenerator"

    def forward(self, inputs, params, ctx):
        """See `uniform_grid`."""
        return (uniform_grid(inputs[0], self.height, self.width),), None

    def backward(self, call, der_outputs):
        """See `uniform_grid_backward`."""
        a = call.inputs[0]
        return (uniform_grid_backward(a, der_outputs[0], self.height, self.width),), ()
