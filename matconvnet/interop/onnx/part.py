"""Which layers of a network go to an ONNX file, and what is known of the sizes there."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matconvnet.blocks import LAYERS
from matconvnet.blocks.affine_grid import AffineGrid
from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.pdist import PDist
from matconvnet.blocks.roipool import RoiPool
from matconvnet.blocks.sampler import BilinearSampler
from matconvnet.blocks.uniform_grid import UniformGrid
from matconvnet.geometry import UNKNOWN, Size, full_size, variable_sizes
from matconvnet.graph import Graph, Node, build
from matconvnet.interop.onnx.ops import emitter
from matconvnet.interop.onnx.writer import describe
from matconvnet.layer import Layer
from matconvnet.nets.network import Network
from matconvnet.nets.registry import Unknown
from matconvnet.window import numbers

Sizes = Mapping[str, Sequence[int | None]] | Sequence[int | None]
"""(H, W, C, N) of inputs by name, or of the one that takes the data; None for a free number."""


class Part(NamedTuple):
    """The layers of a network that go to a file, and the variables that the file puts out."""

    graph: Graph
    outputs: tuple[str, ...]

    def is_scalar(self, name: str) -> bool:
        """True for a distance that is summed over all pixels: one number, no map."""
        layer = self.graph.producer[name].layer
        return isinstance(layer, PDist) and layer.aggregate


def part_to_write(net: Network, outputs: Sequence[str] | None = None) -> Part:
    """The layers that `outputs` depend on; None: all that need nothing that is known in training.

    Raises: KeyError, if `outputs` name what no layer writes; ValueError, if nothing is left, or
        there is a layer that ONNX cannot express.
    """
    if outputs is None:
        part = _without_losses(net)
    else:
        part = Part(net.graph.leading_to(outputs), tuple(outputs))
    if not part.graph.nodes:
        raise ValueError("there is no layer to write; wanted one that is not a loss")
    strange = [describe(node) for node in part.graph.nodes if emitter(node.layer) is None]
    if strange:
        raise ValueError(
            f"ONNX has no form of layers {', '.join(strange)}; give their class one with "
            "matconvnet.register_onnx, or leave them out by naming other outputs"
        )
    return part


def _without_losses(net: Network) -> Part:
    graph = net.graph
    gone: set[str] = set()
    for node in graph.nodes:
        if gone.intersection(node.inputs) or _is_for_training(node, graph, net.input):
            gone.update(node.outputs)
    part = build(node for node in graph.nodes if not gone.intersection(node.outputs))
    return Part(part, part.outputs)


def _is_for_training(node: Node, graph: Graph, data: str) -> bool:
    """True for a loss, and for what compares the output with a value from outside."""
    layer = node.layer
    is_judged = any(v not in graph.producer and v != data for v in node.inputs[1:])
    if isinstance(layer, Unknown):
        return is_judged and not any(graph.readers.get(v) for v in node.outputs)
    return layer.is_loss and (emitter(layer) is None or is_judged)


def sizes_of(net: Network, graph: Graph, given: Sizes | None) -> dict[str, Size]:
    """Sizes (H, W, C, N) of all variables; nan for what is free.

    Raises: KeyError, if `given` names what is no variable of the graph.
    """
    if given is not None and not isinstance(given, Mapping):
        given = {net.input: given}
    shapes = {
        name: None if value is None else tuple(value.shape) for name, value in net.values().items()
    }
    sizes: dict[str, Size] = {}
    for node in graph.nodes:
        for index, v in enumerate(node.inputs):
            if v not in graph.producer and sizes.get(v, UNKNOWN) is UNKNOWN:
                sizes[v] = _expected(node, index, [shapes[p] for p in node.params])
        if not _tells_its_sizes(node.layer):
            sizes.update(dict.fromkeys(node.outputs, UNKNOWN))
    if net.input in sizes:
        sizes[net.input] = _with_channels(sizes[net.input], net.meta)
    for name, size in (given or {}).items():
        sizes[name] = full_size([math.nan if n is None else n for n in size], f"size of {name!r}")
    return variable_sizes(graph, sizes, shapes)


def _tells_its_sizes(layer: Layer) -> bool:
    """False for a layer of somebody's own that may only have inherited a rule."""
    kind = type(layer)
    return kind in LAYERS or kind.output_sizes is not Layer.output_sizes


def _expected(node: Node, index: int, shapes: Sequence[Sequence[int] | None]) -> Size:
    """What a layer says about the size of an input that nobody gave."""
    free = math.nan
    shape = [*((shapes[0] if shapes else None) or ()), 1, 1, 1, 1]
    match node.layer, index:
        case Conv(), 0 if shapes[0]:
            return free, free, shape[2], free
        case ConvTranspose(), 0:
            return free, free, shape[3], free
        case BatchNorm(), 0:
            return free, free, math.prod(shape), free
        case BilinearSampler(), 1:
            return 2, free, free, free
        case RoiPool(), 1:
            return 5, free, 1, 1
        case AffineGrid(), 0:
            return 1, 1, 6, free
        case UniformGrid(), 0:
            return 1, 1, 3, free
    return UNKNOWN


def _with_channels(size: Size, meta: Mapping[str, Any]) -> Size:
    """A size with the channels of `meta.inputSize`, where that is one and fits the filters."""
    try:
        channels = numbers(meta["inputSize"], "inputSize")[2]
    except (KeyError, TypeError, IndexError):
        return size
    h, w, expected, n = size
    fits = math.isnan(expected) or channels % expected == 0
    return (h, w, channels, n) if fits else size
