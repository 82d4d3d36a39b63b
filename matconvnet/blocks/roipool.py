"""Region-of-interest pooling: regions of any size become maps of one size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_projection, check_same
from matconvnet.blocks._math import can_read
from matconvnet.layer import Layer
from matconvnet.layout import array_api, from_pixels, pixels
from matconvnet.window import Size2, pair

SUM, MEAN, MAX = 0, 1, 2
"""Modes of torch.embedding_bag, which reduces rows that are listed by their indices."""


@array_api
def roipool(
    x: Tensor,
    rois: Tensor,
    *,
    method: str = "max",
    subdivisions: Size2 = (1, 1),
    transform: float | Sequence[Any] = 1,
) -> Tensor:
    """Divide every region into SH x SW tiles and reduce each to one number per channel.

        y[i,j,c,k] = max or mean of x[u,v,c,n] over the pixels (u,v) of tile (i,j) of region k

    The corners of a region are transformed and rounded (halves away from zero, counted from one
    pixel before the first). Of its rh rows, from h0 on, tile row i has those from
    h0 + floor(i * rh / SH) to h0 + ceil((i+1) * rh / SH) - 1; columns alike. Tiles may overlap;
    they are clipped to the map, and a tile that is all outside is 0.

    Args:
        x: H x W x C x N map of floats.
        rois: 5 x K, a column for each region: image number 0..N-1 (others are clamped), left, top,
            right, bottom, in pixels from 0, the corners inside the region. Type of `x`.
        method: "max" or "avg".
        subdivisions: (SH, SW), the tiles from top to bottom and from left to right.
        transform: from coordinates of `rois` to pixels of `x`: one factor, (horizontal, vertical)
            factors, or a 2 x 3 matrix that is applied to (horizontal, vertical, 1).

    Returns: SH x SW x C x K.

    Raises:
        TypeError: types or devices differ.
        ValueError: `rois` has not 5 rows, or is not finite; `x` has no image; bad options.

    Source: vl_nnroipool (which counts images and pixels from 1).
    """
    x4 = check_map(x)
    t = _tiles(x4, rois, method, subdivisions, transform)
    return t.as_map(_reduce(x4, t)[0])


@array_api
def roipool_backward(
    x: Tensor,
    rois: Tensor,
    dzdy: Tensor,
    *,
    method: str = "max",
    subdivisions: Size2 = (1, 1),
    transform: float | Sequence[Any] = 1,
) -> Tensor:
    """Derivative of `roipool` projected on `dzdy` (SH x SW x C x K); returns the shape of `x`.

        max:  dzdx[u,v] = sum of dzdy over the tiles whose maximum is (u,v)
        avg:  dzdx[u,v] = sum of dzdy / (number of pixels) over the tiles that contain (u,v)

    Of several maxima in a tile the first one, down the columns, receives the derivative. Regions
    have none.

    Raises: as `roipool`; ValueError, if `dzdy` has not the shape of the output.
    Source: vl_nnroipool.
    """
    x4 = check_map(x)
    t = _tiles(x4, rois, method, subdivisions, transform)
    dzdy = check_projection(dzdy, t.output, x)
    p = dzdy.permute(3, 0, 1, 2).reshape(-1, t.output[2])  # one row per tile
    h, w, c, n = x4.shape
    if t.mode == MAX:
        winners = _reduce(x4, t)[1]
        p = p.masked_fill((t.counts == 0)[:, None], 0)
        rows = x4.new_zeros(n * h * w, c).scatter_add_(0, winners.clamp(min=0), p)
    else:
        rows = _spread(p / t.counts.clamp(min=1)[:, None], t, n * h * w)
    return from_pixels(rows, h, w, n).reshape(x.shape)


class Tiles(NamedTuple):
    """The tiles of all regions, K*SH*SW of them, as lists of pixels (rows of `layout.pixels`)."""

    output: tuple[int, int, int, int]
    mode: int
    counts: Tensor
    """Pixels of every tile."""
    members: Tensor
    """Those pixels, tile after tile, within a tile column after column."""

    def as_map(self, rows: Tensor) -> Tensor:
        """One row per tile as SH x SW x C x K."""
        sh, sw, c, k = self.output
        return rows.reshape(k, sh, sw, c).permute(1, 2, 3, 0)


def _reduce(x: Tensor, t: Tiles) -> tuple[Tensor, Tensor]:
    """Every tile's value, and for the maximum the pixel that has it: K*SH*SW x C each."""
    ends = t.counts.cumsum(0)
    offsets = torch.cat((ends.new_zeros(1), ends))
    y, _, _, winners = torch.embedding_bag(
        pixels(x), t.members, offsets, mode=t.mode, include_last_offset=True
    )
    return y, winners


def _spread(p: Tensor, t: Tiles, number_of_pixels: int) -> Tensor:
    """Sum the rows `p` of the tiles that a pixel is in, for every pixel."""
    tile_of_member = torch.arange(len(t.counts), device=p.device).repeat_interleave(t.counts)
    order = t.members.argsort(stable=True)
    ends = torch.bincount(t.members, minlength=number_of_pixels).cumsum(0)
    offsets = torch.cat((ends.new_zeros(1), ends))
    return torch.embedding_bag(
        p, tile_of_member[order], offsets, mode=SUM, include_last_offset=True
    )[0]


