"""Solvers: how a parameter follows its derivative.

A solver is a function `solver(value, state, der, options, lr) -> (value, state)`; called without
arguments, it returns its default options as a dict. `der` is divided by the size of the batch and
has the weight decay added; `state` is 0 at the first step, then what the solver returned: a
tensor, or a dict of tensors and numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any

from matconvnet.train.solvers._steps import Many
from matconvnet.train.solvers.adadelta import adadelta, adadelta_many
from matconvnet.train.solvers.adagrad import adagrad, adagrad_many
from matconvnet.train.solvers.adam import adam, adam_many, adamw, adamw_many
from matconvnet.train.solvers.rmsprop import rmsprop, rmsprop_many
from matconvnet.train.solvers.sgd import sgd, sgd_many

Solver = Callable[..., Any]

SOLVERS: dict[str, Solver] = {
    "sgd": sgd,
    "adadelta": adadelta,
    "adagrad": adagrad,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
}
"""Solvers by name."""

SOLVERS_MANY: dict[Solver, Many] = {
    sgd: sgd_many,
    adadelta: adadelta_many,
    adagrad: adagrad_many,
    adam: adam_many,
    adamw: adamw_many,
    rmsprop: rmsprop_many,
}
"""The steps of many parameters at once, which equal those of one up to rounding."""


def find_solver(
    solver: str | Solver | None, options: Mapping[str, Any] | None
) -> tuple[Solver, dict[str, Any]]:
    """The function of a solver, and its options with their defaults filled in.

    Raises: ValueError, if there is no solver or no option of that name; TypeError, if `solver`
        does not return its options when it is called without arguments.
    """
    if isinstance(solver, str):
        if solver not in SOLVERS:
            raise ValueError(f"solver is {solver!r}; wanted one of {', '.join(SOLVERS)}")
        solver = SOLVERS[solver]
    function = solver or sgd
    defaults = function()
    if not isinstance(defaults, Mapping):
        raise TypeError(f"solver() returned {type(defaults).__name__}; wanted a dict of options")
    unknown = [name for name in options or {} if name not in defaults]
    if unknown:
        raise ValueError(f"solver_opts has {unknown[0]!r}; wanted names among {list(defaults)}")
    return function, {**defaults, **(options or {})}
