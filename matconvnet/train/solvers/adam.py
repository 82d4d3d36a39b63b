"""Adam: momentum, divided by the recent size of the derivative; and AdamW."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from matconvnet.train.solvers._steps import FUSED_TYPES, add_decay, aten, flat, kernels, memory


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

    The shrinking is left to whoever calls this function, who knows the decay, as `adamw_many` does.

    Source: Loshchilov and Hutter 2019.
    """
    return adam(value, state, der, options, lr)


def adam_many(
    values: Sequence[Tensor],
    states: Sequence[Any],
    ders: Sequence[Tensor],
    options: Mapping[str, Any],
    lr: float,
    decay: float,
) -> list[Any]:
    """`adam` of many parameters, in place; see `Many`. Equal to `adam` up to rounding."""
    add_decay(values, ders, decay)
    if values[0].dtype not in FUSED_TYPES:
        return [
            _step_half(*one, options, lr) for one in zip(values, states, ders, strict=True)
        ]  # fmt: skip
    olds = [old if isinstance(old, Mapping) else {"m": 0, "v": 0, "t": 0} for old in states]
    new = [
        {"m": memory(old["m"], w), "v": memory(old["v"], w), "t": int(old["t"]) + 1}
        for old, w in zip(olds, values, strict=True)
    ]
    groups = defaultdict[int, list[int]](list)
    for i, state in enumerate(new):
        groups[state["t"]].append(i)
    for t, group in groups.items():
        # The kernel corrects the bias of the root of v before it adds eps: hence the larger eps.
        step = torch.tensor(float(t), device=values[0].device)
        aten._fused_adam_(
            [flat(values[i]) for i in group], [flat(ders[i]) for i in group],
            [flat(new[i]["m"]) for i in group], [flat(new[i]["v"]) for i in group],
            [], [step] * len(group), lr=lr, beta1=options["beta1"], beta2=options["beta2"],
            weight_decay=0.0, eps=options["eps"] / (1 - options["beta2"] ** t) ** 0.5,
            amsgrad=False, maximize=False,
        )  # fmt: skip
    return new


def adamw_many(
    values: Sequence[Tensor],
    states: Sequence[Any],
    ders: Sequence[Tensor],
    options: Mapping[str, Any],
    lr: float,
    decay: float,
) -> list[Any]:
    """`adamw` of many parameters, in place, with its decay; see `Many`."""
    kernels._foreach_mul_(list(values), 1 - lr * decay)
    return adam_many(values, states, ders, options, lr, 0.0)


def _step_half(
    value: Tensor, state: Any, der: Tensor, options: Mapping[str, Any], lr: float
) -> Any:
    new, state = adam(value, state, der, options, lr)
    value.copy_(new)
    return state
