"""Adam: momentum, divided by the recent size of the derivative; and AdamW."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def adam(
    value: Tensor | None = None,
    state: Any = 0,
    der: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    lr: float = 0.0,
) -> Any:
    """Step along the running mean of the derivative, divided by the root of that of its square.

        m = beta1 * m + (1 - beta1) * der
        v = beta2 * v + (1 - beta2) * der^2
        w = w - lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps),  t = 1, 2, ...

    eps is added to the root of v as it is, before the correction of its bias.

    Args:
        value: w, a parameter of any shape.
        state: a dict of m, v and t; 0 at the first step.
        der: derivative of the objective with respect to w.
        options: beta1, beta2, eps.
        lr: learning rate.

    Returns: (w, state), new tensors; without arguments, the default options.
    Source: solver.adam; Kingma and Ba 2015.
    """
    if value is None or der is None:
        return {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    opts = options or adam()
    beta1, beta2 = opts["beta1"], opts["beta2"]
    old = state if isinstance(state, Mapping) else {"m": 0.0, "v": 0.0, "t": 0}
    m = beta1 * old["m"] + (1 - beta1) * der
    v = beta2 * old["v"] + (1 - beta2) * der**2
    t = int(old["t"]) + 1
    rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
    return value - rate * m / (v.sqrt() + opts["eps"]), {"m": m, "v": v, "t": t}


def adamw(
    value: Tensor | None = None,
    state: Any = 0,
    der: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    lr: float = 0.0,
) -> Any:
    """Step as `adam` does; the weight decay is not part of `der`, but shrinks w by itself.

        w = (1 - lr * decay) * w, before the step

    The shrinking is done by whoever calls solvers; see `DECOUPLED`.

    Source: Loshchilov and Hutter 2019.
    """
    return adam(value, state, der, options, lr)
