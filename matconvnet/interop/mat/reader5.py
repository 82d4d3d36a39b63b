"""Reading version 5 of the format (that of MATLAB's versions 5, 6 and 7), in plain Python."""

import struct
from io import FileIO
from typing import Any

from matconvnet.interop.mat import elements as e
from matconvnet.interop.mat.array_reader import ArrayReader
from matconvnet.interop.mat.element_reader import Budget
from matconvnet.interop.mat.stream import FileStream, InflatedStream
from matconvnet.values import Opaque, Struct


def read5(file: FileIO, path: str, budget: int) -> Struct:
    """The variables of a file whose header has been recognised.

    Args:
        file: opened for reading, unbuffered, at its start.
        path: its name, for messages.
        budget: bytes that the values may take.

    Raises: MatFileError, OSError.
    """
    stream = FileStream(file, path)
    header = stream.take(e.HEADER_SIZE)
    order = e.LITTLE if header[126:128] == b"IM" else e.BIG
    (subsystem_at,) = struct.unpack_from(f"{order.mark}Q", header, 116)
    variables, opaques, account = Struct(), [], Budget(budget)
    while stream.offset < stream.size:
        at = stream.offset
        name, value = _variable(stream, order, account, opaques)
        if at == subsystem_at:
            for opaque in opaques:
                opaque.content["subsystem"] = value
        elif name in variables:
            stream.fail(f"a second variable {name!r}", "another name")
        elif name:  # a nameless one holds what function handles see, for MATLAB alone
            variables[name] = value
    return variables


def _variable(
    stream: FileStream, order: e.Order, budget: Budget, opaques: list[Opaque]
) -> tuple[str, Any]:
    reader = ArrayReader(stream, order, budget, opaques)
    kind, size, end = reader.tag(stream.size)
    if kind == e.MATRIX:
        return reader.matrix(stream.offset + size, 0)
    if kind != e.COMPRESSED:
        stream.fail(f"an element of type {kind}", "a variable, type 14 or 15")
    end = stream.offset + size
    inflated = InflatedStream(stream, size)
    reader = ArrayReader(inflated, order, budget, opaques)
    kind, size, _ = reader.tag(inflated.limit)
    if kind != e.MATRIX:
        inflated.fail(f"an element of type {kind}", "an array, type 14")
    result = reader.matrix(inflated.offset + size, 0)
    inflated.finish()
    assert stream.offset == end
    return result
