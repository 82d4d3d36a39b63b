"""Logistic sigmoid."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_float, check_projection
from matconvnet.layer import Elementwise
from matconvnet.layout import array_api

aten: Any = torch.ops.aten


@array_api
def sigmoid(x: Tensor) -> Tensor:
    """Squash every number into (0, 1).

        y = 1 / (1 + exp(-x))

    Args: x: floats, any shape.
    Returns: the shape of `x`.
    Source: vl_nnsigmoid.
    """
    check_float(x, "x")
    return torch.sigmoid(x)


@array_api
def sigmoid_backward(x: Tensor, dzdy: Tensor) -> Tensor:
    """Derivative of `sigmoid` projected on `dzdy`.

    dzdx = dzdy * y * (1 - y),  y = sigmoid(x)
    """
    check_float(x, "x")
    return aten.sigmoid_backward(check_projection(dzdy, x.shape, x), torch.sigmoid(x))


@dataclass(frozen=True)
class Sigmoid(Elementwise):
    """Layer form of `sigmoid`; its derivative reads the output."""

    type_name, needs = "sigmoid", frozenset({"outputs"})

    def forward(self, inputs, params, ctx):
        """See `sigmoid`."""
        return (sigmoid(inputs[0]),), None

    def backward(self, call, der_outputs):
        """See `sigmoid_backward`."""
        (y,), (dzdy,) = call.outputs, der_outputs
        return (aten.sigmoid_backward(check_projection(dzdy, y.shape, y), y),), ()
