"""AdaDelta: steps as large as the recent ones were, without a learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from matconvnet.train.solvers._steps import add_decay, kernels, memory, pieces, step_one


def adadelta(
    value: Tensor | None = None,
    state: Any = 0,
    der: Tensor | None = None,
    options: Mapping[str, Any] | None = None,
    lr: float = 0.0,
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
    return step_one(adadelta_many, value, state, der, options or adadelta(), lr)


def adadelta_many(
    values: Sequence[Tensor],
    states: Sequence[Any],
    ders: Sequence[Tensor],
    options: Mapping[str, Any],
    lr: float,  # noqa: ARG001
    decay: float,
) -> list[Any]:
    """`adadelta` of many parameters, in place; see `Many`."""
    epsilon, rho = options["epsilon"], options["rho"]
    olds = [old if isinstance(old, Mapping) else {"g_sqr": 0, "delta_sqr": 0} for old in states]
    g_sqrs = [memory(old["g_sqr"], w) for old, w in zip(olds, values, strict=True)]
    delta_sqrs = [memory(old["delta_sqr"], w) for old, w in zip(olds, values, strict=True)]
    for w, g, g_sqr, delta_sqr in pieces(values, ders, g_sqrs, delta_sqrs):
        add_decay(w, g, decay)
        kernels._foreach_mul_(g_sqr, rho)
        kernels._foreach_addcmul_(g_sqr, g, g, 1 - rho)
        ratio = kernels._foreach_add(delta_sqr, epsilon)
        kernels._foreach_div_(ratio, kernels._foreach_add(g_sqr, epsilon))
        kernels._foreach_sqrt_(ratio)
        kernels._foreach_mul_(g, ratio)  # -d
        kernels._foreach_mul_(delta_sqr, rho)
        kernels._foreach_addcmul_(delta_sqr, g, g, 1 - rho)
        kernels._foreach_sub_(w, g)
    return [{"g_sqr": g, "delta_sqr": d} for g, d in zip(g_sqrs, delta_sqrs, strict=True)]
