"""Spatial pooling: the maximum or the mean of every window of every channel."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from matconvnet.blocks._checks import check_map, check_projection
from matconvnet.layer import Filter
from matconvnet.layout import array_api, empty_map, hwcn, nchw
from matconvnet.window import Pad4, Size2, output_size, pair, planned, quad

Method = Literal["max", "avg"]
aten: Any = torch.ops.aten
MOST_WINNERS = {"cpu": 1 << 17, "cuda": 1 << 21}
"""Whose indices are there at a time: on the CPU they stay in the cache."""
FEW_WINNERS = 1 << 16


@array_api
def pool(
    x: Tensor, size: Size2, *, stride: Size2 = 1, pad: Pad4 = 0, method: Method = "max"
) -> Tensor:
    """Reduce every window of `x` to one number.

        max:  y[i,j,c,n] = max over (u,v) in W(i,j) of x[u,v,c,n]
        avg:  y[i,j,c,n] = sum over (u,v) in W(i,j) of x[u,v,c,n] / |W(i,j)|

    W(i,j) is the window clipped to the map: padding never wins a max and never weighs in a mean.

    Args:
        x: H x W x C x N map of floats.
        size: (height, width) of the window, in pixels; one number serves both.
        stride: (vertical, horizontal) step of the window, in pixels.
        pad: (top, bottom, left, right), in pixels, each smaller than the window.
        method: "max" or "avg".

    Returns: Y x X x C x N with Y = (H + top + bottom - size_y) // stride_y + 1.
    Raises: ValueError, if a pad reaches the window or the window exceeds the padded map.
    Source: vl_nnpool; MatConvNet manual, "Spatial pooling".
    """
    x4 = check_map(x)
    win = _window(x4.shape, size, stride, pad, method)
    if x4.shape[3] == 0:
        return x4.new_empty(win.output)
    if win.method == "max":
        return _max_pool(x4, win)[0]
    return _mean_pool(x4, win)


@array_api
def pool_backward(
    x: Tensor,
    dzdy: Tensor,
    size: Size2,
    *,
    stride: Size2 = 1,
    pad: Pad4 = 0,
    method: Method = "max",
) -> Tensor:
    """Derivative of `pool` projected on `dzdy` (shape of its output); returns the shape of `x`.

        max:  dzdx[u,v] = sum of dzdy over the windows whose maximum is (u,v)
        avg:  dzdx[u,v] = sum of dzdy / |W| over the windows W that contain (u,v)

    Where several pixels tie for the maximum one of them receives the derivative; which one is not
    specified.
    """
    x4 = check_map(x)
    win = _window(x4.shape, size, stride, pad, method)
    dzdy = check_projection(dzdy, win.output, x)
    if x4.shape[3] == 0:
        return torch.zeros_like(x)
    if win.method == "max":
        winners = _max_pool(x4, win)[1]
        return _max_pool_backward(x4.shape, dzdy, winners, win).reshape(x.shape)
    return _mean_pool_backward(x4, dzdy, win).reshape(x.shape)


class Window(NamedTuple):
    """What the arguments of a pooling amount to."""

    output: tuple[int, int, int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int, int, int]
    method: str
    kernel_pad: tuple[int, int]
    """The padding that is left to the torch kernel; the rest is made explicit."""
    ceil_mode: bool
    explicit: bool


def _window(shape: torch.Size, size, stride, pad, method) -> Window:
    kind = str(method).lower()
    if kind not in ("max", "avg"):
        raise ValueError(f"method is {method!r}; wanted 'max' or 'avg'")
    return _plan(shape, pair(size, "size"), pair(stride, "stride"), quad(pad, "pad"), kind)


@planned
def _plan(
    shape: torch.Size,
    sizes: tuple[int, int],
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    kind: str,
) -> Window:
    """The window that a shape and options amount to; worked out once for each."""
    top, bottom, left, right = pads
    if max(top, bottom) >= sizes[0] or max(left, right) >= sizes[1]:
        raise ValueError(
            f"pad {pads} (top, bottom, left, right) must be smaller than the window {sizes}"
        )
    h, w, c, n = shape
    y = output_size(h + top + bottom, sizes[0], strides[0])
    x_ = output_size(w + left + right, sizes[1], strides[1])
    if y < 1 or x_ < 1:
        padded = (h + top + bottom, w + left + right)
        raise ValueError(f"size {sizes} exceeds the padded map of {padded} pixels")
    axes = ((h, sizes[0], strides[0], top, y), (w, sizes[1], strides[1], left, x_))
    for ceil_mode in (False, True):
        if all(_kernel_output(*axis[:4], ceil_mode) == axis[4] for axis in axes):
            out = (y, x_, c, n)
            return Window(out, sizes, strides, pads, kind, (top, left), ceil_mode, False)
    return Window((y, x_, c, n), sizes, strides, pads, kind, (0, 0), False, True)


def _kernel_output(n: int, size: int, stride: int, pad: int, ceil_mode: bool) -> int | None:
    """Windows that a torch kernel visits when given `pad`; None, if it refuses.

    Torch pads both ends alike; with `ceil_mode` its last window may reach beyond the map. One of
    the two often equals the four-sided padding asked for, without a padded copy of the map.
    """
    if pad > size // 2:
        return None
    room = n + 2 * pad - size
    if not ceil_mode:
        return room // stride + 1
    count = math.ceil(room / stride) + 1
    return count - 1 if (count - 1) * stride >= n + pad else count


def _padded(x: Tensor, win: Window, value: float) -> Tensor:
    top, bottom, left, right = win.pad
    return F.pad(nchw(x), (left, right, top, bottom), value=value) if win.explicit else nchw(x)


def _unpadded(der: Tensor, win: Window, shape: torch.Size) -> Tensor:
    top, _, left, _ = win.pad
    return der[top : top + shape[0], left : left + shape[1]] if win.explicit else der


def _max_pool(x: Tensor, win: Window) -> tuple[Tensor, Tensor]:
    """The maxima, and the low bits of the indices of the pixels that they are.

    A window is known by its place, so that these bits tell which of its pixels won. The kernel
    writes 8 bytes for each, so it runs part by part; unless autograd looks on.
    """
    x_nchw, low_type = _padded(x, win, -torch.inf), _low_type(win, _seen(x.shape, win)[1])
    options = win.size, win.stride, win.kernel_pad, 1, win.ceil_mode
    if low_type is torch.int64 or x.requires_grad:
        y, indices = aten.max_pool2d_with_indices(x_nchw, *options)
        return hwcn(y), indices
    y, winners = (nchw(empty_map(win.output, x, dtype)) for dtype in (x.dtype, low_type))
    for part in _parts(win, x.device):
        maxima = y[part]
        indices = torch.empty_like(maxima, dtype=torch.int64)
        aten.max_pool2d_with_indices.out(x_nchw[part], *options, out=maxima, indices=indices)
        winners[part].copy_(indices)
    return hwcn(y), winners


def _max_pool_backward(shape: torch.Size, dzdy: Tensor, winners: Tensor, win: Window) -> Tensor:
    height, width = _seen(shape, win)
    der = nchw(empty_map((height, width, *shape[2:]), dzdy))
    whole = _whole_indices(win, width, winners)
    for part in _parts(win, dzdy.device):
        aten.max_pool2d_with_indices_backward.grad_input(
            nchw(dzdy)[part], der[part], win.size, win.stride, win.kernel_pad, 1, win.ceil_mode,
            whole(part), grad_input=der[part],
        )  # fmt: skip
    return _unpadded(hwcn(der), win, shape)


@planned
def _low_type(win: Window, width: int) -> torch.dtype:
    """The smallest type whose bits of an index tell the pixels of a window from each other.

    width: of the map, whose pixels are counted row by row. Few indices, or a symbol for their
    number, are not worth the effort.
    """
    count, (size_y, size_x) = math.prod(win.output), win.size
    if not isinstance(count, int) or count < FEW_WINNERS:
        return torch.int64
    offsets = [row * width + column for row in range(size_y) for column in range(size_x)]
    if len({offset % 2**8 for offset in offsets}) == len(offsets):
        return torch.uint8
    return torch.int16 if offsets[-1] < 2**15 else torch.int64


def _whole_indices(win: Window, width: int, winners: Tensor) -> Callable[[slice], Tensor]:
    """What makes indices of the low bits of some images."""
    low_type, device = winners.dtype, winners.device
    if low_type is torch.int64:
        return winners.__getitem__
    rows, columns = (
        torch.arange(-pad, count * stride - pad, stride, device=device)
        for count, stride, pad in zip(win.output, win.stride, win.kernel_pad, strict=False)
    )
    first = rows[:, None] * width + columns  # index of the first pixel of every window
    rows, columns = (torch.arange(count, device=device) for count in win.size)
    behind = (rows[:, None] * width + columns).reshape(-1)  # the first pixel, in a window
    count = 2**8 if low_type is torch.uint8 else (win.size[0] - 1) * width + win.size[1]
    by_low = torch.zeros(count, dtype=torch.int64, device=device)
    by_low.scatter_(0, behind.to(low_type).to(torch.int64), behind)

    def whole(part: slice) -> Tensor:
        low = torch.sub(winners[part], first.to(low_type))  # wraps around
        found = torch.empty_like(low, dtype=torch.int64)
        flat = [t.permute(0, 2, 3, 1).reshape(-1) for t in (low, found)]
        torch.index_select(by_low, 0, flat[0].to(torch.int32), out=flat[1])
        return found.add_(first)

    return whole


def _seen(shape: torch.Size, win: Window) -> tuple[int, int]:
    """Height and width of the map that the kernel sees."""
    top, bottom, left, right = win.pad if win.explicit else (0, 0, 0, 0)
    return shape[0] + top + bottom, shape[1] + left + right


def _parts(win: Window, device: torch.device) -> list[slice]:
    """Images whose winners are found together."""
    y, x, c, n = win.output
    step = max(MOST_WINNERS["cuda" if device.type == "cuda" else "cpu"] // (y * x * c), 1)
    return [slice(first, first + step) for first in range(0, n, step)]


def _mean_pool(x: Tensor, win: Window) -> Tensor:
    x_nchw = _padded(x, win, 0.0)
    if not win.explicit:
        return hwcn(
            F.avg_pool2d(x_nchw, win.size, win.stride, win.kernel_pad, win.ceil_mode, False)
        )
    sums = F.avg_pool2d(x_nchw, win.size, win.stride, divisor_override=1)
    return hwcn(sums) / _pixels_per_window(x, win)


def _mean_pool_backward(x: Tensor, dzdy: Tensor, win: Window) -> Tensor:
    divisor = None
    if win.explicit:
        dzdy, divisor = dzdy / _pixels_per_window(x, win), 1
    der = aten.avg_pool2d_backward(
        nchw(dzdy), _padded(x, win, 0.0), win.size, win.stride, win.kernel_pad, win.ceil_mode,
        False, divisor,
    )  # fmt: skip
    return _unpadded(hwcn(der), win, x.shape)


def _pixels_per_window(x: Tensor, win: Window) -> Tensor:
    """|W(i,j)|, Y x X x 1 x 1."""
    ones = x.new_ones((x.shape[0], x.shape[1], 1, 1))
    return hwcn(F.avg_pool2d(_padded(ones, win, 0.0), win.size, win.stride, divisor_override=1))


@dataclass(frozen=True)
class Pooling(Filter):
    """Layer form of `pool`; what it saves is smaller than its input: the shape, and the winners."""

    type_name, needs = "pool", frozenset()
    struct_names, dag_names = {"size": "pool"}, {"size": "poolSize"}
    size: Size2 = field(default=1)
    method: Method = field(default="max", kw_only=True)

    def forward(self, inputs, params, ctx):
        """See `pool`."""
        x = check_map(inputs[0])
        win = _window(x.shape, self.size, self.stride, self.pad, self.method)
        if win.method == "max":
            y, winners = _max_pool(x, win)
            return (y,), (x.shape, winners)
        return (_mean_pool(x, win),), (x.shape, None)

    def backward(self, call, der_outputs):
        """See `pool_backward`."""
        (dzdy,) = der_outputs
        if call.saved is None:
            return (pool_backward(call.inputs[0], dzdy, **self.options()),), ()
        shape, winners = call.saved
        win = _window(shape, self.size, self.stride, self.pad, self.method)
        stand_in = empty_map(shape, dzdy)  # never written: the kernels read its shape alone
        dzdy = check_projection(dzdy, win.output, stand_in)
        if winners is not None:
            return (_max_pool_backward(shape, dzdy, winners, win),), ()
        return (_mean_pool_backward(stand_in, dzdy, win),), ()

    def window(self, param_shapes: Sequence[Sequence[int] | None]):
        """The pooling window."""
        return pair(self.size, "size")
