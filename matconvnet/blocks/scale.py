"""Scale: multiply a map by factors and add biases, one for any group of its elements."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_projection, check_same
from matconvnet.layer import Elementwise
from matconvnet.layout import array_api
from matconvnet.window import integers


@array_api
def scale(x: Tensor, a: Tensor, b: Tensor | None = None) -> Tensor:
    """Multiply `x` by `a` and add `b`, which serve all elements along their axes of size 1.

        y[i,j,d,n] = a[i,j,d,n] * x[i,j,d,n] + b[i,j,d,n],  with index 0 where the size is 1

    Args:
        x: H x W x C x N map of floats.
        a: factors, each axis of size 1 or that of `x`: 1 x 1 x C is one factor per channel.
        b: biases in the same manner, but along axes of their own; None: nothing is added.

    Returns: H x W x C x N.

    Raises:
        TypeError: types or devices differ.
        ValueError: `a` or `b` does not broadcast to `x`.

    Source: dagnn.Scale.
    """
    x4, a4, b4 = _check(x, a, b)
    return x4 * a4 if b4 is None else torch.addcmul(b4, x4, a4)


@array_api
def scale_backward(
    x: Tensor, a: Tensor, b: Tensor | None, dzdy: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Derivatives of `scale` projected on `dzdy`: (dzdx, dzda, dzdb).

        dzdx = a * dzdy
        dzda = sum of x * dzdy,  dzdb = sum of dzdy,  each over its own axes of size 1

    dzdb is None without biases; where `b` is as large as `x` it is a view of `dzdy`.

    Raises: as `scale`; ValueError, if `dzdy` has not the shape of the output.
    Source: dagnn.Scale, which sums dzdb over the axes of dzda.
    """
    x4, a4, b4 = _check(x, a, b)
    dzdy = check_projection(dzdy, x4.shape, x)
    dzda = (x4.to(acc_dtype(x)) * dzdy).sum_to_size(a4.shape).to(x.dtype).reshape(a.shape)
    dzdb = None
    if b is not None and b4 is not None:
        dzdb = dzdy.sum_to_size(b4.shape).reshape(b.shape)
    return (a4 * dzdy).reshape(x.shape), dzda, dzdb


def _check(x: Tensor, a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    x4 = check_map(x)
    return x4, _factors(a, x4, "a"), None if b is None else _factors(b, x4, "b")


def _factors(a: Tensor, x: Tensor, name: str) -> Tensor:
    a4 = check_map(a, name)
    check_same(x, **{name: a})
    if any(found not in (1, wanted) for found, wanted in zip(a4.shape, x.shape, strict=True)):
        raise ValueError(
            f"{name} has shape {tuple(a.shape)}; wanted one that broadcasts to x, {tuple(x.shape)}"
        )
    return a4


@dataclass(frozen=True)
class Scale(Elementwise):
    """Layer form of `scale`. x, a, and with `has_bias` b, are its inputs, then its parameters.

    So (x; a, b), (x, a; b) and (x, a, b;) will all do. `size` is what new parameters are made with.
    """

    type_name, param_names = "scale", ("a", "b")
    num_inputs = None
    size: Sequence[int] | None = None
    has_bias: bool = True

    def init_params(self, generator=None):
        """Ones for a and zeros for b: both, even if inputs take their place."""
        if not self.size:
            raise ValueError("Scale has no size; wanted size=(H, W, C, N), 1 where one serves all")
        size = integers(self.size, "size", (1, 2, 3, 4), 1)
        full = (*size, 1, 1, 1)[:4]
        return [torch.ones(full), *([torch.zeros(full)] if self.has_bias else [])]

    def _arguments(self, inputs, params) -> tuple[Any, Any, Any]:
        found, wanted = (*inputs, *params), ("x", "a", "b") if self.has_bias else ("x", "a")
        if len(found) != len(wanted):
            raise ValueError(
                f"Scale has {len(inputs)} inputs and {len(params)} parameters; "
                f"wanted {len(wanted)} in all: {', '.join(wanted)}"
            )
        x, a, b = (*found, None)[:3]
        return x, a, b

    def forward(self, inputs, params, ctx):
        """See `scale`."""
        return (scale(*self._arguments(inputs, params)),), None

    def backward(self, call, der_outputs):
        """See `scale_backward`."""
        inputs, params = call.inputs, call.params
        ders = scale_backward(*self._arguments(inputs, params), der_outputs[0])
        return ders[: len(inputs)], ders[len(inputs) : len(inputs) + len(params)]
