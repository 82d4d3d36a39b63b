"""Bilinear sampling: read a map at the points of a grid, between its pixels."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_map, check_projection, check_same
from matconvnet.layer import Layer
from matconvnet.layout import array_api, hwcn, nchw

aten: Any = torch.ops.aten


@array_api
def bilinear_sampler(x: Tensor, grid: Tensor) -> Tensor:
    """Interpolate `x` at the points of `grid`; `x` is 0 outside.

        y[i,j,c,m] = sum over u,v of x[u,v,c,n] * max(0, 1 - |u - pv|) * max(0, 1 - |v - pu|)
        pv = (grid[0,i,j,m] + 1) / 2 * (H - 1),  pu = (grid[1,i,j,m] + 1) / 2 * (W - 1)

    n = m // (M / N): the first M / N grids read image 0, the next ones image 1, and so on.

    Args:
        x: H x W x C x N map of floats.
        grid: 2 x Y x X x M, vertical and horizontal coordinate of every point: -1 is the centre of
            the first pixel, +1 that of the last. N divides M. A point that is not finite reads 0.

    Returns: Y x X x C x M.

    Raises:
        TypeError: types or devices differ.
        ValueError: the first axis of `grid` is not 2; N does not divide M; `x` has no pixel.

    Source: vl_nnbilinearsampler; MatConvNet manual, "Spatial bilinear resampling".
    """
    x4, grid4 = _check(x, grid)
    size = _output(x4, grid4)
    if 0 in size:
        return x4.new_zeros(size)
    points, lost = _points(grid4, x4.shape[3])
    y = aten.grid_sampler_2d(nchw(x4), points, 0, 0, True)  # N x C x (M/N)*Y x X
    y = _split_grids(y, grid4)
    return y.masked_fill_(lost, 0) if _is_one_pixel(x4) else y


@array_api
def bilinear_sampler_backward(x: Tensor, grid: Tensor, dzdy: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of `bilinear_sampler` projected on `dzdy`: (dzdx, dzdgrid).

    With a = pv - floor(pv), b = pu - floor(pu), and x00, x10, x01, x11 the pixels around the
    point (first index: row), each 0 outside the map,

        dzdx gets the weights (1-a)(1-b), a(1-b), (1-a)b, ab times dzdy
        dzdgrid[0] = (H-1)/2 * sum over c of dzdy * ((1-b) * (x10 - x00) + b * (x11 - x01))
        dzdgrid[1] = (W-1)/2 * sum over c of dzdy * ((1-a) * (x01 - x00) + a * (x11 - x10))

    On a pixel the derivative is the one towards larger coordinates. A point that is not finite
    has derivative 0 and gives none.

    Raises: as `bilinear_sampler`; ValueError, if `dzdy` has not the shape of the output.
    Source: vl_nnbilinearsampler.
    """
    x4, grid4 = _check(x, grid)
    dzdy = check_projection(dzdy, _output(x4, grid4), x)
    if dzdy.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(grid)
    points, lost = _points(grid4, x4.shape[3])
    if _is_one_pixel(x4):
        dzdy = dzdy.masked_fill(lost, 0)
    dzdx, dzdpoints = aten.grid_sampler_2d_backward(
        _join_grids(dzdy, x4.shape[3]), nchw(x4), points, 0, 0, True, (True, True)
    )
    dzdgrid = dzdpoints.reshape(grid4.shape[3], *grid4.shape[1:3], 2).flip(3).permute(3, 1, 2, 0)
    return hwcn(dzdx).reshape(x.shape), dzdgrid.reshape(grid.shape)


def _check(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    x4, grid4 = check_map(x), check_map(grid, "grid")
    check_same(x, grid=grid)
    if grid4.shape[0] != 2:
        raise ValueError(f"grid has {grid4.shape[0]} rows; wanted 2, vertical and horizontal")
    images, grids = x4.shape[3], grid4.shape[3]
    if grids != 0 and (images == 0 or grids % images != 0):
        raise ValueError(f"grid has {grids} grids for {images} images of x; wanted a multiple")
    if x4.shape[0] * x4.shape[1] == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; wanted at least one pixel")
    return x4, grid4


def _output(x: Tensor, grid: Tensor) -> tuple[int, int, int, int]:
    _, height, width, grids = grid.shape
    return height, width, x.shape[2], grids


def _is_one_pixel(x: Tensor) -> bool:
    """On a map of one pixel no point is outside, not even one that is not finite."""
    return x.shape[:2] == (1, 1)


def _points(grid: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Points as torch wants them, and which of them are not finite (Y x X x 1 x M).

    All points of an image are in one tall grid, N x (M/N)*Y x X x (horizontal, vertical). At -5
    and 5 a point is more than a pixel outside, unless that axis has one pixel only, where the
    coordinate does not matter; so bounding them changes nothing, and points that are not finite
    go there as well.
    """
    lost = ~torch.isfinite(grid).all(0)
    points = torch.where(lost, 5, grid).clamp_(-5, 5)
    points = points.permute(3, 1, 2, 0).flip(3)
    _, height, width, grids = grid.shape
    per_image = grids // images
    return points.reshape(images, per_image * height, width, 2), lost[:, :, None]


def _split_grids(y: Tensor, grid: Tensor) -> Tensor:
    """N x C x (M/N)*Y x X as Y x X x C x M."""
    _, height, width, grids = grid.shape
    n, c = y.shape[:2]
    y = y.reshape(n, c, grids // n, height, width).permute(3, 4, 1, 0, 2)
    return y.reshape(height, width, c, grids)


def _join_grids(dzdy: Tensor, images: int) -> Tensor:
    """Undo `_split_grids`."""
    height, width, c, grids = dzdy.shape
    p = dzdy.reshape(height, width, c, images, grids // images).permute(3, 2, 4, 0, 1)
    return p.reshape(images, c, -1, width)


@dataclass(frozen=True)
class BilinearSampler(Layer):
    """Layer form of `bilinear_sampler`. Inputs: x and grid."""

    type_name = "bilinearsampler"
    num_inputs = 2

    def forward(self, inputs, params, ctx):
        """See `bilinear_sampler`."""
        return (bilinear_sampler(*inputs),), None

    def backward(self, call, der_outputs):
        """See `bilinear_sampler_backward`."""
        x, grid = call.inputs
        return bilinear_sampler_backward(x, grid, der_outputs[0]), ()

    def output_sizes(self, sizes, param_shapes):
        """Height, width and number of the grids, channels of the map."""
        (_, _, c, _), (_, height, width, grids) = sizes
        return ((height, width, c, grids),)

    def receptive_field(self, param_shapes):
        """None: where a point reads depends on the grid."""
