"""Where a number that is not finite came from: the first layer that made it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from matconvnet.nets.network import Network


class Part(NamedTuple):
    """A sub-batch as it was evaluated, so that it can be evaluated again.

    generator: in the state from which the masks of dropout were drawn.
    """

    indices: np.ndarray
    inputs: dict[str, Tensor]
    generator: torch.Generator


NO_LAYER = "no single layer made it: a sum over the batch exceeds the range of its type"


def explain(
    net: Network,
    parts: Sequence[Part],
    ders: Mapping[str, float] | None,
    *,
    depth: int | None = None,
) -> str | None:
    """Say what first was not finite: a parameter, an image, or what a layer made of them.

    Args:
        net: the network as it was when `parts` were evaluated.
        parts: sub-batches of one batch.
        ders: the output derivatives, if they were differentiated, in training mode; else None.
        depth: how many layers were differentiated, from the last; None: all.

    Returns: None, if everything is finite.
    """
    for node in net.graph.nodes:
        for name in node.params:
            if not _finite(net.params[name].value):
                return f"parameter {name!r} of layer {node.name!r} is not finite"
    for part in parts:
        wrong = _wrong_images(part.inputs[net.input])
        if wrong:
            return f"the data are not finite: image(s) {[int(part.indices[i]) for i in wrong]}"
    for part in parts:
        generator = part.generator.clone_state()
        record = net.eval(
            part.inputs,
            ders,
            mode="test" if ders is None else "normal",
            conserve_memory=False,
            generator=generator,
            depth=depth,
            wanted_inputs=(),
        )
        for node in net.graph.nodes:
            if not all(_finite(record.values.get(v)) for v in node.outputs):
                return f"the output of layer {node.name!r} is the first that is not finite"
        for node in reversed(net.graph.nodes):
            ders_made = [record.ders.get(v) for v in node.inputs]
            ders_made += [record.param_ders.get(p) for p in node.params]
            if not all(_finite(der) for der in ders_made):
                return f"the derivative of layer {node.name!r} is the first that is not finite"
    return None


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """True, if every element of every tensor is finite."""
    tensors = list(tensors)
    if not tensors:
        return True
    total = torch.stack([t.sum(dtype=torch.float32) for t in tensors]).sum()
    return math.isfinite(total) or all(map(_finite, tensors))  # large numbers may overflow a sum


def _finite(tensor: Tensor | None) -> bool:
    return tensor is None or not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _wrong_images(x: Tensor) -> list[int]:
    finite = x.isfinite().reshape(-1, x.shape[3] if x.dim() == 4 else 1)
    return (~finite.all(0)).nonzero().flatten().tolist()
