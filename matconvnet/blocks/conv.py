"""Convolution: a bank of filters slides over a map; groups, stride, padding, dilation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from matconvnet.blocks._checks import check_map, check_projection, check_same
from matconvnet.blocks._init import gaussian_filters
from matconvnet.layer import Filter
from matconvnet.layout import array_api, channel_sums, hwcn, nchw
from matconvnet.window import Pad4, Size2, output_size, pair, planned, quad

aten: Any = torch.ops.aten
Ders3 = tuple[Tensor | None, Tensor | None, Tensor | None]


@array_api
def conv(
    x: Tensor,
    f: Tensor | None,
    b: Tensor | None = None,
    *,
    stride: Size2 = 1,
    pad: Pad4 = 0,
    dilate: Size2 = 1,
) -> Tensor:
    """Correlate `x` with every filter of the bank `f` (filters are not flipped) and add a bias.

        y[i,j,k,n] = b[k] + sum over a,c,e of
                     f[a,c,e,k] * x[i*sy + a*dy - top, j*sx + c*dx - left, g*FC + e, n]

    with x = 0 outside the map, and g = k // (K/G) the group of filter k. The number of groups
    G = C / FC follows from the shapes.

    Args:
        x: H x W x C x N map of floats.
        f: FH x FW x FC x K filters; FC divides C, G divides K. None: no filtering, y is x
            subsampled by `stride` (plus bias), K = C.
        b: K biases in any shape, or None.
        stride: (vertical, horizontal) step, in pixels; one number serves both.
        pad: zeros at (top, bottom, left, right), in pixels; one number serves all.
        dilate: (vertical, horizontal) distance of the taps, in pixels.

    Returns: Y x X x K x N with Y = (H + top + bottom - ((FH-1)*dy + 1)) // sy + 1.

    Raises:
        TypeError: types or devices differ.
        ValueError: shapes that do not fit, a stride or dilation < 1, a pad < 0.

    Source: vl_nnconv; MatConvNet manual, "Convolution".
    """
    x4 = check_map(x)
    g = geometry(x4, f, b, stride, pad, dilate)
    if f is None:
        y = _padded(x4, g)[:: g.stride[0], :: g.stride[1]]
        return y.clone() if b is None else y + b.reshape(-1, 1)
    f4 = check_map(f, "f")
    if x4.shape[3] == 0:
        return x4.new_empty(g.output)
    bias = None if b is None else b.reshape(-1)
    if g.is_full:
        rows, columns = _flat(f4), _flat(x4).t()
        y = rows @ columns if bias is None else torch.addmm(bias[:, None], rows, columns)
        return y.reshape(g.output)
    x_nchw = nchw(_padded(x4, g))
    return hwcn(F.conv2d(x_nchw, nchw(f4), bias, g.stride, g.kernel_pad, g.dilate, g.groups))


@array_api
def conv_backward(
    x: Tensor,
    f: Tensor | None,
    b: Tensor | None,
    dzdy: Tensor,
    *,
    stride: Size2 = 1,
    pad: Pad4 = 0,
    dilate: Size2 = 1,
    der_data: bool = True,
    der_filters: bool = True,
    der_biases: bool = True,
    out: Tensor | None = None,
) -> Ders3:
    """Derivatives of `conv` projected on `dzdy`: (dzdx, dzdf, dzdb).

        dzdb[k]       = sum over i,j,n of dzdy[i,j,k,n]
        dzdf[a,c,e,k] = sum over i,j,n of dzdy[i,j,k,n] * (the x that f[a,c,e,k] met there)
        dzdx[u,v,d,n] = sum over all i,j,a,c,k that read x[u,v,d,n] of dzdy[i,j,k,n] * f[a,c,e,k]

    Args:
        x, f, b, stride, pad, dilate: as in `conv`.
        dzdy: shape of the output of `conv`.
        der_data, der_filters, der_biases: which derivatives are wanted.
        out: a tensor of the shape of `f` that dzdf may be written to, where the kernel can.

    Returns: derivatives with the shapes of `x`, `f`, `b`; None for an absent or unwanted one.
    Raises: as `conv`; ValueError, if `dzdy` has not the shape of the output.
    Source: vl_nnconv.
    """
    x4 = check_map(x)
    g = geometry(x4, f, b, stride, pad, dilate)
    dzdy = check_projection(dzdy, g.output, x)
    wanted = (der_data, der_filters and f is not None)
    if x4.shape[3] == 0:
        dzdx, dzdf = torch.zeros_like(x4), None if f is None else torch.zeros_like(f)
    elif f is None:
        dzdx, dzdf = _subsampling_backward(x4, dzdy, g), None
    elif g.is_full:
        dzdx, dzdf = _product_backward(x4, check_map(f, "f"), dzdy, wanted, out)
    else:
        dzdx, dzdf = _kernel_backward(x4, check_map(f, "f"), dzdy, g, wanted)
    return (
        dzdx.reshape(x.shape) if dzdx is not None and wanted[0] else None,
        dzdf.reshape(f.shape) if f is not None and dzdf is not None and wanted[1] else None,
        channel_sums(dzdy).reshape(b.shape) if b is not None and der_biases else None,
    )


def _subsampling_backward(x: Tensor, dzdy: Tensor, g: "Geometry") -> Tensor:
    padded = x.new_zeros(g.padded)
    padded[:: g.stride[0], :: g.stride[1]] = dzdy
    return _unpadded(padded, g, x)


def _product_backward(
    x: Tensor, f: Tensor, dzdy: Tensor, wanted: tuple[bool, bool], out: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Derivatives where the filters cover the map: y = F x, with F of K rows and x of N columns."""
    (h, w, c, n), k = x.shape, f.shape[3]
    p = dzdy.reshape(k, n)
    dzdx = (p.t() @ _flat(f)).reshape(n, h, w, c).permute(1, 2, 3, 0) if wanted[0] else None
    if not wanted[1]:
        return dzdx, None
    rows = out.permute(3, 0, 1, 2) if out is not None and out.shape == f.shape else None
    if rows is None or not rows.is_contiguous() or rows.dtype != x.dtype:
        rows = f.new_empty((k, h, w, c))
    torch.mm(p, _flat(x), out=rows.view(k, -1))
    return dzdx, rows.permute(1, 2, 3, 0)


