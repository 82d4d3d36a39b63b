"""Checks of tensor arguments that all blocks share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from matconvnet.layout import as4d


def check_map(x: Tensor, name: str = "x") -> Tensor:
    """Check that `x` is a tensor of floats, and read it as H x W x C x N.

    Raises: TypeError, if it is no tensor of floats; ValueError, if it has more than four axes.
    """
    check_float(x, name)
    return as4d(x, name)


def check_float(x: Tensor, name: str) -> None:
    """Raise TypeError unless `x` is a tensor of floats."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is {type(x).__name__}; wanted a tensor or an array of floats")
    if not x.is_floating_point():
        raise TypeError(
            f"{name} holds {x.dtype}; wanted floats (convert it first, for example to float32)"
        )


def check_same(x: Tensor, **others: Tensor | None) -> None:
    """Raise TypeError unless the tensors share the type and the device of `x`."""
    for name, other in others.items():
        if other is None:
            continue
        check_float(other, name)
        if other.dtype != x.dtype:
            raise TypeError(f"{name} holds {other.dtype}, x holds {x.dtype}; wanted the same type")
        if other.device != x.device:
            raise TypeError(f"{name} is on {other.device}, x on {x.device}; wanted one device")


def check_projection(dzdy: Tensor, shape: Sequence[int], x: Tensor) -> Tensor:
    """Check that `dzdy` has the shape of the output (axes of size 1 at the end may be left out)."""
    check_same(x, dzdy=dzdy)
    wanted = tuple(shape)
    found = tuple(dzdy.shape)
    if found == wanted:
        return dzdy
    if found + (1,) * (len(wanted) - len(found)) != wanted:
        raise ValueError(f"dzdy has shape {found}; wanted the shape of the output, {wanted}")
    return dzdy.reshape(wanted)


def acc_dtype(x: Tensor) -> torch.dtype:
    """The type in which long sums over `x` are accumulated: float32 for half types."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
