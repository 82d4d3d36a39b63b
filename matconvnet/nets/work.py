"""What the layers of a network have to do: arithmetic and memory traffic, from sizes alone."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from matconvnet.executor import wanted_variables
from matconvnet.geometry import Shapes, Size, variable_sizes
from matconvnet.graph import Graph
from matconvnet.recompute import read_by_backward


class Work(NamedTuple):
    """Of one pass through one layer.

    operations: additions and multiplications, where they dominate (convolutions), else 0.
    numbers: read and written, each variable once; nan where a size is unknown.
    """

    operations: float = 0.0
    numbers: float = 0.0


class LayerWork(NamedTuple):
    """What a layer has to do in an evaluation, forward and backward, and what it reads."""

    forward: Work
    backward: Work
    sizes: tuple[Size, ...]


def layer_work(
    graph: Graph,
    input_sizes: Mapping[str, Size],
    param_shapes: Shapes,
    derivative: frozenset[str] = frozenset(),
) -> dict[str, LayerWork]:
    """The work of every layer in one evaluation.

        forward:   reads inputs and parameters, writes outputs
        backward:  reads output derivatives, parameters, and the values that it needs; writes
                   derivatives of the parameters, and of the inputs that lead back to some

    A derivative of a convolution, by its filters or by its input, takes as many operations as the
    convolution itself. What layers save for themselves, such as masks, is not counted.

    Args:
        graph: structure of the network.
        input_sizes: (H, W, C, N) of its inputs; those left out are unknown.
        param_shapes: shapes of the parameters by name, None for an absent one.
        derivative: layers that are differentiated; derivatives of network inputs are not wanted.
    """
    sizes = variable_sizes(graph, input_sizes, param_shapes)
    counts = {v: math.prod(size) for v, size in sizes.items()}
    led, found = wanted_variables(graph, derivative, ()), {}
    for node in graph.nodes:
        shapes = tuple(param_shapes[p] for p in node.params)
        inputs = tuple(sizes[v] for v in node.inputs)
        weights = sum(math.prod(shape) for shape in shapes if shape is not None)
        once = 2 * node.layer.multiply_adds(inputs, shapes)  # pyright: ignore[reportArgumentType]
        outputs = sum(counts[v] for v in node.outputs)
        forward = Work(once, weights + outputs + sum(counts[v] for v in node.inputs))
        backward = Work()
        if node.name in derivative:
            wanted = [v for v in node.inputs if v in led]
            read = read_by_backward(graph, {node.name})
            numbers = 2 * weights + outputs + sum(counts[v] for v in (*read, *wanted))
            backward = Work(once * (bool(node.params) + bool(wanted)), numbers)
        found[node.name] = LayerWork(forward, backward, inputs)
    return found
