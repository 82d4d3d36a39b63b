"""Convolutions with 3 x 3 and 5 x 5 filters by Winograd's algorithm, and their derivatives.

Each channel and filter takes 36 multiplications for 4 x 4 outputs instead of 144, or for 2 x 2
instead of 100 (kernels/winograd.h). Results differ from those of direct convolutions by a few more
roundings: about 1e-6 of the largest. Maps, and their derivatives, are float32 or bfloat16; what is
transformed is float32, as filters are.
"""

import ctypes
import functools
from math import ceil

import torch
from torch import Tensor

from matconvnet.fast.conv import VECTOR, ConvShape, Scratch
from matconvnet.fast.native import Call, kernels, lanes, multiplies_halves, of_maps

POINTS = 36
"""Numbers of a transformed tile, or filter."""

FEW_BANDS = 8
"""Bands of tiles for which it is not worth to transform all filters ahead of the products."""

BLOCK = 28
"""Tiles that are summed at a time in the derivative of the filters."""

SHEET = 4
"""Images in a row, and in a column, of a sheet (kernels/winograd.h), at most."""

PART = 128
"""Filters, and channels, of which that derivative is computed at a time."""

TRANSFORM_TILE, TRANSFORM_FILTER, PRODUCT, PACK = 400, 200, POINTS / 0.85, 400
"""Times in multiplications (measured): for a channel of a tile; for a channel and filter, their
transform by the size of the filter, their product, and what direct convolutions do to read them."""

HALF_DIRECT = {"forward": 2.0, "backward_data": 2.0, "backward_filters": 1.5}
"""How many times as fast direct convolutions are where the machine multiplies bfloat16 numbers
(measured); Winograd's algorithm multiplies float32 numbers whatever the maps are."""

MARGIN = 1.05
"""By which it has to be ahead."""


def applies(shape: ConvShape) -> bool:
    """Whether the kernels can compute it.

    They take 3 x 3 and 5 x 5 filters, stride 1, and padding smaller than the filters.
    """
    last, map_size = shape.size[0] - 1, (shape.height, shape.width)
    ends = [shape.output[i] + last - map_size[i] - shape.pad[i] for i in (0, 1)]
    return (
        shape.size in ((3, 3), (5, 5)) and shape.stride == (1, 1) and shape.dilate == (1, 1)
        and all(0 <= pad <= last for pad in (*shape.pad, *ends))
    )  # fmt: skip


def faster(shape: ConvShape, direction: str) -> bool:
    """Whether Winograd's algorithm is ahead of direct convolution.

    Args:
        shape: geometry of the convolution.
        direction: "forward", "backward_data" or "backward_filters".
    """
    if not applies(shape):
        return False
    size = shape.size[0]
    direct = size**2 * shape.batch * shape.output[0] * shape.output[1]
    if direction == "backward_data":
        shape = _turned(shape)
    (sums, made), tiles = _of_group(shape), _tiles(shape)
    vectors, whole = ceil(made / VECTOR) * VECTOR, ceil(sums / VECTOR) * VECTOR
    time = tiles * TRANSFORM_TILE * (whole + vectors) + TRANSFORM_FILTER * size * sums * vectors
    is_half = shape.maps == torch.bfloat16 and multiplies_halves()
    ahead = MARGIN * (HALF_DIRECT[direction] if is_half else 1)
    if direction == "backward_filters":
        return ahead * (time + tiles * PRODUCT * whole * vectors) < direct * sums * made
    time += tiles * PRODUCT * sums * vectors
    return ahead * time < direct * sums * vectors + PACK * sums * made


def packed_size(shape: ConvShape) -> int:
    """Numbers that packed filters take."""
    C, K = _of_group(shape)
    return shape.groups * _panels(K) * _panel_size(C)


def pack(shape: ConvShape, f: Tensor, packed: Tensor) -> list[Call]:
    """Transform the filters as `forward` reads them."""
    return [_transform(shape, f, packed, flipped=False)]


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
    tensors = (dzdy, None, dzdx if add else None, mask, dzdx)
    return _convolve(_turned(shape), f, None, tensors, scratch, relu=False, flipped=True)


def backward_filters(
    shape: ConvShape, x: Tensor, dzdy: Tensor, df: Tensor, db: Tensor | None, scratch: Scratch
) -> list[Call]:
    """The derivatives with respect to filters and biases (db: None, if there are none)."""
    (C, K), tiles = _of_group(shape), _tiles(shape)
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
    return [Call(of_maps("winograd_filters_backward", x), tensors, numbers)]


