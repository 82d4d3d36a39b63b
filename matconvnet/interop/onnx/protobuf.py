"""Open an ONNX file from anywhere: every size is checked, and no other file read unasked."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from matconvnet.errors import FormatError
from matconvnet.interop.onnx.require import require

LARGEST = 2**31
"""Bytes of the largest file that protobuf can hold."""


def open_model(path: Path, external_data: bool) -> Any:
    """The model in a file, which has passed ONNX's checker.

    Args:
        path: the file.
        external_data: weights may be in other files, of the same folder or below it.

    Raises: FormatError, if it is no ONNX file, or weights are where they may not be; OSError.
    """
    onnx = require("onnx")
    size = path.stat().st_size
    if size > LARGEST:
        raise FormatError(f"{path} has {size} bytes; an ONNX file has at most {LARGEST}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # of protobuf's kinds, which differ between its versions
        raise FormatError(f"{path} is no ONNX file, or is damaged: {error}") from error
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            if not external_data:
                raise FormatError(
                    f"{path} has weights in other files, such as {tensor.name!r}; "
                    "external_data=True reads them, if they are in its folder"
                )
            _span(tensor, path.parent)
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise FormatError(f"{path} is no valid ONNX model: {error}") from error
    return model


def _tensors(graph: Any) -> Iterator[Any]:
    """The tensors that we may read: initializers, and values of Constant nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def to_array(tensor: Any, folder: Path) -> np.ndarray:
    """The numbers of a tensor: floats in float32, others as they are.

    Raises: FormatError, if its bytes do not fit its shape, or it holds no numbers.
    """
    from onnx import TensorProto, helper, numpy_helper

    shape = tuple(tensor.dims)
    try:
        if min(shape, default=0) < 0:
            raise ValueError("a negative size")
        if tensor.data_location == TensorProto.EXTERNAL:
            file, begin, length = _span(tensor, folder)
            kind = helper.tensor_dtype_to_np_dtype(tensor.data_type).newbyteorder("<")
            data = np.fromfile(file, np.uint8, length, offset=begin)
            array = data.view(kind).reshape(shape)
        else:
            array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise FormatError(f"tensor {tensor.name!r} of shape {shape}: {error}") from error
    if array.dtype.kind not in "biuf":
        if tensor.data_type != TensorProto.BFLOAT16:
            raise FormatError(f"tensor {tensor.name!r} holds {array.dtype}; wanted numbers")
    elif array.dtype.kind != "f":
        return array
    return array.astype(np.float32)


def _span(tensor: Any, folder: Path) -> tuple[Path, int, int]:
    """File, first byte and number of bytes of a tensor that is in another file."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    location = place.get("location", "")
    try:
        file = (folder / PurePosixPath(location)).resolve()
        is_inside = file.is_relative_to(folder.resolve()) and file.is_file()
        end = file.stat().st_size if is_inside else 0
        begin = int(place.get("offset") or 0)
        length = int(place.get("length") or end - begin)
    except (OSError, ValueError) as error:
        raise FormatError(f"tensor {tensor.name!r} is said to be {place}: {error}") from error
    if not location or not is_inside:
        raise FormatError(
            f"tensor {tensor.name!r} is at {location!r}; wanted a file in the folder of the model"
        )
    if begin < 0 or length < 0 or begin + length > end:
        raise FormatError(f"tensor {tensor.name!r} is said to be {place}; the file has {end} bytes")
    return file, begin, length
