"""Proof that two networks compute the same, or that a file holds the network written to it."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matconvnet.blocks.softmax import Softmax, softmax
from matconvnet.errors import FormatError
from matconvnet.executor import forward
from matconvnet.graph import build
from matconvnet.interop.onnx import load_onnx, verify_onnx
from matconvnet.layer import Context, Layer
from matconvnet.layout import channels_last, hwcn, nchw
from matconvnet.nets.custom import Custom
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.example import example_inputs
from matconvnet.nets.network import Network
from matconvnet.nets.registry import Unknown

TOLERANCE = 1e-5
"""How far a variable may be off, relative to its largest value, where arithmetic differs."""
IMAGES = 2  # in random inputs

Tensors = dict[str, Tensor]


class Proof(NamedTuple):
    """What was compared, in words, and what was found.

    deviations: largest difference over the largest value, by variable.
    """

    text: str
    deviations: dict[str, float]

    @property
    def deviation(self) -> float:
        """The worst."""
        return max(self.deviations.values(), default=0.0)


def random_inputs(net: Network, size: Sequence[int] | None = None) -> Tensors:
    """Gaussian maps, always the same, for the inputs of a network that are no labels.

    Args:
        net: the network.
        size: (H, W, C) of its input; None: what its meta data tell, or the smallest that fits.

    Raises: ValueError, if none fits.
    """
    dtype = next((v.dtype for v in net.values().values() if v is not None), torch.float32)
    generator = torch.Generator().manual_seed(0)
    inputs = {}
    if size is None or net.data_inputs != [net.input]:
        inputs = example_inputs(net, batch=IMAGES, dtype=dtype, generator=generator)
    if size is not None:
        inputs[net.input] = torch.randn(*size, IMAGES, dtype=dtype, generator=generator)
    return {name: channels_last(x) if x.dim() == 4 else x for name, x in inputs.items()}


def prove_deployed(net: Network, deployed: Network, inputs: Tensors) -> Proof:
    """Compare a deployed network with the original in test mode.

    Raises: FormatError, naming the first variable that departs.
    """
    values = _evaluate(net, net.values(), inputs)
    found = _evaluate(deployed, deployed.values(), inputs)
    if isinstance(deployed, DagNN):
        wanted = dict(_wanted(deployed, values))
    else:
        y, end = values.get(net.prediction), deployed.prediction
        is_new = _ends_in_softmax(deployed) and not _ends_in_softmax(net)
        wanted = {} if y is None else {end: softmax(y) if is_new else y}
    _check_finite(deployed, wanted)
    deviations = {v: deviation(found[v], y) for v, y in wanted.items()}
    _check(deployed, deviations, TOLERANCE)
    text = f"deployed: {_count(deviations, 'variable')} compared with the original"
    return Proof(text + _rest(net), deviations)


def prove_equal(net: Network, read: Network, inputs: Tensors) -> Proof:
    """Compare a network with what was read from its file: parameters and values, bit for bit.

    Names may differ, the order may not.

    Raises: FormatError, naming the first parameter or variable that departs.
    """
    nodes, others = net.graph.nodes, read.graph.nodes
    if len(nodes) != len(others):
        raise FormatError(f"it holds {len(others)} layers; wanted {len(nodes)}")
    values, stored, names = net.values(), read.values(), {}
    for node, other in zip(nodes, others, strict=True):
        if _kind(node.layer) != _kind(other.layer):
            kinds = f"{_kind(other.layer)}; wanted {_kind(node.layer)}"
            raise FormatError(f"layer {node.name!r} is there of type {kinds}")
        for p, q in zip(node.params, other.params, strict=True):
            if not _is_same(values[p], stored[q]):
                raise FormatError(f"parameter {p!r} of layer {node.name!r} departs")
            values[p] = _like(values[p], stored[q])
        ours, theirs = [*node.inputs, *node.outputs], [*other.inputs, *other.outputs]
        names |= {v: w for v, w in zip(ours, theirs, strict=False) if v not in names}
        if [names.get(v) for v in ours] != theirs:
            raise FormatError(f"layer {node.name!r} is wired to {theirs}; wanted {ours}")
    wanted = _evaluate(net, values, inputs)
    found = _evaluate(read, stored, {names[v]: x for v, x in inputs.items()})
    made = [v for node in nodes for v in node.outputs if v in wanted]
    deviations = {v: deviation(found[names[v]], wanted[v]) for v in made}
    _check(net, deviations, 0)
    parameters = _count([v for v in values.values() if v is not None], "parameter")
    variables = f" and {_count(made, 'variable')}" if made else ""
    return Proof(f"read back: {parameters}{variables} equal, bit for bit{_rest(net)}", deviations)


def prove_onnx(net: Network, file: Path, inputs: Tensors) -> Proof:
    """Run an ONNX file by onnxruntime; without that, read it and evaluate what was read.

    Raises: FormatError, naming the first variable that departs.
    """
    wanted = _evaluate(net, net.values(), inputs)
    _check_finite(net, wanted)
    if find_spec("onnxruntime") is not None:
        text = f"run by onnxruntime {version('onnxruntime')}"
        return Proof(text, verify_onnx(net, file, inputs=inputs))
    sizes = {name: tuple(x.shape) for name, x in inputs.items()}
    read = load_onnx(file, input_sizes=sizes, external_data=True)
    found = _evaluate(read, read.values(), inputs)
    deviations = {v: deviation(found[v], wanted[v]) for v in read.graph.outputs}
    _check(net, deviations, TOLERANCE)
    return Proof("read back (onnxruntime, which would be proof, is not installed)", deviations)


def prove_program(net: Network, file: Path, inputs: Tensors) -> Proof:
    """Run a program of torch.export.

    Raises: FormatError, naming the prediction, if it departs.
    """
    wanted = _evaluate(net, net.values(), inputs)
    _check_finite(net, wanted)
    y = torch.export.load(file).module()(nchw(inputs[net.input]))
    deviations = {net.prediction: deviation(hwcn(y), wanted[net.prediction])}
    _check(net, deviations, TOLERANCE)
    return Proof(f"run by torch {torch.__version__}", deviations)


def deviation(found: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest value that is wanted; infinity, if the shapes differ."""
    if found.shape != wanted.shape:
        return math.inf
    if torch.equal(found, wanted):
        return 0.0
    differs = (found != wanted) & ~(found.isnan() & wanted.isnan())
    if not differs.any():
        return 0.0
    gap = float((found.double() - wanted.double())[differs].abs().max())
    largest = float(wanted.abs().max())
    result = gap / largest if largest else gap
    return math.inf if math.isnan(result) else result


