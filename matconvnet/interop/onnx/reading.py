"""Read a network from an ONNX file."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matconvnet.blocks.sum import Sum
from matconvnet.errors import FormatError
from matconvnet.geometry import full_size
from matconvnet.interop.onnx.builder import Builder, Lost, Map, Op, OperatorError, Value
from matconvnet.interop.onnx.fold import fold
from matconvnet.interop.onnx.imports import IMPORTS
from matconvnet.interop.onnx.imports_shape import FLOATS
from matconvnet.interop.onnx.meta import from_json
from matconvnet.interop.onnx.part import Sizes
from matconvnet.interop.onnx.protobuf import open_model, to_array
from matconvnet.nets.dagnn import DagNN
from matconvnet.values import Struct

MALFORMED = (
    OperatorError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError,
    RuntimeError,
)  # fmt: skip
"""What reading an operator may raise, whose attributes and inputs can be anything."""


def load_onnx(
    path: str | os.PathLike[str],
    *,
    input_sizes: Sizes | None = None,
    external_data: bool = False,
) -> DagNN:
    """Read a network of convolutions, in test mode, from an ONNX file of any origin.

    Variables and parameters keep their names; what is N x C x H x W there is H x W x C x N here,
    rows of N x K numbers are 1 x 1 x K x N. Matrix products become convolutions that cover the map,
    global pooling a window of its size. What only changes shapes is left out.

    Args:
        path: the file.
        input_sizes: (H, W, C, N) of the inputs by name, or of the first one, where the file leaves
            free what is needed to read it; None for a number that stays free.
        external_data: weights may be in other files, of the same folder or below it.

    Returns: the network; its parameters are in float32. `verify_onnx` proves it.
    Raises: FormatError: it is no ONNX file, or is damaged, or (listed all together) holds operators
        that no layer computes. OSError. ImportError: the package onnx is not installed.
    """
    path = Path(path)
    model = open_model(path, external_data)
    builder = Builder(v for node in model.graph.node for v in (*node.input, *node.output))
    problems = Counter(_read_graph(builder, model, path, input_sizes))
    if problems:
        listed = "; ".join(
            text if count == 1 else f"{text} ({count} times)" for text, count in problems.items()
        )
        raise FormatError(f"{path} holds what no layer of ours computes: {listed}")
    net = builder.finish()
    if model.producer_name == "matconvnet":
        net.meta = Struct({p.key: from_json(p.value, p.key) for p in model.metadata_props})
    return net


def _read_graph(b: Builder, model: Any, path: Path, sizes: Sizes | None) -> Iterator[str]:
    """Add all operators to the network; yields what is wrong with those that cannot be."""
    graph = model.graph
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    values: dict[str, Value] = {t.name: to_array(t, path.parent) for t in graph.initializer}
    if graph.sparse_initializer:
        yield "sparse weights"
    inputs = [value for value in graph.input if value.name not in values]
    given = _given(sizes, [value.name for value in inputs])
    for value in inputs:
        try:
            values[value.name] = _input(value, given.get(value.name))
        except MALFORMED as error:
            values[value.name] = Lost()
            yield f"input {value.name!r}: {error}"
    for node in graph.node:
        made: Value = Lost()
        try:
            op = _op(node, values, opset, path.parent)
            lost = [value.what for value in op.inputs if isinstance(value, Lost)]
            if not (op.kind in IMPORTS or op.kind == "Constant" or _is_foldable(op)):
                yield op.kind
            elif any(lost):
                raise OperatorError(f"it reads {', '.join(filter(None, lost))}")
            elif not lost:
                made = _read(b, op)
        except MALFORMED as error:
            yield f"{node.op_type} {node.name or list(node.output)!r}: {error}"
        for i, name in enumerate(node.output):
            values[name] = Lost(f"output {i} of {node.op_type}") if i else made
    yield from _name_outputs(b, graph, values)


def _is_foldable(op: Op) -> bool:
    return all(isinstance(value, np.ndarray) for value in op.inputs)


def _read(b: Builder, op: Op) -> Value:
    if op.kind == "Constant":
        return op.attributes["constant"]
    arrays = [value for value in op.inputs if isinstance(value, np.ndarray)]
    if op.inputs and len(arrays) == len(op.inputs):
        folded = fold(op.kind, arrays, op.attributes)
        if folded is not None:
            return folded
    if op.kind not in IMPORTS:
        raise OperatorError("it works on constants; wanted its result")
    return IMPORTS[op.kind](b, op)


def _op(node: Any, values: Mapping[str, Value], opset: int, folder: Path) -> Op:
    from onnx import helper

    if not node.output or not node.output[0]:
        raise OperatorError("it makes nothing; wanted an output")
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
    names = list(node.input)
    while names and not names[-1]:
        names.pop()
    inputs = tuple(values.get(name, Lost()) if name else None for name in names)
    attributes = {}
    for attribute in node.attribute:
        if attribute.HasField("t"):
            attributes["constant"] = to_array(attribute.t, folder)
        else:
            attributes[attribute.name] = helper.get_attribute_value(attribute)
    if kind == "Constant" and "constant" not in attributes:
        value = next(iter(attributes.values()), ())
        is_float = np.asarray(value).dtype.kind == "f"
        attributes["constant"] = np.asarray(value, np.float32 if is_float else np.int64)
    return Op(kind, node.name, inputs, tuple(names), tuple(node.output), attributes, opset)


def _given(sizes: Sizes | None, inputs: list[str]) -> dict[str, Any]:
    if sizes is None:
        return {}
    found = dict(sizes) if isinstance(sizes, Mapping) else {inputs[0] if inputs else "": sizes}
    unknown = [name for name in found if name not in inputs]
    if unknown:
        raise KeyError(f"input_sizes names {unknown}; the inputs are {inputs}")
    return found


def _input(value: Any, given: Any) -> Map:
    """An input of the file: a map, or rows of numbers."""
    kind = value.type.tensor_type
    if kind.elem_type not in FLOATS:
        raise OperatorError("it is no tensor of floats")
    shape = [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else math.nan
        for d in kind.shape.dim
    ]
    if len(shape) not in (2, 4):
        raise OperatorError(f"it has {len(shape)} axes; wanted N x C x H x W, or N x K")
    n, c, h, w = (*shape, 1, 1)[:4]
    free = (None,) * 4 if given is None else given
    told = full_size([math.nan if m is None else m for m in free], f"size of {value.name!r}")
    h, w, c, n = (p if math.isnan(q) else q for p, q in zip((h, w, c, n), told, strict=True))
    return Map(value.name, (h, w, c, n), flat=len(shape) == 2)


def _name_outputs(b: Builder, graph: Any, values: Mapping[str, Value]) -> Iterator[str]:
    """Let variables have the names that the file's outputs have."""
    outputs = {output.name: values.get(output.name, Lost()) for output in graph.output}
    fixed = {value.name for value in (*graph.input, *graph.output)}
    for name, value in outputs.items():
        if isinstance(value, np.ndarray):
            yield f"output {name!r}, which is a constant"
        elif isinstance(value, Lost) and value.what:
            yield f"output {name!r}, which is {value.what}"
        elif isinstance(value, Map):
            op = Op("Identity", "", (value,), (), (name,), {}, 0)
            y = b.settled(op, value)
            if y.name == name:
                continue
            if y.name in fixed:
                b.add(op, Sum(), [y])
            else:
                b.net.rename_var(y.name, name)
                fixed.add(name)
                for other, found in outputs.items():  # what else went by the old name
                    if isinstance(found, Map) and found.name == y.name:
                        outputs[other] = found._replace(name=name)
