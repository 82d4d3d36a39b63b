"""Stochastic gradient descent with momentum, the default solver."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from matconvnet.train.solvers._steps import FUSED_TYPES, add_decay, aten, flat, kernels, memory


def sgd(
    value: Tensor | None = None,
    state: Any = 0,
    der: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    lr: float = 0.0,
) -> Any:
    """Step along the average of past derivatives.

        v = momentum * v - der
        w = w + lr * v                      or, with nesterov_update,
        w = w + lr * (momentum * v - der)

    The velocity v starts at 0 and is not scaled by the learning rate.

    Args:
        value: w, a parameter of any shape.
        state: v, or 0 at the first step.
        der: derivative of the objective with respect to w, divided by the size of the batch, with
            the weight decay added.
        options: momentum, nesterov_update.
        lr: learning rate.

    Returns: (w, v), new tensors; without arguments, the default options.
    Source: accumulateGradients of cnn_train.m.
    """
    if value is None or der is None:
        return {"momentum": 0.9, "nesterov_update": False}
    momentum, nesterov = (options or sgd())["momentum"], (options or sgd())["nesterov_update"]
    state = momentum * state - der
    return value + lr * (momentum * state - der if nesterov else state), state


def sgd_fused(
    values: Sequence[Tensor],
    states: Sequence[Tensor],
    ders: Sequence[Tensor],
    *,
    momentum: float,
    nesterov_update: bool,
    lr: float,
    weight_decay: float,
) -> None:
    """Step many parameters in place, in one kernel: `sgd` with der + weight_decay * w.

    Args:
        values: float32 or float64, dense.
        states: as many, of the types and strides of `values`: the kernel sees flat memory.
        ders: likewise.
        momentum: > 0; this and the other options hold for all of `values`.
        nesterov_update: as in `sgd`.
        lr: learning rate.
        weight_decay: multiple of w that is added to `ders`.
    """
    # torch computes buf = momentum * buf - der - wd * w (maximize turns the sign of der),
    # then w = w - lr * buf; hence the turned signs of decay and rate. It copies what is not
    # contiguous, hence the flat views.
    aten._fused_sgd_(
        [flat(t) for t in values], [flat(t) for t in ders], [flat(t) for t in states],
        weight_decay=-weight_decay, momentum=momentum, lr=-lr, dampening=0.0,
        nesterov=nesterov_update, maximize=True, is_first_step=False,
    )  # fmt: skip


def sgd_many(
    values: Sequence[Tensor],
    states: Sequence[Any],
    ders: Sequence[Tensor],
    options: Mapping[str, Any],
    lr: float,
    decay: float,
) -> list[Any]:
    """`sgd` of many parameters, in place; see `Many`. Equal to `sgd` up to rounding."""
    momentum, nesterov = options["momentum"], options["nesterov_update"]
    values, ders = list(values), list(ders)
    velocities = [memory(state, value) for state, value in zip(states, values, strict=True)]
    if momentum > 0 and values[0].dtype in FUSED_TYPES:
        sgd_fused(
            values, velocities, ders,
            momentum=momentum, nesterov_update=nesterov, lr=lr, weight_decay=decay,
        )  # fmt: skip
        return velocities
    add_decay(values, ders, decay)
    kernels._foreach_mul_(velocities, momentum)
    kernels._foreach_sub_(velocities, ders)
    kernels._foreach_add_(values, velocities, alpha=momentum * lr if nesterov else lr)
    if nesterov:
        kernels._foreach_sub_(values, ders, alpha=lr)
    return velocities
