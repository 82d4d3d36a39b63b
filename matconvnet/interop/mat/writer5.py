"""Writing version 5 of the format: MATLAB's version 6 and, compressed with zlib, version 7."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matconvnet.interop.mat import elements as e
from matconvnet.interop.mat.forms import MAX_DEPTH, Form, check_name, to_form
from matconvnet.values import Cell, Sparse, StructArray

LIMIT = (1 << 31) - 1
"""Bytes of a variable in this version, at most."""

LEVEL = 1
"""Of zlib: weights become no smaller by higher ones."""

SAMPLE = 1 << 20
LOSS = 1.05
"""How much longer a file may become for the sake of speed: weights are noise, in which zlib looks
for repetitions in vain, and takes three times as long."""

HEADER = b"MATLAB 5.0 MAT-file, written by matconvnet".ljust(116) + bytes(8)
SMALL = 4096
"""Bytes of an array that are copied rather than kept as an array until they are written."""

CHUNK = 1 << 18

CLASSES = {dtype.name: code for code, dtype in e.NUMERIC.items()} | {"bool": 9}
STORED = {np.dtype(name).name: code for code, name in e.STORAGE.items()} | {"bool": e.UINT8}

Piece = bytes | np.ndarray


class TooLargeError(ValueError):
    """A variable that this version of the format cannot hold."""


def encode(variables: Mapping[str, Any]) -> list[list[Piece]]:
    """The elements of a file: for each variable its bytes, and arrays in place of long ones.

    Raises: TypeError, ValueError, naming the place of a value that a file cannot hold;
        TooLargeError, if a variable takes more than 2 GB.
    """
    elements = []
    for name, value in variables.items():
        check_name(name, "")
        encoder = Encoder()
        encoder.matrix(name, value, name, 0)
        elements.append(encoder.pieces)
    return elements


def write5(path: Path, elements: list[list[Piece]], *, compress: bool) -> None:
    """Write encoded variables to a file."""
    with path.open("wb") as file:
        file.write(HEADER + struct.pack("<HH", e.VERSION, 0x4D49))
        for pieces in elements:
            if not compress:
                file.writelines(_chunks(pieces))
                continue
            start = file.tell()
            file.write(bytes(8))
            strategy = _strategy(pieces)
            deflate = zlib.compressobj(LEVEL, strategy=strategy)
            for chunk in _chunks(pieces):
                file.write(deflate.compress(chunk))
            file.write(deflate.flush())
            end = file.tell()
            file.seek(start)
            file.write(struct.pack("<II", e.COMPRESSED, end - start - 8))
            file.seek(end)


def _strategy(pieces: list[Piece]) -> int:
    """The way of zlib that suits the first bytes of a variable: to look for repetitions or not."""
    sample = bytearray()
    for chunk in _chunks(pieces):
        sample += chunk
        if len(sample) > SAMPLE:
            break
    size = {}
    for strategy in (zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY):
        deflate = zlib.compressobj(LEVEL, strategy=strategy)
        size[strategy] = len(deflate.compress(sample)) + len(deflate.flush())
    is_noise = size[zlib.Z_RLE] <= LOSS * size[zlib.Z_DEFAULT_STRATEGY]
    return zlib.Z_RLE if is_noise else zlib.Z_DEFAULT_STRATEGY


def _chunks(pieces: list[Piece]) -> Iterator[bytes | memoryview]:
    """The bytes of all pieces in order, little-endian, arrays by columns, some at a time."""
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        elif piece.flags.f_contiguous and piece.dtype == piece.dtype.newbyteorder("<"):
            view = piece.T.reshape(-1).data.cast("B")
            for i in range(0, len(view), CHUNK):
                yield view[i : i + CHUNK]
        else:
            dtype = piece.dtype.newbyteorder("<")
            flags: Any = ["external_loop", "buffered"]
            step = CHUNK // dtype.itemsize
            parts: Any = np.nditer(piece, flags, order="F", op_dtypes=[dtype], buffersize=step)
            for part in parts:
                yield part.tobytes()


class Encoder:
    """Collects the bytes of one variable; each method returns how many it has added."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def add(self, data: bytes) -> int:
        """Add bytes."""
        self.pieces.append(data)
        return len(data)

    def element(self, kind: int, data: bytes) -> int:
        """Add a data element, with zeros up to a multiple of 8 bytes."""
        if 0 < len(data) <= 4:
            return self.add(struct.pack("<HH4s", kind, len(data), data))
        return self.add(struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8))

    def numbers(self, array: np.ndarray) -> int:
        """Add the data element of real numbers."""
        kind = STORED[array.dtype.name]
        if array.nbytes <= SMALL:
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            return self.element(kind, array.tobytes(order="F"))
        pad = -array.nbytes % 8
        self.pieces += [struct.pack("<II", kind, array.nbytes & 0xFFFFFFFF), array, bytes(pad)]
        return 8 + array.nbytes + pad

    def matrix(self, name: str, value: Any, place: str, depth: int) -> int:
        """Add an array with all that it holds."""
        if depth > MAX_DEPTH:
            raise ValueError(f"{place} is nested {depth} deep; wanted {MAX_DEPTH} at most")
        at = len(self.pieces)
        self.pieces.append(b"")
        size = self._body(name, to_form(value, place), place, depth)
        if size > LIMIT:
            raise TooLargeError(
                f"{place} takes {size} bytes; wanted {LIMIT} at most, or version='7.3'"
            )
        self.pieces[at] = struct.pack("<II", e.MATRIX, size)
        return size + 8

    def _body(self, name: str, form: Form, place: str, depth: int) -> int:
        if isinstance(form, np.ndarray):
            return self._array(name, form, place)
        if isinstance(form, str):
            units = np.frombuffer(form.encode("utf-16-le", "surrogatepass"), "<u2")
            shape = (1, len(units)) if form else (0, 0)
            return self._head(name, e.CHAR, 0, shape) + self._chars(units)
        if isinstance(form, Sparse):
            return self._sparse(name, form)
        if isinstance(form, Cell):
            size = self._head(name, e.CELL, 0, form.shape)
            for i, item in enumerate(form):
                size += self.matrix("", item, f"{place}[{i}]", depth + 1)
            return size
        is_array = isinstance(form, StructArray)
        fields = form.fields if is_array else tuple(form)
        size = self._head(name, e.STRUCT, 0, form.shape if is_array else (1, 1))
        length = max(map(len, fields), default=0) + 1
        size += self.element(e.INT32, struct.pack("<i", length))
        size += self.element(e.INT8, b"".join(f.encode().ljust(length, b"\0") for f in fields))
        for i, item in enumerate(form if is_array else [form]):
            where = f"{place}[{i}]" if is_array else place
            for field in fields:
                size += self.matrix("", item[field], f"{where}.{field}", depth + 1)
        return size

    def _head(
        self, name: str, kind: int, flags: int, shape: tuple[int, ...], allocated: int = 0
    ) -> int:
        if max(shape) > LIMIT:
            raise TooLargeError(f"an array of sizes {shape}; wanted {LIMIT} at most")
        return (
            self.element(e.UINT32, struct.pack("<II", kind | flags, allocated))
            + self.element(e.INT32, struct.pack(f"<{len(shape)}i", *shape))
            + self.element(e.INT8, name.encode())
        )

    def _array(self, name: str, array: np.ndarray, place: str) -> int:
        if array.dtype == "U1":
            codes = array.astype(array.dtype.newbyteorder("="), order="F", copy=True).T.reshape(-1)
            units = codes.view(np.uint32)
            if (units > 0xFFFF).any():
                raise ValueError(
                    f"{place} has characters above U+FFFF; wanted such text as strings"
                )
            return self._head(name, e.CHAR, 0, array.shape) + self._chars(units.astype("<u2"))
        if np.iscomplexobj(array):
            kind = CLASSES[np.real(array).dtype.name]
            head = self._head(name, kind, e.IS_COMPLEX, array.shape)
            return head + self.numbers(np.real(array)) + self.numbers(np.imag(array))
        flags = e.IS_LOGICAL if array.dtype == bool else 0
        return self._head(name, CLASSES[array.dtype.name], flags, array.shape) + self.numbers(array)

    def _chars(self, units: np.ndarray) -> int:
        """UTF-16 units; as bytes, where all are ASCII, which is what MATLAB does."""
        if (units < 128).all():
            return self.element(e.UTF8, units.astype(np.uint8).tobytes())
        return self.element(e.UTF16, units.tobytes())

    def _sparse(self, name: str, value: Sparse) -> int:
        h, w = value.shape
        kind, count = value.data.dtype.kind, len(value.data)
        flags = e.SPARSE | {"b": e.IS_LOGICAL, "c": e.IS_COMPLEX}.get(kind, 0)
        starts = np.searchsorted(value.columns, np.arange(w + 1)).astype(np.int32)
        size = self._head(name, flags, 0, (h, w), max(count, 1))
        size += self.numbers(value.rows.astype(np.int32)) + self.numbers(starts)
        size += self.numbers(np.real(value.data))
        return size + (self.numbers(np.imag(value.data)) if kind == "c" else 0)
