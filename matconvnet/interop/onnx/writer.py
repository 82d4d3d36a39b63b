"""An ONNX graph that grows operator by operator, while the layers of a network are written."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from matconvnet.graph import Node
from matconvnet.layout import to_numpy
from matconvnet.nets.names import unique_name


class Place(NamedTuple):
    """A layer to be written: the values it reads, its parameters, the channels of its inputs.

    names: of the parameters. channels: of each input; None where they are not known.
    """

    layer: Any
    inputs: tuple[str, ...]
    params: tuple[Tensor | None, ...]
    names: tuple[str, ...]
    channels: tuple[int | None, ...]


class Writer:
    """Operators and constants of a graph; every value has one name, and no name serves twice."""

    def __init__(self, variables: Iterable[str], opset: int):
        """Begin a graph in which the names of `variables` are taken."""
        self.opset = opset
        self.nodes: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._taken = set(variables)
        self._weights: dict[str, list[str]] = {}  # names of arrays, by the name they asked for
        self._layer = ""

    def write(self, node: Node, place: Place, emit: Any) -> None:
        """Let `emit(writer, place)` write a layer; what it returns becomes the node's outputs."""
        self._layer, first = node.name, len(self.nodes)
        result = emit(self, place)
        results = (result,) if isinstance(result, str) else tuple(result)
        own = self.nodes[first:]
        for value, variable in zip(results, node.outputs, strict=True):
            if any(value in written.output for written in own):
                for written in own:
                    _rename(written.input, value, variable)
                    _rename(written.output, value, variable)
            else:
                self._append("Identity", (value,), variable, {})

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator of one output; returns the name of that output.

        Attributes that ONNX wants as floats must be floats.
        """
        name = self._unique(f"{self._layer}/{kind}")
        self._append(kind, inputs, name, attributes)
        return name

    def weight(self, name: str, value: Tensor) -> str:
        """A constant float32 tensor, by preference called `name`; the same twice is one."""
        array = np.array(to_numpy(value.float()), order="C")
        stored = self._weights.setdefault(name, [])
        for other in stored:
            if np.array_equal(self.arrays[other], array):
                return other
        stored.append(self._store(name, array))
        return stored[-1]

    def constant(self, value: float | Sequence[Any] | np.ndarray) -> str:
        """A constant: floats become float32, integers int64; arrays keep their type."""
        array = np.asarray(value)
        if not isinstance(value, np.ndarray):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return self._store(f"{self._layer}/constant", np.array(array, order="C"))

    def _append(self, kind: str, inputs: Sequence[str], output: str, attributes) -> None:
        from onnx import helper

        name = f"{self._layer}/{kind}" if kind == "Identity" else output
        self.nodes.append(helper.make_node(kind, inputs, [output], name, **attributes))

    def _store(self, name: str, array: np.ndarray) -> str:
        name = self._unique(name)
        self.arrays[name] = array
        return name

    def _unique(self, name: str) -> str:
        new = unique_name(name, self._taken, "_", 2)
        self._taken.add(new)
        return new


def _rename(names: Any, old: str, new: str) -> None:
    for i, name in enumerate(names):
        if name == old:
            names[i] = new


def describe(node: Node) -> str:
    """A node in words: its name, and its type in files or its class."""
    layer = node.layer
    kind = getattr(layer, "kind", "") or layer.type_name or type(layer).__name__
    return f"{node.name!r} ({kind})"
