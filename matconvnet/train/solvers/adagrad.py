"""AdaGrad: the rate of every number falls with the squares of its past derivatives."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from matconvnet.train.solvers._steps import add_decay, kernels, memory, pieces, step_one


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
    return step_one(adagrad_many, value, state, der, options or adagrad(), lr)


def adagrad_many(
    values: Sequence[Tensor],
    states: Sequence[Any],
    ders: Sequence[Tensor],
    options: Mapping[str, Any],
    lr: float,
    decay: float,
) -> list[Any]:
    """`adagrad` of many parameters, in place; see `Many`."""
    epsilon, rho = options["epsilon"], options["rho"]
    squares = [memory(state, value) for state, value in zip(states, values, strict=True)]
    for w, g, square in pieces(values, ders, squares):
        add_decay(w, g, decay)
        kernels._foreach_mul_(square, rho)
        kernels._foreach_addcmul_(square, g, g)
        root = kernels._foreach_sqrt(square)
        kernels._foreach_add_(root, epsilon)
        kernels._foreach_addcdiv_(w, g, root, -lr)
    return squares
