"""The numbers of the MAT 5 format: types of data elements, classes of arrays, byte orders."""

import struct
from typing import NamedTuple

import numpy as np

INT8, UINT8, INT16, UINT16, INT32, UINT32, SINGLE, DOUBLE = 1, 2, 3, 4, 5, 6, 7, 9
INT64, UINT64, MATRIX, COMPRESSED, UTF8, UTF16, UTF32 = 12, 13, 14, 15, 16, 17, 18
"""Types of data elements: how numbers are stored."""

STORAGE = {
    INT8: "i1", UINT8: "u1", INT16: "i2", UINT16: "u2", INT32: "i4", UINT32: "u4",
    INT64: "i8", UINT64: "u8", SINGLE: "f4", DOUBLE: "f8",
}  # fmt: skip

CELL, STRUCT, OBJECT, CHAR, SPARSE, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 16, 17
CLASSES = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
NUMERIC = {code: np.dtype(name) for code, name in enumerate(CLASSES, start=6)}
"""Classes of arrays: what numbers mean to MATLAB, however they are stored."""

IS_COMPLEX, IS_LOGICAL = 0x0800, 0x0200
"""Flags of an array, in one word with its class."""

HEADER_SIZE = 128
VERSION, VERSION_73 = 0x0100, 0x0200


class Order(NamedTuple):
    """A byte order: as `struct` and NumPy mark it, two words, stored types, codecs of text."""

    mark: str
    words: struct.Struct
    storage: dict[int, np.dtype]
    utf16: str
    utf32: str


def _order(mark: str, codec: str) -> Order:
    storage = {code: np.dtype(mark + name) for code, name in STORAGE.items()}
    return Order(mark, struct.Struct(mark + "II"), storage, f"utf-16-{codec}", f"utf-32-{codec}")


LITTLE, BIG = _order("<", "le"), _order(">", "be")
