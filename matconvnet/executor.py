"""Evaluation of a graph, forward and backward, in plain sight: the one executor of all networks.

`forward` walks the nodes in order and writes a Record; `backward` walks them in reverse and adds
derivatives to it. The executor alone decides what is kept: layers say what they need, it frees.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from matconvnet import recompute as recomputing
from matconvnet.errors import RecordError
from matconvnet.graph import Graph, Node
from matconvnet.layer import Call, Context
from matconvnet.recompute import Recompute, Replay, read_by_backward

Params = Mapping[str, Tensor | None]
OnParam = Callable[[str, Tensor], None]


@dataclass
class Record:
    """One evaluation: every value, derivative and time that was kept, by name.

    values, ders: of variables; param_ders: of parameters; saved: what layers kept for backward;
    forward_time, backward_time: seconds, by layer. skipped: layers that lacked an input. again:
    layers whose values were not kept, since backward evaluates them again.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    ders: dict[str, Tensor] = field(default_factory=dict)
    param_ders: dict[str, Tensor] = field(default_factory=dict)
    saved: dict[str, Any] = field(default_factory=dict)
    forward_time: dict[str, float] = field(default_factory=dict)
    backward_time: dict[str, float] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    again: dict[str, Replay] = field(default_factory=dict)
    ctx: Context = field(default_factory=Context)
    graph: Graph | None = None
    spent: bool = False


@torch.no_grad()
def forward(
    graph: Graph,
    params: Params,
    inputs: Mapping[str, Tensor],
    *,
    ctx: Context | None = None,
    derivative: bool = False,
    depth: int | None = None,
    conserve_memory: bool = False,
    precious: Iterable[str] = (),
    recompute: Recompute = False,
    sync: bool = False,
) -> Record:
    """Evaluate the nodes whose inputs are all there, in order.

    Args:
        graph: structure of the network.
        params: parameters by name; None stands for an absent one (a convolution without bias).
        inputs: values of variables by name; any variable may be given.
        ctx: training or test mode, random generator.
        derivative: `backward` will follow, so keep what it reads.
        depth: how many nodes, from the last, that backward will visit; None: all.
        conserve_memory: free a value once nothing will read it. What is left are the outputs,
            precious variables, values of losses, and what backward needs.
        precious: variables that are never freed.
        recompute: layers whose values are not kept for `backward`, which evaluates them again:
            their names; True: layers of little work, see `recompute.cheap`.
        sync: wait for the device after each node, so that times mean something.
    """
    record = Record(dict(inputs), ctx=ctx or Context())
    reached = _reached(graph, depth) if derivative else frozenset()
    if conserve_memory and reached and recompute is False:
        record.graph = graph = _sparing(graph, reached, _pinned(graph, precious).union(inputs))
    keep = _kept(graph, reached, precious) if conserve_memory else None
    again: frozenset[str] = frozenset()
    if recompute is not False and derivative:
        keep = frozenset({*graph.inputs, *graph.producer}) if keep is None else keep
        pinned = _pinned(graph, precious).union(inputs)
        again, keep = recomputing.plan(graph, recompute, reached, keep, pinned)
    left = Counter(graph.readers)
    for node in graph.nodes:
        if not record.values.keys() >= {*node.inputs}:
            record.skipped.add(node.name)
            continue
        start = time.perf_counter()
        state = recomputing.random_state(record, node) if node.name in again else None
        outputs, saved = _evaluate(node, params, record)
        record.values.update(zip(node.outputs, outputs, strict=True))
        if node.name in reached or not conserve_memory or node.layer.keeps_saved:
            record.saved[node.name] = saved
        if keep is not None:
            if state is not None:
                recomputing.note(record, node, state, keep)
            for v in node.inputs:
                left[v] -= 1
            for v in (*node.inputs, *node.outputs):
                if v not in keep and not left[v]:
                    record.values.pop(v, None)
        del outputs, saved  # or the last references would outlive the next layer
        record.forward_time[node.name] = _elapsed(start, sync)
    return record


