"""The update of parameters: one kernel reads and writes every number of a list of them once.

A step is prepared once, and run after every batch. What differs from batch to batch stands in an
array of scalars that the caller owns and changes between runs; several calls may share it.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from torch import Tensor

from matconvnet.fast.native import Call

SGD_HEAD = 3
"""Scalars of `sgd` before those of each parameter."""


def sgd(
    values: Sequence[Tensor],
    velocities: Sequence[Tensor],
    ders: Sequence[Tensor],
    scalars: np.ndarray,
    allowed: Tensor | None = None,
) -> list[Call]:
    """Step every parameter as the solver `sgd` does, in place; none whose rate and decay are 0.

        g = der / size + decay * w
        v = momentum * v - g
        w = w + rate * v                      or, with nesterov_update,
        w = w + rate * (momentum * v - g)

    Args:
        values: w, float32, dense.
        velocities: v, with the strides of `values`; 0 before the first step.
        ders: sums over the batch, with the strides of `values`.
        scalars: float64s: momentum, nesterov_update (0 or 1), size (images in the batch), then
            (rate, decay) of each parameter.
        allowed: one int64; while it is 0, nothing is done.

    Returns: one call.
    Source: matconvnet.train.solvers.sgd.
    """
    return [_table("update_sgd", (values, velocities, ders), scalars, allowed)]


def average(
    values: Sequence[Tensor],
    ders: Sequence[Tensor],
    scalars: np.ndarray,
    allowed: Tensor | None = None,
) -> list[Call]:
    """Move every parameter towards its derivative, in place; for the moments of bnorm.

        w = (1 - rate) * w + rate / (size * users) * der

    Args:
        values: w, float32, dense.
        ders: sums over the batch and over all layers that use w, with the strides of `values`.
        scalars: float64s: size (images in the batch), then (1 - rate, rate / users) of each
            parameter, users being the number of layers that use it.
        allowed: as in `sgd`.

    Returns: one call.
    Source: matconvnet.train.update.
    """
    return [_table("update_average", (values, ders), scalars, allowed)]


def finite(ders: Sequence[Tensor], flag: Tensor) -> list[Call]:
    """Set `flag` to 0, if a number in `ders` is infinite or none at all; else leave it as it is.

    Args:
        ders: float32, dense.
        flag: one int64.
    """
    return [_table("update_finite", (ders,), np.empty(0), flag)]


def _table(
    kernel: str, arrays: Sequence[Sequence[Tensor]], scalars: np.ndarray, behind: Tensor | None
) -> Call:
    tensors = [tensor for one in zip(*arrays, strict=True) for tensor in one]
    starts = accumulate((tensor.numel() for tensor in arrays[0]), initial=0)
    return Call(kernel, [*tensors, behind], [len(arrays[0]), *starts], scalars)
