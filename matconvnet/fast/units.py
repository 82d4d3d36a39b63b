"""Which layers of a graph run as one: a ReLU with what it rectifies, a sum with what it adds to."""

from collections.abc import Callable, Container
from dataclasses import dataclass

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sum import Sum
from matconvnet.graph import Graph, Node


@dataclass(eq=False)
class Unit:
    """Layers that run as one, the main one first.

    residual: a variable that is added to what the main layer computes. relu: the result is
    rectified. native: there are kernels for it.
    """

    nodes: list[Node]
    outputs: tuple[str, ...]
    native: bool
    residual: str | None = None
    relu: bool = False

    @property
    def node(self) -> Node:
        """The main layer."""
        return self.nodes[0]

    @property
    def output(self) -> str:
        """The first variable that it writes."""
        return self.outputs[0]


def units(graph: Graph, native: Callable[[Node], bool], shown: Container[str]) -> list[Unit]:
    """Units in the order in which they run.

    A variable between the layers of a unit has no value of its own, and one that a ReLU of a unit
    writes gets a derivative with the ReLU's in it. So neither may be among those that are `shown`.

    Args:
        graph: structure of the network.
        native: tells for which layers there are kernels.
        shown: variables whose value or derivative somebody outside the graph wants to see.
    """
    made: list[Unit] = []
    writer: dict[str, Unit] = {}
    for node in graph.nodes:
        unit = None
        if native(node):
            unit = _rectified(node, graph, writer, shown) or _added(node, graph, writer, shown)
        if unit is None:
            rectifies = _is_relu(node) and node.outputs[0] not in shown and native(node)
            unit = Unit([node], node.outputs, native(node), relu=rectifies)
        else:
            made.remove(unit)  # it runs when its last layer does
        made.append(unit)
        writer.update(dict.fromkeys(unit.outputs, unit))
    return made


def _is_relu(node: Node) -> bool:
    return isinstance(node.layer, ReLU) and node.layer.leak == 0


def _is_open(v: str, graph: Graph, writer: dict[str, Unit], shown: Container[str]) -> bool:
    """Something may be done to a variable where it is written: nobody else sees it."""
    return v in writer and writer[v].native and graph.readers[v] == 1 and v not in shown


def _rectified(
    node: Node, graph: Graph, writer: dict[str, Unit], shown: Container[str]
) -> Unit | None:
    """The unit that writes the input of a ReLU, with the ReLU in it."""
    if not _is_relu(node) or node.outputs[0] in shown:
        return None
    (v,) = node.inputs
    if not _is_open(v, graph, writer, shown):
        return None
    unit = writer[v]
    if unit.relu or not isinstance(unit.node.layer, Conv | BatchNorm | Sum):
        return None
    unit.nodes.append(node)
    unit.outputs, unit.relu = node.outputs, True
    return unit


def _added(node: Node, graph: Graph, writer: dict[str, Unit], shown: Container[str]) -> Unit | None:
    """The unit that writes the last input of a sum of two, with the sum in it."""
    if not isinstance(node.layer, Sum) or len(node.inputs) != 2 or len(set(node.inputs)) != 2:
        return None
    order = list(writer)
    for v in sorted(node.inputs, key=lambda v: -order.index(v) if v in writer else 1):
        if not _is_open(v, graph, writer, shown):
            continue
        unit = writer[v]
        is_main = isinstance(unit.node.layer, Conv | BatchNorm)
        if is_main and not unit.relu and unit.residual is None:
            unit.nodes.append(node)
            unit.outputs = node.outputs
            unit.residual = next(other for other in node.inputs if other != v)
            return unit
    return None
