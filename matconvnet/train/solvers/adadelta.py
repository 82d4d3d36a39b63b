"""AdaDelta: steps as large as the recent ones were, without a learning rate."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def adadelta(
    value: Tensor | None = None,
    state: Any = 0,
    der: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    lr: float = 0.0,  # noqa: ARG001
) -> Any:
    """Step along the derivative, scaled by the running means of squares of steps and derivatives.

        G = rho * G + (1 - rho) * der^2
        d = -sqrt((D + epsilon) / (G + epsilon)) * der
        D = rho * D + (1 - rho) * d^2
        w = w + d

    Args:
        value: w, a parameter of any shape.
        state: a dict of G, `g_sqr`, and D, `delta_sqr`; 0 at the first step.
        der: derivative of the objective with respect to w.
        options: epsilon, rho.
        lr: of no effect.

    Returns: (w, state), new tensors; without arguments, the default options.
    Source: solver.adadelta; Zeiler 2012.
    """
    if value is None or der is None:
        return {"epsilon": 1e-6, "rho": 0.9}
    epsilon, rho = (options or adadelta())["epsilon"], (options or adadelta())["rho"]
    old = state if isinstance(state, Mapping) else {"g_sqr": 0.0, "delta_sqr": 0.0}
    g_sqr = rho * old["g_sqr"] + (1 - rho) * der**2
    delta = -((old["delta_sqr"] + epsilon) / (g_sqr + epsilon)).sqrt() * der
    delta_sqr = rho * old["delta_sqr"] + (1 - rho) * delta**2
    return value + delta, {"g_sqr": g_sqr, "delta_sqr": delta_sqr}