@torch.no_grad()
def backward(
    graph: Graph,
    params: Params,
    record: Record,
    ders: Mapping[str, Tensor],
    *,
    depth: int | None = None,
    conserve_memory: bool = False,
    precious: Iterable[str] = (),
    accumulate: bool = False,
    on_param: OnParam | None = None,
    wanted_inputs: Iterable[str] | None = None,
    out: Mapping[str, Tensor] | None = None,
    sync: bool = False,
) -> Record:
    """Differentiate the sum of <ders[v], v> by all values in `record`, from the last node back.

    A node takes part if it was evaluated, and all its output derivatives are there. Derivatives of
    a value that several nodes read are added, and so are those of a parameter that several nodes
    use.

    Args:
        graph, params: as given to `forward`.
        record: what `forward` returned; values, derivatives and times are written into it.
        ders: output derivatives by variable.
        depth: how many nodes to visit, from the last; None: all.
        conserve_memory: free the values and derivatives of a variable once they are used up,
            except of network inputs and outputs, and of precious variables. Spends the record.
        precious: variables that are never freed.
        accumulate: add to the parameter derivatives in `record` in place of replacing them.
        on_param: called with (name, derivative) as soon as a parameter's derivative is complete,
            which then is not kept in the record.
        wanted_inputs: network inputs whose derivative is wanted; None: all.
        out: tensors by parameter that nobody needs any more, such as the derivatives of the batch
            before; new derivatives may be written to them, which spares fresh memory.
        sync: wait for the device after each node.

    Returns: `record`.
    Raises: RecordError, if a value that a derivative reads was freed.
    """
    if record.spent:
        raise RecordError(
            "this record was spent by a backward pass that conserved memory; evaluate again"
        )
    graph = record.graph or graph
    reached = _reached(graph, depth)
    wanted = wanted_variables(graph, reached, wanted_inputs)
    given = (v for node in graph.nodes if node.name in record.skipped for v in node.outputs)
    kept = {*precious, *graph.inputs, *graph.outputs, *given}
    record.ders = dict(ders)
    pending = Counter(p for node in graph.nodes if node.name in reached for p in node.params)
    touched: set[str] = set()
    needed = read_by_backward(graph, reached) if record.again else frozenset()
    evaluate = partial(_evaluate, params=params, record=record)
    # What is added to an older derivative must not be written over it.
    spare = {p: t for p, t in (out or {}).items() if graph.users[p] == 1 and not accumulate}
    for node in reversed(graph.nodes):
        if node.name not in reached:
            continue
        start = time.perf_counter()
        for p in node.params:
            pending[p] -= 1
        was_evaluated = node.name not in record.skipped
        if was_evaluated and record.ders.keys() >= {*node.outputs}:
            if record.again:
                recomputing.restore(graph, record, node, needed, evaluate)
            der_inputs, der_params = _differentiate(node, params, record, wanted, spare)
            _add_variables(node, der_inputs, record, wanted)
            _add_params(node, der_params, record, accumulate, touched)
        if on_param is not None:
            for p in dict.fromkeys(node.params):
                if not pending[p] and p in record.param_ders:
                    on_param(p, record.param_ders.pop(p))
        if node.name in record.again:
            recomputing.release(record, node)
        if conserve_memory:
            record.saved.pop(node.name, None)
            for v in node.outputs:
                if v not in kept:
                    record.values.pop(v, None)
                    record.ders.pop(v, None)
        record.backward_time[node.name] = _elapsed(start, sync)
    if conserve_memory:
        record.spent = True
        border = {v for node in graph.nodes if node.name in reached for v in node.inputs}
        for v in border - kept:
            record.values.pop(v, None)
            record.ders.pop(v, None)
    return record


def _evaluate(node: Node, params: Params, record: Record) -> tuple[tuple[Tensor, ...], Any]:
    """Call the layer's forward: its outputs, and what it saved."""
    values = tuple(record.values[v] for v in node.inputs)
    given = tuple(params[p] for p in node.params)
    try:
        outputs, saved = node.layer.forward(values, given, record.ctx)
        if len(outputs) != len(node.outputs):
            raise ValueError(f"forward gave {len(outputs)} values; wanted {node.outputs}")
    except Exception as error:
        _locate(error, node, values)
        raise
    return outputs, saved


