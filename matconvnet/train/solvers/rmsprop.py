"""RMSProp: the rate of every number is divided by the recent size of its derivative."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def rmsprop(
    value: Tensor | None = None,
    state: Any = 0,
    der: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    lr: float = 0.0,
) -> Any:
    """Step along the derivative, divided by the root of the running mean of its square.

        G = rho * G + (1 - rho) * der^2
        w = w - lr * der / (sqrt(G) + epsilon)

    Args:
        value: w, a parameter of any shape.
        state: G, or 0 at the first step.
        der: derivative of the objective with respect to w.
        options: epsilon, rho.
        lr: learning rate.

    Returns: (w, G), new tensors; without arguments, the default options.
    Source: solver.rmsprop; Tieleman and Hinton 2012.
    """
    if value is None or der is None:
        return {"epsilon": 1e-8, "rho": 0.99}
    epsilon, rho = (options or rmsprop())["epsilon"], (options or rmsprop())["rho"]
    state = rho * state + (1 - rho) * der**2
    return value - lr * der / (state.sqrt() + epsilon), state
