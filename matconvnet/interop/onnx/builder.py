"""A DagNN that grows layer by layer, while the operators of an ONNX file are read."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from matconvnet.blocks.conv import Conv
from matconvnet.geometry import Size
from matconvnet.layer import Layer
from matconvnet.layout import channels_last
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.names import unique_name

Pads = tuple[int, int, int, int]
"""(top, bottom, left, right), in pixels."""


class OperatorError(Exception):
    """An operator that none of our layers computes; the text says why."""


class Map(NamedTuple):
    """A variable of the network, as the file sees it.

    size: (H, W, C, N), nan where unknown, without `pad`. flat: the file sees N x C*H*W, the
    channels slowest. pad: zeros (top, bottom, left, right) around it, or what `filling` says, that
    no layer has added yet.
    """

    name: str
    size: Size
    flat: bool = False
    pad: Pads = (0, 0, 0, 0)
    filling: float = 0.0

    @property
    def is_vector(self) -> bool:
        """True, if all images are known to be one pixel."""
        return self.size[:2] == (1, 1)


class Lost(NamedTuple):
    """A value that we have not; `what` it is, unless the operator that makes it was refused."""

    what: str = ""


Value = Map | Lost | np.ndarray


class Op(NamedTuple):
    """An operator of the file: its kind, its name, what it reads, and what it makes."""

    kind: str
    name: str
    inputs: tuple[Value | None, ...]
    input_names: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int

    def constant(self, index: int, what: str) -> np.ndarray | None:
        """An input that must be a constant; None, if it is absent."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(value, Map):
            raise OperatorError(f"{what} are computed; wanted constants")
        return value if isinstance(value, np.ndarray) else None

    def weight(self, index: int, what: str) -> np.ndarray:
        """An input that must be there and constant."""
        value = self.constant(index, what)
        if value is None:
            raise OperatorError(f"{what} are absent")
        return value

    def numbers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """An attribute that is a list of whole numbers."""
        return tuple(int(n) for n in self.attributes.get(name, default))


class Builder:
    """The network so far, with the sizes of its variables."""

    def __init__(self, variables: Iterable[str]):
        """Begin a network in which the names of `variables` are taken."""
        self.net = DagNN()
        self.weights: dict[str, Tensor] = {}
        self.frozen: set[str] = set()
        self._variables, self._layers = set(variables), set[str]()
        self._padded: dict[tuple[str, Pads], Map] = {}

    def add(
        self,
        op: Op,
        layer: Layer,
        inputs: Sequence[Map],
        params: Mapping[str, Tensor | np.ndarray] | None = None,
        *,
        flat: bool = False,
        output: str = "",
        frozen: Collection[str] = (),
    ) -> Map:
        """Add a layer that reads `inputs`; the variable it writes.

        Args:
            op: the operator that it stands for, or a part of which.
            params: the parameters in order, by the names they should have.
            flat: the file sees the output as N x C*H*W.
            output: name of the variable, if it is not the operator's output.
            frozen: those parameters that are not to be trained.
        """
        output = output or op.outputs[0]
        names = []
        for wanted, value in (params or {}).items():
            names.append(self._param(wanted, value))
            if wanted in frozen:
                self.frozen.add(names[-1])
        layer_name = _unique(op.name or output, self._layers)
        self.net.add_layer(layer_name, layer, [x.name for x in inputs], output, names)
        sizes: Any = [x.size for x in inputs]
        shapes = [tuple(self.weights[name].shape) for name in names]
        size = layer.output_sizes(sizes, shapes)[0]
        if any(n <= 0 for n in size[:3]):
            raise OperatorError(f"the output has size {size}; wanted at least one pixel")
        return Map(output, size, flat)

    def settled(self, op: Op, x: Map) -> Map:
        """The map with its padding added: a convolution with one filter, 1, for each channel."""
        if not any(x.pad):
            return x
        channels = x.size[2]
        if x.filling:
            raise OperatorError(f"{op.kind} reads a map padded with {x.filling}; wanted zeros")
        if math.isnan(channels):
            raise OperatorError("channels are not known; wanted input_sizes")
        if (x.name, x.pad) not in self._padded:
            ones = torch.ones(1, 1, 1, int(channels))
            output = self.fresh(f"{x.name}/padded")
            layer = Conv(pad=x.pad, size=tuple(ones.shape), has_bias=False)
            name = f"{output}/ones"
            y = self.add(op, layer, [x], {name: ones}, output=output, frozen={name})
            self._padded[x.name, x.pad] = y
        return self._padded[x.name, x.pad]

    def fresh(self, name: str) -> str:
        """A name like this that no variable of the file has."""
        return _unique(name, self._variables)

    def finish(self) -> DagNN:
        """The network, with the values of its parameters."""
        params = self.net.params
        for name, value in self.weights.items():
            params[name].value = value
            if name in self.frozen:
                params[name].train_method = "none"
        return self.net

    def _param(self, name: str, value: Tensor | np.ndarray) -> str:
        """The name of a parameter; one that has the same name and value already serves again."""
        tensor = torch.as_tensor(value, dtype=torch.float32)
        tensor = channels_last(tensor) if tensor.dim() == 4 else tensor
        candidate, count = name, 1
        while candidate in self.weights and not torch.equal(self.weights[candidate], tensor):
            count += 1
            candidate = f"{name}_{count}"
        self.weights[candidate] = tensor
        return candidate


def _unique(name: str, taken: set[str]) -> str:
    """A name like this that is not taken yet; it is taken then."""
    new = unique_name(name, taken, "_", 2)
    taken.add(new)
    return new