def _differentiate(
    node: Node,
    params: Params,
    record: Record,
    wanted: frozenset[str],
    spare: Mapping[str, Tensor],
):
    """Call the layer's backward with just what it declared to need.

    A layer whose `saved` was not kept is given all there is, to compute it again.
    """
    has_saved = node.name in record.saved
    needs = node.layer.needs
    if not has_saved and not needs:
        needs = frozenset({"inputs"})
    declared = {"inputs": node.inputs, "outputs": node.outputs}
    missing = [v for kind in needs for v in declared[kind] if v not in record.values]
    if missing:
        raise RecordError(
            f"the derivative of layer {node.name!r} ({type(node.layer).__name__}) reads {missing}, "
            "freed by an evaluation that conserved memory; evaluate again"
        )
    inputs, outputs = (
        tuple(record.values.get(v) if kind in needs or not has_saved else None for v in names)
        for kind, names in declared.items()
    )
    call = Call(
        inputs,
        tuple(params[p] for p in node.params),
        outputs,
        record.saved.get(node.name),
        record.ctx,
        tuple(v in wanted for v in node.inputs),
        tuple(spare.get(p) for p in node.params),
    )
    try:
        ders = node.layer.backward(call, tuple(record.ders[v] for v in node.outputs))
        for of, names in zip(ders, (node.inputs, node.params), strict=True):
            if not isinstance(of, (tuple, list)) or len(of) != len(names):
                found = len(of) if isinstance(of, (tuple, list)) else type(of).__name__
                raise ValueError(f"backward gave {found} derivatives for {names}; wanted a tuple")
        return ders
    except Exception as error:
        _locate(error, node, inputs)
        raise


def _add_variables(node: Node, ders, record: Record, wanted: frozenset[str]) -> None:
    """Add derivatives of the inputs out of place: a layer may hand one tensor to several inputs."""
    for v, der in zip(node.inputs, ders, strict=True):
        if der is None or v not in wanted:
            continue
        record.ders[v] = record.ders[v] + der if v in record.ders else der


def _add_params(node: Node, ders, record: Record, accumulate: bool, touched: set[str]) -> None:
    """Add derivatives of parameters; the first contribution replaces, unless accumulating."""
    for p, der in zip(node.params, ders, strict=True):
        if der is None:
            continue
        old = record.param_ders.get(p) if accumulate or p in touched else None
        record.param_ders[p] = der if old is None else old + der
        touched.add(p)


def _reached(graph: Graph, depth: int | None) -> frozenset[str]:
    """Names of the last `depth` nodes."""
    if depth is not None and depth < 1:
        raise ValueError(f"depth is {depth}; wanted a whole number >= 1, or None for all layers")
    nodes = graph.nodes if depth is None else graph.nodes[-depth:]
    return frozenset(node.name for node in nodes)


def wanted_variables(
    graph: Graph, reached: frozenset[str], wanted_inputs: Iterable[str] | None
) -> frozenset[str]:
    """Variables whose derivative is asked for, or leads to one, within the reached nodes."""
    nodes = [node for node in graph.nodes if node.name in reached]
    written = {v for node in nodes for v in node.outputs}
    if wanted_inputs is None:
        return frozenset(v for node in nodes for v in node.inputs) | written
    wanted = set(wanted_inputs)
    for node in nodes:
        if node.params or any(v in wanted for v in node.inputs):
            wanted.update(node.outputs)
    return frozenset(wanted)


def _sparing(graph: Graph, reached: frozenset[str], pinned: Set[str]) -> Graph:
    """Put sparing layers where a layer alone would keep its outputs, for its own derivative."""
    derived = [node for node in graph.nodes if node.name in reached]
    readers = Counter(v for node in derived for v in node.inputs if "inputs" in node.layer.needs)
    readers.update(v for node in derived for v in node.outputs if "outputs" in node.layer.needs)

    def spare(node: Node) -> Node:
        is_alone = all(readers[v] == 1 and v not in pinned for v in node.outputs)
        if node.name in reached and "outputs" in node.layer.needs and is_alone:
            return node._replace(layer=node.layer.sparing())
        return node

    return replace(graph, nodes=tuple(map(spare, graph.nodes)))


def _kept(graph: Graph, reached: frozenset[str], precious: Iterable[str]) -> frozenset[str]:
    """Variables that a memory-conserving forward pass must not free."""
    keep = _pinned(graph, precious) | read_by_backward(graph, reached)
    for node in graph.nodes:
        if node.name in reached:
            keep.update(v for v in node.inputs if v not in graph.producer)
    return frozenset(keep)


def _pinned(graph: Graph, precious: Iterable[str]) -> set[str]:
    """Variables that no forward pass frees: outputs, values of losses, precious ones."""
    losses = (v for node in graph.nodes if node.layer.is_loss for v in node.outputs)
    return {*precious, *graph.outputs, *losses}


def _locate(error: Exception, node: Node, values: tuple[Tensor | None, ...]) -> None:
    """Add to an error the layer in which it happened, and the shapes it was given."""
    shapes = [tuple(v.shape) if isinstance(v, Tensor) else None for v in values]
    error.add_note(f"in layer {node.name!r} ({type(node.layer).__name__}), inputs {shapes}")


def _elapsed(start: float, sync: bool) -> float:
    if sync and torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
