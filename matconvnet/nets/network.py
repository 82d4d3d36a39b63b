"""What all networks share: parameters, meta data, evaluation of their graph."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor

from matconvnet import executor
from matconvnet.executor import OnParam, Record
from matconvnet.graph import Graph
from matconvnet.layer import Context
from matconvnet.layout import as4d, channels_last, to_tensor

Mode = Literal["normal", "test"]


@dataclass
class Param:
    """A learnable tensor, and how training treats it.

    learning_rate, weight_decay: multipliers of the global ones. train_method: "gradient" (a solver
    steps along the derivative), "average" (a running average of the "derivative", at the rate
    `learning_rate`), or "none" (frozen).
    """

    name: str
    value: Tensor | None
    learning_rate: float = 1.0
    weight_decay: float = 1.0
    train_method: str = "gradient"


@dataclass
class Network(ABC):
    """A graph of layers with its parameters; evaluation changes neither, and returns a Record."""

    meta: dict[str, Any] = field(default_factory=dict)

    @property
    @abstractmethod
    def graph(self) -> Graph:
        """The structure."""

    @property
    @abstractmethod
    def params(self) -> Mapping[str, Param]:
        """The parameters by name, in the order of the layers."""

    @property
    def precious(self) -> Iterable[str]:
        """Variables that are never freed."""
        return ()

    def values(self) -> dict[str, Tensor | None]:
        """The values of the parameters by name."""
        return {name: param.value for name, param in self.params.items()}

    def eval(
        self,
        inputs: Mapping[str, Any],
        ders: Mapping[str, Any] | None = None,
        *,
        mode: Mode = "normal",
        generator: torch.Generator | None = None,
        record: Record | None = None,
        depth: int | None = None,
        conserve_memory: bool = False,
        precious: Iterable[str] = (),
        accumulate: bool = False,
        on_param: OnParam | None = None,
        wanted_inputs: Iterable[str] | None = None,
        out: Mapping[str, Tensor] | None = None,
        sync: bool = False,
    ) -> Record:
        """Evaluate the network, and differentiate it if `ders` are given.

        Args:
            inputs: tensors or arrays by variable name, maps H x W x C x N; labels from 0.
            ders: output derivatives by variable name; a number stands for a scalar output's.
            mode: "normal" (training) or "test".
            generator: source of the random numbers of dropout.
            record: an earlier evaluation, whose parameter derivatives `accumulate` adds to.
            depth: how many layers, from the last, to differentiate.
            conserve_memory: free values as soon as nothing will read them.
            precious: variables to keep all the same, beside those of the network.
            accumulate: add parameter derivatives to those of `record`.
            on_param: called with each parameter's name and derivative as it is complete.
            wanted_inputs: inputs whose derivative is wanted; None: all.
            out: tensors by parameter that new derivatives may be written to.
            sync: wait for the device after each layer, so that times mean something.

        Returns: a new Record: `values`, `ders`, `param_ders`, `forward_time`, `backward_time`.
        """
        if mode not in ("normal", "test"):
            raise ValueError(f"mode is {mode!r}; wanted 'normal' or 'test'")
        values = self.values()
        keep = {*self.precious, *precious}
        made = executor.forward(
            self.graph, values, {name: _door(name, value) for name, value in inputs.items()},
            ctx=Context(mode == "normal", generator), derivative=ders is not None, depth=depth,
            conserve_memory=conserve_memory, precious=keep, sync=sync,
        )  # fmt: skip
        if ders is None:
            return made
        if accumulate and record is not None:
            made.param_ders = dict(record.param_ders)
        return executor.backward(
            self.graph, values, made, _projections(ders, made), depth=depth,
            conserve_memory=conserve_memory, precious=keep, accumulate=accumulate,
            on_param=on_param, wanted_inputs=wanted_inputs, out=out, sync=sync,
        )  # fmt: skip

    def convert(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace every parameter's value by `change(value)`."""
        for param in self.params.values():
            if param.value is not None:
                param.value = change(param.value)

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """Move all parameters to a device, or convert them to a type; returns the network."""
        self.convert(lambda value: value.to(target))  # pyright: ignore[reportCallIssue]
        return self


def _door(name: str, value: Any) -> Tensor:
    """A tensor from outside: arrays become tensors, maps take channels-last memory."""
    tensor = to_tensor(value)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}; wanted a tensor or a NumPy array")
    is_map = tensor.is_floating_point() and tensor.dim() in (3, 4)
    return channels_last(as4d(tensor, name)) if is_map else tensor


def _projections(ders: Mapping[str, Any], record: Record) -> dict[str, Tensor]:
    """Output derivatives as tensors of the type of the value they belong to."""
    unknown = [v for v in ders if v not in record.values]
    if unknown:
        raise KeyError(
            f"ders names {unknown}, not evaluated; wanted variables among {list(record.values)}"
        )
    out = {}
    for v, der in ders.items():
        value, tensor = record.values[v], to_tensor(der)
        if not isinstance(tensor, Tensor):
            tensor = value.new_tensor(tensor)
        out[v] = tensor.to(value.dtype) if tensor.dim() == 0 else tensor
    return out
