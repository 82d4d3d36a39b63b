"""Memory that kernels take beside their results, in bytes: rules that were measured."""

from typing import Any

from torch import Tensor

from matconvnet.blocks.lrn import STRIP

LRN_TENSORS = 6  # of one strip, at a time
COMPILED = {"convolution": 100_000, "convolution_backward": 200_000}
"""Bytes that stay with every shape of a convolution: what oneDNN compiles for it."""


def scratch(operator: str, args: Any) -> int:
    """Estimate for an operator of PyTorch, called with `args`.

    On a CPU, oneDNN brings filters into an order of its own, and their derivative back from it.
    (Measured by the peak of resident memory, layer by layer, for AlexNet and cifar-nin.)
    """
    if operator == "convolution":
        return args[1].nbytes
    if operator == "convolution_backward":
        return 2 * args[2].nbytes
    return 0


def compiled(operator: str, args: Any) -> tuple[Any, int]:
    """What tells one compiled kernel from another, and its estimated bytes."""
    if operator not in COMPILED:
        return None, 0
    return (operator, *(a.shape for a in args[:3] if isinstance(a, Tensor))), COMPILED[operator]


def lrn_scratch(x: Tensor) -> int:
    """The tensors of one strip of LRN; see `matconvnet.blocks.lrn`."""
    return LRN_TENSORS * min(STRIP, x.numel()) * 4
