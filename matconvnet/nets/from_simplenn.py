"""From SimpleNN to DagNN, and back where the graph is a chain."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from matconvnet.blocks import BatchNorm, Conv, ConvTranspose, Loss, Softmax, SoftmaxLoss
from matconvnet.errors import GraphError
from matconvnet.graph import Graph, Node
from matconvnet.layer import Layer
from matconvnet.nets._params import name_params
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.names import unique_name
from matconvnet.nets.network import Param
from matconvnet.nets.registry import Unknown
from matconvnet.nets.simplenn import Link, SimpleNN


def from_simplenn(
    net: SimpleNN | Mapping[str, Any], *, canonical_names: bool = False, cls: type[DagNN] = DagNN
) -> DagNN:
    """Wire the layers of a SimpleNN as a DagNN, which computes the same, bit for bit.

    Layers keep their names, numbered where they are not unique. The variables are x0 (the input)
    to xn; losses read `label`, `label1`, ... Parameters are named by their layer and a letter:
    `conv1f` filters, `conv1b` biases; `bn1m` multipliers, `bn1b` biases, `bn1x` moments.

    Args:
        net: a SimpleNN or the struct of one; the weights are shared with it, the meta data copied.
        canonical_names: name variables by what they are: `input`; `prob`, `prob1`, ... what a
            softmax writes; `objective`, ... the value of a loss; `prediction`, ... what either
            reads.
        cls: the class of the result.

    Source: DagNN.fromSimpleNN. Unlike there, layers of all types are converted, and epsilon and
        the channels of batch normalisation are kept.
    """
    chain = net if isinstance(net, SimpleNN) else SimpleNN.from_struct(net)
    dag = cls(copy.deepcopy(chain.meta))
    for i, link in enumerate(chain.layers, 1):
        name = unique_name(link.name, dag.layers)
        labels = [unique_name("label", dag.vars)] if link.layer.label_inputs else []
        node = Node(name, _dag_block(link), (f"x{i - 1}", *labels), (f"x{i}",))
        given = _present(link)
        names = name_params(node, len(given))
        dag.add_layer(name, node.layer, node.inputs, node.outputs, names)
        for own_name, param in zip(names, given, strict=True):
            _copy(param, dag.params[own_name])
        dag.vars[f"x{i}"].precious = link.precious
        dag.layers[name].extra.update(_kept(link.layer, link.extra))
    if canonical_names:
        _name_by_purpose(dag)
    inputs = dag.meta.get("inputs")
    first = inputs[0] if isinstance(inputs, list) and inputs else inputs
    if isinstance(first, dict) and "name" in first and chain.layers:
        first["name"] = dag.input
    return dag


def to_simplenn(net: DagNN) -> SimpleNN:
    """Chain the layers of a DagNN as a SimpleNN; the weights are shared, the meta data copied.

    Raises: GraphError, naming what no chain has: a variable that several layers read, a layer that
        reads or writes several variables, a parameter that several layers share.
    """
    graph = net.graph
    _check_chain(graph)
    links = []
    for i, node in enumerate(graph.nodes, 1):
        names = [*node.params, *(None for _ in node.layer.param_names[len(node.params) :])]
        params = []
        for j, name in enumerate(names, 1):
            params.append(Param(f"l{i}_{j}", None))
            if name is not None:
                _copy(net.params[name], params[-1])
        precious = net.vars[node.outputs[0]].precious
        extra = _kept(node.layer, net.layers[node.name].extra)
        links.append(Link(_chain_layer(node.layer), node.name, params, precious, extra))
    return SimpleNN(links, copy.deepcopy(net.meta))


def _present(link: Link) -> list[Param]:
    """The parameters of a layer; a convolution has none where a weight is empty."""
    if isinstance(link.layer, (Conv, ConvTranspose)):
        return [param for param in link.params if param.value is not None]
    return link.params


def _kept(layer: Layer, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Of the fields that no layer reads, `opts`; all of a layer whose type nobody registered."""
    return {key: extra[key] for key in extra if key == "opts" or isinstance(layer, Unknown)}


def _copy(source: Param, target: Param) -> None:
    target.value, target.train_method = source.value, source.train_method
    target.learning_rate, target.weight_decay = source.learning_rate, source.weight_decay


def _dag_block(link: Link) -> Layer:
    """The layer, with what DagNN blocks say of the shapes of their parameters."""
    layer, values = link.layer, [param.value for param in link.params]
    if isinstance(layer, (Conv, ConvTranspose)) and values[0] is not None:
        size = (*values[0].shape, 1, 1, 1)[:4]
        return replace(layer, size=size, has_bias=values[1] is not None)
    if isinstance(layer, BatchNorm) and values[0] is not None:
        return replace(layer, num_channels=values[0].numel())
    return Loss("softmaxlog") if isinstance(layer, SoftmaxLoss) else layer


def _chain_layer(layer: Layer) -> Layer:
    """The inverse of `_dag_block`."""
    if isinstance(layer, (Conv, ConvTranspose)):
        return replace(layer, size=None, has_bias=True)
    if isinstance(layer, BatchNorm):
        return replace(layer, num_channels=None)
    return SoftmaxLoss() if layer == Loss("softmaxlog") else layer


def _name_by_purpose(dag: DagNN) -> None:
    """Give variables the canonical names; one that has such a name already keeps it."""
    plain = {f"x{i}" for i in range(len(dag.layers) + 1)}

    def rename(old: str, purpose: str) -> None:
        if old in plain:
            dag.rename_var(old, unique_name(purpose, dag.vars))

    if dag.layers:
        rename("x0", "input")
    for layer in dag.layers.values():
        if isinstance(layer.block, Softmax) or layer.block.is_loss:
            rename(layer.inputs[0], "prediction")
            rename(layer.outputs[0], "objective" if layer.block.is_loss else "prob")


def _check_chain(graph: Graph) -> None:
    """Raise GraphError, unless the nodes are a chain with parameters of their own."""
    before = None
    for node in graph.nodes:
        x = _check_node(graph, node)
        if before is not None and x != before:
            raise GraphError(
                f"layer {node.name!r} reads {x!r}, not {before!r}; a chain has no such branch"
            )
        before = node.outputs[0]


def _check_node(graph: Graph, node: Node) -> str:
    """The variable that a node of a chain reads, labels aside."""
    maps = node.inputs[:1] if node.layer.is_loss else node.inputs
    what = f"layer {node.name!r} ({type(node.layer).__name__})"
    if len(maps) != 1 or len(node.outputs) != 1:
        raise GraphError(
            f"{what} reads {list(maps)} and writes {list(node.outputs)}; "
            "a layer of a chain reads one variable and writes one"
        )
    labels = node.inputs[1:]
    if len(labels) > 1 or any(v in graph.producer for v in labels):
        raise GraphError(f"{what} reads {list(labels)} too; in a chain, labels from outside alone")
    readers = [other.name for other in graph.nodes if maps[0] in other.inputs]
    if len(readers) > 1:
        raise GraphError(f"variable {maps[0]!r} branches, to layers {readers}; a chain has none")
    for p in node.params:
        if graph.users[p] > 1:
            users = [other.name for other in graph.nodes if p in other.params]
            raise GraphError(f"parameter {p!r} is shared by layers {users}; a chain shares none")
    return maps[0]
