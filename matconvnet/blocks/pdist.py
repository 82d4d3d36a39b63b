"""p-distance: how far the channels of every pixel are from those of a target."""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_projection, check_same
from matconvnet.blocks._math import check_scalar_projection, check_weights, number
from matconvnet.blocks.loss import Regression
from matconvnet.layout import array_api


@array_api
def pdist(
    x: Tensor,
    x0: Tensor,
    p: float,
    *,
    no_root: bool = False,
    epsilon: float = 1e-6,
    aggregate: bool = False,
    instance_weights: Tensor | float | None = None,
) -> Tensor:
    """Distance between `x` and the target `x0`, over the channels of every pixel.

        S[i,j,n] = sum over d of |x[i,j,d,n] - x0[i,j,d,n]|^p
        y = w * S^(1/p);  no_root: y = w * S;  aggregate: the sum of that over i,j,n

    Args:
        x: H x W x D x N map of floats.
        x0: the same size, or 1 x 1 x D x N: one target for all pixels of an image.
        p: exponent, > 0.
        no_root: leave out the root.
        epsilon: lower bound in the derivative only, see `pdist_backward`.
        aggregate: sum over pixels and images.
        instance_weights: w, a number or a tensor that broadcasts to H x W x 1 x N.

    Returns: H x W x 1 x N; one number (no axes) with `aggregate`.

    Raises:
        TypeError: types or devices differ.
        ValueError: shapes that do not fit; p <= 0; epsilon < 0.

    Source: vl_nnpdist; MatConvNet manual, "p-distance".
    """
    a = _problem(x, x0, p, epsilon, instance_weights)
    y = _power_sum(a) if no_root else _norm(a)
    if a.weights is not None:
        y = y * a.weights
    return (y.sum() if aggregate else y).to(x.dtype)


@array_api
def pdist_backward(
    x: Tensor,
    x0: Tensor,
    dzdy: Tensor | float,
    p: float,
    *,
    no_root: bool = False,
    epsilon: float = 1e-6,
    aggregate: bool = False,
    instance_weights: Tensor | float | None = None,
) -> tuple[Tensor, Tensor]:
    """Derivatives of `pdist` projected on `dzdy` (one number with `aggregate`): (dzdx, dzdx0).

    With d = x - x0, g = dzdy * w, e = epsilon,

        p = 1       dzdx = g * sign(d)
        p > 1       dzdx = g * max(S, e)^((1-p)/p) * |d|^(p-1) * sign(d)
        p < 1       dzdx = g * S^((1-p)/p) * max(|d|, e)^(p-1) * sign(d)

    and without root p instead of the power of S. All are 0 at d = 0. dzdx0 = -dzdx, summed to the
    shape of `x0`.

    Raises: as `pdist`; ValueError, if `dzdy` has not the shape of the output.
    Source: vl_nnpdist.
    """
    a = _problem(x, x0, p, epsilon, instance_weights)
    h, w, _, n = a.d.shape
    if aggregate:
        g = check_scalar_projection(dzdy, x)
    else:
        g = check_projection(cast(Tensor, dzdy), (h, w, 1, n), x).to(a.d.dtype)
    if a.weights is not None:
        g = g * a.weights
    slope = a.d.sign()
    if a.p < 1:
        slope.mul_(a.d.abs().clamp_(min=a.epsilon).pow_(a.p - 1).masked_fill_(a.d == 0, 0))
    elif a.p > 1:
        slope.mul_(a.d.abs().pow_(a.p - 1))
    if no_root:
        g = g * a.p
    elif a.p != 1:
        s = _power_sum(a)
        bounded = s.clamp(min=a.epsilon) if a.p > 1 else s
        g = g * bounded.pow((1 - a.p) / a.p).masked_fill_(s == 0, 0)
    dzdx = slope.mul_(g)
    dzdx0 = -dzdx
    if a.broadcast:
        dzdx0 = dzdx0.sum((0, 1), keepdim=True)
    return dzdx.to(x.dtype).reshape(x.shape), dzdx0.to(x.dtype).reshape(x0.shape)


class Problem(NamedTuple):
    """The arguments of a distance, checked; d = x - x0 in the type of sums."""

    d: Tensor
    p: float
    epsilon: float
    weights: Tensor | None
    broadcast: bool


def _problem(x: Tensor, x0: Tensor, p, epsilon, instance_weights) -> Problem:
    x4, target = check_map(x), check_map(x0, "x0")
    check_same(x, x0=x0)
    h, w, d, n = x4.shape
    if target.shape not in ((h, w, d, n), (1, 1, d, n)):
        raise ValueError(
            f"x0 has shape {tuple(x0.shape)}; wanted that of x, {(h, w, d, n)}, or {(1, 1, d, n)}"
        )
    return Problem(
        x4.to(acc_dtype(x)) - target,
        number(p, "p", 0, above=True),
        number(epsilon, "epsilon", 0),
        check_weights(instance_weights, (h, w, 1, n), x),
        target.shape != x4.shape,
    )


def _norm(a: Problem) -> Tensor:
    return torch.linalg.vector_norm(a.d, a.p, 2, keepdim=True)


def _power_sum(a: Problem) -> Tensor:
    if a.p == 1:
        return _norm(a)
    return a.d.abs().pow_(a.p).sum(2, keepdim=True)


@dataclass(frozen=True)
class PDist(Regression):
    """Layer form of `pdist`. Inputs: x, the target x0, and instance weights if there are any."""

    type_name = "pdist"
    dag_names = {"no_root": None, "epsilon": None, "instance_weights": None}  # noqa: RUF012
    dag_defaults = {"aggregate": True, "epsilon": 1e-6}  # noqa: RUF012
    p: float = 2
    no_root: bool = False
    epsilon: float = 1e-3
    aggregate: bool = False
    instance_weights: Tensor | float | None = None

    def _problem(self, inputs) -> tuple[Any, Any, dict[str, Any]]:
        """(x, x0, options of `pdist` but p); weights that come as an input win over the field."""
        x, x0, weights = self.arguments(inputs)
        options: dict[str, Any] = self.options()
        del options["p"]
        if weights is not None:
            options["instance_weights"] = weights
        return x, x0, options

    def forward(self, inputs, params, ctx):
        """See `pdist`."""
        x, x0, options = self._problem(inputs)
        return (pdist(x, x0, self.p, **options),), None

    def backward(self, call, der_outputs):
        """See `pdist_backward`; weights have no derivative."""
        x, x0, options = self._problem(call.inputs)
        ders = pdist_backward(x, x0, der_outputs[0], self.p, **options)
        return (*ders, *(None for _ in call.inputs[2:])), ()

    def output_sizes(self, sizes, param_shapes):
        """H x W x 1 x N, or one number with `aggregate`."""
        h, w, _, n = sizes[0]
        return ((1, 1, 1, 1) if self.aggregate else (h, w, 1, n),)