def _kernel_backward(
    x: Tensor, f: Tensor, dzdy: Tensor, g: "Geometry", wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    if not any(wanted):
        return None, None
    f_nchw = nchw(f)
    if f.shape[3] == 1:  # torch 2.13 mistakes the memory order of one filter in float64
        f_nchw = f_nchw.contiguous()
    dzdx, dzdf, _ = aten.convolution_backward(
        nchw(dzdy), nchw(_padded(x, g)), f_nchw, None, g.stride, g.kernel_pad, g.dilate, False,
        (0, 0), g.groups, (*wanted, False),
    )  # fmt: skip
    return (
        _unpadded(hwcn(dzdx), g, x) if wanted[0] else None,
        hwcn(dzdf) if wanted[1] else None,
    )


class Geometry(NamedTuple):
    """What the arguments of a convolution amount to."""

    output: tuple[int, int, int, int]
    padded: tuple[int, int, int, int]
    stride: tuple[int, int]
    pad: tuple[int, int, int, int]
    dilate: tuple[int, int]
    groups: int
    kernel_pad: tuple[int, int]
    """The padding that is left to the kernel: all of it, where it is symmetric."""
    is_full: bool
    """The filters cover the whole map: one matrix product, far faster than a convolution kernel."""


def geometry(x: Tensor, f: Tensor | None, b: Tensor | None, stride, pad, dilate) -> Geometry:
    """Check the arguments of `conv`, and tell what they amount to."""
    check_same(x, f=f, b=b)
    f_shape = None if f is None else f.shape if f.dim() == 4 else check_map(f, "f").shape
    strides, pads, taps = pair(stride, "stride"), quad(pad, "pad"), pair(dilate, "dilate")
    return _plan(x.shape, f_shape, None if b is None else b.shape, strides, pads, taps)


@planned
def _plan(
    x: torch.Size,
    f: torch.Size | None,
    b: torch.Size | None,
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    taps: tuple[int, int],
) -> Geometry:
    """The geometry that shapes and options amount to; worked out once for each."""
    h, w, c, n = x
    if f is None:
        if taps != (1, 1):
            raise ValueError(f"dilate is {taps}; wanted 1 where there are no filters")
        fh, fw, k, groups = 1, 1, c, 1
    else:
        if 0 in f:
            raise ValueError(f"f has shape {tuple(f)}; wanted no axis of size 0 (or f=None)")
        fh, fw, fc, k = f
        if c == 0 or c % fc != 0:
            raise ValueError(f"f has {fc} input channels, x has {c}; wanted a divisor of {c}")
        groups = c // fc
        if k % groups != 0:
            raise ValueError(
                f"f has {k} filters for {groups} groups of channels (x has {c} channels, f {fc}); "
                f"wanted a multiple of {groups}"
            )
    if b is not None and b.numel() != k:
        raise ValueError(f"b has {b.numel()} elements, shape {tuple(b)}; wanted {k}")
    top, bottom, left, right = pads
    padded = (h + top + bottom, w + left + right, c, n)
    extent = ((fh - 1) * taps[0] + 1, (fw - 1) * taps[1] + 1)
    y, x_ = (output_size(padded[i], extent[i], strides[i]) for i in range(2))
    if y < 1 or x_ < 1:
        raise ValueError(
            f"the filters extend over {extent} pixels, the padded map has {padded[:2]}; "
            "wanted filters no larger than the padded map"
        )
    is_full = f is not None and groups == 1 and (fh, fw) == padded[:2] == (h, w) and taps == (1, 1)
    symmetric = f is not None and (top, left) == (bottom, right)
    kernel_pad = (top, left) if symmetric else (0, 0)
    return Geometry((y, x_, k, n), padded, strides, pads, taps, groups, kernel_pad, is_full)


def _flat(t: Tensor) -> Tensor:
    """H x W x C x N as a matrix N x H*W*C; a view of channels-last memory."""
    return t.permute(3, 0, 1, 2).reshape(t.shape[3], -1)


def _padded(x: Tensor, g: Geometry) -> Tensor:
    """`x` with the padding that the kernel will not add."""
    if any(g.kernel_pad) or not any(g.pad):
        return x
    top, bottom, left, right = g.pad
    return hwcn(F.pad(nchw(x), (left, right, top, bottom)))


def _unpadded(der: Tensor, g: Geometry, x: Tensor) -> Tensor:
    """The part of the derivative of `_padded(x)` that belongs to `x`."""
    if der.shape == x.shape:
        return der
    return der[g.pad[0] : g.pad[0] + x.shape[0], g.pad[2] : g.pad[2] + x.shape[1]]


@dataclass(frozen=True)
class Conv(Filter):
    """Layer form of `conv`. `size` (FH, FW, FC, K) is what new filters are drawn with."""

    type_name, param_names = "conv", ("filters", "biases")
    dilate: Size2 = field(default=1, kw_only=True)
    size: Sequence[int] | None = field(default=None, kw_only=True)
    has_bias: bool = field(default=True, kw_only=True)
    struct_names = {"size": None, "has_bias": None}  # noqa: RUF012

    def init_params(self, generator=None):
        """Gaussian filters of deviation sqrt(2 / (FH*FW*FC)); zero biases."""
        size = self.size
        if size is None:
            raise ValueError("Conv has no size; wanted size=(FH, FW, FC, K) to draw filters")
        return gaussian_filters(size, size[2], size[3] if self.has_bias else 0, generator)

    def _options(self) -> dict[str, Any]:
        return {"stride": self.stride, "pad": self.pad, "dilate": self.dilate}

    def forward(self, inputs, params, ctx):
        """See `conv`."""
        f, b = (*params, None, None)[:2]  # a DagNN may leave out what is absent
        return (conv(inputs[0], f, b, **self._options()),), None

    def backward(self, call, der_outputs):
        """See `conv_backward`."""
        (x,), (f, b), (dzdy,) = call.inputs, (*call.params, None, None)[:2], der_outputs
        ders = conv_backward(
            x, f, b, dzdy, **self._options(), der_data=call.wanted[0], out=(*call.out, None)[0]
        )
        return ders[:1], ders[1 : 1 + len(call.params)]

    def window(self, param_shapes):
        """Extent of the dilated filters."""
        fh, fw = _filter_shape(param_shapes)[:2]
        dy, dx = pair(self.dilate, "dilate")
        return (max(fh, 1) - 1) * dy + 1, (max(fw, 1) - 1) * dx + 1

    def output_sizes(self, sizes, param_shapes):
        """The size of the windows' grid; the channels are the number of filters."""
        (y, x, c, n) = super().output_sizes(sizes, param_shapes)[0]
        return ((y, x, _filter_shape(param_shapes)[3] or c, n),)

    def multiply_adds(self, sizes, param_shapes):
        """One per output element and filter tap."""
        fh, fw, fc, _ = _filter_shape(param_shapes)
        y, x, k, n = self.output_sizes(sizes, param_shapes)[0]
        return y * x * k * n * fh * fw * fc


def _filter_shape(param_shapes: Sequence[Sequence[int] | None]) -> tuple[int, int, int, int]:
    shape = param_shapes[0] if param_shapes else None
    if shape is None:
        return 0, 0, 0, 0
    fh, fw, fc, k = (*shape, 1, 1, 1)[:4]
    return fh, fw, fc, k
