"""Structure of a network: layers wired by named variables, and the order in which they run."""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from matconvnet.errors import GraphError
from matconvnet.layer import Layer


class Node(NamedTuple):
    """A layer in place: the variables it reads and writes, and its parameters, by name."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in the order in which they run, with what the executor asks about them.

    producer: the node that writes a variable; readers: how many times a variable is read, with
    multiplicity; users: how many times a parameter is read.
    """

    nodes: tuple[Node, ...]
    producer: Mapping[str, Node]
    readers: Mapping[str, int]
    users: Mapping[str, int]

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """Variables that no node writes, in the order in which they are first read."""
        names = dict.fromkeys(v for node in self.nodes for v in node.inputs)
        return tuple(v for v in names if v not in self.producer)

    @functools.cached_property
    def outputs(self) -> tuple[str, ...]:
        """Variables that no node reads, in the order in which they are written."""
        return tuple(v for node in self.nodes for v in node.outputs if not self.readers.get(v))

    def leading_to(self, outputs: Iterable[str]) -> "Graph":
        """The part of the graph that some variables depend on.

        Raises: KeyError, if no node writes one of them.
        """
        wanted = set(outputs)
        unknown = [v for v in wanted if v not in self.producer]
        if unknown:
            raise KeyError(f"outputs name {unknown}; wanted some of {list(self.producer)}")
        kept = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                wanted.update(node.inputs)
                kept.append(node)
        return build(reversed(kept))


def build(nodes: Iterable[Node]) -> Graph:
    """Check the wiring and find the order of evaluation.

    Nodes run by decreasing height, ties in the order given; the height of a node is 1 + the
    largest height among the nodes that read its outputs. (Source: DagNN.rebuild.)

    Raises: GraphError, if two nodes share a name or write one variable, or the graph has a cycle.
    """
    nodes = tuple(nodes)
    producer: dict[str, Node] = {}
    for name, count in Counter(node.name for node in nodes).items():
        if count > 1:
            raise GraphError(f"{count} layers are named {name!r}; wanted one name each")
    for node in nodes:
        for variable in node.outputs:
            if variable in producer:
                writers = f"{producer[variable].name!r} and {node.name!r}"
                raise GraphError(f"variable {variable!r} is written by layers {writers}")
            producer[variable] = node
    height = _heights(nodes, producer)
    ordered = tuple(sorted(nodes, key=lambda node: -height[node.name]))
    readers = Counter(v for node in nodes for v in node.inputs)
    users = Counter(p for node in nodes for p in node.params)
    return Graph(ordered, producer, readers, users)


def _heights(nodes: tuple[Node, ...], producer: Mapping[str, Node]) -> dict[str, int]:
    """Height of every node, from the sinks up (Kahn's algorithm, so that depth has no limit)."""
    parents = {node.name: [producer[v] for v in node.inputs if v in producer] for node in nodes}
    waiting = Counter(parent.name for found in parents.values() for parent in found)
    height = {node.name: 1 for node in nodes}
    ready = [node.name for node in nodes if not waiting[node.name]]
    done = 0
    while ready:
        name = ready.pop()
        done += 1
        for parent in parents[name]:
            height[parent.name] = max(height[parent.name], height[name] + 1)
            waiting[parent.name] -= 1
            if not waiting[parent.name]:
                ready.append(parent.name)
    if done < len(nodes):
        stuck = [node.name for node in nodes if waiting[node.name]]
        raise GraphError(f"the network has a cycle through layers {stuck}")
    return height
