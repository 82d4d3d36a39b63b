"""`vl_simplenn_move`: the weights of a network on another device."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from matconvnet.layout import to_tensor
from matconvnet.nets.fields import is_empty
from matconvnet.nets.simplenn import Link, SimpleNN
from matconvnet.nets.struct import layer_list
from matconvnet.values import Struct

TYPES = ("conv", "convt", "bnorm")
TENSORS = ("filters", "biases", "filtersMomentum", "biasesMomentum")
LISTS = ("weights", "momentum")


def vl_simplenn_move(net: Any, destination: str) -> Any:
    """Copy a network, with its weights on the GPU or in main memory.

    Weights of the types conv, convt and bnorm move, and what old networks keep as `filters`,
    `biases` and `momentum`; nothing else does. NumPy arrays become tensors on the GPU.

    Args:
        net: a network struct, or a SimpleNN; it is not modified.
        destination: 'gpu' or 'cpu'.

    Returns: the new network, of the same kind; it shares no weights with `net`.
    Raises: ValueError, for another destination. RuntimeError, if there is no GPU.
    Source: vl_simplenn_move.
    """
    if destination not in ("gpu", "cpu"):
        raise ValueError(f"Unknown destination {destination!r}; wanted 'gpu' or 'cpu'")
    if destination == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("destination is 'gpu', but torch finds no CUDA device; wanted 'cpu'")
    device = torch.device("cuda" if destination == "gpu" else "cpu")
    if isinstance(net, SimpleNN):
        moved = copy.copy(net)
        moved.meta = Struct(net.meta)
        moved.layers = tuple(_move_link(link, device) for link in net.layers)
        return moved
    layers = [_move_layer(Struct(layer), device) for layer in layer_list(net)]
    return Struct(net, layers=layers)


def _move_link(link: Link, device: torch.device) -> Link:
    if link.layer.type_name not in TYPES:
        return link
    return replace(link, params=[replace(p, value=_move(p.value, device)) for p in link.params])


def _move_layer(layer: Struct, device: torch.device) -> Struct:
    if layer.type in TYPES:
        for key in {*TENSORS} & {*layer}:
            layer[key] = _move(layer[key], device)
        for key in {*LISTS} & {*layer}:
            layer[key] = [_move(item, device) for item in layer[key]]
    return layer


def _move(value: Any, device: torch.device) -> Any:
    """A copy on the device; empty ones, and others than tensors and arrays, stay as they are."""
    if is_empty(value):
        return value
    tensor = to_tensor(value)
    if not isinstance(tensor, Tensor):
        return value
    if tensor is not value and device.type == "cpu":
        return value.copy()
    return tensor.to(device, copy=True)
