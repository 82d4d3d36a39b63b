"""A trained network made ready for use, and a deployed one made ready for training again."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.softmax import Softmax
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.graph import Node
from matconvnet.layer import Layer
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.names import unique_name
from matconvnet.nets.network import Network
from matconvnet.nets.registry import Unknown
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Cell

N = TypeVar("N", SimpleNN, DagNN)

MOMENTUM = ("momentum", "filtersMomentum", "biasesMomentum")  # what old checkpoints keep in layers
WORKSPACE = "cudnnworkspacelimit"  # in lower case


def deploy(net: N, *, softmax: bool | None = None, merge: bool = True) -> N:
    """A copy of a network for use: without losses and dropout, batch normalisation merged.

    A batch normalisation y = g * (x - mu) / sigma + b after a convolution x = f * u + c becomes
    part of it:

        f' = f * g / sigma,  c' = b + (c - mu) * g / sigma

    That of a convolution whose output or parameters others use too, or of anything else, stays,
    with a warning. What training left behind (momentum, what is beside the network) is dropped.

    Args:
        net: the network; it is not modified.
        softmax: end the network with a softmax `prob`, if it has none there; None: where a loss
            that is dropped has one in it, and reads more than one channel.
        merge: merge batch normalisation.

    Returns: a network of the same kind, equal in test mode to rounding.
    Source: cnn_imagenet_deploy, which does not scale c.
    """
    dag = _as_dag(net)
    dag.beside = None
    scores = _drop_losses(dag)
    if softmax is True and not scores:
        scores = [dag.prediction]
    if softmax is None:
        sizes = dag.get_var_sizes({})
        scores = [v for v in scores if sizes[v][2] != 1]  # of one channel it is 1 everywhere
    for variable in scores if softmax is not False else ():
        _add_softmax(dag, variable)
    for layer in list(dag.layers.values()):
        if isinstance(layer.block, Dropout):
            _bypass(dag, layer.name)
        for key in MOMENTUM:
            layer.extra.pop(key, None)
        _drop_workspace(layer.extra)
    if merge:
        for layer in list(dag.layers.values()):
            if isinstance(layer.block, BatchNorm):
                _merge(dag, layer.name)
    return _as_given(dag, net)


def insert_bnorm(net: N, *, epsilon: float = 1e-5, moment_rate: float = 0.1) -> N:
    """A copy of a network with batch normalisation after every convolution but the last.

    Until it is trained it computes in test mode what `net` does: its multipliers are
    sqrt(1 + epsilon), its biases 0, its moments (0, sqrt(1 + epsilon)). In training mode the
    statistics of the batch take their place at once.

    Args:
        net: the network, such as a deployed one that shall be trained further; not modified.
        epsilon: of the batch normalisations.
        moment_rate: the averaging rate of their moments.

    Returns: a network of the same kind.
    """
    dag = _as_dag(net)
    convs = [
        layer for layer in dag.layers.values() if isinstance(layer.block, (Conv, ConvTranspose))
    ]
    for layer in convs[:-1]:
        filters = _value(dag, layer.params[0])
        sigma = (1 + epsilon) ** 0.5
        channels = _channels(layer.block, filters)
        name, (output,) = _new(f"{layer.name}_bn", dag), layer.outputs
        before = _new(f"{layer.name}_linear", dag)
        dag.set_layer_outputs(layer.name, [before])
        params = [f"{name}_{end}" for end in "mbx"]
        dag.add_layer(name, BatchNorm(epsilon, channels), before, output, params)
        ones = filters.new_ones(channels)
        values = (ones * sigma, ones * 0, torch.stack((ones * 0, ones * sigma), 1))
        for param, value in zip(params, values, strict=True):
            dag.params[param].value = value
            dag.params[param].weight_decay = 0.0
        dag.params[params[2]].learning_rate = moment_rate
    return _as_given(dag, net)


def _as_dag(net: Network) -> DagNN:
    return (DagNN.from_simplenn(net) if isinstance(net, SimpleNN) else net).copy()  # pyright: ignore


def _as_given(dag: DagNN, net: N) -> N:
    made = dag.to_simplenn() if isinstance(net, SimpleNN) else dag
    made.extra = copy.deepcopy(net.extra)
    return made  # pyright: ignore[reportReturnType]


def _drop_losses(dag: DagNN) -> list[str]:
    """Remove what compares with something given; the scores that softmax losses read."""
    scores, known = {}, set(dag.data_inputs)
    for node in dag.graph.nodes:
        compares = isinstance(node.layer, Unknown) and not known.issuperset(node.inputs)
        if not node.layer.is_loss and not compares:
            known.update(node.outputs)
            continue
        is_softmax = isinstance(node.layer, Loss) and node.layer.loss.lower() == "softmaxlog"
        if is_softmax or isinstance(node.layer, SoftmaxLoss):
            scores[node.inputs[0]] = None
        dag.remove_layer(node.name)
    return list(scores)


def _bypass(dag: DagNN, name: str) -> None:
    """Remove a layer of one input and output, and join what it parted."""
    layer = dag.layers[name]
    (before,), (after,) = layer.inputs, layer.outputs
    is_end = after in dag.graph.outputs and before not in dag.graph.inputs
    dag.remove_layer(name)
    old, new = (before, after) if is_end else (after, before)
    if old in dag.vars:
        dag.rename_var(old, new)


def _drop_workspace(extra: dict[str, Any]) -> None:
    """Remove the limit of cuDNN's workspace, name and value, from the options of a layer."""
    opts = extra.get("opts")
    if not isinstance(opts, list):
        return
    items = iter(opts)
    kept = []
    for item in items:
        if isinstance(item, str) and item.lower() == WORKSPACE:
            next(items, None)
        else:
            kept.append(item)
    extra["opts"] = Cell(kept)


