"""Spatial pooling: the maximum or the mean of every window of every channel."""

import functools
import math
from collections.abc import Sequence
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
    win = _window(x4, size, stride, pad, method)
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
    win = _window(x4, size, stride, pad, method)
    dzdy = check_projection(dzdy, win.output, x)
    if x4.shape[3] == 0:
        return torch.zeros_like(x)
    if win.method == "max":
        return _max_pool_backward(x4, dzdy, _max_pool(x4, win)[1], win).reshape(x.shape)
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


def _window(x: Tensor, size, stride, pad, method) -> Window:
    kind = str(method).lower()
    if kind not in ("max", "avg"):
        raise ValueError(f"method is {method!r}; wanted 'max' or 'avg'")
    return _plan(x.shape, pair(size, "size"), pair(stride, "stride"), quad(pad, "pad"), kind)


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


def _unpadded(der: Tensor, win: Window, x: Tensor) -> Tensor:
    top, _, left, _ = win.pad
    return der[top : top + x.shape[0], left : left + x.shape[1]] if win.explicit else der


def _max_pool(x: Tensor, win: Window) -> tuple[Tensor, Tensor]:
    y, indices = aten.max_pool2d_with_indices(
        _padded(x, win, -torch.inf), win.size, win.stride, win.kernel_pad, 1, win.ceil_mode
    )
    return hwcn(y), indices


def _max_pool_backward(x: Tensor, dzdy: Tensor, indices: Tensor, win: Window) -> Tensor:
    der = aten.max_pool2d_with_indices_backward(
        nchw(dzdy), _padded(x, win, 0.0), win.size, win.stride, win.kernel_pad, 1, win.ceil_mode,
        indices,
    )  # fmt: skip
    return _unpadded(hwcn(der), win, x)


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
    return _unpadded(hwcn(der), win, x)


def _pixels_per_window(x: Tensor, win: Window) -> Tensor:
    """|W(i,j)|, Y x X x 1 x 1."""
    ones = x.new_ones((x.shape[0], x.shape[1], 1, 1))
    return hwcn(F.avg_pool2d(_padded(ones, win, 0.0), win.size, win.stride, divisor_override=1))


class Winners(NamedTuple):
    """What max pooling keeps for its derivative in place of its input."""

    indices: Tensor
    shape: torch.Size


@dataclass(frozen=True)
class Pooling(Filter):
    """Layer form of `pool`.

    A map is needed again only where remembering the winners would take more memory than the map.
    """

    type_name = "pool"
    struct_names, dag_names = {"size": "pool"}, {"size": "poolSize"}
    size: Size2 = field(default=1)
    method: Method = field(default="max", kw_only=True)

    @functools.cached_property
    def needs(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        """Nothing, if the winners (8 bytes an output) are smaller than the map they replace."""
        is_max = str(self.method).lower() == "max"
        keeps = is_max and math.prod(pair(self.stride, "stride")) < 4
        return frozenset({"inputs"} if keeps else ())

    def forward(self, inputs, params, ctx):
        """See `pool`."""
        (x,) = inputs
        if self.needs:
            return (pool(x, **self.options()),), None
        x4 = check_map(x)
        win = _window(x4, self.size, self.stride, self.pad, self.method)
        if win.method == "avg":
            return (_mean_pool(x4, win),), x4.shape
        y, indices = _max_pool(x4, win)
        return (y,), Winners(indices, x4.shape)

    def backward(self, call, der_outputs):
        """See `pool_backward`."""
        if call.inputs[0] is not None:
            return (pool_backward(call.inputs[0], der_outputs[0], **self.options()),), ()
        (dzdy,) = der_outputs
        shape = call.saved.shape if isinstance(call.saved, Winners) else call.saved
        stand_in = empty_map(shape, dzdy)  # never written: the kernels read its shape alone
        win = _window(stand_in, self.size, self.stride, self.pad, self.method)
        dzdy = check_projection(dzdy, win.output, stand_in)
        if win.method == "avg":
            return (_mean_pool_backward(stand_in, dzdy, win),), ()
        return (_max_pool_backward(stand_in, dzdy, call.saved.indices, win),), ()

    def window(self, param_shapes: Sequence[Sequence[int] | None]):
        """The pooling window."""
        return pair(self.size, "size")
