"""Graph rewrites: layers that follow each other become one, and what test mode can do without goes.

A rewrite never changes what is computed, but for the order of roundings. It is left out where the
value between two layers is read by others, or somebody wants to see it.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sum import Sum
from matconvnet.fast.fused import BatchNormReLU, Fused, FusedConv, SumReLU
from matconvnet.graph import Graph, Node, build
from matconvnet.layer import Layer
from matconvnet.nets.deploy import folded
from matconvnet.nets.names import unique_name

Values = Mapping[str, Tensor | None]


class Step(NamedTuple):
    """What was done with a layer, or why nothing was."""

    layer: str
    what: str


@dataclass(frozen=True)
class Rewritten:
    """A graph that computes the same as another one, and how it came about.

    values: of its parameters, where a rewrite changes them; else None.
    """

    graph: Graph
    report: tuple[Step, ...]
    values: Values | None = None

    def __str__(self) -> str:
        """The report, a line each."""
        return "\n".join(f"{step.layer}: {step.what}" for step in self.report)


def fuse(graph: Graph, *, keep: Container[str] = (), training: bool = True) -> Rewritten:
    """Make one layer of a convolution, batch normalisation or sum and the ReLU that follows it.

    In test mode, the sum of two maps becomes part of a convolution that writes one of them, too:
    trained so, it would keep the other map for its derivative in vain. A fused layer has the name
    and the output of its last part; parameters, and so their derivatives, keep their names.

    Args:
        graph: the structure; it is not modified. Layers keep their order.
        keep: variables that must not be hidden.
        training: the graph will be differentiated.

    Returns: the new graph, and for each ReLU (and sum, in test mode) what was done.
    """
    report = []
    for node in graph.nodes:
        if isinstance(node.layer, ReLU):
            graph, step = _joined(graph, node, keep, _rectified)
            report.append(step)
        elif isinstance(node.layer, Sum) and len(node.inputs) == 2 and not training:
            graph, step = _joined(graph, node, keep, _added)
            report.append(step)
    return Rewritten(graph, tuple(report))


def in_test_mode(graph: Graph, values: Values, *, keep: Container[str] = ()) -> Rewritten:
    """Remove what test mode can do without: dropout, batch normalisation after convolutions.

    Args:
        graph: the structure; it is not modified. Layers keep their order.
        values: of the parameters by name; they are not modified.
        keep: variables that must not be hidden.

    Returns: the new graph, the values of its parameters, and what was done.
    Source: `deploy` does the same to networks.
    """
    report, values = [], dict(values)
    for node in graph.nodes:
        if isinstance(node.layer, Dropout):
            graph, step = _bypassed(graph, node.name, keep)
            report.append(step)
    for node in graph.nodes:
        if isinstance(node.layer, BatchNorm):
            graph, step = _folded(graph, node, keep, values)
            report.append(step)
    return Rewritten(graph, tuple(report), {p: values[p] for p in graph.users})


def _rectified(maker: Node, relu: Node) -> Fused | None:
    """The layer that `maker` and the ReLU after it become; None, if there is none."""
    layer = maker.layer
    if isinstance(layer, FusedConv) and layer.leak is None:
        return FusedConv((*layer.parts, relu))
    kind = {Conv: FusedConv, BatchNorm: BatchNormReLU, Sum: SumReLU}.get(type(layer))
    return None if kind is None else kind((maker, relu))


def _added(maker: Node, add: Node) -> Fused | None:
    """The layer that a convolution and the sum of its output and another map become."""
    return FusedConv((maker, add)) if type(maker.layer) is Conv else None


def _joined(
    graph: Graph,
    node: Node,
    keep: Container[str],
    make: Callable[[Node, Node], Fused | None],
) -> tuple[Graph, Step]:
    """Make one layer of a node and the last of those that write its inputs, if it can be."""
    order = {v: i for i, maker in enumerate(graph.nodes) for v in maker.outputs}
    reasons = []
    for variable in sorted(node.inputs, key=lambda v: -order.get(v, -1)):
        if reason := _hindrance(graph, variable, keep):
            reasons.append(reason)
            continue
        maker = graph.producer[variable]
        layer = make(maker, node)
        if layer is not None:
            step = Step(node.name, f"one layer with {maker.name!r}")
            return _replaced(graph, {maker.name: None, node.name: layer.node()}), step
        reasons.append(f"nothing fuses it with {maker.name!r} ({type(maker.layer).__name__})")
    return graph, Step(node.name, "not fused: " + "; ".join(reasons))


def _hindrance(graph: Graph, variable: str, keep: Container[str]) -> str:
    """Why the layer that writes a variable cannot be joined with the one that reads it."""
    if variable not in graph.producer:
        return f"no layer writes {variable!r}"
    if variable in keep:
        return f"{variable!r} is kept"
    readers = graph.readers[variable]
    return f"{variable!r} is read {readers} times" if readers > 1 else ""


def _bypassed(graph: Graph, name: str, keep: Container[str]) -> tuple[Graph, Step]:
    """Remove a layer that hands on its input."""
    node = next(node for node in graph.nodes if node.name == name)
    (before,), (after,) = node.inputs, node.outputs
    if after not in keep and graph.readers.get(after):
        old, new = after, before
    elif before not in keep and before in graph.producer:
        old, new = before, after
    else:
        return graph, Step(name, f"not removed: {before!r} and {after!r} are both kept")
    changes: dict[str, Node | None] = {
        other.name: other._replace(
            inputs=tuple(new if v == old else v for v in other.inputs),
            outputs=tuple(new if v == old else v for v in other.outputs),
        )
        for other in graph.nodes
    }
    changes[name] = None
    return _replaced(graph, changes), Step(name, "removed: it does nothing in test mode")


def _folded(
    graph: Graph, node: Node, keep: Container[str], values: dict[str, Tensor | None]
) -> tuple[Graph, Step]:
    """Make a batch normalisation part of the convolution before it, if it can be."""
    (before,) = node.inputs
    maker = graph.producer.get(before)
    reason = _hindrance(graph, before, keep) or _obstacle(graph, maker, node, values)
    if maker is None or reason:
        return graph, Step(node.name, f"not folded: {reason}")
    filters, *rest = maker.params
    f, *normalisation = (_value(values, p) for p in (filters, *node.params))
    biases = rest[0] if rest else unique_name(f"{maker.name}_b", values)
    c = values.get(biases)
    c = f.new_zeros(normalisation[2].shape[0]) if c is None else c
    values[filters], values[biases] = folded(maker.layer, f, c, normalisation)
    layer: Layer = replace(maker.layer, has_bias=True)  # pyright: ignore[reportCallIssue]
    conv = Node(maker.name, layer, maker.inputs, node.outputs, (filters, biases))
    changes = {maker.name: None, node.name: conv}
    return _replaced(graph, changes), Step(node.name, f"folded into {maker.name!r}")


def _obstacle(graph: Graph, maker: Node | None, node: Node, values: Values) -> str:
    """Why nothing can be folded into `maker`."""
    if maker is None or type(maker.layer) not in (Conv, ConvTranspose):
        return "what it normalises is not the output of a convolution"
    if shared := [p for p in maker.params if graph.users[p] > 1]:
        return f"parameter(s) {shared} of {maker.name!r} are used elsewhere"
    wanted = (maker.params[0], *node.params)
    missing = [p for p in wanted if values.get(p) is None]
    return f"parameter(s) {missing} have no value" if missing else ""


def _value(values: Values, name: str) -> Tensor:
    value = values[name]
    assert value is not None
    return value


def _replaced(graph: Graph, changes: Mapping[str, Node | None]) -> Graph:
    """The graph with other nodes, or none, in the place of some.

    Layers keep their order, which tells in turn which random numbers they draw.
    """
    changed = (changes.get(node.name, node) for node in graph.nodes)
    nodes = tuple(node for node in changed if node is not None)
    return replace(build(nodes), nodes=nodes)
