"""Lp normalisation: divide by the p-norm over chosen axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_projection, check_same
from matconvnet.blocks._math import number
from matconvnet.layer import Field, Layer
from matconvnet.layout import array_api, as4d
from matconvnet.window import integers, numbers


@array_api
def lpnorm(
    x: Tensor,
    *,
    exponent: float = 2,
    epsilon: float = 1e-2,
    dims: int | Sequence[int] = (2,),
    norms: Tensor | None = None,
    return_norms: bool = False,
) -> Any:
    """Divide `x` by its norm over the axes `dims`.

        n = (sum over dims of x^exponent + epsilon)^(1/exponent),  y = x / n

    There is no absolute value: odd or fractional exponents are for positive `x`.

    Args:
        x: H x W x C x N map of floats.
        exponent: > 0, as a rule even.
        epsilon: added once to the sum, >= 0.
        dims: axes of the sum, 0..3: rows, columns, channels, images.
        norms: n, if it is known already, shape of `x` with 1 along `dims`.
        return_norms: return (y, n).

    Returns: y, a tensor H x W x C x N; with `return_norms` the pair (y, n).

    Raises:
        TypeError: types or devices differ.
        ValueError: a number out of range; no axis; `norms` of another shape.

    Source: vl_nnnormalizelp.
    """
    x4 = check_map(x)
    n = _norms(x, x4, exponent, epsilon, dims, norms)
    y = (x4 / n).to(x.dtype)
    return (y, _as_given(n, norms, x)) if return_norms else y


@array_api
def lpnorm_backward(
    x: Tensor,
    dzdy: Tensor,
    *,
    exponent: float = 2,
    epsilon: float = 1e-2,
    dims: int | Sequence[int] = (2,),
    norms: Tensor | None = None,
    return_norms: bool = False,
) -> Any:
    """Derivative of `lpnorm` projected on `dzdy`; returns the shape of `x`, or a pair (dzdx, n).

        dzdx = dzdy / n - (sum over dims of dzdy * x) * x^(exponent-1) / n^(exponent+1)

    `norms`, where given, are taken for the norms of this `x`, not for constants.

    Raises: as `lpnorm`; ValueError, if `dzdy` has not the shape of `x`.
    Source: vl_nnnormalizelp.
    """
    x4 = check_map(x)
    n = _norms(x, x4, exponent, epsilon, dims, norms)
    p = check_projection(dzdy, x4.shape, x).to(acc_dtype(x))
    x_ = x4.to(acc_dtype(x))
    total = (p * x_).sum(_axes(dims), keepdim=True) / n.pow(exponent + 1)
    dzdx = (p / n).sub_(total * x_.pow(exponent - 1)).to(x.dtype).reshape(x.shape)
    return (dzdx, _as_given(n, norms, x)) if return_norms else dzdx


def _axes(dims: int | Sequence[int]) -> tuple[int, ...]:
    items = numbers(dims, "dims")
    axes = tuple(sorted(set(integers(items, "dims", (len(items),), 0))))
    if not axes or axes[-1] > 3:
        raise ValueError(f"dims is {dims!r}; wanted one or more axes from 0 to 3")
    return axes


def _norms(x: Tensor, x4: Tensor, exponent, epsilon, dims, norms: Tensor | None) -> Tensor:
    """The norms, given or computed, in the type of sums; checks the options."""
    exponent = number(exponent, "exponent", 0, above=True)
    epsilon = number(epsilon, "epsilon", 0)
    axes = _axes(dims)
    if norms is None:
        s = x4.to(acc_dtype(x)).pow(exponent).sum(axes, keepdim=True)
        return s.add_(epsilon).pow_(1 / exponent)
    check_same(x, norms=norms)
    wanted = tuple(1 if axis in axes else size for axis, size in enumerate(x4.shape))
    if as4d(norms, "norms").shape != wanted:
        raise ValueError(f"norms has shape {tuple(norms.shape)}; wanted {wanted}")
    return as4d(norms, "norms").to(acc_dtype(x))


def _as_given(n: Tensor, norms: Tensor | None, x: Tensor) -> Tensor:
    return n.to(x.dtype) if norms is None else norms


@dataclass(frozen=True)
class LpNorm(Layer):
    """Layer form of `lpnorm`."""

    type_name = "normalizelp"
    exponent: float = 2
    epsilon: float = 1e-2
    dims: int | Sequence[int] = (2,)

    def forward(self, inputs, params, ctx):
        """See `lpnorm`."""
        return (lpnorm(inputs[0], **self.options()),), None

    def backward(self, call, der_outputs):
        """See `lpnorm_backward`."""
        return (lpnorm_backward(call.inputs[0], der_outputs[0], **self.options()),), ()

    def receptive_field(self, param_shapes):
        """A pixel; None, if the norm is over rows or columns."""
        return Field() if min(_axes(self.dims)) >= 2 else None
