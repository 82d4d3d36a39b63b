"""The last convolution of a classifier, which gives one score per class."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from matconvnet.blocks import Conv, Loss
from matconvnet.blocks.loss import Regression
from matconvnet.graph import Node
from matconvnet.layout import channels_last
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network

KEEP_CHANNELS = ("softmax", "dropout", "sigmoid", "pool")
"""Types of layers that may follow the last convolution."""


def check_classifier(net: Network) -> None:
    """Raise ValueError, if all losses of the network compare maps, as those that restore images."""
    losses = [node for node in net.graph.nodes if node.layer.is_loss]
    if losses and all(isinstance(node.layer, Regression) for node in losses):
        raise ValueError(
            f"the network predicts maps, which its loss {losses[0].name!r} compares with maps; "
            "wanted a network that predicts scores of classes"
        )


def count_classes(net: Network) -> int | None:
    """How many scores the network gives; None, if it does not end in a convolution."""
    head = _head(net)
    return None if head is None else _filters(net, head).shape[3]


def replace_head(net: Network, classes: int, seed: int = 0) -> None:
    """Give the network another number of classes: draw the last convolution anew.

        f = normal with the deviation of the old filters,  b = 0

    Args:
        net: its values are replaced; rates of learning are kept. Errors that allow more guesses
            than there are classes allow as many as there are.
        classes: how many.
        seed: of the filters.

    Raises: ValueError, if the network does not end in a convolution and a loss.
    """
    head = _head(net)
    if head is None:
        raise ValueError("the network does not end in a convolution, so it has no head to replace")
    old = _filters(net, head)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((*old.shape[:3], classes), generator=generator, dtype=old.dtype)
    scale = old.float().std(correction=0).cpu()
    net.params[head.params[0]].value = channels_last((drawn * scale).to(old.device))
    for name in head.params[1:]:
        value = net.params[name].value
        if value is not None:
            net.params[name].value = value.new_zeros(classes)
    if isinstance(net, DagNN):
        _tell_layers(net, head, classes)


def _tell_layers(net: DagNN, head: Node, classes: int) -> None:
    """Write the number of classes into the layers that hold it."""
    size = cast(Conv, head.layer).size
    if size is not None:
        net.layers[head.name].block = replace(head.layer, size=(*size[:3], classes))
    for layer in net.layers.values():
        if isinstance(layer.block, Loss) and layer.block.top_k > classes:
            layer.block = replace(layer.block, top_k=classes)


def _head(net: Network) -> Node | None:
    """The convolution whose output the last softmax or loss reads."""
    node = net.graph.producer.get(net.prediction)
    while node is not None and not isinstance(node.layer, Conv):
        has_scores = not node.params and node.layer.type_name in KEEP_CHANNELS
        node = net.graph.producer.get(node.inputs[0]) if has_scores else None
    is_full = node is not None and node.params and net.params[node.params[0]].value is not None
    return node if is_full else None


def _filters(net: Network, head: Node) -> Tensor:
    return cast(Tensor, net.params[head.params[0]].value)
