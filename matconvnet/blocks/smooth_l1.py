"""Smooth L1 loss: quadratic for small differences from a target, linear for large ones."""

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_same
from matconvnet.blocks._math import check_scalar_projection, check_weights, number
from matconvnet.blocks.loss import Regression
from matconvnet.layout import array_api


@array_api
def smooth_l1(
    x: Tensor,
    x0: Tensor,
    *,
    instance_weights: Tensor | float | None = None,
    sigma: float = 1.0,
) -> Tensor:
    """Compare `x` with the target `x0`; the sum over all elements, never a mean.

        y = sum of w * f(x - x0),  w = instance_weights (or 1)
        f(d) = sigma^2 * d^2 / 2  where |d| <= 1 / sigma^2;  |d| - 1 / (2 * sigma^2)  elsewhere

    Args:
        x: H x W x D x N map of floats.
        x0: the same size.
        instance_weights: w, a number or a tensor that broadcasts to H x W x D x N.
        sigma: slope of f' around 0 is sigma^2, > 0; the larger, the closer f is to |d|.

    Returns: one number (no axes), of the type of `x`.

    Raises:
        TypeError: types or devices differ.
        ValueError: shapes that do not fit; sigma <= 0.

    Source: dagnn.LossSmoothL1 of the Fast R-CNN example; Girshick 2015.
    """
    a = _problem(x, x0, instance_weights, sigma)
    f = F.smooth_l1_loss(a.x, a.target, reduction="none", beta=1 / a.steepness)
    return (f if a.weights is None else f * a.weights).sum().to(x.dtype)


@array_api
def smooth_l1_backward(
    x: Tensor,
    x0: Tensor,
    dzdy: Tensor | float,
    *,
    instance_weights: Tensor | float | None = None,
    sigma: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Derivatives of `smooth_l1` projected on `dzdy` (one number): (dzdx, dzdx0).

        dzdx = dzdy * w * max(-1, min(1, sigma^2 * (x - x0))),  dzdx0 = -dzdx

    Raises: as `smooth_l1`; ValueError, if `dzdy` is not one number.
    Source: dagnn.LossSmoothL1, which has no derivative for the target.
    """
    a = _problem(x, x0, instance_weights, sigma)
    g = check_scalar_projection(dzdy, x)
    slope = (a.x - a.target).mul_(a.steepness).clamp_(-1, 1)
    dzdx = slope.mul_(g if a.weights is None else g * a.weights).to(x.dtype)
    return dzdx.reshape(x.shape), (-dzdx).reshape(x0.shape)


class Problem(NamedTuple):
    """The arguments, checked, in the type of sums; steepness = sigma^2."""

    x: Tensor
    target: Tensor
    weights: Tensor | None
    steepness: float


def _problem(x: Tensor, x0: Tensor, instance_weights, sigma) -> Problem:
    x4, target, exact = check_map(x), check_map(x0, "x0"), acc_dtype(x)
    check_same(x, x0=x0)
    if target.shape != x4.shape:
        raise ValueError(f"x0 has shape {tuple(x0.shape)}; wanted that of x, {tuple(x4.shape)}")
    return Problem(
        x4.to(exact),
        target.to(exact),
        check_weights(instance_weights, x4.shape, x),
        number(sigma, "sigma", 0, above=True) ** 2,
    )


@dataclass(frozen=True)
class SmoothL1(Regression):
    """Layer form of `smooth_l1`. Inputs: x, the target x0, and instance weights if any."""

    type_name, dag_type = "smoothl1", "LossSmoothL1"
    sigma: float = 1.0

    def forward(self, inputs, params, ctx):
        """See `smooth_l1`."""
        x, x0, weights = self.arguments(inputs)
        return (smooth_l1(x, x0, instance_weights=weights, sigma=self.sigma),), None

    def backward(self, call, der_outputs):
        """See `smooth_l1_backward`; weights have no derivative."""
        x, x0, weights = self.arguments(call.inputs)
        ders = smooth_l1_backward(x, x0, der_outputs[0], instance_weights=weights, sigma=self.sigma)
        return (*ders, *(None for _ in call.inputs[2:])), ()
