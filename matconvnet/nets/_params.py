"""Parameters of the nodes of a graph: names, first values, shapes, and where derivatives go."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol

import torch
from torch import Tensor

from matconvnet.blocks import Scale
from matconvnet.graph import Graph, Node
from matconvnet.nets.network import Param

ENDINGS = {"filters": "f", "biases": "b", "multipliers": "m", "moments": "x"}
"""Ends of the names of parameters, after the name of their layer."""


class Server(Protocol):
    """What a network asks of a parameter server (`matconvnet.parallel.server`)."""

    def register(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype = ...,
        device: torch.device | str = ...,
    ) -> None:
        """Declare a parameter."""
        ...

    def start(self) -> None:
        """Begin to take derivatives."""
        ...

    def push(self, name: str, value: Tensor, /) -> None:
        """Take the derivative of a parameter."""
        ...

    def stop(self) -> None:
        """Take no more."""
        ...


def draw(node: Node, generator: torch.Generator | None = None) -> list[Tensor]:
    """New values of all parameters that the layer of a node has."""
    layer = node.layer
    return _without_inputs(node, layer.init_params(generator) if layer.param_names else [])


def draw_shapes(node: Node) -> list[tuple[int, ...] | None]:
    """Shapes of what a node would draw; None, if its layer does not know the size."""
    try:
        with torch.device("meta"):  # takes no memory
            return [tuple(value.shape) for value in draw(node)]
    except ValueError:
        return _without_inputs(node, [None for _ in node.layer.param_names])


def name_params(node: Node, count: int | None = None) -> tuple[str, ...]:
    """Names for the parameters of a node, made of its own name and an ending for each.

    count: how many there are; None: as many as it would draw.
    """
    count = len(draw_shapes(node)) if count is None else count
    kinds = _without_inputs(node, list(node.layer.param_names))
    kinds += [str(j) for j in range(len(kinds) + 1, count + 1)]
    return tuple(node.name + ENDINGS.get(kind, f"_{kind}") for kind in kinds[:count])


def _without_inputs(node: Node, params: list[Any]) -> list[Any]:
    """What is left of all parameters of Scale, whose further inputs take the place of the first."""
    return params[len(node.inputs) - 1 :] if isinstance(node.layer, Scale) else params


def param_shapes(graph: Graph, params: Mapping[str, Param]) -> dict[str, Sequence[int] | None]:
    """Shapes of the parameters; of those without a value, what would be drawn."""
    shapes: dict[str, Sequence[int] | None] = {}
    for node in graph.nodes:
        values = [params[name].value for name in node.params]
        drawn = draw_shapes(node) if any(v is None for v in values) else []
        for name, value, shape in zip_longest(node.params, values, drawn[: len(values)]):
            shapes[name] = shape if value is None else tuple(value.shape)
    return shapes