def _add_softmax(dag: DagNN, variable: str) -> None:
    """End the network with a softmax of a variable, unless a softmax wrote it."""
    writer = dag.graph.producer.get(variable)
    if writer is None or not isinstance(writer.layer, Softmax):
        name = _new("prob", dag)
        dag.add_layer(name, Softmax(), variable, name)


def _merge(dag: DagNN, name: str) -> None:
    """Make a batch normalisation part of the convolution before it."""
    bnorm = dag.layers[name]
    (before,), (after,) = bnorm.inputs, bnorm.outputs
    node = dag.graph.producer.get(before)
    reason = _hindrance(dag, node, before)
    if node is None or reason:
        warnings.warn(f"batch normalisation {name!r} is not merged: {reason}", stacklevel=3)
        return
    conv = dag.layers[node.name]
    normalisation = [_value(dag, param) for param in bnorm.params]
    filters, biases = conv.params[0], _biases(dag, conv.name, normalisation[2].shape[0])
    f, c = _value(dag, filters), _value(dag, biases)
    dag.params[filters].value, dag.params[biases].value = folded(conv.block, f, c, normalisation)
    dag.remove_layer(name)
    dag.set_layer_outputs(conv.name, [after])


def folded(
    layer: Layer, f: Tensor, c: Tensor, normalisation: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Filters and biases of a convolution that does the batch normalisation after it as well.

        f' = f * g / sigma,  c' = b + (c - mu) * g / sigma

    Args:
        layer: the convolution, or convolution transpose.
        f, c: its filters and biases.
        normalisation: multipliers g, biases b, and moments (mu, sigma), C x 2.

    Returns: new tensors like `f` and `c`.
    """
    g, b, moments = (value.double() for value in normalisation)
    scale = g.reshape(-1) / moments[:, 1]
    new_c = b.reshape(-1) + (c.double().reshape(-1) - moments[:, 0]) * scale
    return f * _per_filter(layer, f, scale).to(f.dtype), new_c.to(c.dtype).reshape(c.shape)


def _hindrance(dag: DagNN, node: Node | None, between: str) -> str:
    """Why a batch normalisation that reads `between`, written by `node`, cannot be merged."""
    if node is None or not isinstance(node.layer, (Conv, ConvTranspose)):
        return "what it normalises is not the output of a convolution"
    if dag.graph.readers[between] > 1 or dag.vars[between].precious:
        return f"the output of the convolution {node.name!r} is used elsewhere"
    shared = [p for p in node.params if dag.graph.users[p] > 1]
    if shared:
        return f"parameter(s) {shared} of the convolution are used elsewhere"
    return "" if dag.params[node.params[0]].value is not None else "the convolution has no filters"


def _biases(dag: DagNN, name: str, channels: int) -> str:
    """The parameter that holds the biases of a convolution, which is given zeros if it has none."""
    layer = dag.layers[name]
    filters, *rest = layer.params
    biases = rest[0] if rest else _new(f"{name}_b", dag)
    if not rest:
        layer.block = replace(layer.block, has_bias=True)  # pyright: ignore[reportCallIssue]
        dag.set_layer_params(name, [filters, biases])
    if dag.params[biases].value is None:
        dag.params[biases].value = _value(dag, filters).new_zeros(channels)
    return biases


def _value(dag: DagNN, name: str) -> Tensor:
    value = dag.params[name].value
    if value is None:
        raise ValueError(f"parameter {name!r} has no value; call init_params, or assign one")
    return value


def _channels(layer: Any, filters: Tensor) -> int:
    """Channels that a convolution makes."""
    if isinstance(layer, ConvTranspose):
        return filters.shape[2] * layer.num_groups
    return filters.shape[3]


def _per_filter(layer: Any, filters: Tensor, scale: Tensor) -> Tensor:
    """Factors of output channels in the shape of filters.

    The filters of a convolution transpose are H x W x K x C, those of a group side by side.
    """
    if not isinstance(layer, ConvTranspose):
        return scale
    each = filters.shape[3] // layer.num_groups
    return scale.reshape(layer.num_groups, -1).T.repeat_interleave(each, 1)


def _new(name: str, dag: DagNN) -> str:
    """A name that no layer, variable or parameter has."""
    return unique_name(name, {*dag.layers, *dag.vars, *dag.params})
