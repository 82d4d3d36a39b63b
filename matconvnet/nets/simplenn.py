"""SimpleNN: a network that is a list of layers, each reading what the one before wrote."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.graph import Graph, Node, build
from matconvnet.layer import Layer
from matconvnet.layout import channels_last, to_tensor
from matconvnet.nets import struct
from matconvnet.nets.custom import Custom
from matconvnet.nets.fields import is_empty, to_list
from matconvnet.nets.network import Network, Param
from matconvnet.nets.own import as_layer
from matconvnet.values import Struct

MOMENT_RATE = 0.1  # averaging rate of moments where a network gives none, as in DagNN


@dataclass
class Link:
    """A layer of the chain, with its parameters.

    precious: its output is never freed. extra: fields of its struct that no layer reads, and its
    type, where that is another name than the layer's own.
    """

    layer: Layer
    name: str
    params: list[Param]
    precious: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


class SimpleNN(Network):
    """A chain of layers x0 -> x1 -> ... -> xn.

    The variables are named `x0` (the input) to `xn`; a loss also reads labels, given as `label`
    (the last such layer's) or `label<i>`, i the number of the layer. Parameters are named
    `l<i>_<j>`: weight j of layer i, both from 1.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        meta: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
    ):
        """Chain `layers`.

        Args:
            layers: each a Layer; or (Layer, weights), the weights arrays or tensors; or a struct
                such as `{"type": "pool", "pool": 2}`; or a function of yours, a pair (function,
                its derivative), or a torch.nn.Module, see `as_layer`. Weights that are left out
                are drawn.
            meta: free data of the network, such as inputSize and normalization.
            seed: of the random weights.
        """
        if isinstance(layers, Mapping):
            raise FormatError("layers is a struct; wanted a list (or SimpleNN.from_struct(net))")
        super().__init__(Struct(meta or {}))
        generator = torch.Generator().manual_seed(seed)
        self.layers = tuple(_link(item, i, generator) for i, item in enumerate(layers, 1))
        self._graph = build(self._nodes())

    def __repr__(self) -> str:
        kinds = ", ".join(link.extra.get("type", link.layer.type_name) for link in self.layers)
        return f"SimpleNN: {kinds}"

    @classmethod
    def from_struct(cls, net: Mapping[str, Any], *, keep_unknown: bool = False) -> "SimpleNN":
        """Read a network struct, tidied or not; the weights are shared with it.

        keep_unknown: put a placeholder in the place of a layer whose type nobody registered.
        """
        tidied = struct.tidy(net)
        links = [_read_link(e, i, keep_unknown) for i, e in enumerate(tidied["layers"], 1)]
        chain = cls(links, tidied["meta"])
        own = ("layers", "meta", *struct.PARENTS)
        chain.extra = Struct({key: value for key, value in net.items() if key not in own})
        return chain

    def to_struct(self) -> Struct:
        """The network as a tidy struct; the weights are shared with it."""
        layers = [_unlink(link) for link in self.layers]
        return Struct(layers=layers, meta=Struct(self.meta), **self.extra)

    @property
    def graph(self) -> Graph:
        """The chain."""
        return self._graph

    @property
    def params(self) -> dict[str, Param]:
        """The parameters by name, in the order of the layers."""
        return {param.name: param for link in self.layers for param in link.params}

    @property
    def precious(self) -> list[str]:
        """The outputs of precious layers."""
        return [f"x{i}" for i, link in enumerate(self.layers, 1) if link.precious]

    @property
    def input(self) -> str:
        """The variable that takes the data."""
        return "x0"

    @property
    def output(self) -> str:
        """The variable that the last layer writes."""
        return f"x{len(self.layers)}"

    def label(self, index: int) -> str:
        """The variable that takes the labels of layer `index` (from 1)."""
        readers = [i for i, link in enumerate(self.layers, 1) if link.layer.label_inputs]
        return "label" if readers[-1] == index else f"label{index}"

    def _nodes(self) -> list[Node]:
        nodes = []
        names = Counter(link.name for link in self.layers)
        for i, link in enumerate(self.layers, 1):
            name = link.name if names[link.name] == 1 else f"{link.name} ({i})"
            labels = (self.label(i),) if link.layer.label_inputs else ()
            params = tuple(param.name for param in link.params)
            nodes.append(Node(name, link.layer, (f"x{i - 1}", *labels), (f"x{i}",), params))
        return nodes


