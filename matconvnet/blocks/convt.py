"""Convolution transpose: every input pixel adds a filter to the output; the adjoint of `conv`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from matconvnet.blocks._checks import check_map, check_projection, check_same
from matconvnet.blocks._init import gaussian_filters
from matconvnet.layer import Field, Layer
from matconvnet.layout import array_api, channel_sums, hwcn, nchw
from matconvnet.window import Pad4, Size2, integers, pair, quad

aten: Any = torch.ops.aten
Ders3 = tuple[Tensor | None, Tensor | None, Tensor | None]


@array_api
def convt(
    x: Tensor,
    f: Tensor,
    b: Tensor | None = None,
    *,
    upsample: Size2 = 1,
    crop: Pad4 = 0,
    num_groups: int = 1,
) -> Tensor:
    """Let every pixel of `x` add its filter, scaled, to a larger map; crop it; add a bias.

        Y[i*uy + a, j*ux + c, g*K + k, n] += f[a,c,k,d] * x[i,j,d,n],  g = d // (D/G)
        y = Y without its `top` first and `bottom` last rows, `left` and `right` columns, plus b

    Args:
        x: H x W x D x N map of floats.
        f: FH x FW x K x D filters, K outputs a group.
        b: K*G biases in any shape, or None.
        upsample: (vertical, horizontal) step between filters in the output, in pixels.
        crop: pixels removed at (top, bottom, left, right).
        num_groups: G, a divisor of D.

    Returns: Y x X x K*G x N with Y = (H - 1) * uy + FH - top - bottom.

    Raises:
        TypeError: types or devices differ.
        ValueError: shapes that do not fit, an output without pixels.

    Source: vl_nnconvt; MatConvNet manual, "Convolution transpose".
    """
    x4 = check_map(x)
    ups, crops, groups, out = _geometry(x4, f, b, upsample, crop, num_groups)
    if x4.shape[3] == 0:
        return x4.new_empty(out)
    top, _, left, _ = crops
    y = hwcn(F.conv_transpose2d(nchw(x4), nchw(check_map(f, "f")), None, ups, groups=groups))
    y = y[top : top + out[0], left : left + out[1]]
    return y if b is None else y + b.reshape(-1, 1)


@array_api
def convt_backward(
    x: Tensor,
    f: Tensor,
    b: Tensor | None,
    dzdy: Tensor,
    *,
    upsample: Size2 = 1,
    crop: Pad4 = 0,
    num_groups: int = 1,
    der_data: bool = True,
    der_filters: bool = True,
    der_biases: bool = True,
) -> Ders3:
    """Derivatives of `convt` projected on `dzdy`: (dzdx, dzdf, dzdb).

    With P = dzdy surrounded by zeros where `convt` cropped,

        dzdx[i,j,d]   = sum over a,c,k   of f[a,c,k,d] * P[i*uy + a, j*ux + c, g*K + k]
        dzdf[a,c,k,d] = sum over i,j,n   of x[i,j,d,n] * P[i*uy + a, j*ux + c, g*K + k, n]
        dzdb[k]       = sum over i,j,n   of dzdy[i,j,k,n]

    Returns: derivatives with the shapes of `x`, `f`, `b`; None for an absent or unwanted one.
    """
    x4 = check_map(x)
    ups, (top, bottom, left, right), groups, out = _geometry(x4, f, b, upsample, crop, num_groups)
    dzdy = check_projection(dzdy, out, x)
    dzdx = dzdf = dzdb = None
    if der_biases and b is not None:
        dzdb = channel_sums(dzdy).reshape(b.shape)
    if x4.shape[3] == 0:
        dzdx = torch.zeros_like(x) if der_data else None
        dzdf = torch.zeros_like(f) if der_filters else None
    elif der_data or der_filters:
        whole = F.pad(nchw(dzdy), (left, right, top, bottom))
        f_nchw = nchw(check_map(f, "f"))
        if x4.shape[2] == 1:  # torch 2.13 mistakes the memory order of one filter in float64
            f_nchw = f_nchw.contiguous()
        der_x, der_f, _ = aten.convolution_backward(
            whole, nchw(x4), f_nchw, None, ups, (0, 0), (1, 1), True, (0, 0),
            groups, (der_data, der_filters, False),
        )  # fmt: skip
        dzdx = hwcn(der_x).reshape(x.shape) if der_data else None
        dzdf = hwcn(der_f).reshape(f.shape) if der_filters else None
    return dzdx, dzdf, dzdb


def _geometry(x: Tensor, f: Tensor, b: Tensor | None, upsample, crop, num_groups):
    """(upsample, crop, groups, output shape), checked."""
    if f is None or f.numel() == 0:
        shape = None if f is None else tuple(f.shape)
        raise ValueError(f"f is empty (shape {shape}); wanted filters FH x FW x K x D")
    check_same(x, f=f, b=b)
    ups, crops = pair(upsample, "upsample"), quad(crop, "crop")
    (groups,) = integers(num_groups, "num_groups", (1,), 1)
    h, w, d, n = x.shape
    fh, fw, k, fd = check_map(f, "f").shape
    if fd != d:
        raise ValueError(f"f has {fd} filters on its last axis, x has {d} channels; wanted {d}")
    if d % groups != 0:
        raise ValueError(f"num_groups is {groups}; wanted a divisor of the {d} channels of x")
    if b is not None and b.numel() != k * groups:
        raise ValueError(f"b has {b.numel()} elements, shape {tuple(b.shape)}; wanted {k * groups}")
    top, bottom, left, right = crops
    y = (h - 1) * ups[0] + fh - top - bottom
    x_ = (w - 1) * ups[1] + fw - left - right
    if y < 1 or x_ < 1:
        raise ValueError(
            f"crop {crops} (top, bottom, left, right) leaves {y} x {x_} pixels; "
            "wanted at least 1 x 1"
        )
    return ups, crops, groups, (y, x_, k * groups, n)


@dataclass(frozen=True)
class ConvTranspose(Layer):
    """Layer form of `convt`. `size` (FH, FW, K, D) is what new filters are drawn with."""

    type_name, param_names = "convt", ("filters", "biases")
    upsample: Size2 = field(default=1, kw_only=True)
    crop: Pad4 = field(default=0, kw_only=True)
    num_groups: int = field(default=1, kw_only=True)
    size: Sequence[int] | None = field(default=None, kw_only=True)
    has_bias: bool = field(default=True, kw_only=True)
    struct_names = {"size": None, "has_bias": None}  # noqa: RUF012

    def init_params(self, generator=None):
        """Gaussian filters of deviation sqrt(2 / (FH*FW*D)); zero biases."""
        size = self.size
        if size is None:
            raise ValueError("ConvTranspose has no size; wanted size=(FH, FW, K, D)")
        biases = size[2] * self.num_groups if self.has_bias else 0
        return gaussian_filters(size, size[3], biases, generator)

    def _options(self) -> dict[str, Any]:
        return {"upsample": self.upsample, "crop": self.crop, "num_groups": self.num_groups}

    def forward(self, inputs, params, ctx):
        """See `convt`."""
        return (convt(inputs[0], *params, **self._options()),), None

    def backward(self, call, der_outputs):
        """See `convt_backward`."""
        (x,), f, (dzdy,) = call.inputs, call.params[0], der_outputs
        b = (*call.params, None)[1]  # a DagNN may leave out what is absent
        ders = convt_backward(x, f, b, dzdy, **self._options(), der_data=call.wanted[0])
        return ders[:1], ders[1 : 1 + len(call.params)]

    def output_sizes(self, sizes, param_shapes):
        """(H - 1) * upsample + FH - crops, and K*G channels."""
        h, w, _, n = sizes[0]
        fh, fw, k, _ = (*(param_shapes[0] or (0, 0, 0)), 1, 1, 1)[:4]
        (uy, ux), (top, bottom, left, right) = (
            pair(self.upsample, "upsample"),
            quad(self.crop, "crop"),
        )
        y, x = (h - 1) * uy + fh - top - bottom, (w - 1) * ux + fw - left - right
        return ((y, x, k * self.num_groups, n),)

    def receptive_field(self, param_shapes):
        """An output pixel sees (FH - 1) / uy + 1 input pixels, at steps of 1 / uy."""
        fh, fw = (*(param_shapes[0] or (0, 0)), 1)[:2]
        (uy, ux), (top, _, left, _) = pair(self.upsample, "upsample"), quad(self.crop, "crop")
        return Field(
            ((fh - 1) / uy + 1, (fw - 1) / ux + 1),
            (1 / uy, 1 / ux),
            ((2 * top - fh + 1) / (2 * uy), (2 * left - fw + 1) / (2 * ux)),
        )

    def multiply_adds(self, sizes, param_shapes):
        """One per input element and filter tap."""
        h, w, d, n = sizes[0]
        fh, fw, k, _ = (*(param_shapes[0] or (0, 0, 0)), 1, 1, 1)[:4]
        return h * w * d * n * fh * fw * k
