"""Caffe's files as plain layers: one form for all ages of them, checked, in file order."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from matconvnet.errors import FormatError
from matconvnet.interop.caffe import binary
from matconvnet.interop.caffe.schema import Message
from matconvnet.interop.caffe.text import read_text

HDF5 = b"\x89HDF"

MODERN = {"LRN": "LRN", "RELU": "ReLU", "SOFTMAX_LOSS": "SoftmaxWithLoss", "TANH": "TanH"}
"""Types of today by their old names, where they are not the same words."""


class Entry(NamedTuple):
    """A layer of a file. options: its message, of today (LayerParameter) or old."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    options: Message

    @property
    def is_old(self) -> bool:
        """True for the form `layers { type: CONVOLUTION }`."""
        return self.options.kind == "V1LayerParameter"


class Structure(NamedTuple):
    """What a text file says. ignored: its fields that we do not know."""

    entries: list[Entry]
    ignored: list[str]


def read_structure(path: Path) -> Structure:
    """Read the layers of a network as Caffe would run it in its phase TEST; inputs are layers too.

    Raises: FormatError; OSError.
    """
    net, ignored = read_text(path)
    layers = _layers(net, path)
    if not layers:
        raise FormatError(f"{path} has no layers; wanted `layer {{ ... }}`")
    included = [layer for layer in layers if _is_included(layer, net.state)]
    return Structure([*_inputs(net, path), *map(_entry, included)], ignored)


def read_weights(path: Path) -> dict[str, list[memoryview]]:
    """Read the blobs of all layers, still encoded, by the name of the layer.

    Raises: FormatError; OSError.
    """
    data = path.read_bytes()
    if data.startswith(HDF5):
        raise FormatError(f"{path} is an HDF5 file; wanted a binary caffemodel")
    try:
        layers = binary.layers(data)
    except FormatError as error:
        raise FormatError(f"{path} is {_no(data, 'caffemodel')}: {error}") from error
    if not layers:
        raise FormatError(f"{path} is {_no(data, 'caffemodel')}: it has no layers")
    return {layer.name: layer.blobs for layer in layers if layer.blobs}


def read_mean(path: Path) -> np.ndarray:
    """Read a mean image (`.binaryproto`).

    Returns: C x H x W float32.
    Raises: FormatError; OSError.
    """
    data = path.read_bytes()
    try:
        image = binary.array(data)
    except FormatError as error:
        raise FormatError(f"{path} is {_no(data, 'mean image')}: {error}") from error
    if image.ndim not in (3, 4) or image.size != math.prod(image.shape[-3:]) or not image.size:
        raise FormatError(f"{path} holds {image.shape} numbers; wanted one image, C x H x W")
    return image.reshape(image.shape[-3:])


def _no(data: bytes, what: str) -> str:
    return f"no {what}, or not the whole of it ({len(data)} bytes, which begin with {data[:16]!r})"


def _layers(net: Message, path: Path) -> Sequence[Message]:
    """The layers of a network, of one form."""
    if net.layer and net.layers:
        raise FormatError(f"{path} has both `layer` and `layers`; wanted layers of one form")
    layers = net.layer or net.layers
    if len(layers) > binary.MOST_LAYERS:
        raise FormatError(f"{path} has {len(layers)} layers; wanted at most {binary.MOST_LAYERS}")
    if any(layer.has("layer") for layer in net.layers):
        raise FormatError(
            f"{path} is of the oldest form, `layers {{ layer {{ ... }} }}` (2013), which Caffe's "
            "upgrade_net_proto_text upgrades"
        )
    return layers


def _entry(layer: Message) -> Entry:
    kind = layer.type
    if layer.kind == "V1LayerParameter":
        words = "".join(word.capitalize() for word in kind.split("_"))
        kind = MODERN.get(kind, words.replace("Hdf5", "HDF5"))
    return Entry(layer.name, kind, tuple(layer.bottom), tuple(layer.top), layer)


def _inputs(net: Message, path: Path) -> list[Entry]:
    """The inputs that are declared beside the layers, as layers of type Input."""
    names, shapes, dims = list(net.input), [list(s.dim) for s in net.input_shape], net.input_dim
    if dims and not shapes:
        shapes = [list(dims[i : i + 4]) for i in range(0, len(dims), 4)]
    if len(shapes) != len(names) or (dims and len(dims) != 4 * len(names)):
        raise FormatError(
            f"{path} declares inputs {names}, {len(net.input_shape)} input_shape and {len(dims)} "
            "input_dim; wanted an input_shape, or four input_dim, for each input"
        )
    layers = []
    for name, shape in zip(names, shapes, strict=True):
        layer, param, size = map(Message, ("LayerParameter", "InputParameter", "BlobShape"))
        for dim in shape:
            size.give("dim", dim)
        param.give("shape", size)
        layer.give("input_param", param)
        layers.append(Entry(name, "Input", (), (name,), layer))
    return layers


def _is_included(layer: Message, state: Message) -> bool:
    """Whether a layer is part of the network in phase TEST (source: Net::FilterNet)."""
    if layer.include:
        return any(_is_met(rule, state) for rule in layer.include)
    return not any(_is_met(rule, state) for rule in layer.exclude)


def _is_met(rule: Message, state: Message) -> bool:
    return (
        (not rule.has("phase") or rule.phase == "TEST")
        and (not rule.has("min_level") or state.level >= rule.min_level)
        and (not rule.has("max_level") or state.level <= rule.max_level)
        and all(stage in state.stage for stage in rule.stage)
        and not any(stage in state.stage for stage in rule.not_stage)
    )
