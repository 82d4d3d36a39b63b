"""Which type every layer of a graph computes in, and the casts where two types meet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.concat import Concat
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.crop import Crop
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.scale import Scale
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.sum import Sum
from matconvnet.fast.half_lrn import HalfLRN
from matconvnet.fast.native import kernels
from matconvnet.graph import Graph, Node
from matconvnet.layer import Elementwise, Layer

NARROW = (Conv, ConvTranspose)
"""Layers that multiply matrices: they compute in the low type, whatever they read."""

FOLLOWING = (BatchNorm, Concat, Crop, Dropout, LRN, Pooling, ReLU, Scale, Sigmoid, Sum)
"""Layers that compute in the type of what they read, and in float32 where that differs."""

EXACT_PARAMS = (BatchNorm,)
"""Layers of the low type whose parameters stay float32: their kernels mix the two."""

# All other layers compute in float32: losses, softmax, distances and norms sum many terms, grids
# and regions hold coordinates of pixels, and nobody knows the layers of users.


@dataclass(frozen=True)
class Cast(Elementwise):
    """Converts a map of floats to another type, and its derivative back."""

    type_name, needs = "cast", frozenset()
    dtype: torch.dtype = torch.float32

    def forward(self, inputs, params, ctx):
        """The map in the type `dtype`; whole numbers, such as labels, stay as they are."""
        (x,) = inputs
        return (x.to(self.dtype) if x.is_floating_point() else x,), x.dtype

    def backward(self, call, der_outputs):
        """The derivative in the type of the input."""
        dtype = call.inputs[0].dtype if call.saved is None else call.saved
        return (der_outputs[0].to(dtype),), ()


class Casts(NamedTuple):
    """A graph with casts.

    origin: the graph without. types: of its variables; those that nobody writes have any. params:
    types that its parameters are read in. readers: by cast, the first layer that reads it.
    """

    origin: Graph
    graph: Graph
    types: Mapping[str, torch.dtype]
    params: Mapping[str, torch.dtype]
    readers: Mapping[str, str]

    def depth(self, depth: int | None) -> int | None:
        """How many layers, from the last, hold the last `depth` layers of the origin."""
        nodes = self.origin.nodes
        if depth is None or depth < 1 or depth >= len(nodes):
            return depth if depth is None or depth < 1 else None
        first = nodes[-depth].name
        names = [node.name for node in self.graph.nodes]
        return len(names) - names.index(first)


def with_casts(graph: Graph, low: torch.dtype) -> Casts:
    """Insert casts so that layers compute in `low` or in float32, as the tables above tell."""
    types, kinds = _assign(graph, low)
    nodes: list[Node] = []
    producer: dict[str, Node] = {}
    readers: dict[str, str] = {}
    params: dict[str, torch.dtype] = {}
    for node in graph.nodes:
        wanted, inputs = kinds[node.name], []
        for v in node.inputs:
            name = v
            if types.get(v) != wanted:
                name = f"{v} as {str(wanted).removeprefix('torch.')}"
                if name not in producer:
                    producer[name] = Node(name, Cast(wanted), (v,), (name,))
                    readers[name] = node.name
                    nodes.append(producer[name])
            inputs.append(name)
        nodes.append(node._replace(layer=_for_half_types(node.layer), inputs=tuple(inputs)))
        producer.update(dict.fromkeys(node.outputs, nodes[-1]))
        exact = isinstance(node.layer, EXACT_PARAMS)
        params.update(dict.fromkeys(node.params, torch.float32 if exact else wanted))
    reads = {v: 0 for node in nodes for v in node.inputs}
    for node in nodes:
        for v in node.inputs:
            reads[v] += 1
    return Casts(graph, Graph(tuple(nodes), producer, reads, graph.users), types, params, readers)


def _assign(
    graph: Graph, low: torch.dtype
) -> tuple[dict[str, torch.dtype], dict[str, torch.dtype]]:
    """Types of variables, and of layers; layers that share a parameter with an exact one are so."""
    exact: set[str] = set()
    while True:
        types: dict[str, torch.dtype] = {}
        kinds: dict[str, torch.dtype] = {}
        for node in graph.nodes:
            read = {types.get(v, torch.float32) for v in node.inputs}
            kind = torch.float32
            if isinstance(node.layer, NARROW):
                kind = low
            elif isinstance(node.layer, FOLLOWING) and not _keeps_mask(node.layer):
                kind = read.pop() if len(read) == 1 else torch.float32
            if not isinstance(node.layer, EXACT_PARAMS) and exact.intersection(node.params):
                kind = torch.float32
            kinds[node.name] = kind
            types.update(dict.fromkeys(node.outputs, kind))
        found = {
            p
            for node in graph.nodes
            if kinds[node.name] != low or isinstance(node.layer, EXACT_PARAMS)
            for p in node.params
        }
        if found <= exact:
            return types, kinds
        exact |= found


def _for_half_types(layer: Layer) -> Layer:
    """The layer, or one with a faster kernel for half types."""
    return HalfLRN(layer.param) if type(layer) is LRN and kernels() is not None else layer


def _keeps_mask(layer: Layer) -> bool:
    """True for a dropout whose mask outlives the evaluation, which others may go on with."""
    return isinstance(layer, Dropout) and (layer.frozen or layer.mask is not None)
