"""Softmax over the channels of every pixel."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_map, check_projection
from matconvnet.layer import Elementwise
from matconvnet.layout import array_api

aten: Any = torch.ops.aten


@array_api
def softmax(x: Tensor) -> Tensor:
    """Turn the channels of every pixel into a distribution.

        y[d] = exp(x[d] - m) / sum over k of exp(x[k] - m),  m = max over k of x[k]

    Args: x: H x W x C x N map of floats.
    Returns: H x W x C x N.
    Source: vl_nnsoftmax.
    """
    return torch.softmax(check_map(x), dim=2)


@array_api
def softmax_backward(x: Tensor, dzdy: Tensor) -> Tensor:
    """Derivative of `softmax` projected on `dzdy`; returns the shape of `x`.

    dzdx = y * (dzdy - sum over k of dzdy[k] * y[k]),  y = softmax(x)
    """
    return _from_output(softmax(x), dzdy, x).reshape(x.shape)


def _from_output(y: Tensor, dzdy: Tensor, x: Tensor) -> Tensor:
    return aten._softmax_backward_data(check_projection(dzdy, y.shape, x), y, 2, x.dtype)


@dataclass(frozen=True)
class Softmax(Elementwise):
    """Layer form of `softmax`; its derivative reads the output."""

    type_name, dag_type, needs = "softmax", "SoftMax", frozenset({"outputs"})

    def forward(self, inputs, params, ctx):
        """See `softmax`."""
        return (softmax(inputs[0]),), None

    def backward(self, call, der_outputs):
        """See `softmax_backward`."""
        return (_from_output(call.outputs[0], der_outputs[0], call.outputs[0]),), ()
