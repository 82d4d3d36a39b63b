"""Compare an ONNX file with the network it came from, by running both."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.executor import forward
from matconvnet.graph import Graph
from matconvnet.interop.onnx.require import require
from matconvnet.layer import Context
from matconvnet.layout import as4d, hwcn, nchw, to_numpy, to_tensor
from matconvnet.nets.network import Network
from matconvnet.window import numbers

AGREEMENT = 1e-5
"""How far an output may be off, relative to its largest value."""
IMAGES = 2
"""Random images, where the file leaves their number free."""
TRIED = ((11, 14), (33, 38), (64, 80), (131, 120), (224, 256))
"""Heights and widths to try where the file leaves them free: the first that the network takes."""


def verify_onnx(
    net: Network,
    path: str | os.PathLike[str],
    seed: int = 0,
    *,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Run a file with onnxruntime, and the network in test mode, on the same input.

    Args:
        net: the network that the file was written from, or read to.
        path: the file.
        seed: of the random input.
        inputs: maps H x W x C x N by variable, to take in place of random ones.

    Returns: by output, the largest difference over the largest value.
    Raises: FormatError, if that is more than 1e-5: it names the first variable that departs, and
        the layer that writes it. ImportError: onnxruntime is not installed.
    """
    path = Path(path)
    session = _session(path)
    declared = {value.name: value.shape for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    graph = net.graph.leading_to(outputs)
    if inputs is None:
        given, values = _evaluate(net, graph, declared, seed)
    else:
        given = {v: as4d(to_tensor(x), v) for v, x in inputs.items()}
        values = _values(net, graph, given)
    fed = {v: _rows(to_numpy(nchw(given[v]).float()), len(declared[v])) for v in declared}
    found = session.run(outputs, fed)
    departures = {
        v: _departure(np.asarray(y), values[v]) for v, y in zip(outputs, found, strict=True)
    }
    if not all(departure <= AGREEMENT for departure in departures.values()):  # nan departs
        raise FormatError(f"{path} departs from the network: {_first(graph, path, fed, values)}")
    return departures


def _rows(x: np.ndarray, rank: int) -> np.ndarray:
    """An array N x C x H x W; or its rows, N x C*H*W, where the file has these."""
    return np.ascontiguousarray(x.reshape(x.shape[0], -1) if rank == 2 else x)


def _session(source: Path | bytes) -> Any:
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    model = source if isinstance(source, bytes) else str(source)
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _evaluate(
    net: Network, graph: Graph, declared: Mapping[str, Sequence[Any]], seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random inputs of the first size that the network takes, and all values it computes."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next((value.dtype for value in net.values().values() if value is not None), None)
    failure = None
    for height, width in _candidates(net.meta):
        given = {}
        for v, shape in declared.items():
            free = (IMAGES, 1, height, width)
            whole = [*shape] + [1] * (4 - len(shape))
            sizes = [n if isinstance(n, int) else m for n, m in zip(whole, free, strict=True)]
            given[v] = hwcn(torch.randn(sizes, generator=generator)).to(dtype or torch.float32)
        try:
            return given, _values(net, graph, given)
        except Exception as error:  # whatever layers of somebody's own may raise
            failure = error
    raise ValueError(
        f"the network takes no input of sizes {TRIED}; wanted `inputs` to verify it with"
    ) from failure


def _values(net: Network, graph: Graph, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All values of the layers in a file, in test mode."""
    return forward(graph, net.values(), given, ctx=Context(training=False)).values


def _candidates(meta: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Heights and widths: those that the meta data name, then some."""
    normalization = meta.get("normalization")
    named = normalization.get("imageSize") if isinstance(normalization, Mapping) else None
    for size in (named, meta.get("inputSize")):
        try:
            height, width = map(int, numbers(size, "size")[:2])
        except (TypeError, ValueError):
            continue
        yield height, width
    yield from TRIED


def _departure(found: np.ndarray, value: Tensor) -> float:
    """Largest difference over largest value; infinity, if the shapes differ."""
    wanted = to_numpy(value if value.dim() == 0 else nchw(value)).astype(float)
    if found.ndim == 2:
        wanted = _rows(wanted, 2)
    if found.shape != wanted.shape:
        return math.inf
    if wanted.size == 0:
        return 0.0
    difference, largest = np.abs(found - wanted).max(), np.abs(wanted).max()
    return float(difference / largest) if largest > 0 else float(difference)


def _first(graph: Graph, path: Path, fed: Mapping[str, Any], values: Mapping[str, Tensor]) -> str:
    """The first variable that departs, in words."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(str(path), load_external_data=False)
    if any(uses_external_data(t) for t in model.graph.initializer):
        return f"one of its outputs, {[output.name for output in model.graph.output]}"
    written = {name for node in model.graph.node for name in node.output}
    order = [v for node in graph.nodes for v in node.outputs if v in written and v in values]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=v) for v in order)
    found = _session(model.SerializeToString()).run(order, dict(fed))
    for v, y in zip(order, found, strict=True):
        departure = _departure(y, values[v])
        if not departure <= AGREEMENT:
            writer = graph.producer[v].name
            return (
                f"{v!r}, written by layer {writer!r}, by {departure:.2g} of its largest value; "
                f"wanted {AGREEMENT:g} at most"
            )
    return "its outputs alone, which agree when all variables are put out"
