"""Size, stride, padding and dilation of a sliding window: parsing, checks, output size."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

Plan = TypeVar("Plan")

Size2 = int | Sequence[int]
"""One number for both directions, or (vertical, horizontal)."""
Pad4 = int | Sequence[int]
"""One number for all borders, or (top, bottom, left, right)."""


def numbers(value: Any, name: str) -> list[float]:
    """The plain numbers in a number, a sequence, or an array of them."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.reshape(-1).tolist()
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    items = [item.item() if isinstance(item, (Tensor, np.generic)) else item for item in items]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (int, float)):
            raise TypeError(f"{name} is {value!r}; wanted a number or a sequence of numbers")
    return items


def integers(value: Any, name: str, counts: Sequence[int], low: int) -> tuple[int, ...]:
    """Check that `value` holds integers >= `low`, and as many of them as one of `counts`."""
    items = numbers(value, name)
    if len(items) not in counts:
        wanted = " or ".join(map(str, counts))
        raise ValueError(f"{name} is {value!r}, {len(items)} numbers; wanted {wanted}")
    for item in items:
        if item != item or item in (float("inf"), float("-inf")) or item != int(item):
            raise ValueError(f"{name} is {value!r}; wanted whole numbers")
        if item < low:
            raise ValueError(f"{name} is {value!r}; wanted whole numbers >= {low}")
    return tuple(int(item) for item in items)


def pair(value: Size2, name: str, low: int = 1) -> tuple[int, int]:
    """(vertical, horizontal) of an option given as one number or two."""
    if type(value) is int and value >= low:
        return value, value
    items = integers(value, name, (1, 2), low)
    return items[0], items[-1]


def quad(value: Pad4, name: str) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of an option given as one number or four."""
    if type(value) is int and value >= 0:
        return value, value, value, value
    items = integers(value, name, (1, 4), 0)
    top, bottom, left, right = items * 4 if len(items) == 1 else items
    return top, bottom, left, right


def output_size(padded: int, window: int, stride: int) -> int:
    """Windows that fit: floor((padded - window) / stride) + 1; 0, if not even one does."""
    return max((padded - window) // stride + 1, 0)


def planned(plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """Work out once for each what follows from shapes and options; but every time from symbols.

    While `torch.export` traces a network, sizes are symbols, which cannot be remembered.
    """
    remembered = functools.lru_cache(maxsize=4096)(plan)

    @functools.wraps(plan)
    def wrapper(*args: Any) -> Plan:
        try:
            return remembered(*args)
        except TypeError:  # a symbol has no hash
            pass
        return plan(*args)

    return wrapper