def _turned(shape: ConvShape) -> ConvShape:
    """The convolution that computes the derivative of the data."""
    last = shape.size[0] - 1
    return shape._replace(
        height=shape.output[0], width=shape.output[1], output=(shape.height, shape.width),
        channels=shape.filters, filters=shape.channels,
        pad=(last - shape.pad[0], last - shape.pad[1]),
    )  # fmt: skip


def _convolve(
    shape: ConvShape,
    f: Tensor,
    packed: Tensor | None,
    tensors: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor],
    scratch: Scratch,
    *,
    relu: bool,
    flipped: bool,
) -> list[Call]:
    """Calls for x, b, residual, mask, y = tensors, where `shape` is that of this convolution."""
    (C, K), threads = _of_group(shape), torch.get_num_threads()
    rows = _rows()
    all_bands = ceil(_tiles(shape) / rows)
    shared = all_bands <= max(FEW_BANDS * (C * K >= PART**2), threads)
    bands, panels = all_bands, 1
    if not shared:
        most = 4 if C * K > 2 * PART**2 else 1  # smaller filters share the cache with the tiles
        share = ceil(all_bands / threads)
        bands, panels = ceil(share / ceil(share / most)), min(2, _panels(K))
    calls, fresh = list[Call](), None
    if packed is None and shared:
        fresh, packed = f, scratch(threads * panels * _panel_size(C))
    elif packed is None:
        packed = scratch(packed_size(shape))
        calls = [_transform(shape, f, packed, flipped)]
    inputs = POINTS * _spaced(bands * rows * _vectors(C)) * (1 if shared else threads)
    outputs = POINTS * _spaced(bands * rows * panels * 2 * lanes()) * threads
    x, b, residual, mask, y = tensors
    room = map(scratch, (C, inputs, outputs))
    numbers = [*_geometry(shape), flipped, relu, bands, panels, shared, threads]
    arguments = [x, fresh, packed, b, residual, mask, y, *room]
    return [*calls, Call(of_maps("winograd", y), arguments, numbers)]


def _transform(shape: ConvShape, f: Tensor, packed: Tensor, flipped: bool) -> Call:
    """The call that transforms all filters of the convolution `shape`."""
    C, K = _of_group(shape)
    sizes = (C, K) if flipped else (K, C)
    numbers = [*sizes, shape.size[0], shape.groups, flipped]
    return Call("winograd_filters", [f, packed], numbers)


@functools.cache
def _rows() -> int:
    """Tiles of a product that stays in registers."""
    library = kernels()
    assert library is not None
    return ctypes.c_int64.in_dll(library, "winograd_rows").value


def _geometry(shape: ConvShape) -> list[int]:
    return [
        shape.batch, shape.height, shape.width, *_of_group(shape), *shape.pad, *shape.output,
        shape.size[0], shape.groups, *_sheet(shape),
    ]  # fmt: skip


def _of_group(shape: ConvShape) -> tuple[int, int]:
    """Channels and filters of a group."""
    return shape.channels // shape.groups, shape.filters // shape.groups


def _side(shape: ConvShape) -> int:
    """Outputs in a row of a tile, which reads six inputs."""
    return 7 - shape.size[0]


def _tiles(shape: ConvShape, sheet: tuple[int, int] | None = None) -> int:
    """Tiles of all images, `sheet` of which lie on a sheet."""
    sheet = sheet or _sheet(shape)
    count = shape.batch // (sheet[0] * sheet[1])
    for i, size in enumerate((shape.height, shape.width)):
        output, pad = shape.output[i], shape.pad[i]
        apart = max(output, size + max(pad, output + shape.size[i] - 1 - size - pad))
        count *= ceil((apart * (sheet[i] - 1) + output) / _side(shape))
    return count


@functools.cache
def _sheet(shape: ConvShape) -> tuple[int, int]:
    """How many images lie in a column and a row of a sheet: as many as take the fewest tiles."""
    sides = range(1, SHEET + 1)
    sheets = [(i, j) for i in sides for j in sides if shape.batch % (i * j) == 0]
    return min(sheets, key=lambda sheet: (_tiles(shape, sheet), sheet))


def _splits(parts: int, threads: int) -> int:
    """In how many sums a part is computed, so that all threads have the same to do."""
    fair = (n for n in range(1, threads) if parts * n % threads == 0 or parts * n >= 4 * threads)
    return next(fair, threads)


def _vectors(count: int) -> int:
    """Numbers that lie in whole vectors."""
    return ceil(count / lanes()) * lanes()


def _spaced(count: int) -> int:
    """Numbers from one of the 36 to the next: `odd` in kernels/winograd.h."""
    return (ceil(count / lanes()) | 1) * lanes()


def _panels(filters: int) -> int:
    return ceil(filters / (2 * lanes()))


def _panel_size(channels: int) -> int:
    return POINTS * _spaced(channels * 2 * lanes())
