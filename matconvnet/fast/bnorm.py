"""Batch normalisation with what stands around it, in two passes over the map each way.

All maps are of one type, float32 or bfloat16; multipliers, biases, moments and their derivatives
are float32.
"""

from collections.abc import Callable
from math import gcd
from typing import NamedTuple

from torch import Tensor

from matconvnet.fast.native import Call, of_maps

TILE = 64  # numbers, of which a row that the kernels read is a multiple; see kernels/bnorm.c
ROWS_PER_PART, MOST_PARTS = 32, 64


class _Rows(NamedTuple):
    """How the kernels read a map; see kernels/bnorm.c."""

    pixels: int
    channels: int
    fold: int
    parts: int


def forward(
    x: Tensor,
    g: Tensor,
    b: Tensor,
    y: Tensor,
    moments: Tensor,
    epsilon: float,
    scratch: Callable[[int], Tensor],
    *,
    relu: bool = False,
    residual: Tensor | None = None,
) -> list[Call]:
    """Write the moments of the batch, and the map normalised by them.

        y = g * (x - mu) / sigma + b,  + residual,  then max(0, .)

    Args:
        x: H x W x C x N.
        g, b: C multipliers and biases.
        y: H x W x C x N, written; may be `residual`.
        moments: C x 2, mean and deviation with epsilon, written.
        epsilon: added to the variance.
        scratch: hands out memory, as everywhere in `fast`.
        relu: apply a ReLU at the end.
        residual: H x W x C x N to add before that.

    Source: matconvnet.blocks.bnorm.
    """
    rows = _rows(x)
    measure = Call(of_maps("bnorm_moments", x), [x, moments, _sums(rows, scratch)], rows, [epsilon])
    return [measure, *forward_given(x, g, b, y, moments, relu=relu, residual=residual)]


def forward_given(
    x: Tensor,
    g: Tensor,
    b: Tensor,
    y: Tensor,
    moments: Tensor,
    *,
    relu: bool = False,
    residual: Tensor | None = None,
) -> list[Call]:
    """As `forward`, with moments that are given."""
    return [Call(of_maps("bnorm_apply", x), [x, moments, g, b, residual, y], [*_rows(x), relu])]


def backward(
    x: Tensor,
    y: Tensor | None,
    g: Tensor,
    dzdy: Tensor,
    dzdx: Tensor | None,
    dg: Tensor | None,
    db: Tensor | None,
    moments_in: Tensor,
    moments_out: Tensor | None,
    scratch: Callable[[int], Tensor],
    *,
    relu: bool = False,
    mask: Tensor | None = None,
    add: bool = False,
    der_residual: Tensor | None = None,
    add_residual: bool = False,
    frozen: bool = False,
) -> list[Call]:
    """Derivatives of `forward`; those that are None are left out.

        d    = dzdy,  0 where y <= 0 if there was a ReLU
        db   = sum of d
        dg   = sum of d * (x - mu) / sigma
        dzdx = g / sigma * (d - db / M - (x - mu) / sigma * dg / M),  M = H*W*N

    Args:
        x, g: as in `forward`.
        y: what `forward` wrote; read with `relu` only.
        dzdy: H x W x C x N.
        dzdx: H x W x C x N, written; may be `dzdy`.
        dg, db: C, written.
        moments_in: C x 2, what `forward` wrote or was given.
        moments_out: C x 2, written: `moments_in` times N, the "derivative" of the moments.
        relu: there was a ReLU.
        mask, add: what to do with dzdx, as everywhere in `fast`.
        der_residual: H x W x C x N, to which d is written; may be `dzdy`, unless it is added to.
        add_residual: d is added to it.
        frozen: the moments are constants: dzdx = g / sigma * d, and moments_out = moments_in.

    Source: matconvnet.blocks.bnorm.
    """
    rows, totals = _rows(x), scratch(2 * x.shape[2])
    images = 1 if frozen else x.shape[3]
    passed = y if relu else None
    sums = Call(
        of_maps("bnorm_sums", x),
        [
            x, passed, dzdy, moments_in, _sums(rows, scratch), totals, dg, db, moments_out,
            der_residual,
        ],
        [*rows, images, add_residual],
    )  # fmt: skip
    if dzdx is None:
        return [sums]
    if der_residual is not None and not add_residual:
        passed, dzdy = None, der_residual
    slopes = Call(
        of_maps("bnorm_slopes", x),
        [x, passed, dzdy, moments_in, g, None if frozen else totals, mask, dzdx],
        [*rows, add],
    )
    return [sums, slopes]


def _rows(x: Tensor) -> _Rows:
    h, w, channels, n = x.shape
    fold = TILE // gcd(channels, TILE)
    rows, parts = h * w * n // fold, 1
    while parts < MOST_PARTS and rows >= 2 * parts * ROWS_PER_PART:
        parts *= 2
    return _Rows(h * w * n, channels, fold, parts)


def _sums(rows: _Rows, scratch: Callable[[int], Tensor]) -> Tensor:
    """Two float64 for each part and number of a row."""
    return scratch(4 * rows.parts * rows.fold * rows.channels)
