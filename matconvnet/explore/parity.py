"""Does a network compute what somebody recorded? Layer by layer, the first that departs."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from matconvnet.executor import forward
from matconvnet.graph import build
from matconvnet.layer import Context
from matconvnet.layout import as4d, channels_last, to_numpy, to_tensor
from matconvnet.nets.network import Network
from matconvnet.nets.registry import Unknown
from matconvnet.nets.simplenn import SimpleNN

TOLERANCE = 1e-5
LAYER = re.compile(r"L(\d+)")
EXACT = "_exact"


class Row(NamedTuple):
    """One variable, compared.

    layer: the one that wrote it. deviation: the largest, relative to the largest number wanted;
    nan, if the shapes differ.
    """

    layer: str
    variable: str
    shape: tuple[int, ...]
    wanted: tuple[int, ...]
    deviation: float
    ok: bool


class Parity(NamedTuple):
    """What was compared, in the order of evaluation, and the names of what was not.

    taken: variables that layers of unknown types write, taken as they were recorded.
    """

    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    taken: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True, if all variables agree."""
        return all(row.ok for row in self.rows)

    @property
    def first(self) -> Row | None:
        """The first variable that departs."""
        return next((row for row in self.rows if not row.ok), None)


def parity(net: Network, reference: Mapping[str, Any], *, tolerance: float = TOLERANCE) -> Parity:
    """Evaluate a network in test mode and compare its variables with recorded ones.

        deviation = max |ours - theirs| / max |theirs|

    Layers whose types nobody registered are not evaluated: what follows them is computed from what
    they were recorded to write.

    Args:
        net: the network.
        reference: arrays by variable: the input, by its name or as `x`, and what was recorded; in
            a SimpleNN `L3` is what layer 3 writes, as is `x3`. Of `L3` and `L3_exact` the latter
            counts. Maps are H x W x C x N, or without ones at the end.
        tolerance: the largest deviation that agrees.

    Raises: ValueError, if the reference lacks the input, or holds no variable of the network.
    """
    recorded = _by_variable(net, reference)
    if net.input not in recorded:
        raise ValueError(
            f"the reference holds {list(reference)}; wanted the input too, {net.input!r} or 'x'"
        )
    graph = build(node for node in net.graph.nodes if not isinstance(node.layer, Unknown))
    inputs = {v: recorded[v] for v in graph.inputs if v in recorded}
    wanted = {v: recorded[v] for v in graph.producer if v in recorded}
    dtype = next((v.dtype for v in net.values().values() if v is not None), torch.float32)
    given = {v: channels_last(value.to(dtype)) for v, value in inputs.items()}
    values = forward(
        graph, net.values(), given, ctx=Context(training=False), precious=wanted,
        conserve_memory=True,
    ).values  # fmt: skip
    rows = tuple(
        _compare(node.name, v, values[v], wanted[v], tolerance)
        for node in net.graph.nodes
        for v in node.outputs
        if v in wanted and v in values
    )
    if not rows:
        raise ValueError(
            f"the reference holds {list(reference)}; wanted variables that follow from the input, "
            f"such as {list(net.graph.producer)[:5]}"
        )
    used = {*net.graph.inputs, *inputs, *(row.variable for row in rows)}
    left_out = tuple(key for key in reference if _variable(net, key) not in used)
    return Parity(rows, left_out, tuple(v for v in inputs if v in net.graph.producer))


def _by_variable(net: Network, reference: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arrays of floats that are variables of the network, by variable."""
    found = {}
    for key in sorted(reference, key=lambda key: key.endswith(EXACT)):
        value, variable = np.asarray(to_numpy(reference[key])), _variable(net, key)
        if variable is not None and value.dtype.kind == "f" and value.ndim:
            found[variable] = as4d(to_tensor(value), key)
    return found


def _variable(net: Network, key: str) -> str | None:
    """The variable that a name in a reference stands for."""
    key = key.removesuffix(EXACT)
    known = {*net.graph.inputs, *net.graph.producer}
    if key in known:
        return key
    if key == "x":
        return net.input
    layer = LAYER.fullmatch(key)
    variable = f"x{layer[1]}" if layer and isinstance(net, SimpleNN) else None
    return variable if variable in known else None


def _compare(layer: str, variable: str, ours: Tensor, theirs: Tensor, tolerance: float) -> Row:
    ours = as4d(ours.reshape(-1) if ours.dim() == 0 else ours, variable)
    shape, wanted = tuple(ours.shape), tuple(theirs.shape)
    if shape != wanted:
        return Row(layer, variable, shape, wanted, float("nan"), False)
    if not theirs.numel():
        return Row(layer, variable, shape, wanted, 0.0, True)
    gap, largest = (float(t.abs().max()) for t in (ours.double() - theirs.double(), theirs))
    deviation = gap / largest if largest else gap
    return Row(layer, variable, shape, wanted, deviation, deviation <= tolerance)
