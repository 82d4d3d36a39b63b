"""Reading arrays of version 5: numbers, text, cells, structs, sparse matrices, objects."""

import math
from typing import Any

import numpy as np

from matconvnet.interop.mat import elements as e
from matconvnet.interop.mat.element_reader import VALUE, Budget, ElementReader
from matconvnet.interop.mat.forms import MAX_DEPTH, unpack
from matconvnet.interop.mat.stream import Stream
from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray

MAX_WITHOUT_FIELDS = 1 << 16
"""Elements of a struct array without fields, of which the file holds nothing but the number."""

PYTHON = {"bool", "float64", "complex128"}
"""Classes of which one number alone becomes one of Python's."""


class ArrayReader(ElementReader):
    """Reads arrays from a stream.

    `opaques` collects the objects that were read: what they point to stands elsewhere in the file.
    """

    def __init__(
        self, stream: Stream, order: e.Order, budget: Budget, opaques: list[Opaque]
    ) -> None:
        super().__init__(stream, order, budget)
        self.opaques = opaques

    def nested(self, end: int, depth: int) -> Any:
        """Read an array inside another one."""
        kind, size, _ = self.tag(end)
        if kind != e.MATRIX:
            self.stream.fail(f"an element of type {kind}", "an array, type 14")
        return self.matrix(self.stream.offset + size, depth + 1)[1]

    def matrix(self, end: int, depth: int) -> tuple[str, Any]:
        """Read an array behind its tag: its name and its value."""
        s = self.stream
        self.budget.spend(VALUE, s)
        if s.offset == end:
            return "", np.zeros((0, 0), order="F")
        if depth > MAX_DEPTH:
            s.fail(f"arrays nested {depth} deep", f"at most {MAX_DEPTH}")
        flags = self.data(end, (e.UINT32, e.INT32), "flags", 8)
        if len(flags) != 8:
            s.fail(f"flags of {len(flags)} bytes", "8")
        flag, _ = self.order.words.unpack(flags)
        kind = flag & 0xFF
        if kind == e.OPAQUE:
            name, value = self.opaque(end, depth)
        else:
            shape = self.shape(end)
            name = self.name(end)
            if kind in e.NUMERIC:
                value = self.numeric(flag, shape, end)
            elif kind in READERS:
                value = READERS[kind](self, shape, end, depth)
            elif kind == e.SPARSE:
                value = self.sparse(flag, shape, end)
            else:
                s.fail(f"an array of class {kind}", "a class from 1 to 17")
        if end - s.offset > 7:
            s.fail(f"{end - s.offset} bytes more", "the end of the array")
        self.move(end)
        return name, value

    def numeric(self, flag: int, shape: tuple[int, ...], end: int) -> Any:
        """Read numbers or truth values; one alone becomes a scalar."""
        dtype = e.NUMERIC[flag & 0xFF]
        is_complex = flag & e.IS_COMPLEX
        if is_complex:
            dtype = np.dtype(np.complex64 if dtype == np.float32 else np.complex128)
        elif flag & e.IS_LOGICAL:
            dtype = np.dtype(bool)
        count = self.count(shape, 1, end)
        self.budget.spend(count * dtype.itemsize, self.stream)
        array = np.empty(shape, dtype, order="F")
        flat = array.T.reshape(-1)
        if is_complex:
            self.numbers(flat.real, end)
            self.numbers(flat.imag, end)
        else:
            self.numbers(flat, end)
        if shape != (1, 1):
            return array
        return flat[0].item() if dtype.name in PYTHON else flat[0]

    def chars(self, shape: tuple[int, ...], end: int, depth: int) -> str | np.ndarray:
        """Read text: a string, if it is one row or empty."""
        s = self.stream
        count = self.count(shape, 1, end)
        kind, size, after = self.tag(end)
        width = {e.INT8: 1, e.UINT8: 1, e.UINT16: 2, e.UTF16: 2, e.UTF32: 4}.get(kind)
        is_utf8 = kind == e.UTF8 and count <= size <= 4 * count
        if not is_utf8 and (width is None or size != width * count):
            s.fail(f"{size} bytes of type {kind}", f"{count} characters")
        self.budget.spend(8 * size, s)  # what decodes them included
        data = s.take(size)
        self.move(after)
        is_row = len(shape) == 2 and shape[0] == 1
        if width is None:
            text = self.utf8(data, count)
        elif width == 2 and not is_row:  # in columns the halves of a pair do not stand together
            units = np.frombuffer(data, f"{self.order.mark}u2").astype("<u4")
            text = self.text(units.tobytes(), "utf-32-le")
        else:
            text = self.text(data, {1: "latin-1", 2: self.order.utf16, 4: self.order.utf32}[width])
        if is_row or count == 0:
            return text
        if len(text) != count:
            s.fail(f"{len(text)} characters", f"{count}")
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        return codes.astype("u4").view("U1").reshape(shape, order="F").copy(order="F")

    def utf8(self, data: bytes | bytearray, count: int) -> str:
        """Decode text whose length writers count in characters, in units of UTF-16, or in bytes."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            if len(data) != count:
                self.stream.fail(f"text that is no UTF-8: {error.reason}", "UTF-8")
            return data.decode("latin-1")
        if count not in (len(text), len(text.encode("utf-16-le")) // 2, len(data)):
            self.stream.fail(f"{len(text)} characters", f"{count}")
        return text

    def sparse(self, flag: int, shape: tuple[int, ...], end: int) -> Sparse:
        """Read a sparse matrix, stored by columns."""
        if len(shape) != 2:
            self.stream.fail(f"a sparse array of sizes {shape}", "two sizes")
        h, w = shape
        rows, starts = self.indices(end), self.indices(end)
        counts = np.diff(starts)
        count = int(starts[-1]) if len(starts) else -1
        if len(starts) != w + 1 or starts[0] or (counts < 0).any() or count > len(rows):
            self.stream.fail("columns that overlap or are missing", f"where {w} columns begin")
        allocated, rows = len(rows), rows[:count].copy()
        if ((rows < 0) | (rows >= h)).any():
            self.stream.fail(f"rows up to {rows.max(initial=0)}", f"0 to {h - 1}")
        self.budget.spend(8 * count, self.stream)
        columns = np.repeat(np.arange(w), counts)
        if ((np.diff(rows) <= 0) & (np.diff(columns) == 0)).any():
            self.stream.fail("rows that do not grow within a column", "rows in order")
        is_complex = flag & e.IS_COMPLEX
        dtype = bool if flag & e.IS_LOGICAL else np.complex128 if is_complex else np.float64
        data = self.sparse_numbers(count, allocated, end).astype(dtype)
        if is_complex:
            data.imag = self.sparse_numbers(count, allocated, end)
        return Sparse((h, w), rows, columns, data)

    def cell(self, shape: tuple[int, ...], end: int, depth: int) -> Cell:
        """Read a cell array."""
        count = self.count(shape, 8, end)
        return Cell([self.nested(end, depth) for _ in range(count)], shape)

    def struct(self, shape: tuple[int, ...], end: int, depth: int) -> Any:
        """Read a struct or a struct array."""
        names = self.field_names(end)
        if not names and math.prod(shape) > MAX_WITHOUT_FIELDS:
            self.stream.fail(f"{shape} structs without a field", f"{MAX_WITHOUT_FIELDS} at most")
        count = self.count(shape, 8 * len(names), end)
        self.budget.spend(VALUE * count, self.stream)
        items = [Struct([(n, self.nested(end, depth)) for n in names]) for _ in range(count)]
        return unpack(items[0]) if shape == (1, 1) else StructArray(items, shape, names)

    def object(self, shape: tuple[int, ...], end: int, depth: int) -> Opaque:
        """Read an object of an old class: its fields, like those of a struct."""
        class_name = self.name(end)
        return Opaque("object", class_name, self.struct(shape, end, depth))

    def function(self, shape: tuple[int, ...], end: int, depth: int) -> Opaque:
        """Read a function handle, which is a struct that holds its text."""
        content = self.nested(end, depth)
        text = content.get("function_handle") if isinstance(content, Struct) else None
        text = text.get("function") if isinstance(text, Struct) else None
        text = text.removeprefix("sf%0") if isinstance(text, str) else ""  # MATLAB's, before 2010
        return Opaque("function", text, content)

    def opaque(self, end: int, depth: int) -> tuple[str, Opaque]:
        """Read an object of a new class: a number that points into the file's subsystem."""
        name, system, class_name = self.name(end), self.name(end), self.name(end)
        content = Struct(system=system, reference=self.nested(end, depth))
        value = Opaque("opaque", class_name, content)
        self.opaques.append(value)
        return name, value


READERS = {
    e.CELL: ArrayReader.cell,
    e.STRUCT: ArrayReader.struct,
    e.OBJECT: ArrayReader.object,
    e.CHAR: ArrayReader.chars,
    e.FUNCTION: ArrayReader.function,
}
