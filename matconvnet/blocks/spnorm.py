"""Spatial normalisation: divide by the mean energy of the pixels around, channel by channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_projection
from matconvnet.blocks._math import number
from matconvnet.blocks.pool import pool, pool_backward
from matconvnet.layer import Field, Layer
from matconvnet.layout import array_api
from matconvnet.window import integers, numbers


@array_api
def spnorm(x: Tensor, param: Sequence[float]) -> Tensor:
    """Divide every element by a power of the mean energy around it.

        y = x * f^(-beta),  f = 1 + alpha * mean of x^2 over the window around the pixel

    The window is clipped to the map, and the mean is over what is left of it. Windows of even size
    reach one pixel further below and to the right.

    Args:
        x: H x W x C x N map of floats.
        param: (height and width of the window in pixels, alpha, beta).

    Returns: H x W x C x N.
    Raises: ValueError, if `param` is not four numbers, the first two whole and at least 1.
    Source: vl_nnspnorm (whose help speaks of a sum; it is a mean).
    """
    x4 = check_map(x)
    param_ = _parse(param)
    return x4 * _factor(x4, param_).pow_(-param_.beta).to(x.dtype)


@array_api
def spnorm_backward(x: Tensor, dzdy: Tensor, param: Sequence[float]) -> Tensor:
    """Derivative of `spnorm` projected on `dzdy`; returns the shape of `x`.

        dzdx = dzdy * f^(-beta) - 2 * alpha * beta * x * T

    T is the derivative of the mean, projected on dzdy * x * f^(-beta-1).

    Raises: as `spnorm`; ValueError, if `dzdy` has not the shape of `x`.
    Source: vl_nnspnorm.
    """
    x4 = check_map(x)
    w = _parse(param)
    dzdy = check_projection(dzdy, x4.shape, x).to(acc_dtype(x))
    x_, f = x4.to(acc_dtype(x)), _factor(x4, w)
    scaled = dzdy * f.pow(-w.beta)
    t = pool_backward(x_, scaled / f * x_, w.size, **w.window)
    return scaled.addcmul_(x_, t, value=-2 * w.alpha * w.beta).to(x.dtype).reshape(x.shape)


class Param(NamedTuple):
    """The numbers of `param`; `window`: the options of the average pooling."""

    size: tuple[int, int]
    alpha: float
    beta: float
    window: dict[str, Any]


def _parse(param: Sequence[float]) -> Param:
    items = numbers(param, "param")
    if len(items) != 4:
        raise ValueError(
            f"param is {param!r}, {len(items)} numbers; wanted 4, (height, width, alpha, beta)"
        )
    height, width = integers(items[:2], "param[:2], the window,", (2,), 1)
    top, left = (height - 1) // 2, (width - 1) // 2
    pad = (top, height - 1 - top, left, width - 1 - left)
    alpha, beta = number(items[2], "alpha"), number(items[3], "beta")
    return Param((height, width), alpha, beta, {"pad": pad, "method": "avg"})


def _factor(x: Tensor, w: Param) -> Tensor:
    """f, H x W x C x N, in the type of sums."""
    energy = pool(x.to(acc_dtype(x)).square(), w.size, **w.window)
    return energy.mul_(w.alpha).add_(1)


@dataclass(frozen=True)
class SpNorm(Layer):
    """Layer form of `spnorm`; param = (height, width, alpha, beta)."""

    type_name, dag_type = "spnorm", "SpatialNorm"
    param: Sequence[float] = (2, 2, 10, 2)

    def forward(self, inputs, params, ctx):
        """See `spnorm`."""
        return (spnorm(inputs[0], self.param),), None

    def backward(self, call, der_outputs):
        """See `spnorm_backward`."""
        return (spnorm_backward(call.inputs[0], der_outputs[0], self.param),), ()

    def receptive_field(self, param_shapes):
        """The window and its centre."""
        w = _parse(self.param)
        top, _, left, _ = w.window["pad"]
        height, width = w.size
        return Field(w.size, (1, 1), ((height - 1) / 2 - top, (width - 1) / 2 - left))
