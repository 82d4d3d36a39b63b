"""Convolutions with 3 x 3 filters by Winograd's algorithm, and their derivatives.

A tile of 4 x 4 outputs takes 36 multiplications for each channel and filter instead of 144
(kernels/winograd.h). Results differ from those of direct convolutions by a few more roundings:
about 1e-6 of the largest.
"""

import ctypes
import functools
from math import ceil

import torch
from torch import Tensor

from matconvnet.fast.conv import VECTOR, ConvShape, Scratch
from matconvnet.fast.native import Call, kernels

POINTS = 36
"""Numbers of a transformed tile, or filter."""

FEW_GROUPS = 8
"""Groups of tiles for which it is not worth to transform all filters ahead of the products."""

BLOCK = 28
"""Tiles that are summed at a time in the derivative of the filters."""

PART = 128
"""Filters, and channels, of which that derivative is computed at a time."""

TRANSFORM_TILE, TRANSFORM_FILTER, PRODUCT = 400, 600, 36 / 0.85
"""Time for a channel of a tile, a channel of a filter, and both, in multiplications (measured)."""


def applies(shape: ConvShape) -> bool:
    """Whether the kernels can compute it: 3 x 3 filters, stride 1, padding up to 2 on each side."""
    ends = [shape.output[i] + 2 - (shape.height, shape.width)[i] - shape.pad[i] for i in (0, 1)]
    return (
        shape.size == (3, 3) and shape.groups == 1
        and shape.stride == (1, 1) and shape.dilate == (1, 1)
        and all(0 <= pad <= 2 for pad in (*shape.pad, *ends))
    )  # fmt: skip


def faster(shape: ConvShape, direction: str) -> bool:
    """Whether Winograd's algorithm is ahead of direct convolution.

    Args:
        shape: geometry of the convolution.
        direction: "forward", "backward_data" or "backward_filters".
    """
    if not applies(shape):
        return False
    rows, columns = (shape.height, shape.width) if direction == "backward_data" else shape.output
    C, K = (ceil(n / VECTOR) * VECTOR for n in (shape.channels, shape.filters))
    tiles = shape.batch * ceil(rows / 4) * ceil(columns / 4)
    time = tiles * (PRODUCT * C * K + TRANSFORM_TILE * (C + K)) + TRANSFORM_FILTER * C * K
    return 1.05 * time < 9 * shape.channels * shape.filters * shape.batch * rows * columns


def packed_size(shape: ConvShape) -> int:
    """Numbers that packed filters take."""
    return _panels(shape.filters) * _panel_size(shape.channels)


def pack(shape: ConvShape, f: Tensor, packed: Tensor) -> list[Call]:
    """Transform the filters as `forward` reads them."""
    return [Call("winograd_filters", [f, packed], [shape.filters, shape.channels, 0])]


def forward(
    shape: ConvShape,
    x: Tensor,
    f: Tensor,
    b: Tensor | None,
    y: Tensor,
    scratch: Scratch,
    *,
    relu: bool = False,
    residual: Tensor | None = None,
    packed: Tensor | None = None,
) -> list[Call]:
    """Compute y = conv(x, f, b), plus `residual`, rectified if `relu`.

    packed: what `pack` made of the filters; None: they are transformed whenever the calls run.
    """
    tensors = (x, b, residual, None, y)
    return _convolve(shape, f, packed, tensors, scratch, relu=relu, flipped=False)


def backward_data(
    shape: ConvShape,
    f: Tensor,
    dzdy: Tensor,
    dzdx: Tensor,
    scratch: Scratch,
    *,
    mask: Tensor | None = None,
    add: bool = False,
) -> list[Call]:
    """The derivative with respect to x; zero where mask <= 0; added to `dzdx`, if `add`.

    It is the convolution of dzdy with the filters turned by 180 degrees.
    """
    turned = shape._replace(
        height=shape.output[0], width=shape.output[1], output=(shape.height, shape.width),
        channels=shape.filters, filters=shape.channels, pad=(2 - shape.pad[0], 2 - shape.pad[1]),
    )  # fmt: skip
    tensors = (dzdy, None, dzdx if add else None, mask, dzdx)
    return _convolve(turned, f, None, tensors, scratch, relu=False, flipped=True)


