"""The update of all parameters at once: one kernel reads and writes every number once.

A step is prepared for a list of parameters, and run after every batch. What differs from batch to
batch stands in `Call.scalars`, and may be changed in place between runs: first the numbers for
all, then a row of numbers for each parameter, as the functions say.
"""

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from matconvnet.fast.native import Call


def sgd(
    values: Sequence[Tensor],
    velocities: Sequence[Tensor],
    ders: Sequence[Tensor],
    *,
    rates: Sequence[float],
    decays: Sequence[float],
    size: float,
    momentum: float,
    nesterov_update: bool = False,
) -> list[Call]:
    """Step every parameter as the solver `sgd` does, in place.

        g = der / size + decay * w
        v = momentum * v - g
        w = w + rate * v                      or, with nesterov_update,
        w = w + rate * (momentum * v - g)

    Args:
        values: w, float32, dense.
        velocities: v, with the strides of `values`; 0 before the first step.
        ders: sums over the batch, with the strides of `values`.
        rates, decays: one number per parameter.
        size: images in the batch.
        momentum, nesterov_update: as in `sgd`, for all.

    Returns: one call; scalars: momentum, nesterov_update, size, then (rate, decay) of each.
    Source: matconvnet.train.solvers.sgd.
    """
    scalars = [momentum, float(nesterov_update), size, *_rows(rates, decays)]
    return [_table("update_sgd", (values, velocities, ders), scalars)]


def adam(
    values: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    ders: Sequence[Tensor],
    *,
    rates: Sequence[float],
    decays: Sequence[float],
    kept: Sequence[float],
    size: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> list[Call]:
    """Step every parameter as the solvers `adam` and `adamw` do, in place.

        g = der / size + decay * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g^2
        w = kept * w - rate * m / (sqrt(v) + eps)

    Args:
        values: w, float32, dense.
        means, squares: m and v, with the strides of `values`; 0 before the first step.
        ders: sums over the batch, with the strides of `values`.
        rates: one number per parameter, lr * sqrt(1 - beta2^t) / (1 - beta1^t) at its t-th step.
        decays: one number per parameter; 0 for adamw.
        kept: one number per parameter, 1; for adamw 1 - lr * decay.
        size: images in the batch.
        beta1, beta2, eps: as in `adam`, for all.

    Returns: one call; scalars: beta1, beta2, eps, size, then (rate, decay, kept) of each.
    Source: matconvnet.train.solvers.adam.
    """
    scalars = [beta1, beta2, eps, size, *_rows(rates, decays, kept)]
    return [_table("update_adam", (values, means, squares, ders), scalars)]


def average(
    values: Sequence[Tensor],
    ders: Sequence[Tensor],
    *,
    rates: Sequence[float],
    users: Sequence[int],
    size: float,
) -> list[Call]:
    """Move every parameter towards its derivative, in place; for the moments of bnorm.

        w = (1 - rate) * w + rate / (size * users) * der

    Args:
        values: w, float32, dense.
        ders: sums over the batch and over all layers that use w, with the strides of `values`.
        rates: one number per parameter.
        users: how many layers use each parameter.
        size: images in the batch.

    Returns: one call; scalars: size, then (1 - rate, rate / users) of each.
    Source: matconvnet.train.update.
    """
    kept = [1 - rate for rate in rates]
    shares = [rate / number for rate, number in zip(rates, users, strict=True)]
    return [_table("update_average", (values, ders), [size, *_rows(kept, shares)])]


def finite(ders: Sequence[Tensor], flag: Tensor) -> list[Call]:
    """Set `flag` to 0, if a number in `ders` is infinite or none at all; else leave it as it is.

    Args:
        ders: float32, dense.
        flag: one int64.
    """
    return [_table("update_finite", (ders,), (), flag)]


def _table(
    kernel: str, arrays: Sequence[Sequence[Tensor]], scalars: Sequence[float], *behind: Tensor
) -> Call:
    tensors = [tensor for one in zip(*arrays, strict=True) for tensor in one]
    starts = accumulate((tensor.numel() for tensor in arrays[0]), initial=0)
    return Call(kernel, [*tensors, *behind], [len(arrays[0]), *starts], scalars)


def _rows(*columns: Sequence[float]) -> list[float]:
    return [number for row in zip(*columns, strict=True) for number in row]
