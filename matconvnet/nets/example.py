"""Inputs that a network accepts: sizes, from its meta data or by trial, and random maps."""

import math

import torch
from torch import Tensor

from matconvnet.blocks._loss_kinds import KINDS
from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.loss import Regression
from matconvnet.blocks.roipool import RoiPool
from matconvnet.geometry import Size, variable_sizes
from matconvnet.graph import Node
from matconvnet.layer import Size4
from matconvnet.nets.meta import input_size
from matconvnet.nets.network import Network

SIZES = range(8, 300)
"""Heights and widths that are tried, in pixels."""
REGIONS = 3
"""Regions of interest in all images together."""


def input_sizes(net: Network, batch: int = 1) -> dict[str, Size4]:
    """Sizes (H, W, C, N) of the inputs, other than labels, by variable.

    What the meta data do not tell is tried: the smallest square maps for which every variable has
    a size of at least 1. Regions of interest are 5 x K.

    Raises: ValueError, if no size up to 299 pixels fits.
    """
    names = net.data_inputs
    known = {name: [int(n) for n in input_size(net.meta, name)][:3] for name in names}
    shapes = {n: None if v is None else tuple(v.shape) for n, v in net.values().items()}
    channels = {name: _channels(net, name) for name in names}
    regions = _regions(net)
    for pixels in SIZES:
        sizes = {
            name: (*known[name], *(pixels, pixels, channels[name])[len(known[name]) :], batch)
            for name in names
        }
        sizes |= dict.fromkeys(regions, (5, REGIONS, 1, 1))
        try:
            all_sizes = variable_sizes(net.graph, sizes, shapes)
        except (ValueError, TypeError, IndexError, ZeroDivisionError):
            continue
        if all(math.isnan(s) or s >= 1 for size in all_sizes.values() for s in size):
            return sizes  # pyright: ignore[reportReturnType]
    raise ValueError(
        f"the network accepts no square maps of {SIZES[0]} to {SIZES[-1]} pixels for {names}; "
        "tell its sizes in meta.inputSize"
    )


def example_inputs(
    net: Network,
    *,
    batch: int = 2,
    labels: bool = False,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Random maps (Gaussian) for the inputs of a network, and random labels if they are wanted."""
    sizes = input_sizes(net, batch)
    inputs = {
        name: torch.randn(size, generator=generator, dtype=dtype) for name, size in sizes.items()
    }
    for name in _regions(net):
        inputs[name] = _draw_regions(sizes[net.input], dtype, generator)
    if labels:
        shapes = {n: None if v is None else tuple(v.shape) for n, v in net.values().items()}
        known = variable_sizes(net.graph, sizes, shapes)
        for node in net.graph.nodes:
            if node.layer.label_inputs and node.inputs[1] in net.graph.inputs:
                inputs[node.inputs[1]] = _draw_labels(node, known[node.inputs[0]], dtype, generator)
    return inputs


def _channels(net: Network, variable: str) -> int:
    """Channels that the first layer with parameters wants; 1, if no layer says."""
    values, reached = net.values(), {variable}
    for node in net.graph.nodes:
        if not reached.intersection(node.inputs):
            continue
        value = values[node.params[0]] if node.params else None
        if value is not None and isinstance(node.layer, Conv):
            return value.shape[2]
        if value is not None and isinstance(node.layer, ConvTranspose):
            return value.shape[3] * node.layer.num_groups
        if value is not None and isinstance(node.layer, BatchNorm):
            return value.numel()
        reached.update(node.outputs)
    return 1


def _regions(net: Network) -> set[str]:
    """The inputs of a network that are regions of interest."""
    read = {node.inputs[1] for node in net.graph.nodes if isinstance(node.layer, RoiPool)}
    return read.intersection(net.data_inputs)


def _draw_regions(size: Size4, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    """Regions of images of a size: rows image, left, top, right, bottom."""
    h, w, _, n = size
    first, last = torch.rand(2, 2, REGIONS, generator=generator, dtype=dtype).sort(0).values
    extent = torch.tensor([[w - 1], [h - 1]], dtype=dtype)
    images = torch.randint(n, (1, REGIONS), generator=generator).to(dtype)
    return torch.cat((images, first * extent, last * extent))


def _draw_labels(
    node: Node, size: Size, dtype: torch.dtype, generator: torch.Generator | None
) -> Tensor:
    h, w, d, n = (int(number) for number in size)
    if isinstance(node.layer, Regression):
        return torch.randn(h, w, d, n, generator=generator, dtype=dtype)
    if KINDS[getattr(node.layer, "loss", "softmaxlog").lower()].is_attribute:
        return torch.randint(0, 2, (h, w, d, n), generator=generator) * 2 - 1
    return torch.randint(0, d, (h, w, 1, n), generator=generator)