def _tiles(x: Tensor, rois: Tensor, method, subdivisions, transform) -> Tiles:
    mode = {"max": MAX, "avg": MEAN}.get(str(method).lower())
    if mode is None:
        raise ValueError(f"method is {method!r}; wanted 'max' or 'avg'")
    check_same(x, rois=rois)
    h, w, c, n = x.shape
    if rois.dim() == 0 or rois.shape[0] != 5 or rois.numel() != 5 * (*rois.shape, 1)[1]:
        raise ValueError(f"rois has shape {tuple(rois.shape)}; wanted 5 x K, a region per column")
    if n == 0 or h * w == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; wanted at least one image and pixel")
    if can_read(rois) and not bool(torch.isfinite(rois).all()):
        raise ValueError("rois holds NaN or infinity; wanted finite coordinates")
    sh, sw = pair(subdivisions, "subdivisions")
    number, left, top, right, bottom = rois.reshape(5, -1).double().unbind(0)
    image = (number + 1).trunc().clamp(1, n).long() - 1  # as the original truncates, from 1
    a = transform_matrix(transform)
    (w0, h0), (w1, h1) = (
        [_nearest(r[0] * u + r[1] * v + r[2], x) for r in a]
        for u, v in ((left, top), (right, bottom))
    )
    first_row, rows = _parts(h0, h1, sh, h, x)
    first_column, columns = _parts(w0, w1, sw, w, x)
    corner = (image[:, None, None] * h + first_row[:, :, None]) * w + first_column[:, None, :]
    counts = (rows[:, :, None] * columns[:, None, :]).reshape(-1)
    heights = rows[:, :, None].expand(-1, sh, sw).reshape(-1)
    members = _members(corner.reshape(-1), heights, counts, w)
    return Tiles((sh, sw, c, rois.numel() // 5), mode, counts, members)


def transform_matrix(transform: Any) -> list[list[float]]:
    """The 2 x 3 matrix of any kind of transform."""
    a = torch.as_tensor(transform, dtype=torch.float64)
    if not bool(torch.isfinite(a).all()):
        raise ValueError(f"transform is {transform!r}; wanted finite numbers")
    if a.shape == (2, 3):
        return a.tolist()
    if a.numel() not in (1, 2):
        raise ValueError(f"transform has shape {tuple(a.shape)}; wanted 1 or 2 numbers, or 2 x 3")
    factors = a.reshape(-1).tolist()
    return [[factors[0], 0, 0], [0, factors[-1], 0]]


def _nearest(u: Tensor, x: Tensor) -> Tensor:
    """Round as the original does, which counts from 1: halves away from its zero."""
    u = (u + 1).to(acc_dtype(x)).double()
    whole = u.trunc()
    return whole + u.sign() * ((u - whole).abs() >= 0.5) - 1


def _parts(first: Tensor, last: Tensor, parts: int, limit: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Begin and length (K x parts) of the parts of `first` .. `last`, clipped to 0 .. limit - 1.

    The products are in the type of `x`: its rounding decides whether a last part overshoots.
    """
    step = ((last - first + 1).clamp(min=1) / parts).to(acc_dtype(x))[:, None]
    i = torch.arange(parts, device=x.device, dtype=step.dtype)
    begin = (first[:, None] + (i * step).floor()).clamp(0, limit).long()
    end = (first[:, None] + ((i + 1) * step).ceil()).clamp(0, limit).long()
    return begin, (end - begin).clamp(min=0)


def _members(corner: Tensor, height: Tensor, counts: Tensor, width: int) -> Tensor:
    """Pixels of all tiles, given the first pixel, the rows and the size of each."""
    tile = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    place = torch.arange(len(tile), device=counts.device) - start[tile]
    row, column = place % height[tile], place // height[tile]
    return corner[tile] + row * width + column


@dataclass(frozen=True)
class RoiPool(Layer):
    """Layer form of `roipool`. Inputs: x and rois. `flatten`: the output is 1 x 1 x SH*SW*C x K."""

    type_name, dag_type = "roipool", "ROIPooling"
    num_inputs = 2
    method: str = "max"
    subdivisions: Size2 = (6, 6)
    transform: float | Sequence[Any] = 1
    flatten: bool = False

    def _options(self):
        options = self.options()
        options.pop("flatten")
        return options

    def forward(self, inputs, params, ctx):
        """See `roipool`."""
        y = roipool(*inputs, **self._options())
        if self.flatten:  # rows vary fastest, then columns, then channels
            y = y.permute(3, 2, 1, 0).reshape(y.shape[3], 1, 1, -1).permute(1, 2, 3, 0)
        return (y,), None

    def backward(self, call, der_outputs):
        """See `roipool_backward`; regions have no derivative."""
        (x, rois), (dzdy,) = call.inputs, der_outputs
        if self.flatten:
            sh, sw = pair(self.subdivisions, "subdivisions")
            dzdy = dzdy.permute(3, 0, 1, 2).reshape(dzdy.shape[3], -1, sw, sh).permute(3, 2, 1, 0)
        return (roipool_backward(x, rois, dzdy, **self._options()), None), ()

    def output_sizes(self, sizes, param_shapes):
        """The tiles, the channels of the map, one for each region."""
        sh, sw = pair(self.subdivisions, "subdivisions")
        (_, _, c, _), rois = sizes
        k = rois[0] * rois[1] * rois[2] * rois[3] // 5
        return ((1, 1, sh * sw * c, k) if self.flatten else (sh, sw, c, k),)

    def receptive_field(self, param_shapes):
        """None: what a tile covers depends on its region."""
