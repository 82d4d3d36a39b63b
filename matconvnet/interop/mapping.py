"""What becomes of the layers and fields of a network when it is converted."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.dropout import Dropout
from matconvnet.graph import Node
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN


class Mapped(NamedTuple):
    """A layer: its type in the source, and what it became.

    kind: its type in the source; "", if it is a new layer. became: its type, or its operators, in
    the target; "", if it was left out. shapes: of its parameters in the source; None: no value.
    """

    name: str
    kind: str
    became: str
    shapes: tuple[tuple[int, ...] | None, ...]


def map_layers(
    net: Network,
    ready: Network,
    names: Mapping[str, str],
    made: Mapping[str, str],
    kinds: Mapping[str, str],
) -> Iterator[Mapped]:
    """What became of every layer; names: those in the deployed network, where they are others."""
    types, values, old = _types(net), net.values(), set()
    shapes = {p: None if value is None else tuple(value.shape) for p, value in values.items()}
    remaining = {node.name for node in ready.graph.nodes}
    for node in net.graph.nodes:
        name = names.get(node.name, node.name)
        became = made.get(name, "")
        if name not in remaining and isinstance(node.layer, BatchNorm):
            became = f"part of {net.graph.producer[node.inputs[0]].name}"
        own = tuple(shapes[p] for p in node.params)
        yield Mapped(node.name, kinds.get(node.name, types[node.name]), became, own)
        old.add(name)
    for node in ready.graph.nodes:
        if node.name not in old:
            yield Mapped(node.name, "", made.get(node.name, ""), ())


def _types(net: Network) -> dict[str, str]:
    """The types of all layers, as files have them, by name of the node."""
    entries = net.to_struct()["layers"]
    if isinstance(net, SimpleNN):
        named = zip(net.graph.nodes, entries, strict=True)
        return {node.name: entry["type"] for node, entry in named}
    return {entry["name"]: entry["type"] for entry in entries}


def types_in(ready: Network, read: Network) -> dict[str, str]:
    """By name of a layer its type in the file, and its name there, if that is another one."""
    types, found = _types(read), {}
    for node, other in zip(ready.graph.nodes, read.graph.nodes, strict=True):
        is_renamed = other.name != node.name
        found[node.name] = types[other.name] + (f" as {other.name}" if is_renamed else "")
    return found


def operators(net: Network, file: Path) -> dict[str, str]:
    """By name of a layer the operators that compute it in an ONNX file or a program of ours."""
    if file.suffix.lower() != ".onnx":
        return {node.name: "traced" for node in net.graph.leading_to([net.prediction]).nodes}
    import onnx

    found: dict[str, list[str]] = {}
    for operator in onnx.load(str(file), load_external_data=False).graph.node:
        layer = operator.name.rpartition("/")[0]
        found.setdefault(layer, []).append(operator.op_type)
    return {layer: ", ".join(operators) for layer, operators in found.items()}


def names_in_deployed(net: Network) -> dict[str, str]:
    """Names of layers in what `deploy` makes of a network, by name of the node."""
    names = [node.name for node in net.graph.nodes]
    if isinstance(net, SimpleNN):
        return dict(zip(names, DagNN.from_simplenn(net).layers, strict=True))
    return dict(zip(names, names, strict=True))


def missing_layers(net: Network, mapping: Sequence[Mapped]) -> Iterator[str]:
    """Layers that the target lacks, in words."""
    nodes = {node.name: node for node in net.graph.nodes}
    for layer in mapping:
        if not layer.became:
            yield f"layer {layer.name!r} ({layer.kind}), {_why(nodes[layer.name])}"


def _why(node: Node) -> str:
    if isinstance(node.layer, Dropout):
        return "which computes nothing in test mode"
    return "which compares with what is known in training alone"


def missing_fields(net: Network, read: Network | None, names: Mapping[str, str]) -> Iterator[str]:
    """Fields of the source that the target lacks, in words."""
    if net.beside and (read is None or read.beside is None):
        yield f"what is beside the network: {', '.join(net.beside)}"
    lost = [key for key in net.extra if read is None or key not in read.extra]
    if lost:
        yield f"of the network the fields {', '.join(lost)}"
    if read is None:
        yield "how it is trained: learning rates, weight decays, state of solvers"
        return
    found = _fields(read)
    counts = Counter(
        key
        for layer, keys in _fields(net).items()
        for key in sorted(keys - found.get(names.get(layer, layer), keys))
    )
    for key, count in counts.items():
        yield f"the field {key!r} of {count} layer{'s' if count > 1 else ''}"


def _fields(net: Network) -> dict[str, set[str]]:
    """The fields of every layer, by name of the node."""
    entries = net.to_struct()["layers"]
    if isinstance(net, SimpleNN):
        named = zip(net.graph.nodes, entries, strict=True)
        return {node.name: set(entry) for node, entry in named}
    return {entry["name"]: set(entry["block"]) for entry in entries}
