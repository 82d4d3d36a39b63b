"""What the reader of 7.3 files and its worker process say to each other.

A request is 4 bytes of length and JSON: {"path", "budget", "fork"}. The answer is made of
frames: one letter, 8 bytes of length, and so many bytes:

    T  JSON, {"bytes": of all data, "tree": a struct of the variables}; the first frame
    D  the bytes of one block of an array, native byte order; all arrays in the order of the tree
       except those whose bytes stand in the file in one piece, from byte `offset` on
    Z  the end
    E  in place of any of these, JSON: {"place", "found", "wanted", "cause"} or {"missing"}

A node of the tree is {"is": kind, ...}. Shapes are MATLAB's; `block` is in the order of HDF5, which
is the reverse.

    array   class, type, complex, shape, block       cell    shape, items
            offset, or null
    empty   class, shape, fields                     struct  shape, fields, columns: lists of items
    sparse  class, rows, parts (jc, ir, data), place  opaque  kind, class, content: a node
"""

import math
import struct
from collections.abc import Iterator, Sequence
from itertools import product

REQUEST = struct.Struct("<I")
FRAME = struct.Struct("<cQ")

VALUE = 2048
"""Bytes that any value takes of the budget beside its data, however small it is."""

BLOCK = 1 << 22
"""Bytes to read or write at a time."""

NUMBERS = {
    "double": "f8", "single": "f4", "logical": "u1",
    "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8",
}  # fmt: skip
"""MATLAB's classes of numbers, and the NumPy type of their elements in a file."""

CHARS = ("u2", "u1")
"""The types of the characters of a char array: UTF-16 in files of MATLAB."""

OBJECTS = {1: "function", 2: "object", 3: "opaque"}
"""What values of MATLAB_object_decode mean."""


def blocks(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The start and the size of each block of an array, in C order."""
    for start in product(*(range(0, n, step) for n, step in zip(shape, block, strict=True))):
        size = [min(n - i, step) for i, n, step in zip(start, shape, block, strict=True)]
        yield list(start), size


def whole_chunks(shape: Sequence[int], chunk: Sequence[int] | None, width: int) -> list[int]:
    """The shape of the blocks to go through: whole chunks, about `BLOCK` bytes, last axes first."""
    block = [max(1, min(n, c)) for n, c in zip(shape, chunk or [1] * len(shape), strict=True)]
    for axis in reversed(range(len(shape))):
        room = BLOCK // (width * math.prod(block))
        if room <= 1:
            break
        block[axis] = max(1, min(shape[axis], block[axis] * room))
    return block
