"""What losses and normalisations share: plain numbers, labels, weights, scalar projections."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_same
from matconvnet.layout import as4d
from matconvnet.window import numbers


def number(value: Any, name: str, low: float = float("-inf"), *, above: bool = False) -> float:
    """Check that `value` is one finite number >= `low` (> `low`, if `above`)."""
    items = numbers(value, name)
    if len(items) != 1:
        raise ValueError(f"{name} is {value!r}; wanted one number")
    found = items[0]
    if not low <= found < float("inf") or found == (low if above else float("-inf")):
        bound = "" if low == float("-inf") else f" {'>' if above else '>='} {low:g}"
        raise ValueError(f"{name} is {found}; wanted a finite number{bound}")
    return found


def check_scalar_projection(dzdy: Any, x: Tensor) -> Tensor | float:
    """Check that `dzdy`, the projection of an output of one number, is one number itself."""
    if not isinstance(dzdy, Tensor):
        return number(dzdy, "dzdy")
    if dzdy.numel() != 1:
        raise ValueError(f"dzdy has shape {tuple(dzdy.shape)}; wanted one number")
    return dzdy.reshape(()).to(acc_dtype(x))


def check_weights(weights: Any, shape: Sequence[int], x: Tensor) -> Tensor | None:
    """Read `instance_weights` as four axes that broadcast to `shape`, in the type of sums."""
    if weights is None:
        return None
    if not isinstance(weights, Tensor):
        weights = torch.tensor(number(weights, "instance_weights"), dtype=x.dtype, device=x.device)
    if weights.numel() == 1:
        return weights.reshape(1, 1, 1, 1).to(x.device, acc_dtype(x))
    check_same(x, instance_weights=weights)
    w4 = as4d(weights, "instance_weights")
    if any(found not in (1, wanted) for found, wanted in zip(w4.shape, shape, strict=True)):
        raise ValueError(
            f"instance_weights has shape {tuple(weights.shape)}; "
            f"wanted one that broadcasts to {tuple(shape)}"
        )
    return w4.to(acc_dtype(x))


def check_labels(
    c: Tensor, x: Tensor, low: float, high: int, hint: str
) -> tuple[Tensor, float | None]:
    """Check that labels of any numeric type are whole numbers from `low` to `high`.

    Returns: the labels as int64, and the lowest of them. Their values are not looked at while a
    program is traced or recorded, when nobody can wait for them: the lowest then is None.
    """
    if not isinstance(c, Tensor) or c.is_complex():
        found = c.dtype if isinstance(c, Tensor) else type(c).__name__
        raise TypeError(f"c is {found}; wanted a tensor or an array of integers or floats")
    if c.device != x.device:
        raise TypeError(f"c is on {c.device}, x on {x.device}; wanted one device")
    labels = c.to(torch.int64)
    if c.numel() == 0 or not can_read(c):
        return labels, None
    least, most = torch.aminmax(c if c.is_floating_point() else labels)
    extremes = least.item(), most.item()
    outside = not low <= extremes[0] <= extremes[1] <= high
    if outside or (c.is_floating_point() and not torch.equal(labels.to(c.dtype), c)):
        wanted = f"up to {high}" if low == float("-inf") else f"from {low:g} to {high}"
        raise ValueError(
            f"c holds labels between {extremes[0]:g} and {extremes[1]:g}; "
            f"wanted whole numbers {wanted} ({hint})"
        )
    return labels, extremes[0]


def can_read(t: Tensor) -> bool:
    """Tell whether there are values to wait for: not in a trace, a CUDA graph, or on "meta"."""
    if torch.compiler.is_compiling() or t.is_meta:
        return False
    return not (t.is_cuda and torch.cuda.is_current_stream_capturing())
