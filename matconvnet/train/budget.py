"""Training within a given amount of memory: how batches are split, and what helps if it ran out."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from matconvnet.nets.memory import (
    MemoryPlan,
    explain_out_of_memory,
    fit_sub_batches,
    memory_plan,
    parse_memory,
)
from matconvnet.nets.network import Network
from matconvnet.train.options import TrainOptions

TWO_STATES = ("adam", "adamw", "adadelta")
"""Solvers that keep two numbers per parameter."""


class Budget:
    """Predicts the memory of a training.

    precious: variables that training reads. ders: those that it differentiates. workers: that share
    each batch.
    """

    def __init__(
        self,
        net: Network,
        options: TrainOptions,
        precious: Iterable[str],
        ders: Iterable[str],
        workers: int,
    ):
        self.net, self.options = net, options
        self.share = -(-options.batch_size // workers)
        copies = 1 + (options.average is not None) + (workers > 1)
        self.how: dict[str, Any] = {
            "conserve_memory": options.conserve_memory, "recompute": options.recompute,
            "solver_state": 2 if options.solver in TWO_STATES else 1, "copies": copies,
            "precious": tuple(precious), "ders": tuple(ders), "depth": options.back_prop_depth,
        }  # fmt: skip

    def fit(self, inputs: Mapping[str, Tensor]) -> TrainOptions:
        """The options with as many sub-batches as the budget asks for.

        inputs: of one image.

        Raises: ValueError, if even one image at a time takes more.
        """
        if self.options.memory is None:
            return self.options
        budget = parse_memory(self.options.memory)
        parts = fit_sub_batches(self.net, _sizes(inputs), self.share, budget, **self.how)
        parts = max(parts, self.options.num_sub_batches)
        self.options = replace(self.options, num_sub_batches=parts)
        return self.options

    def plan(self, inputs: Mapping[str, Tensor]) -> MemoryPlan:
        """What a step is predicted to take; `inputs` of any number of images."""
        parts = min(self.options.num_sub_batches, self.share)
        return memory_plan(self.net, _sizes(inputs), self.share, num_sub_batches=parts, **self.how)

    def explain(self, error: BaseException, inputs: Mapping[str, Tensor] | None) -> MemoryError:
        """An error that says what was predicted, what happened, and what to change."""
        plan = None if inputs is None else self.plan(inputs)
        memory = self.options.memory
        budget = None if memory is None else parse_memory(memory)
        return MemoryError(explain_out_of_memory(error, plan, budget=budget))


def _sizes(inputs: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Sizes of the inputs without the number of images: labels are one number each."""
    return {
        name: tuple(value.shape[:3]) if value.dim() == 4 else (1, 1, 1)
        for name, value in inputs.items()
    }