def _link(item: Any, index: int, generator: torch.Generator) -> Link:
    if isinstance(item, Link):
        return item
    if isinstance(item, Mapping):
        return _read_link(item, index)
    weights = None
    if isinstance(item, tuple) and len(item) == 2 and not callable(item[1]):
        item, weights = item
    try:
        layer = as_layer(item)
    except TypeError as error:
        raise FormatError(f"layer {index}: {error}") from None
    if weights is None:
        weights = layer.init_params(generator)
    return Link(layer, f"layer{index}", _params(layer, list(weights), index, None, None))


def _read_link(entry: Mapping[str, Any], index: int, keep_unknown: bool = False) -> Link:
    if "type" not in entry:
        raise FormatError(f"layer {index} has no field 'type'; its fields are {list(entry)}")
    read = {"weights", "name", "precious"}
    if entry["type"] == "custom":
        layer: Layer = Custom(entry)
        read.add("type")
    else:
        entry = struct.tidy_layer(entry, index)
        layer = struct.read_layer(entry, index, keep_unknown)
        read |= {key for key in struct.write_layer(layer) if key in entry}
        read -= set() if is_empty(entry.get("opts")) else {"opts"}
        read -= {"type"} if entry["type"] != layer.type_name else set()
    params = _params(
        layer, struct.weight_list(entry), index,
        entry.get("learningRate"), entry.get("weightDecay"),
    )  # fmt: skip
    if params:
        read |= {"learningRate", "weightDecay"}
    extra = {key: value for key, value in entry.items() if key not in read}
    name, precious = entry.get("name", f"layer{index}"), bool(entry.get("precious", False))
    return Link(layer, name, params, precious, extra)


def _params(layer: Layer, weights: list[Any], index: int, rates: Any, decays: Any) -> list[Param]:
    names = layer.param_names
    weights = weights + [None] * (len(names) - len(weights))
    params = []
    for j, weight in enumerate(weights):
        averaged = j < len(names) and names[j] in layer.averaged_params
        rate = _element(rates, j, MOMENT_RATE if averaged else 1.0)
        decay = 0.0 if averaged else _element(decays, j, 1.0)
        method = "average" if averaged else "gradient"
        params.append(Param(f"l{index}_{j + 1}", _weight(weight), rate, decay, method))
    return params


def _element(values: Any, index: int, default: float) -> float:
    items = [] if is_empty(values) else to_list(values)
    return float(items[index]) if index < len(items) else default


def _weight(weight: Any) -> Tensor | None:
    """A tensor for a weight, filters in channels-last memory; None for an empty one."""
    if is_empty(weight):
        return None
    tensor = to_tensor(weight)
    if not isinstance(tensor, Tensor):
        raise FormatError(f"weights hold {type(weight).__name__}; wanted tensors or arrays")
    return channels_last(tensor) if tensor.dim() == 4 else tensor


def _unlink(link: Link) -> Struct:
    if isinstance(link.layer, Custom):
        out = Struct(link.layer.struct)
        if link.params:
            out["weights"] = [[] if p.value is None else p.value for p in link.params]
        return out
    out = struct.write_layer(link.layer)
    out["weights"] = [[] if p.value is None else p.value for p in link.params]
    out["name"], out["precious"] = link.name, link.precious
    if link.params:
        out["learningRate"] = [p.learning_rate for p in link.params]
        out["weightDecay"] = [p.weight_decay for p in link.params]
    out.update(link.extra)
    return out
