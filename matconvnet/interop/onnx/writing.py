"""Write a network to an ONNX file."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from matconvnet._version import __version__
from matconvnet.files import write_atomic
from matconvnet.geometry import Size
from matconvnet.graph import Node
from matconvnet.interop.onnx.meta import to_json
from matconvnet.interop.onnx.ops import emitter
from matconvnet.interop.onnx.part import Sizes, part_to_write, sizes_of
from matconvnet.interop.onnx.require import require
from matconvnet.interop.onnx.writer import Place, Writer, describe
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network

LIMIT = 2_000_000_000
"""Bytes of weights in one file: protobuf ends at 2 GiB. More go to a file beside it."""
SMALL = 1024
"""Bytes of an array that stays in the file all the same, such as a shape."""
PAGE = 4096
"""Where arrays begin in the file beside, so that it can be mapped to memory."""
OLDEST = 16
"""The first version of the operators that has GridSample."""
DOC = "Variables are N x C x H x W: those of the same name in MatConvNet, where they are HxWxCxN."


def save_onnx(
    net: Network,
    path: str | os.PathLike[str],
    *,
    input_sizes: Sizes | None = None,
    outputs: Sequence[str] | None = None,
    opset: int = 17,
) -> None:
    """Write a network, as it is in test mode, to an ONNX file.

    Variables keep their names; what is H x W x C x N here is N x C x H x W there, in float32.
    Losses, and whatever else reads labels or targets from outside, are left out. The meta data of
    the network go to the metadata of the file, as JSON. Weights of more than 2 GB go to a second
    file, `path` + ".data", in the same folder. The file is written whole or not at all, and has
    passed ONNX's checker.

    Args:
        net: the network, on any device.
        path: the file, by custom `*.onnx`.
        input_sizes: (H, W, C, N) of the inputs by name, or of `net.input` alone; numbers are fixed
            in the file, None leaves one free. Without it all are free, but for the channels, which
            follow from `meta.inputSize` or from the first layer (taken to have one group).
        outputs: variables to write. Without it: all that no layer reads.
        opset: version of the operators, at least 16.

    Raises:
        ValueError: a layer that ONNX cannot express (see `register_onnx`); a parameter without a
            value; a wrong `opset`.
        KeyError: `outputs` or `input_sizes` name what is no variable.
        ImportError: the package onnx is not installed.
    """
    onnx = require("onnx")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise ValueError(f"opset is {opset}; wanted {OLDEST} to {newest}")
    part = part_to_write(net, outputs)
    sizes = sizes_of(net, part.graph, input_sizes)
    writer = Writer((*part.graph.inputs, *part.graph.producer), opset)
    values = net.values()
    for node in part.graph.nodes:
        if isinstance(net, DagNN):
            _check_values(node, values)
        _write_layer(writer, node, values, sizes)
    path = Path(path)
    data = path.with_name(f"{path.name}.data")
    weights = _weights(writer.arrays, data.name)
    inputs = [_declared(v, sizes[v], named=True) for v in part.graph.inputs]
    ends = [_declared(v, None if part.is_scalar(v) else sizes[v]) for v in part.outputs]
    graph = onnx.helper.make_graph(
        writer.nodes, type(net).__name__, inputs, ends, weights.tensors, doc_string=DOC
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(
        graph, producer_name="matconvnet", producer_version=__version__, opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
    )  # fmt: skip
    onnx.helper.set_model_props(model, {key: to_json(value) for key, value in net.meta.items()})
    if weights.beside:
        write_atomic(data, weights.write)
    write_atomic(path, lambda file: _write_checked(model, file))


def _write_checked(model: Any, file: Path) -> None:
    from onnx import checker

    file.write_bytes(model.SerializeToString())
    checker.check_model(str(file), full_check=True)


def _check_values(node: Node, values: Mapping[str, Any]) -> None:
    """Raise ValueError for a parameter without value: a layer of a DagNN names only what it has."""
    for name in node.params:
        if values[name] is None:
            raise ValueError(f"parameter {name!r} of layer {node.name!r} has no value")


def _write_layer(
    writer: Writer, node: Node, values: Mapping[str, Any], sizes: Mapping[str, Size]
) -> None:
    params = [values[name] for name in node.params]
    place = Place(
        node.layer,
        node.inputs,
        tuple(None if p is None or p.numel() == 0 else p.detach().cpu() for p in params),
        node.params,
        tuple(_whole(sizes[v][2]) for v in node.inputs),
    )
    emit = emitter(node.layer)
    assert emit, "part_to_write leaves no layer without one"
    try:
        writer.write(node, place, emit)
    except Exception as error:
        error.add_note(f"in layer {describe(node)}")
        raise


def _whole(number: float) -> int | None:
    return None if math.isnan(number) else int(number)


def _declared(name: str, size: Size | None, *, named: bool = False) -> Any:
    """Name, type and shape of a value; free numbers of inputs get a name. No size: one number."""
    from onnx import TensorProto, helper

    shape: list[int | str | None] = []
    if size is not None:
        h, w, c, n = size
        for letter, number in zip("NCHW", (n, c, h, w), strict=True):
            whole = _whole(number)
            shape.append(f"{name}.{letter}" if whole is None and named else whole)
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


class Weights(NamedTuple):
    """Arrays as ONNX tensors; `beside`: those in a file of their own, by where they begin."""

    tensors: list[Any]
    beside: dict[int, np.ndarray]

    def write(self, file: Path) -> None:
        """Write the file of the arrays beside."""
        with file.open("wb") as stream:
            for begin, array in self.beside.items():
                stream.write(bytes(begin - stream.tell()))
                stream.write(array.data)


def _weights(arrays: Mapping[str, np.ndarray], location: str) -> Weights:
    """All arrays in one file if they are not too many; else the large ones at `location`."""
    from onnx import numpy_helper

    is_one_file = sum(array.nbytes for array in arrays.values()) <= LIMIT
    weights, end = Weights([], {}), 0
    for name, array in arrays.items():
        if is_one_file or array.nbytes < SMALL:
            weights.tensors.append(numpy_helper.from_array(array, name))
            continue
        begin = -(-end // PAGE) * PAGE
        end = begin + array.nbytes
        weights.beside[begin] = array
        weights.tensors.append(_elsewhere(name, array, location, begin))
    return weights


def _elsewhere(name: str, array: np.ndarray, location: str, begin: int) -> Any:
    """A tensor whose bytes are in the file `location`, from `begin` on."""
    from onnx import StringStringEntryProto, TensorProto, helper

    place = {"location": location, "offset": str(begin), "length": str(array.nbytes)}
    return TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=k, value=v) for k, v in place.items()],
    )
