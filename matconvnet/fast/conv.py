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

from matconvnet.fast.native import Call

Scratch = Callable[[int], Tensor]

VECTOR = 16
"""Numbers in the widest registers; no level of the kernels has more, and all have a divisor."""

PANEL = 2 * VECTOR
"""Columns of a product that are computed together."""

BLOCK = 160 * 1024
"""Numbers of a map that are worked on at a time, so that they stay in the second cache."""

UNKIND = 512
"""Numbers between pixels that put many of them into the same few lines of the first cache."""

FULL_PITCH = 144
"""Numbers of dzdy that `conv_full_data` copies for an image: FULL_PITCH in kernels/conv_full.c."""


class ConvShape(NamedTuple):
    """Geometry of a convolution; padding at the bottom and right follows from `output`."""

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
    """Numbers that packed filters take; 0, where filters are read as they are."""
    if shape.is_full:
        return 0
    return _panels(shape.groups, shape.filters // shape.groups, shape.depth)


def pack(shape: ConvShape, f: Tensor, packed: Tensor) -> list[Call]:
    """Put filters into the order in which `forward` reads them."""
    if shape.is_full:
        return []
    columns = shape.filters // shape.groups
    steps = (0, columns * shape.depth, shape.depth, 0, 0, 1)
    return [Call("conv_pack", [f, packed], [shape.groups, columns, 1, 1, shape.depth, *steps])]


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
        return [Call("conv_full", [x, f, b, residual, y], numbers)]
    calls = []
    if packed is None:
        packed = scratch(packed_size(s))
        calls += pack(s, f, packed)
    w = _forward_windows(s).plan(copied=False)
    pixel, row = s.filters, s.output[1] * s.filters
    numbers = [*w.numbers(), 0, s.output[0] * row, row, pixel, relu]
    room = scratch(w.threads * w.scratch)
    return [*calls, Call("conv_sweep", [x, packed, b, residual, None, y, room], numbers)]


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
        threads = torch.get_num_threads()
        room = scratch(threads * s.batch * FULL_PITCH)
        numbers = [s.batch, s.channels, s.filters, threads]
        return [Call("conv_full_data", [dzdy, f, old, mask, dzdx, room], numbers)]
    phases = [
        (u, v)
        for u in range(min(s.stride[0], s.height))
        for v in range(min(s.stride[1], s.width))
    ]  # fmt: skip
    taps = {(u, v): (_phase_taps(s, 0, u), _phase_taps(s, 1, v)) for u, v in phases}
    windows = {phase: _phase_windows(s, phase, *taps[phase]).plan(False) for phase in phases}
    packed = scratch(max(_panels(w.groups, w.columns, w.depth * w.taps[0] * w.taps[1])
                         for w in windows.values()))  # fmt: skip
    room = scratch(max(w.threads * w.scratch for w in windows.values()))
    calls = []
    for (u, v), w in windows.items():
        calls += _pack_phase(s, f, packed, *taps[u, v])
        row = s.width * s.channels
        first, steps = u * row + v * s.channels, (s.stride[0] * row, s.stride[1] * s.channels)
        numbers = [*w.numbers(), first, s.height * row, *steps, False]
        calls.append(Call("conv_sweep", [dzdy, packed, None, old, mask, dzdx, room], numbers))
    return calls


def backward_filters(
    shape: ConvShape, x: Tensor, dzdy: Tensor, df: Tensor, db: Tensor | None, scratch: Scratch
) -> list[Call]:
    """The derivatives with respect to filters and biases (db: None, if there are none)."""
    s = shape.flat()
    w, channels = _forward_windows(s), s.channels // s.groups
    length = channels * (s.size[1] if s.dilate[1] == 1 and s.groups == 1 else 1)
    pieces = s.depth // length
    patches = 0
    if s.groups == 1 and pieces * _multiple(length, VECTOR) > 1.15 * s.depth:
        patches, length, pieces = _multiple(s.depth, VECTOR), s.depth, 1
    limit = BLOCK if s.size != (s.height, s.width) else max(BLOCK, 256 * s.channels)
    w.plan(not patches and channels % VECTOR != 0, patches + s.filters, limit)
    w.scratch += w.images * w.lines * w.cols * (patches + VECTOR) + PANEL
    panels = s.groups * pieces * ceil(length / PANEL)
    splits = w.threads if panels < 4 * w.threads and w.blocks >= w.threads else 1
    partial = s.filters * s.depth + s.filters
    room = scratch(w.threads * w.scratch + (splits - 1) * partial)
    return [Call("conv_filters", [x, dzdy, df, db, room], [*w.numbers(), patches, splits])]


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
    return [Call("conv_pack", [f, packed], numbers)]


def _panels(groups: int, columns: int, depth: int) -> int:
    return groups * _multiple(columns, PANEL) * depth


def _multiple(count: int, of: int) -> int:
    return ceil(count / of) * of
