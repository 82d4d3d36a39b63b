"""RMSProp: the rate of every number is divided by the recent size of its derivative."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from matconvnet.train.solvers._steps import add_decay, kernels, memory, pieces, step_one


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
    return step_one(rmsprop_many, value, state, der, options or rmsprop(), lr)


def rmsprop_many(
    values: Sequence[Tensor],
    states: Sequence[Any],
    ders: Sequence[Tensor],
    options: Mapping[str, Any],
    lr: float,
    decay: float,
) -> list[Any]:
    """`rmsprop` of many parameters, in place; see `Many`."""
    epsilon, rho = options["epsilon"], options["rho"]
    squares = [memory(state, value) for state, value in zip(states, values, strict=True)]
    for w, g, square in pieces(values, ders, squares):
        add_decay(w, g, decay)
        kernels._foreach_mul_(square, rho)
        kernels._foreach_addcmul_(square, g, g, 1 - rho)
        root = kernels._foreach_sqrt(square)
        kernels._foreach_add_(root, epsilon)
        kernels._foreach_addcdiv_(w, g, root, -lr)
    return squares
