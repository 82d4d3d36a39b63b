"""What all networks share: parameters, meta data, evaluation of their graph."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from matconvnet import executor
from matconvnet.executor import OnParam, Record
from matconvnet.graph import Graph
from matconvnet.layer import Context, Layer
from matconvnet.layout import as4d, channels_last, to_tensor
from matconvnet.nets.registry import Unknown
from matconvnet.recompute import Recompute
from matconvnet.values import Struct

if TYPE_CHECKING:
    from matconvnet.nets.memory import InputSize, MemoryPlan
    from matconvnet.nets.predict import Prediction
    from matconvnet.nets.preprocess import Images

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


@dataclass(eq=False)
class Network(ABC):
    """A graph of layers with its parameters; evaluation changes neither, and returns a Record.

    meta: free data of the network. extra: further fields of the struct it came from. beside: what
    its file held beside the network, such as the state of training; None, if the file held nothing
    but the fields of the network.
    """

    meta: Struct = field(default_factory=Struct)
    extra: Struct = field(default_factory=Struct)
    beside: Struct | None = None

    @property
    @abstractmethod
    def graph(self) -> Graph:
        """The structure."""

    @property
    @abstractmethod
    def params(self) -> Mapping[str, Param]:
        """The parameters by name, in the order of the layers."""

    @property
    @abstractmethod
    def input(self) -> str:
        """The variable that takes the data."""

    @property
    def prediction(self) -> str:
        """The last variable that follows from the data alone, and is not the value of a loss."""
        known = dict.fromkeys(self.data_inputs)
        for node in self.graph.nodes:
            if not node.layer.is_loss and all(variable in known for variable in node.inputs):
                known.update(dict.fromkeys(node.outputs))
        return next(reversed(known), self.input)

    @abstractmethod
    def to_struct(self) -> Struct:
        """The network as a struct, as files hold it; the weights are shared with it."""

    @property
    def data_inputs(self) -> list[str]:
        """Inputs of the network, but for what losses compare with: labels, targets and weights."""
        data = {
            variable
            for node in self.graph.nodes
            for variable in (node.inputs[:1] if _compares(node.layer) else node.inputs)
        }
        return [variable for variable in self.graph.inputs if variable in data]

    @property
    def unknown(self) -> dict[str, str]:
        """Types that nobody registered, by the name of the layer; it cannot be evaluated."""
        nodes = self.graph.nodes
        return {n.name: n.layer.kind for n in nodes if isinstance(n.layer, Unknown)}

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
        recompute: Recompute = False,
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
            recompute: layers whose values are not kept for the derivatives, but computed again:
                their names; True: those of little work, see `matconvnet.recompute`.
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
            conserve_memory=conserve_memory, precious=keep.union(ders or ()),
            recompute=recompute, sync=sync,
        )  # fmt: skip
        self._evaluated(made)
        if accumulate and record is not None:
            made.param_ders = dict(record.param_ders)
        if ders is None:
            return made
        return executor.backward(
            self.graph, values, made, _projections(ders, made), depth=depth,
            conserve_memory=conserve_memory, precious=keep, accumulate=accumulate,
            on_param=on_param, wanted_inputs=wanted_inputs, out=out, sync=sync,
        )  # fmt: skip

    def _evaluated(self, record: Record) -> None:
        """Keep something of what the forward pass saved, if the network is of that kind."""
        return

    def predict(
        self, images: "Images", *, batch_size: int = 32, scale: float = 1.0
    ) -> "Prediction":
        """Evaluate images, prepared as the meta data tell, in test mode; see `nets.predict`.

        Args:
            images: one or a list: paths, Pillow images, arrays or tensors H x W or H x W x C; or
                one array H x W x C x N. Bytes count from 0 to 255; floats are taken as they are.
            batch_size: images evaluated at a time; without a size in the meta data, it is one.
            scale: what values are multiplied by: 1/255, if the network wants them from 0 to 1.

        Returns: scores, probabilities and names of classes; or `maps`, such as restored images.
        Raises: OSError, FormatError, ValueError, TypeError, naming what cannot be read or used.
        """
        from matconvnet.nets.predict import predict

        return predict(self, images, batch_size=batch_size, scale=scale)

    def memory_plan(
        self,
        input_size: "InputSize" = None,
        batch: int = 32,
        training: bool = True,
        **options: Any,
    ) -> "MemoryPlan":
        """Predict the memory of a step of training, or of an evaluation; see `nets.memory`.

        Args:
            input_size: (H, W, C) of the images, or sizes by variable; None: what the network tells.
            batch: images a step.
            training: a step with derivatives; else an evaluation in test mode.
            options: num_sub_batches, conserve_memory, recompute and more of `nets.memory_plan`.

        Returns: a plan, whose `peak` are bytes; `print(plan.table())` shows it layer by layer.
        """
        from matconvnet.nets.memory import memory_plan

        return memory_plan(self, input_size, batch, training, **options)

    def convert(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace every parameter's value by `change(value)`."""
        for param in self.params.values():
            if param.value is not None:
                param.value = change(param.value)

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """Move all parameters to a device, or convert them to a type; returns the network."""
        self.convert(lambda value: value.to(target))  # pyright: ignore[reportCallIssue]
        return self


def _compares(layer: Layer) -> bool:
    """True for losses, and for unknown layers: one that reads two variables is a loss as a rule."""
    return layer.is_loss or isinstance(layer, Unknown)


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
