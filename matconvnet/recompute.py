"""Recomputation: values that the backward pass reads are made again in place of being kept.

It trades time for memory. `plan` decides, before an evaluation, which layers can be evaluated again
and what must be kept for that; `restore` evaluates them, when the backward pass gets there. Results
do not change by a bit: a layer that draws random numbers draws the same ones again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from matconvnet.graph import Graph, Node
from matconvnet.layer import Context, Elementwise, Filter, Layer

Recompute = bool | Iterable[str]
"""True: layers of little work, see `cheap`; or the names of layers; False: none."""
Evaluate = Callable[[Node], tuple[tuple[Tensor, ...], Any]]


class Plan(NamedTuple):
    """What a forward pass keeps: the variables `keep`, but nothing that the layers `again` made."""

    again: frozenset[str]
    keep: frozenset[str]


class Replay(NamedTuple):
    """How a layer is evaluated again.

    state: of the random generator before the layer drew from it; None: it drew nothing. values:
    its outputs that were not kept. drops_saved: what it saved was not kept either.
    """

    state: Tensor | None
    values: tuple[str, ...]
    drops_saved: bool


class Evaluation(Protocol):
    """What is read and written here of a record of the executor."""

    values: dict[str, Tensor]
    saved: dict[str, Any]
    again: dict[str, Replay]
    ctx: Context


def read_by_backward(graph: Graph, reached: Set[str]) -> frozenset[str]:
    """Variables whose values the derivatives of some layers read."""
    read: set[str] = set()
    for node in graph.nodes:
        if node.name in reached:
            needs = node.layer.needs
            read.update(node.inputs if "inputs" in needs else ())
            read.update(node.outputs if "outputs" in needs else ())
    return frozenset(read)


def plan(
    graph: Graph,
    recompute: Recompute,
    reached: Set[str],
    keep: Set[str],
    pinned: Set[str],
) -> Plan:
    """Choose the layers that are evaluated again, and the values that are kept for that.

    Args:
        graph: structure of the network.
        recompute: True, or names of layers. Those that are not `reached` are left alone.
        reached: names of the layers that will be differentiated.
        keep: variables that would be kept without recomputation.
        pinned: variables that are kept in any case.

    Raises: KeyError for names that are no layers; TypeError, if `recompute` is a single name.
    """
    if recompute is True:
        names = cheap(graph, reached, keep)
    else:
        names = _named(graph, recompute) & reached
    made = {v: node for node in graph.nodes if node.name in names for v in node.outputs}
    wanted, seen, kept = list(keep), set(keep), set[str]()
    while wanted:
        v = wanted.pop()
        if v in pinned or v not in made:
            kept.add(v)
        else:  # it takes the inputs of its layer to make it
            sources = set(made[v].inputs) - seen
            seen |= sources
            wanted.extend(sources)
    there, again = set(kept), set[str]()
    for node in graph.nodes:
        if node.name in names and there.issuperset(node.inputs):
            again.add(node.name)
            there.update(node.outputs)
    return Plan(frozenset(again), frozenset(kept))


def cheap(graph: Graph, reached: Set[str], keep: Set[str]) -> frozenset[str]:
    """Layers of little work that can be evaluated again without keeping anything more for them.

    They read one map, have no multiply-adds that count (no convolutions), and what they read is
    kept anyway, or is made again by such a layer. Layers that join branches are left out: through
    the sums of a residual network everything would follow from its first map.
    """
    there, names = set(keep), set[str]()
    for node in graph.nodes:
        is_cheap = isinstance(node.layer, Elementwise | Filter) and (
            node.layer.multiply_adds.__func__ is Layer.multiply_adds
        )
        if is_cheap and node.name in reached and len(node.inputs) == 1 and node.inputs[0] in there:
            names.add(node.name)
            there.update(node.outputs)
    return frozenset(names)


def _named(graph: Graph, recompute: Recompute) -> frozenset[str]:
    if isinstance(recompute, str | bool):
        raise TypeError(f"recompute is {recompute!r}; wanted True, False or a list of layer names")
    names = frozenset(recompute)
    known = {node.name for node in graph.nodes}
    if unknown := sorted(names - known):
        raise KeyError(f"recompute names {unknown}, which are no layers; wanted some of {known}")
    return names


def note(record: Evaluation, node: Node, state: Tensor, keep: Set[str]) -> None:
    """Note how to evaluate again a layer that was just evaluated; `state`: of before.

    What it saved is dropped as well, where it takes as much memory as its outputs.
    """
    drew = not torch.equal(state, random_state(record, node))
    saved, outputs = record.saved[node.name], [record.values[v] for v in node.outputs]
    drops_saved = not node.layer.keeps_saved and _bytes(saved) >= _bytes(outputs)
    if drops_saved:
        del record.saved[node.name]
    dropped = tuple(v for v in node.outputs if v not in keep)
    record.again[node.name] = Replay(state if drew else None, dropped, drops_saved)


def restore(
    graph: Graph, record: Evaluation, node: Node, needed: Set[str], evaluate: Evaluate
) -> None:
    """Make what the derivative of `node` reads and nobody kept, and write it into the record.

    Args:
        graph: structure of the network.
        record: values and what layers saved, so far.
        node: is differentiated next.
        needed: variables that derivatives read; others go as soon as they have been used here.
        evaluate: evaluates a node from the values of the record.
    """
    todo = _missing(graph, record, node)
    made = {v for n in todo for v in record.again[n.name].values if v not in record.values}
    left = Counter(v for n in todo for v in n.inputs)
    for n in todo:
        with _random(record, n, record.again[n.name].state):
            outputs, saved = evaluate(n)
        record.saved.setdefault(n.name, saved)
        for v, value in zip(n.outputs, outputs, strict=True):
            record.values.setdefault(v, value)
        del outputs, saved  # or the last references would outlive the next layer
        left.subtract(n.inputs)
        for v in made.intersection((*n.inputs, *n.outputs)) - needed:
            if left[v] <= 0:
                record.values.pop(v, None)


def release(record: Evaluation, node: Node) -> None:
    """Free what was made again for a layer that has been differentiated."""
    replay = record.again[node.name]
    if replay.drops_saved:
        record.saved.pop(node.name, None)
    for v in replay.values:
        record.values.pop(v, None)


def _missing(graph: Graph, record: Evaluation, node: Node) -> list[Node]:
    """The layers to evaluate again for the derivative of `node`, in order."""
    names = set[str]()
    read = {"inputs": node.inputs, "outputs": node.outputs}
    wanted = [v for kind in node.layer.needs for v in read[kind]]
    own = record.again.get(node.name)
    if own is not None and own.drops_saved and node.name not in record.saved:
        names.add(node.name)
        wanted.extend(node.inputs)
    while wanted:
        v = wanted.pop()
        maker = graph.producer.get(v)
        if v in record.values or maker is None or maker.name in names:
            continue
        if maker.name in record.again:
            names.add(maker.name)
            wanted.extend(maker.inputs)
    return [n for n in graph.nodes if n.name in names]


def random_state(record: Evaluation, node: Node) -> Tensor:
    """State of the generator that a layer draws from: the given one, or that of its device."""
    generator, device = record.ctx.generator, record.values[node.inputs[0]].device
    if generator is not None:
        return generator.get_state()
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _random(record: Evaluation, node: Node, state: Tensor | None) -> Iterator[None]:
    """Go back to an old state of the generator for a while."""
    if state is None:
        yield
        return
    present = random_state(record, node)
    _set_random_state(record, node, state)
    try:
        yield
    finally:
        _set_random_state(record, node, present)


def _set_random_state(record: Evaluation, node: Node, state: Tensor) -> None:
    generator, device = record.ctx.generator, record.values[node.inputs[0]].device
    if generator is not None:
        generator.set_state(state)
    elif device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _bytes(value: Any) -> int:
    """Bytes of the tensors in (nested tuples and lists of) what a layer returned."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