def _evaluate(net: Network, values: Mapping[str, Tensor | None], inputs: Tensors) -> Tensors:
    """All values, in test mode, that follow from the inputs and from layers that can run."""
    graph = build(node for node in net.graph.nodes if _can_run(node.layer))
    for node in graph.nodes if isinstance(net, DagNN) else ():
        for name in node.params:
            if values[name] is None:
                raise ValueError(f"parameter {name!r} of layer {node.name!r} has no value")
    try:
        return forward(graph, values, inputs, ctx=Context(training=False)).values
    except Exception as error:
        sizes = {name: tuple(x.shape) for name, x in inputs.items()}
        error.add_note(f"on random input, H x W x C x N: {sizes}")
        raise


def _can_run(layer: Layer) -> bool:
    if isinstance(layer, Custom):
        return callable(layer.struct.get("forward"))
    return not isinstance(layer, Unknown)


def _wanted(deployed: DagNN, values: Tensors) -> Iterator[tuple[str, Tensor]]:
    """What a deployed DagNN should compute, from what the original did: names are the same."""
    for node in deployed.graph.nodes:
        for v in node.outputs:
            if v in values:
                yield v, values[v]
            elif isinstance(node.layer, Softmax) and node.inputs[0] in values:
                yield v, softmax(values[node.inputs[0]])


def _kind(layer: Layer) -> str:
    return layer.kind if isinstance(layer, Unknown) else type(layer).__name__


def _count(items: Collection[Any], name: str) -> str:
    return f"{len(items)} {name}{'' if len(items) == 1 else 's'}"


def _rest(net: Network) -> str:
    """The layers that were not compared, in words."""
    names = [repr(node.name) for node in net.graph.nodes if not _can_run(node.layer)]
    return f"; not evaluated: {', '.join(names)} and what follows" if names else ""


def _ends_in_softmax(net: Network) -> bool:
    end = net.graph.producer.get(net.prediction)
    return end is not None and isinstance(end.layer, Softmax)


def _is_same(a: Tensor | None, b: Tensor | None) -> bool:
    """True for the same numbers in the same shape, but for axes of size 1."""
    if a is None or b is None:
        return a is b
    return deviation(b.squeeze().to(a.device, a.dtype), a.squeeze()) == 0


def _like(value: Tensor | None, other: Tensor | None) -> Tensor | None:
    """A value in the type and order of memory of another: kernels differ in their rounding."""
    if value is None or other is None or value.shape != other.shape:
        return value
    if (value.dtype, value.stride()) == (other.dtype, other.stride()):
        return value
    return torch.empty_like(other).copy_(value)


def _check_finite(net: Network, values: Tensors) -> None:
    """Raise ValueError with the first variable that holds nan or infinity: these prove nothing."""
    for node in net.graph.nodes:
        for v in node.outputs:
            if v in values and not values[v].isfinite().all():
                raise ValueError(
                    f"variable {v!r}, written by layer {node.name!r}, is not finite on random "
                    "input; wanted a network that was trained: new batch normalisation divides by 0"
                )


def _check(net: Network, deviations: Mapping[str, float], tolerance: float) -> None:
    """Raise FormatError with the first variable that departs."""
    for node in net.graph.nodes:
        for v in node.outputs:
            if deviations.get(v, 0.0) > tolerance:
                raise FormatError(
                    f"variable {v!r}, written by layer {node.name!r}, departs by "
                    f"{deviations[v]:.2g} of its largest value; wanted {tolerance:g} at most"
                )
