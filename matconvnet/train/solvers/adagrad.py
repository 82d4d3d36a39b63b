"""AdaGrad: the rate of every number falls with the squares of its past derivatives."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def adagrad(
    value: Tensor | None = None,
    state: Any = 0,
    der: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    lr: float = 0.0,
) -> Any:
    """Step along the derivative, divided by the root of the sum of its past squares.

        G = rho * G + der^2
        w = w - lr * der / (sqrt(G) + epsilon)

    With rho < 1 the past fades, yet G is no mean, as it is in `rmsprop`.

    Args:
        value: w, a parameter of any shape.
        state: G, or 0 at the first step.
        der: derivative of the objective with respect to w.
        options: epsilon, rho.
        lr: learning rate.

    Returns: (w, G), new tensors; without arguments, the default options.
    Source: solver.adagrad; Duchi, Hazan, Singer 2011.
    """
    if value is None or der is None:
        return {"epsilon": 1e-10, "rho": 1.0}
    epsilon, rho = (options or adagrad())["epsilon"], (options or adagrad())["rho"]
    state = rho * state + der**2
    return value - lr * der / (state.sqrt() + epsilon), state
