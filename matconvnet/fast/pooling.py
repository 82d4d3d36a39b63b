"""Pooling by kernels: one pass over the map forward, one over its derivative backward.

All maps are of one type, float32 or bfloat16, on the CPU, H W C N views of channels-last memory,
and stay where they are.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from matconvnet.fast.native import Call, of_maps

MEAN, MAXIMUM, MAXIMUM_BYTES, MAXIMUM_PLACES = range(4)  # as in kernels/pool.c


class PoolShape(NamedTuple):
    """The sizes of a pooling, in pixels; (vertical, horizontal), the method "max" or "avg"."""

    batch: int
    height: int
    width: int
    channels: int
    size: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    """(top, left); the others follow from `output`."""
    output: tuple[int, int]
    method: str


def forward(
    shape: PoolShape,
    x: Tensor,
    y: Tensor,
    winners: Tensor | None,
) -> list[Call]:
    """Reduce every window of `x` to one number, as the block `pool` does.

        max:  y = max over W of x,   winners = row * size_x + column of the maximum in W
        avg:  y = sum over W of x / |W|

    W is the window clipped to the map; row and column count from its corner before that. Of several
    equal numbers the first wins, and the last NaN wins over all.

    Args:
        shape: sizes of the pooling.
        x: H x W x C x N map.
        y: Y x X x C x N, written.
        winners: shape of `y`, written; uint8, or int32 for windows of any size; None: not wanted.

    Returns: one call.
    Raises: ValueError, if bytes cannot tell the pixels of a window apart.
    Source: matconvnet.blocks.pool.
    """
    return [Call(of_maps("pool_forward", x), (x, y, winners), _numbers(shape, winners))]


def backward(
    shape: PoolShape,
    dzdy: Tensor,
    winners: Tensor | None,
    dzdx: Tensor,
    *,
    mask: Tensor | None = None,
    mask_dzdy: Tensor | None = None,
    add: bool = False,
) -> list[Call]:
    """Derivative of `forward` projected on `dzdy`.

        max:  dzdx[u,v] = sum of dzdy over the windows whose winner is (u,v)
        avg:  dzdx[u,v] = sum of dzdy / |W| over the windows W that contain (u,v)

    Args:
        shape: sizes of the pooling.
        dzdy: Y x X x C x N.
        winners: what `forward` wrote; None for the mean.
        dzdx: H x W x C x N, written.
        mask: shape of `dzdx`; where it is <= 0 the derivative becomes 0.
        mask_dzdy: shape of `dzdy`; where it is <= 0, `dzdy` counts as 0. The output of the maxima
            of a rectified map masks this derivative as the map would, without its being kept.
        add: add to what `dzdx` holds, before the mask.

    Returns: one call.
    Raises: ValueError, if winners are wanted and there are none.
    Source: matconvnet.blocks.pool.
    """
    if shape.method == "max" and winners is None:
        raise ValueError("winners is None; wanted those that forward wrote")
    numbers = (*_numbers(shape, winners), int(add))
    addresses = (dzdy, winners, dzdx, mask, mask_dzdy)
    return [Call(of_maps("pool_backward", dzdy), addresses, numbers)]


def _numbers(shape: PoolShape, winners: Tensor | None) -> tuple[int, ...]:
    *map_size, size, stride, pad, output, method = shape
    return (*map_size, *size, *stride, *pad, *output, _kind(size, method, winners))


def _kind(size: tuple[int, int], method: str, winners: Tensor | None) -> int:
    if method == "avg":
        return MEAN
    if winners is None:
        return MAXIMUM
    if winners.dtype == torch.int32:
        return MAXIMUM_PLACES
    if size[0] * size[1] > 256:
        raise ValueError(f"winners are uint8 for a window of {size} pixels; wanted int32")
    return MAXIMUM_BYTES
