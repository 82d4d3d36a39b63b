"""The network that grows while Caffe's layers are read: nodes, parameters, sizes, colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from matconvnet.blocks import Dropout, ReLU, Sigmoid
from matconvnet.errors import FormatError
from matconvnet.geometry import UNKNOWN, Size
from matconvnet.graph import Node
from matconvnet.interop.caffe.binary import array
from matconvnet.interop.caffe.wiring import Step, Wired, unique
from matconvnet.layer import Layer
from matconvnet.layout import channels_last, hwcn
from matconvnet.nets.dagnn import DagNN

T = TypeVar("T")

LARGEST = 1 << 24
"""A number of channels or pixels above this is taken for damage."""

ELEMENT_BY_ELEMENT = (Dropout, ReLU, Sigmoid)
"""Layers that do not care whether a map is flattened."""


class Options(NamedTuple):
    """How a network is imported.

    transpose: rows are rows; else rows and columns trade places, as in networks that were trained
    on transposed images. bgr: images of three channels are BGR in the file, and RGB here.
    simplify: a Scale goes into the BatchNorm before it. align_crops: a Crop without offset puts the
    centres of receptive fields above each other, as in the fork of the fully convolutional nets.
    """

    transpose: bool = True
    bgr: bool = True
    simplify: bool = True
    remove_dropout: bool = False
    remove_loss: bool = False
    align_crops: bool = False


class Value(NamedTuple):
    """A parameter to be: its value (None: not in any file), shape, and rates."""

    value: Tensor | None
    shape: tuple[int, ...]
    learning_rate: float = 1.0
    weight_decay: float = 1.0


@dataclass
class Importer:
    """What has been read so far, and what the layers to come need to know of it.

    weights: blobs by layer; None: there is no file of weights. sizes: of variables, as far as they
    are known. colours: variables whose channels are those of an image, and are turned round.
    aliases: variables that are another one; flat: those that are a vector in Caffe and a map here.
    mapped: our layers, by Caffe's. notes: what is not in the network. without_weights: layers that
    the file of weights does not have.
    """

    wired: Wired
    options: Options
    weights: dict[str, list[memoryview]] | None
    nodes: dict[str, Node] = field(default_factory=dict)
    params: dict[str, Value] = field(default_factory=dict)
    inputs: dict[str, Size] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    colours: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)
    flat: set[str] = field(default_factory=set)
    shared: dict[str, str] = field(default_factory=dict)
    mapped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    without_weights: dict[str, None] = field(default_factory=dict)
    _layer_names: dict[str, str] = field(default_factory=dict)
    _param_names: dict[str, str] = field(default_factory=dict)

    def add_input(self, variable: str, size: Size) -> None:
        """Declare an input of the network."""
        if any(n < 1 or n > LARGEST for n in size):
            raise FormatError(f"its output {variable!r} has size {size} (H, W, C, N)")
        self.inputs[variable] = self.sizes[variable] = size
        # Unknown channels may be three: the weights that meet them will tell.
        may_be_image = size[:2] != (1, 1) and (size[2] == 3 or math.isnan(size[2]))
        if self.options.bgr and may_be_image:
            self.colours.add(variable)

    def add(
        self,
        step: Step,
        layer: Layer,
        inputs: Sequence[str],
        outputs: Sequence[str],
        params: Sequence[str] = (),
        suffix: str = "",
        keeps_colour: bool = True,
        covers: bool = False,
    ) -> None:
        """Add a layer.

        Args:
            suffix: what is added to the name of the step.
            keeps_colour: its outputs have the channels of its first input.
            covers: it reads all of a map, which may be a vector as well.

        Raises: FormatError, if it needs a map where Caffe has flattened it, or has no output.
        """
        flat = [v for v in inputs if self.is_flat(v)]
        if flat and isinstance(layer, ELEMENT_BY_ELEMENT):
            self.flat.update(outputs)
        elif flat and not covers:
            raise FormatError(
                f"it reads {flat[0]!r}, a map that Caffe has flattened to a vector; only "
                "InnerProduct, ReLU, Sigmoid and Dropout can read one here"
            )
        inputs = [self.resolve(v) for v in inputs]
        missing = [v for v in inputs if v not in self.sizes]
        if missing:
            raise FormatError(f"it reads {missing}, which layers write that are left out here")
        shapes = [self.params[p].shape for p in params]
        # Layers compute with whole numbers; their arithmetic carries nan through.
        known: list[Any] = [self.sizes[v] for v in inputs]
        for v, size in zip(outputs, layer.output_sizes(known, shapes), strict=True):
            if any(n < 1 or n > LARGEST for n in size[:3]):
                raise FormatError(f"its output {v!r} would have size {size} (H, W, C, N)")
            self.sizes[v] = size
        if keeps_colour and inputs[0] in self.colours:
            self.colours.update(outputs)
        name = unique(step.name + suffix, self._layer_names)
        self.nodes[name] = Node(name, layer, tuple(inputs), tuple(outputs), tuple(params))
        self.mapped.setdefault(step.name, []).append(name)

    def replace(self, step: Step, node: Node, outputs: Sequence[str]) -> None:
        """Let a layer that is there already do the work of a step: it writes other variables."""
        for old, new in zip(node.outputs, outputs, strict=True):
            self.sizes[new] = self.sizes[old]
            if old in self.colours:
                self.colours.add(new)
        self.nodes[node.name] = node._replace(outputs=tuple(outputs))
        self.mapped.setdefault(step.name, []).append(node.name)

    def skip(self, step: Step) -> None:
        """Let the outputs of a layer be its first input."""
        self.aliases.update(dict.fromkeys(step.outputs, step.inputs[0]))

    def resolve(self, variable: str) -> str:
        """The variable that is computed, for one that may be an alias."""
        while variable in self.aliases:
            variable = self.aliases[variable]
        return variable

    def producer(self, variable: str) -> Node | None:
        """The layer that writes a variable."""
        return next((n for n in reversed(self.nodes.values()) if variable in n.outputs), None)

    def size(self, variable: str) -> Size:
        """Its size, nan where it is unknown."""
        return self.sizes.get(self.resolve(variable), UNKNOWN)

    def is_colour(self, variable: str) -> bool:
        """Whether its channels are those of an image, if there are three."""
        return self.resolve(variable) in self.colours

    def is_flat(self, variable: str) -> bool:
        """Whether it is a vector in Caffe, and a map here."""
        while variable not in self.flat and variable in self.aliases:
            variable = self.aliases[variable]
        return variable in self.flat

    def hw(self, pair: Sequence[T]) -> tuple[T, T]:
        """(vertical, horizontal) in Caffe as ours."""
        y, x = pair
        return (y, x) if self.options.transpose else (x, y)

    def blob(self, step: Step, index: int, shape: tuple[float, ...]) -> np.ndarray | None:
        """Blob `index` of a layer; None, if there are no weights of it.

        Args:
            shape: what it should have; nan where that is not known. Axes of 1 in front of a blob
                do not count.

        Raises: FormatError, if it has another shape, or is missing.
        """
        name = step.entry.name
        if self.weights is None:
            return None
        if name not in self.weights:
            self.without_weights[name] = None
            return None
        blobs = self.weights[name]
        if index >= len(blobs):
            raise FormatError(f"{len(blobs)} blobs of it are in the caffemodel; wanted {index + 1}")
        found = array(blobs[index])
        extra = found.ndim - len(shape)
        own = found.shape[extra:] if extra > 0 else (1,) * -extra + found.shape
        fits = (a == b or math.isnan(b) for a, b in zip(own, shape, strict=True))
        if math.prod(own) != found.size or not all(fits):
            raise FormatError(f"its blob {index} has shape {found.shape}; wanted {shape}")
        return found.reshape(own)

    def learnable(
        self, step: Step, index: int, suffix: str, value: Tensor | None, shape: tuple[int, ...]
    ) -> str:
        """Add a parameter that Caffe trains, blob `index` of a layer; its name.

        Blobs to which the file gives one name are one parameter.
        """
        name, rate, decay = self.spec(step, index)
        if not name:
            return self.param(f"{step.name}_{suffix}", Value(value, shape, rate, decay))
        if name not in self.shared:
            self.shared[name] = self.param(name, Value(value, shape, rate, decay))
            return self.shared[name]
        there = self.params[self.shared[name]]
        same_value = value is there.value or (
            value is not None and there.value is not None and torch.equal(value, there.value)
        )
        if there.shape != shape or not same_value:
            raise FormatError(f"it shares parameter {name!r}, but has another shape or values")
        return self.shared[name]

    def spec(self, step: Step, index: int) -> tuple[str, float, float]:
        """Name ("": none), learning rate and decay that the file gives to blob `index`."""
        p = step.options
        if not step.entry.is_old:
            if index >= len(p.param):
                return "", 1.0, 1.0
            given = p.param[index]
            return given.name, given.lr_mult, given.decay_mult
        rate, decay = (
            values[index] if index < len(values) else 1.0 for values in (p.blobs_lr, p.weight_decay)
        )
        return p.param[index] if index < len(p.param) else "", rate, decay

    def frozen(self, name: str, value: Tensor | None, shape: tuple[int, ...]) -> str:
        """Add a parameter that Caffe does not train; its name."""
        return self.param(name, Value(value, shape, 0.0, 0.0))

    def fresh(self, name: str) -> str:
        """A name for a variable that Caffe does not have."""
        return unique(name, self.wired.taken)

    def param(self, name: str, value: Value) -> str:
        """Add a parameter; its name."""
        name = unique(name, self._param_names)
        self.params[name] = value
        return name

    def maps(self, blob: np.ndarray | None) -> Tensor | None:
        """Filters or maps, K x C x H x W, as ours: H x W x C x K."""
        if blob is None:
            return None
        turned = blob if self.options.transpose else blob.swapaxes(2, 3)
        return channels_last(hwcn(torch.from_numpy(turned)))

    def read_inputs(self) -> dict[str, Size]:
        """Sizes of the inputs that layers read."""
        read = {v for node in self.nodes.values() for v in node.inputs}
        return {name: size for name, size in self.inputs.items() if name in read}

    def network(self, meta: dict[str, Any]) -> DagNN:
        """The network of all that was added."""
        net = DagNN(meta)
        for node in self.nodes.values():
            net.add_layer(node.name, node.layer, node.inputs, node.outputs, node.params)
        for name, param in net.params.items():
            given = self.params[name]
            param.value, param.weight_decay = given.value, given.weight_decay
            if param.train_method == "gradient":
                param.learning_rate = given.learning_rate
        return net
