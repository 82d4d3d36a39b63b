"""Norm-dependent offset: subtract a power of the norm of its channels from every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_projection
from matconvnet.blocks._math import number
from matconvnet.layer import Elementwise
from matconvnet.layout import array_api
from matconvnet.window import numbers

SMALLEST = 1e-8
"""Lower bound of the squared norm."""


@array_api
def noffset(x: Tensor, param: Sequence[float]) -> Tensor:
    """Subtract an amount that grows with the norm of the channels from all of them.

        y[d] = x[d] - alpha * L^beta,  L = max(sum over k of x[k]^2, 1e-8)

    Args:
        x: H x W x C x N map of floats.
        param: (alpha, beta); L is the squared norm, so beta = 0.5 means the norm.

    Returns: H x W x C x N.
    Raises: ValueError, if `param` is not two finite numbers.
    Source: vl_nnnoffset.
    """
    x4 = check_map(x)
    alpha, beta = _parse(param)
    return x4 - (alpha * _squared_norm(x4).pow_(beta)).to(x.dtype)


@array_api
def noffset_backward(x: Tensor, dzdy: Tensor, param: Sequence[float]) -> Tensor:
    """Derivative of `noffset` projected on `dzdy`; returns the shape of `x`.

        dzdx[d] = dzdy[d] - 2 * alpha * beta * x[d] * (sum over k of dzdy[k]) * L^(beta-1)

    The second term stays where L is at its bound, as in the original.

    Raises: as `noffset`; ValueError, if `dzdy` has not the shape of `x`.
    Source: vl_nnnoffset.
    """
    x4 = check_map(x)
    alpha, beta = _parse(param)
    dzdy = check_projection(dzdy, x4.shape, x)
    total = dzdy.sum(2, keepdim=True, dtype=acc_dtype(x))
    scale = total.mul_(_squared_norm(x4).pow_(beta - 1))
    return dzdy.addcmul(x4, scale.to(x.dtype), value=-2 * alpha * beta).reshape(x.shape)


def _parse(param: Sequence[float]) -> list[float]:
    items = numbers(param, "param")
    if len(items) != 2:
        raise ValueError(f"param is {param!r}, {len(items)} numbers; wanted 2, (alpha, beta)")
    return [number(item, "param") for item in items]


def _squared_norm(x: Tensor) -> Tensor:
    """L, H x W x 1 x N."""
    return x.to(acc_dtype(x)).square().sum(2, keepdim=True).clamp_(min=SMALLEST)


@dataclass(frozen=True)
class NormOffset(Elementwise):
    """Layer form of `noffset`; param = (alpha, beta)."""

    type_name = "noffset"
    param: Sequence[float] = (1, 0.5)

    def forward(self, inputs, params, ctx):
        """See `noffset`."""
        return (noffset(inputs[0], self.param),), None

    def backward(self, call, der_outputs):
        """See `noffset_backward`."""
        return (noffset_backward(call.inputs[0], der_outputs[0], self.param),), ()
