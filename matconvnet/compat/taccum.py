"""`vl_taccum`: a weighted sum of two arrays."""

from typing import Any

import numpy as np
from torch import Tensor

from matconvnet.layout import to_tensor


def vl_taccum(alpha: float, a: Any, beta: float, b: Any) -> Any:
    """Add two arrays.

        y = alpha * a + beta * b

    Args:
        alpha, beta: numbers.
        a, b: tensors or NumPy arrays of one class and shape, axes of size 1 aside; either may be a
            number.

    Returns: a new array of the shape of `a`, or of `b` if `a` is a number. Unlike the original, it
        never takes the memory of `a`.
    Raises: ValueError for other shapes, TypeError for other classes.
    Source: vl_taccum.
    """
    x, y = to_tensor(a), to_tensor(b)
    if any((v.numel() if isinstance(v, Tensor) else np.size(v)) == 1 for v in (x, y)):
        return alpha * a + beta * b
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.dtype != y.dtype:
        found = [getattr(v, "dtype", type(v).__name__) for v in (a, b)]
        raise TypeError(f"a and b are {found[0]} and {found[1]}; wanted arrays of one class")
    if [n for n in x.shape if n != 1] != [n for n in y.shape if n != 1]:
        raise ValueError(
            f"b has shape {tuple(y.shape)}; wanted that of a, {tuple(x.shape)}, or a number"
        )
    return alpha * a + beta * b.reshape(tuple(x.shape))