def backward_filters(
    shape: ConvShape, x: Tensor, dzdy: Tensor, df: Tensor, db: Tensor | None, scratch: Scratch
) -> list[Call]:
    """The derivatives with respect to filters and biases (db: None, if there are none)."""
    C, K, tiles = shape.channels, shape.filters, _tiles(shape)
    threads = torch.get_num_threads()
    block, c_part, k_part = min(BLOCK, tiles), min(PART, C), min(PART, K)
    parts = ceil(C / c_part) * ceil(K / k_part)
    splits = min(tiles, _splits(parts, threads))
    work = _spaced(block * _vectors(k_part)) + _spaced(block * _vectors(c_part))
    sums = _spaced(_vectors(k_part) * _vectors(c_part))
    room = (
        max(C, K),
        threads * POINTS * work,
        POINTS * sums * (parts * splits if splits > 1 else threads),
        splits * _vectors(K),
    )
    numbers = [*_geometry(shape), block, k_part, c_part, splits, threads]
    tensors = [x, dzdy, df, db, *map(scratch, room)]
    return [Call("winograd_filters_backward", tensors, numbers)]


def _convolve(
    shape: ConvShape,
    f: Tensor,
    packed: Tensor | None,
    tensors: tuple[Tensor | None, ...],
    scratch: Scratch,
    *,
    relu: bool,
    flipped: bool,
) -> list[Call]:
    """Calls for x, b, residual, mask, y = tensors, where `shape` is that of this convolution."""
    C, K, threads = shape.channels, shape.filters, torch.get_num_threads()
    rows = _registers()[1]
    all_groups = ceil(_tiles(shape) / rows)
    shared = all_groups <= max(FEW_GROUPS * (C * K >= PART**2), threads)
    groups, panels = all_groups, 1
    if not shared:
        target = 4 if C * K > PART**2 else 1  # the smaller filters share the cache with the tiles
        blocks = ceil(ceil(all_groups / target) / threads) * threads
        groups, panels = ceil(all_groups / blocks), min(2, _panels(K))
    calls, fresh = list[Call](), None
    if packed is None and shared:
        fresh, packed = f, scratch(threads * panels * _panel_size(C))
    elif packed is None:
        packed = scratch(_panels(K) * _panel_size(C))
        sizes = [C, K] if flipped else [K, C]
        calls = [Call("winograd_filters", [f, packed], [*sizes, flipped])]
    inputs = POINTS * _spaced(groups * rows * _vectors(C)) * (1 if shared else threads)
    outputs = POINTS * _spaced(groups * rows * panels * 2 * _registers()[0]) * threads
    x, b, residual, mask, y = tensors
    room = map(scratch, (C, inputs, outputs))
    numbers = [*_geometry(shape), flipped, relu, groups, panels, shared, threads]
    return [*calls, Call("winograd", [x, fresh, packed, b, residual, mask, y, *room], numbers)]


@functools.cache
def _registers() -> tuple[int, int]:
    """Numbers in a vector, and tiles of a product that stays in registers."""
    library = kernels()
    assert library is not None
    lanes, rows = (ctypes.c_int64 * 2).in_dll(library, "winograd_registers")
    return lanes, rows


def _geometry(shape: ConvShape) -> list[int]:
    return [
        shape.batch, shape.height, shape.width, shape.channels, shape.filters, *shape.pad,
        *shape.output,
    ]  # fmt: skip


def _tiles(shape: ConvShape) -> int:
    return shape.batch * ceil(shape.output[0] / 4) * ceil(shape.output[1] / 4)


def _splits(parts: int, threads: int) -> int:
    """In how many sums a part is computed, so that all threads have the same to do."""
    fair = (n for n in range(1, threads) if parts * n % threads == 0 or parts * n >= 4 * threads)
    return next(fair, threads)


def _vectors(count: int) -> int:
    """Numbers that lie in whole vectors."""
    lanes = _registers()[0]
    return ceil(count / lanes) * lanes


def _spaced(count: int) -> int:
    """Numbers from one of the 36 to the next: `odd` in kernels/winograd.h."""
    lanes = _registers()[0]
    return (ceil(count / lanes) | 1) * lanes


def _panels(filters: int) -> int:
    return ceil(filters / (2 * _registers()[0]))


def _panel_size(channels: int) -> int:
    return POINTS * _spaced(channels * 2 * _registers()[0])
