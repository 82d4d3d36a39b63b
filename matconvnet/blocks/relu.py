"""Rectified linear unit, with an optional leak."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_float, check_projection
from matconvnet.layer import Elementwise
from matconvnet.layout import array_api, empty_map, nchw

aten: Any = torch.ops.aten
FEW = 1 << 16


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

    def forward(self, inputs, params, ctx) -> tuple[tuple[Tensor], Any]:
        """See `relu`."""
        return (relu(inputs[0], leak=self.leak),), None

    def backward(self, call, der_outputs):
        """See `relu_backward`."""
        return (relu_backward(call.outputs[0], der_outputs[0], leak=self.leak),), ()

    def sparing(self):
        """A layer that saves bits; with a leak there is none."""
        return SparingReLU() if self.leak == 0 else self


@dataclass(frozen=True)
class SparingReLU(ReLU):
    """A ReLU that saves in one bit for each number whether it was positive, not its output.

    Few numbers are not worth the effort.
    """

    needs = frozenset()

    def forward(self, inputs, params, ctx):
        """See `relu`."""
        y = relu(inputs[0])
        return (y,), y if y.numel() < FEW else _zeros_as_bits(y)

    def backward(self, call, der_outputs):
        """See `relu_backward`."""
        (dzdy,), saved = der_outputs, call.saved
        if saved is None or saved.is_floating_point():
            y = call.inputs[0] if saved is None else saved
            return (relu_backward(y, dzdy),), ()
        return (_without_zeros(dzdy, saved),), ()


def _zeros_as_bits(y: Tensor) -> Tensor:
    """Bytes of bits that are set where y <= 0; bit k is that of the k-th eighth of `y`."""
    eighths = _eighths(y)
    bits = torch.zeros(eighths[0].numel(), dtype=torch.uint8, device=y.device)
    for k, part in enumerate(eighths):
        bits[: part.numel()].add_((part <= 0).view(torch.uint8), alpha=1 << k)
    return bits


def _without_zeros(dzdy: Tensor, bits: Tensor) -> Tensor:
    """`dzdy`, but 0 where bits are set."""
    dzdx = empty_map(dzdy.shape, dzdy)
    for k, (part, der) in enumerate(zip(_eighths(dzdy), _eighths(dzdx), strict=True)):
        positive = ((bits[: part.numel()] >> k) & 1).bitwise_xor_(1).to(part.dtype)
        aten.threshold_backward.grad_input(part, positive, 0, grad_input=der)
    return dzdx


def _eighths(t: Tensor) -> tuple[Tensor, ...]:
    """The numbers of a map in the order of channels-last memory, in eight parts."""
    flat = nchw(t).permute(0, 2, 3, 1).reshape(-1)
    return flat.split(-(-flat.numel() // 8))
