"""A whole network as one function of autograd, whose backward is `executor.backward`."""

# Functions of autograd take the arguments that they please:
# pyright: reportIncompatibleMethodOverride=false

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from matconvnet import executor
from matconvnet.executor import Record
from matconvnet.graph import Graph
from matconvnet.layer import Context
from matconvnet.layout import channels_last


@dataclass
class Run:
    """One evaluation of a network, from forward to backward.

    inputs, params: names of the tensors it is given, in order; absent: parameters without value.
    rates: of the parameters that are running averages. derivative: there may be a backward.
    updates: it changes the running averages. values: the parameters by name. parts: the runs of the
    samples, where `vmap` split this one.
    """

    graph: Graph
    inputs: tuple[str, ...]
    params: tuple[str, ...]
    absent: Mapping[str, None]
    output: str
    ctx: Context
    rates: Mapping[str, float]
    derivative: bool
    updates: bool
    record: Record = field(default_factory=Record)
    values: dict[str, Tensor | None] = field(default_factory=dict)
    parts: list["Run"] = field(default_factory=list)

    @property
    def averaged(self) -> tuple[bool, ...]:
        """For each tensor that it is given, whether it is a running average."""
        return (*(False for _ in self.inputs), *(name in self.rates for name in self.params))

    def forward(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Evaluate the network."""
        count = len(self.inputs)
        maps = {v: _map(t) for v, t in zip(self.inputs, tensors, strict=False)}
        self.values = {**self.absent, **dict(zip(self.params, tensors[count:], strict=True))}
        self.record = executor.forward(
            self.graph, self.values, maps, ctx=self.ctx, derivative=self.derivative,
            conserve_memory=True, precious=(self.output,),
        )  # fmt: skip
        return self.record.values[self.output].detach()

    def backward(self, dzdy: Tensor, wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
        """Derivatives of the inputs and parameters, of those that are wanted and have one.

        They are computed on a copy of the record, which conserves memory and leaves the original
        for the next call.
        """
        kept = self.record
        record = replace(kept, values=dict(kept.values), saved=dict(kept.saved), param_ders={})
        inputs = [v for v, is_wanted in zip(self.inputs, wanted, strict=False) if is_wanted]
        executor.backward(
            self.graph, self.values, record, {self.output: dzdy}, conserve_memory=True,
            wanted_inputs=inputs,
        )  # fmt: skip
        if self.updates:
            self._average(record)
        ders = (*map(record.ders.get, self.inputs), *map(record.param_ders.get, self.params))
        return tuple(
            der if is_wanted else None for der, is_wanted in zip(ders, wanted, strict=True)
        )

    def _average(self, record: Record) -> None:
        images = record.values[self.inputs[0]].shape[3]
        for name, rate in self.rates.items():
            value, der = self.values[name], record.param_ders.get(name)
            if value is not None and der is not None:
                share = rate / (images * self.graph.users[name])
                value.mul_(1 - rate).add_(der, alpha=share)


def _map(t: Tensor) -> Tensor:
    return channels_last(t) if t.is_floating_point() and t.dim() == 4 else t


class Evaluate(Function):
    """The forward pass: `Evaluate.apply(run, *inputs, *params)`."""

    @staticmethod
    def forward(run: Run, *tensors: Tensor) -> Tensor:
        """Evaluate the network."""
        return run.forward(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Let autograd watch over everything that the derivative reads."""
        run, *tensors = inputs
        ctx.run = run
        # Backward itself writes to running averages.
        saved = [
            t.clone() if is_averaged else t
            for t, is_averaged in zip(tensors, run.averaged, strict=True)
        ]
        ctx.save_for_backward(*saved, output)

    @staticmethod
    def backward(ctx: Any, dzdy: Tensor) -> Any:
        """Derivatives, as a function that has none itself."""
        *tensors, _ = ctx.saved_tensors
        run, needs = ctx.run, ctx.needs_input_grad[1:]
        wanted = tuple(
            is_needed and not is_averaged
            for is_needed, is_averaged in zip(needs, run.averaged, strict=True)
        )
        return None, *Differentiate.apply(run, wanted, dzdy, *tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], run: Run, *tensors: Tensor) -> Any:
        """Evaluate sample by sample."""
        run.parts = [replace(run, updates=False) for _ in range(info.batch_size)]
        outputs = [
            Evaluate.apply(part, *_sample(tensors, in_dims[1:], i))
            for i, part in enumerate(run.parts)
        ]
        return torch.stack(outputs), 0


class Differentiate(Function):
    """The backward pass: `Differentiate.apply(run, wanted, dzdy, *inputs, *params)`."""

    @staticmethod
    def forward(run: Run, wanted: tuple[bool, ...], dzdy: Tensor, *_tensors: Tensor) -> Any:
        """Differentiate the network; the tensors only tell `vmap` what is batched."""
        return run.backward(dzdy, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(_ctx: Any, *_ders: Tensor) -> Any:
        """Raise RuntimeError."""
        raise RuntimeError(
            "a network has no second derivatives, its first ones are explicit; wanted one "
            "differentiation only (no create_graph=True, hessian, or gradient of a gradient)"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], run: Run, wanted: Any, *tensors: Tensor) -> Any:
        """Differentiate sample by sample.

        If dzdy alone is batched (`jacrev`), all samples belong to one forward pass.
        """
        dims = in_dims[2:]
        is_split = any(dim is not None for dim in dims[1:])
        parts = run.parts if is_split else [replace(run, updates=False)] * info.batch_size
        samples = [
            Differentiate.apply(part, wanted, *_sample(tensors, dims, i))
            for i, part in enumerate(parts)
        ]
        ders = [None if of[0] is None else torch.stack(of) for of in zip(*samples, strict=True)]
        return tuple(ders), tuple(None if der is None else 0 for der in ders)


def _sample(tensors: tuple[Tensor, ...], dims: tuple[int | None, ...], index: int) -> list[Tensor]:
    """The tensors of one sample; those without a batch axis serve all."""
    return [
        t if dim is None else t.select(dim, index) for t, dim in zip(tensors, dims, strict=True)
    ]
