"""The standard networks of torchvision, from their state dicts: AlexNet, VGG and ResNet."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isqrt
from pathlib import Path

import torch
from torch import Tensor

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sum import Sum
from matconvnet.errors import FormatError
from matconvnet.interop.torch_state import load_state_dict
from matconvnet.layer import Layer
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.zoo._layers import entry, new_moments

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the entries of a state dict, by name."""

VGG = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions before each of the five poolings; "_bn" after the name: with normalisation."""

RESNET = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
"""Blocks in each of the four stages: of two convolutions, from resnet50 on of three."""

ARCHITECTURES = ("alexnet", *VGG, *(f"{name}_bn" for name in VGG), *RESNET)

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of the colours, red first, as torchvision's weights expect them; pixels are 0..1."""


def from_torch(
    state: Mapping[str, Tensor] | str | os.PathLike[str],
    architecture: str,
    *,
    pixels: bool = False,
) -> Network:
    """Build a network of torchvision, with its weights, for images of 224 x 224 pixels.

    Layers have the names of torchvision's modules ("features.0", "layer1.0.conv1"), so that
    `state_dict(net)` gives its names back. Sizes are read off the weights: another number of
    classes or of channels will do.

    Args:
        state: the state dict, or a `.pt` file of it (read with `weights_only`: no code is run).
        architecture: one of ARCHITECTURES.
        pixels: let the network take RGB images of 0..255 less `meta.normalization.averageImage`, as
            `predict` prepares them: its first filters are divided by the deviation of the colours.
            Otherwise it takes what torchvision's does, (x / 255 - MEAN) / STD.

    Returns: a SimpleNN (AlexNet, VGG) or a DagNN (ResNet), without loss; it predicts scores.
    Raises: ValueError for an unknown architecture; FormatError, naming all entries that are
        missing, left over, or of a shape that does not fit.
    Source: torchvision.models; Krizhevsky 2014, "One weird trick"; Simonyan and Zisserman 2015; He
        et al. 2016, with the stride in the second of three convolutions ("v1.5").
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture is {architecture!r}; wanted one of {ARCHITECTURES}")
    if not isinstance(state, Mapping):
        state = torch.load(Path(state), map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise FormatError("state is no dict of tensors by name; wanted model.state_dict()")
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if architecture in RESNET:
        net = _resnet(RESNET[architecture], 2 if architecture in ("resnet18", "resnet34") else 3,
                      shapes)  # fmt: skip
    elif architecture == "alexnet":
        net = _chain(_alexnet(), shapes)
    else:
        net = _chain(_vgg(VGG[architecture[:5]], architecture.endswith("_bn")), shapes)
    load_state_dict(net, state)
    net.meta["normalization"] = {"imageSize": [224, 224, 3], "cropSize": 224 / 256}
    if pixels:
        filters = next(param.value for param in net.params.values())
        assert filters is not None
        filters /= 255 * torch.tensor(STD, dtype=filters.dtype)[:, None]
        net.meta["normalization"]["averageImage"] = [255 * mean for mean in MEAN]
    return net


def _alexnet() -> dict[str, Sequence[Layer]]:
    pool = Pooling(3, stride=2)
    features = [Conv(stride=4, pad=2), ReLU(), pool, Conv(pad=2), ReLU(), pool]
    features += [Conv(pad=1), ReLU(), Conv(pad=1), ReLU(), Conv(pad=1), ReLU(), pool]
    classifier = [Dropout(), Conv(), ReLU(), Dropout(), Conv(), ReLU(), Conv()]
    return {"features": features, "classifier": classifier}


def _vgg(counts: tuple[int, ...], batch_normalization: bool) -> dict[str, Sequence[Layer]]:
    block = [Conv(pad=1), *([BatchNorm()] if batch_normalization else []), ReLU()]
    features = [layer for count in counts for layer in (*block * count, Pooling(2, stride=2))]
    classifier = [Conv(), ReLU(), Dropout(), Conv(), ReLU(), Dropout(), Conv()]
    return {"features": features, "classifier": classifier}


def _chain(parts: Mapping[str, Sequence[Layer]], shapes: Shapes) -> SimpleNN:
    """The layers of torch's Sequentials, one after the other, by their names there."""
    entries, channels = [], 3
    for part, layers in parts.items():
        for i, layer in enumerate(layers):
            name = f"{part}.{i}"
            layer = _sized(layer, name, shapes, channels)
            channels = layer.size[3] if isinstance(layer, Conv) and layer.size else channels
            weights = new_moments(channels) if isinstance(layer, BatchNorm) else ()
            entries.append(entry(layer, name, weights))
    return SimpleNN(entries)


def _sized(layer: Layer, name: str, shapes: Shapes, channels: int) -> Layer:
    """The layer with the size of its weight, K x C x H x W, or of a linear one K x (C*H*W).

    channels: C of a linear weight; 0: it covers one pixel.
    """
    shape = shapes.get(f"{name}.weight", (1, 1, 1, 1))
    if isinstance(layer, BatchNorm):
        return replace(layer, num_channels=shape[0])
    if not isinstance(layer, Conv):
        return layer
    if len(shape) == 4:
        k, c, h, w = shape
    else:
        k, c = shape[0], channels or shape[-1]
        h = w = isqrt(shape[-1] // c)
    return replace(layer, size=(h, w, c, k))


def _resnet(stages: tuple[int, ...], convolutions: int, shapes: Shapes) -> DagNN:
    """Residual blocks of two or three convolutions; variables are named for what writes them."""
    net = DagNN()

    def add(name: str, layer: Layer, *inputs: str) -> str:
        layer = _sized(layer, name, shapes, 0)
        params = {Conv: "fb", BatchNorm: "mbx"}.get(type(layer), "")
        if isinstance(layer, Conv) and not layer.has_bias:
            params = "f"
        net.add_layer(name, layer, inputs, name, [name + letter for letter in params])
        return name

    def convolve(name: str, norm: str, x: str, stride: int) -> str:
        pad = (shapes.get(f"{name}.weight", (1,))[-1] - 1) // 2
        y = add(name, Conv(stride=stride, pad=pad, has_bias=False), x)
        return add(norm, BatchNorm(), y)

    def block(name: str, x: str, stride: int) -> str:
        y = x
        for i in range(1, convolutions + 1):
            step = stride if i == convolutions - 1 else 1
            y = convolve(f"{name}.conv{i}", f"{name}.bn{i}", y, step)
            if i < convolutions:
                y = add(f"{name}.relu{i}", ReLU(), y)
        if stride > 1 or f"{name}.downsample.0.weight" in shapes:
            x = convolve(f"{name}.downsample.0", f"{name}.downsample.1", x, stride)
        return add(f"{name}.relu", ReLU(), add(f"{name}.sum", Sum(), y, x))

    x = add("relu", ReLU(), convolve("conv1", "bn1", "input", 2))
    x = add("maxpool", Pooling(3, stride=2, pad=1), x)
    for stage, blocks in enumerate(stages, 1):
        for i in range(blocks):
            x = block(f"layer{stage}.{i}", x, 2 if stage > 1 and i == 0 else 1)
    x = add("avgpool", Pooling(7, method="avg"), x)
    add("fc", Conv(), x)
    return net
