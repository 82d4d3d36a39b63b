"""Convolution and its derivatives on our own kernels (kernels/conv.c, conv_full.c).

All three directions are products of windows over a map: `Windows` says where they lie and in which
blocks they are worked through. The derivative with respect to the data is a convolution of dzdy
with the filters for each phase of the stride; filters that cover the map are matrix products.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from matconvnet.fast.native import Call, of_maps

Scratch = Callable[[int], Tensor]

VECTOR = 16
"""Numbers in the widest registers; no level of the kernels has more, and all have a divisor."""

PANEL = 2 * VECTOR
"""Columns of a product that are computed together."""

BLOCK = 160 * 1024
"""Numbers of a map that are worked on at a time, so that they stay in the second cache."""

UNKIND = 512
"""Numbers between pixels that put many of them into the same few lines of the first cache."""

SUM = 16
"""Time to write and sum up a number, in multiplications (measured)."""

STRIP = 4 * VECTOR
"""Columns of filters that cover the map whose derivatives are computed together."""


class ConvShape(NamedTuple):
    """Geometry of a convolution; padding at the bottom and right follows from `output`.

    maps: the type of all maps, float32 or bfloat16. Filters are of float32.
    """

    batch: int
    height: int
    width: int
    channels: int
    filters: int
    size: tuple[int, int]
    groups: int
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilate: tuple[int, int]
    output: tuple[int, int]
    maps: torch.dtype = torch.float32

    @property
    def pair(self) -> int:
        """Numbers of a map that the kernels multiply at a time: PAIR in kernels/gemm.h."""
        return 2 if self.maps == torch.bfloat16 else 1

    def kernel(self, name: str) -> str:
        """The kernel for maps of this type."""
        return f"{name}_bf16" if self.maps == torch.bfloat16 else name

    @property
    def depth(self) -> int:
        """Numbers in a filter."""
        return self.size[0] * self.size[1] * (self.channels // self.groups)

    @property
    def is_full(self) -> bool:
        """The filters cover the whole map."""
        whole = self.size == (self.height, self.width) and self.groups == 1
        return whole and self.output == (1, 1) and self.pad == (0, 0) and self.dilate == (1, 1)

    def flat(self) -> "ConvShape":
        """The same, with a map of one pixel where the filters cover the map."""
        if not self.is_full:
            return self
        return self._replace(height=1, width=1, channels=self.depth, size=(1, 1))


@dataclass
class Windows:
    """The fields of `windows` in kernels/conv.c, in their order; see there."""

    batch: int
    height: int
    width: int
    channels: int
    groups: int
    depth: int
    columns: int
    rows: int
    cols: int
    stride: tuple[int, int]
    origin: tuple[int, int]
    taps: tuple[int, int]
    steps: tuple[int, int]
    copied: bool = False
    joined: bool = False
    pixel: int = 0
    images: int = 1
    lines: int = 1
    scratch: int = 0
    threads: int = 1

    def numbers(self) -> list[int]:
        """Them all, in a row."""
        return [int(n) for v in astuple(self) for n in (v if isinstance(v, tuple) else (v,))]

    def leaves_map(self) -> bool:
        """Some window has pixels outside the map."""
        last = ((self.rows - 1), (self.cols - 1))
        ends = [
            last[i] * self.stride[i] + self.origin[i] + (self.taps[i] - 1) * self.steps[i]
            for i in (0, 1)
        ]
        return min(self.origin) < 0 or ends[0] >= self.height or ends[1] >= self.width

    def read(self, lines: int) -> int:
        """Numbers that lie under the windows of so many rows of output."""
        extent = [(self.taps[i] - 1) * self.steps[i] + 1 for i in (0, 1)]
        height = (lines - 1) * self.stride[0] + extent[0]
        return height * ((self.cols - 1) * self.stride[1] + extent[1]) * self.pixel

    def plan(self, copied: bool, extra: int = 0, limit: int = BLOCK) -> "Windows":
        """Choose the blocks. extra: more numbers that are read for a pixel of output."""
        self.threads = torch.get_num_threads()
        unkind = self.height * self.width > 1 and self.stride[1] * self.channels % UNKIND == 0
        self.copied = all(self.taps) and (copied or unkind or self.leaves_map())
        self.pixel = self.channels + (VECTOR if unkind else 0)
        self.joined = self.steps[1] == 1 and self.pixel == self.depth
        image = self.read(self.rows) + self.rows * self.cols * extra
        if image <= limit and self.batch >= self.threads:
            blocks = ceil(self.batch / max(1, limit // image))
            blocks = min(self.batch, _multiple(blocks, self.threads))
            self.images, self.lines = ceil(self.batch / blocks), self.rows
        else:
            parts = min(self.rows, ceil(image / limit))
            while self.batch * parts % self.threads and parts < self.rows:
                parts += 1
            self.images, self.lines = 1, ceil(self.rows / parts)
        copy = self.images * self.read(self.lines) if self.copied else 0
        self.scratch = _multiple(copy, VECTOR) + PANEL
        return self

    @property
    def blocks(self) -> int:
        """In how many parts the pixels of the output are worked through."""
        return ceil(self.batch / self.images) * ceil(self.rows / self.lines)


def packed_size(shape: ConvShape) -> int:
    """Floats that packed filters take; 0, where filters are read as they are."""
    if shape.is_full:
        return 0
    pieces, length = _pieces(shape)
    return _panels(shape, shape.filters // shape.groups, pieces, length)


def pack(shape: ConvShape, f: Tensor, packed: Tensor) -> list[Call]:
    """Put filters into the order in which `forward` reads them."""
    if shape.is_full:
        return []
    columns, (pieces, length) = shape.filters // shape.groups, _pieces(shape)
    numbers = [shape.groups, columns, 1, pieces, length]
    steps = (0, columns * shape.depth, shape.depth, 0, length, 1)
    return [Call(shape.kernel("conv_pack"), [f, packed], [*numbers, *steps])]


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

    packed: what `pack` made of the filters; None: they are packed whenever the calls run.
    """
    s = shape.flat()
    if shape.is_full:
        numbers = [s.batch, s.channels, s.filters, relu, torch.get_num_threads()]
        room = scratch((s.channels + s.filters) * _multiple(s.batch, VECTOR))
        return [Call(of_maps("conv_full", x), [x, f, b, residual, y, room], numbers)]
    calls = []
    if packed is None:
        packed = scratch(packed_size(s))
        calls += pack(s, f, packed)
    w = _forward_windows(s).plan(copied=False)
    pixel, row = s.filters, s.output[1] * s.filters
    numbers = [*w.numbers(), 0, s.output[0] * row, row, pixel, relu]
    room = scratch(w.threads * w.scratch // s.pair)
    tensors = [x, packed, b, residual, None, y, room]
    return [*calls, Call(s.kernel("conv_sweep"), tensors, numbers)]


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
    """The derivative with respect to x; zero where mask <= 0; added to `dzdx`, if `add`."""
    s, old = shape.flat(), dzdx if add else None
    if shape.is_full and s.channels % VECTOR == 0:
        room = scratch(s.batch * (_multiple(s.filters, VECTOR) + s.channels + VECTOR))
        numbers = [s.batch, s.channels, s.filters, torch.get_num_threads()]
        name = of_maps("conv_full_data", dzdy)
        return [Call(name, [dzdy, f, old, mask, dzdx, room], numbers)]
    if _scatters(s):
        threads = torch.get_num_threads()
        room = scratch(threads * (s.output[0] * s.output[1] * s.depth + PANEL))
        numbers = [*s[:5], *s.output, *s.size, *s.pad, threads]
        return [Call("conv_scatter", [dzdy, f, old, mask, dzdx, room], numbers)]
    phases = [
        (u, v)
        for u in range(min(s.stride[0], s.height))
        for v in range(min(s.stride[1], s.width))
    ]  # fmt: skip
    taps = {(u, v): (_phase_taps(s, 0, u), _phase_taps(s, 1, v)) for u, v in phases}
    windows = {phase: _phase_windows(s, phase, *taps[phase]).plan(False) for phase in phases}
    for w in windows.values():
        w.joined &= w.depth % s.pair == 0  # no pair has numbers of two taps
    packed = scratch(max(_panels(s, w.columns, w.taps[0] * w.taps[1], w.depth)
                         for w in windows.values()))  # fmt: skip
    room = scratch(max(w.threads * w.scratch for w in windows.values()) // s.pair)
    calls = []
    for (u, v), w in windows.items():
        calls += _pack_phase(s, f, packed, *taps[u, v])
        row = s.width * s.channels
        first, steps = u * row + v * s.channels, (s.stride[0] * row, s.stride[1] * s.channels)
        numbers = [*w.numbers(), first, s.height * row, *steps, False]
        tensors = [dzdy, packed, None, old, mask, dzdx, room]
        calls.append(Call(s.kernel("conv_sweep"), tensors, numbers))
    return calls


def backward_filters(
    shape: ConvShape, x: Tensor, dzdy: Tensor, df: Tensor, db: Tensor | None, scratch: Scratch
) -> list[Call]:
    """The derivatives with respect to filters and biases (db: None, if there are none)."""
    if shape.is_full:
        return filter_slices(shape, x, dzdy, df, db, scratch, shape.filters)[0].calls
    s = shape.flat()
    w, channels = _forward_windows(s), s.channels // s.groups
    length = channels * (s.size[1] if s.dilate[1] == 1 and s.groups == 1 else 1)
    pieces = s.depth // length
    patches = 0
    if s.pair > 1:
        patches = _multiple(s.depth * s.groups, VECTOR)
    elif s.groups == 1 and pieces * _multiple(length, VECTOR) > 1.15 * s.depth:
        patches, length, pieces = _multiple(s.depth, VECTOR), s.depth, 1
    limit = BLOCK if s.size != (s.height, s.width) else max(BLOCK, 256 * s.channels)
    w.plan(not patches and channels % VECTOR != 0, patches + s.filters, limit)
    pixels = _multiple(w.images * w.lines * w.cols, s.pair)
    w.scratch += pixels * (patches + VECTOR) + PANEL * s.pair
    panels = s.groups * pieces * ceil(length / PANEL)
    splits = w.threads if panels < 4 * w.threads and w.blocks >= w.threads else 1
    partial = s.filters * s.depth + s.filters
    room = scratch(w.threads * w.scratch // s.pair + (splits - 1) * partial)
    numbers = [*w.numbers(), patches, splits]
    return [Call(s.kernel("conv_filters"), [x, dzdy, df, db, room], numbers)]


class Slice(NamedTuple):
    """Calls that compute the derivatives of filters first ... last - 1."""

    first: int
    last: int
    calls: list[Call]


def filter_slices(
    shape: ConvShape, x: Tensor, dzdy: Tensor, df: Tensor, db: Tensor | None, scratch: Scratch,
    count: int,
) -> list[Slice]:  # fmt: skip
    """The derivatives with respect to filters that cover the map, `count` filters at a time.

    Every slice is computed from the start of `df`, which may have room for `count` filters only:
    it is to be read before the next slice is computed. The first one computes `db`, too. The
    slices run in their order, and share the scratch memory.
    """
    s, threads = shape.flat(), torch.get_num_threads()
    room = scratch(s.batch * (_multiple(s.channels, STRIP) + s.filters + VECTOR))
    numbers = [s.batch, s.channels, s.filters, threads]
    copies = Call(of_maps("conv_full_copies", x), [x, dzdy, db, room], numbers)
    slices = []
    for first in range(0, s.filters, count):
        last = min(first + count, s.filters)
        numbers = [s.batch, s.channels, first, last, threads]
        calls = [Call("conv_full_filters", [room, df], numbers)]
        slices.append(Slice(first, last, calls if first else [copies, *calls]))
    return slices


def _forward_windows(s: ConvShape) -> Windows:
    depth, columns = s.channels // s.groups, s.filters // s.groups
    origin = (-s.pad[0], -s.pad[1])
    return Windows(
        s.batch, s.height, s.width, s.channels, s.groups, depth, columns, *s.output, s.stride,
        origin, s.size, s.dilate,
    )  # fmt: skip


def _phase_taps(s: ConvShape, axis: int, phase: int) -> list[tuple[int, int]]:
    """(tap, first pixel of dzdy that it meets) for x at phase, phase + stride, ...; by pixel."""
    met = [(a, phase + s.pad[axis] - a * s.dilate[axis]) for a in range(s.size[axis])]
    return [(a, at // s.stride[axis]) for a, at in reversed(met) if at % s.stride[axis] == 0]


def _phase_windows(s: ConvShape, phase: tuple[int, int], *taps: list[tuple[int, int]]) -> Windows:
    """Windows over dzdy for the pixels of x that stand at `phase` of the stride."""
    depth, columns = s.filters // s.groups, s.channels // s.groups
    rows = ceil((s.height - phase[0]) / s.stride[0])
    cols = ceil((s.width - phase[1]) / s.stride[1])
    counts = (len(taps[0]), len(taps[1])) if all(taps) else (0, 0)
    origin = (taps[0][0][1], taps[1][0][1]) if all(taps) else (0, 0)
    steps = tuple(t[1][1] - t[0][1] if len(t) > 1 else 1 for t in taps)
    return Windows(
        s.batch, *s.output, s.filters, s.groups, depth, columns, rows, cols, (1, 1), origin,
        counts, (steps[0], steps[1]),
    )  # fmt: skip


def _scatters(s: ConvShape) -> bool:
    """Whether the derivative of the data is faster as a product with all filters, then summed.

    That wastes no part of a vector where channels do not fill one, and no product with padding.
    """
    pixels = s.output[0] * s.output[1]
    if (
        s.maps != torch.float32 or s.groups > 1 or s.stride != (1, 1) or s.dilate != (1, 1)
        or s.batch < torch.get_num_threads() or not VECTOR <= s.depth <= BLOCK // pixels
    ):  # fmt: skip
        return False
    rows = sum(
        0 <= i + s.pad[0] - u < s.output[0] for i in range(s.height) for u in range(s.size[0])
    )
    windows = rows * s.width * s.size[1] * s.filters * _multiple(s.channels, VECTOR)
    return pixels * (s.filters * _multiple(s.depth, VECTOR) + SUM * s.depth) < windows


def _pack_phase(
    s: ConvShape, f: Tensor, packed: Tensor, *taps: list[tuple[int, int]]
) -> list[Call]:
    """Put the filters' `taps` into the order in which the derivative of the data reads them."""
    if not all(taps):
        return []
    columns, filters = s.channels // s.groups, s.filters // s.groups
    lengths = (s.size[1] * columns, columns)
    first = taps[0][0][0] * lengths[0] + taps[1][0][0] * lengths[1]
    steps = [
        (t[1][0] - t[0][0]) * length if len(t) > 1 else 0
        for t, length in zip(taps, lengths, strict=True)
    ]
    counts = [len(t) for t in taps]
    numbers = [s.groups, columns, *counts, filters, first, filters * s.depth, 1, *steps, s.depth]
    return [Call(s.kernel("conv_pack"), [f, packed], numbers)]


def _pieces(s: ConvShape) -> tuple[int, int]:
    """In how many pieces, of how many numbers, `forward` sums up what a window covers."""
    w = _forward_windows(s).plan(copied=False)
    length = w.depth * (s.size[1] if w.joined else 1)
    if length % s.pair == 0:
        length = s.depth
    return s.depth // length, length


def _panels(s: ConvShape, columns: int, pieces: int, length: int) -> int:
    return s.groups * _multiple(columns, PANEL) * pieces * ceil(length / s.pair)


def _multiple(count: int, of: int) -> int:
    return ceil(count / of) * of
