"""Rectified linear unit, with an optional leak."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_float, check_projection
from matconvnet.layer import Elementwise
from matconvnet.layout import array_api

aten: Any = torch.ops.aten


@array_api
def relu(x: Tensor, *, leak: float = 0.0) -> Tensor:
    """Pass what is positive, scale the rest by `leak`.

        y = x  where x > 0;  leak * x  elsewhere

    Args:
        x: floats, any shape.
        leak: slope for x <= 0, at least 0.

    Returns: the shape of `x`.
    Raises: ValueError, if `leak` is negative.
    Source: vl_nnrelu.
    """
    _check(x, leak)
    return torch.relu(x) if leak == 0 else torch.nn.functional.leaky_relu(x, leak)


@array_api
def relu_backward(x: Tensor, dzdy: Tensor, *, leak: float = 0.0) -> Tensor:
    """Derivative of `relu` projected on `dzdy`.

        dzdx = dzdy  where x > 0;  leak * dzdy  elsewhere (also at x = 0)

    The output y of `relu` serves as well as `x`: y > 0 where x > 0, and nothing else is looked at.
    """
    _check(x, leak)
    dzdy = check_projection(dzdy, x.shape, x)
    if leak == 0:
        return aten.threshold_backward(dzdy, x, 0)
    return aten.leaky_relu_backward(dzdy, x, leak, False)


def _check(x: Tensor, leak: float) -> None:
    check_float(x, "x")
    if not leak >= 0:
        raise ValueError(f"leak is {leak}; wanted a number >= 0")


@dataclass(frozen=True)
class ReLU(Elementwise):
    """Layer form of `relu`; its derivative reads the output, so that the input can be freed."""

    type_name, needs = "relu", frozenset({"outputs"})
    leak: float = 0.0

    def forward(self, inputs, params, ctx):
        """See `relu`."""
        return (relu(inputs[0], leak=self.leak),), None

    def backward(self, call, der_outputs):
        """See `relu_backward`."""
        return (relu_backward(call.outputs[0], der_outputs[0], leak=self.leak),), ()
