"""Writes MATLAB 7.3 files, which are HDF5 with MATLAB's attributes, uncompressed.

Elements of cells and of struct arrays stand in the group `#refs#`, and references in their place.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matconvnet.files import write_atomic
from matconvnet.interop.mat.forms import MAX_DEPTH, check_name, to_form
from matconvnet.interop.mat.protocol73 import NUMBERS, blocks, whole_chunks
from matconvnet.values import Cell, Sparse, Struct, StructArray

USERBLOCK = 512
TEXT = b"MATLAB 7.3 MAT-file, Platform: Python, Created by: matconvnet HDF5 schema 1.00 ."
HEADER = TEXT.ljust(116) + bytes(8) + b"\x00\x02IM"

REFS = "#refs#"
CLASSES = {dtype: name for name, dtype in NUMBERS.items() if name != "logical"} | {
    "b1": "logical", "c8": "single", "c16": "double",
}  # fmt: skip
"""MATLAB's classes of NumPy's types."""

LOGICAL, UTF16 = 1, 2
"""Values of MATLAB_int_decode."""

LONGEST_FIELDS = 4096
"""Characters of the names of fields from which on they do not fit into an attribute."""


def write73(path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Write a 7.3 file; an older file stays whole until the new one is.

    Args:
        path: the file.
        variables: by name, in the forms that `matconvnet.values` lists.

    Raises: TypeError, ValueError, naming the place of a value that the file cannot hold;
        ImportError, if h5py is not installed; OSError.
    """
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise ImportError(f"files of MATLAB 7.3 want h5py ({error}); pip install h5py") from error
    write_atomic(path, lambda temporary: _write(temporary, variables))


def _write(path: Path, variables: Mapping[str, Any]) -> None:
    import h5py

    with h5py.File(path, "w", userblock_size=USERBLOCK, libver=("earliest", "v108")) as file:
        writer = _Writer(file)
        for name, value in variables.items():
            check_name(name, "")
            writer.value(file, name, value, name, 0)
    with path.open("r+b") as raw:
        raw.write(HEADER)


class _Writer:
    """Writes values into one file; each method returns the object of the value."""

    def __init__(self, file: Any):
        self.file = file
        self.names = map(str, itertools.count())

    def value(self, group: Any, name: str, value: Any, place: str, depth: int) -> Any:
        """Write any value; `place` and `depth` tell where it stands among the values."""
        if depth > MAX_DEPTH:
            raise ValueError(f"{place} is nested {depth} deep; wanted {MAX_DEPTH} at most")
        form = to_form(value, place)
        if isinstance(form, Struct) or (isinstance(form, StructArray) and form.shape == (1, 1)):
            return self.struct(group, name, form, place, depth)
        if isinstance(form, StructArray):
            return self.struct_array(group, name, form, place, depth)
        if isinstance(form, Cell):
            return self.cell(group, name, form, place, depth)
        if isinstance(form, Sparse):
            return self.sparse(group, name, form)
        if isinstance(form, str):
            return self.text(group, name, form)
        return self.array(group, name, form, place)

    def array(self, group: Any, name: str, array: np.ndarray, place: str) -> Any:
        """Numbers, truth values, or characters one by one."""
        if array.dtype.kind == "U":
            codes = np.asarray(array, "=U1", order="F").view(np.uint32)
            if (codes > 0xFFFF).any():
                raise ValueError(
                    f"{place} has characters above U+FFFF; wanted such text as strings"
                )
            return self.chars(group, name, codes.astype(np.uint16))
        kind = CLASSES[array.dtype.str[1:]]
        written = self.data(group, name, array, kind) if array.size else (
            self.size(group, name, array.shape, kind)
        )  # fmt: skip
        if kind == "logical":
            written.attrs["MATLAB_int_decode"] = np.int32(LOGICAL)
        return written

    def data(self, group: Any, name: str, array: np.ndarray, kind: str | None) -> Any:
        """A data set of numbers: bytes in MATLAB's order, which is HDF5's of the reversed shape."""
        number = array.dtype.newbyteorder("<")
        if array.dtype.kind == "b":
            array, number = array.view(np.uint8), np.dtype("u1")
        if array.dtype.kind == "c":
            real = np.dtype(f"f{array.itemsize // 2}")
            parts = np.dtype([("real", real), ("imag", real)])
            array = array.astype(array.dtype.newbyteorder("="), copy=False).view(parts)
            number = parts.newbyteorder("<")
        rows = array.T
        written = group.create_dataset(name, rows.shape, number)
        for start, size in blocks(rows.shape, whole_chunks(rows.shape, None, array.itemsize)):
            place = tuple(slice(i, i + n) for i, n in zip(start, size, strict=True))
            written[place] = rows[place]
        if kind:
            written.attrs["MATLAB_class"] = np.bytes_(kind)
        return written

    def size(self, group: Any, name: str, shape: Sequence[int], kind: str) -> Any:
        """What stands for a value without elements: its size."""
        written = group.create_dataset(name, data=np.array(shape, "<u8"))
        written.attrs["MATLAB_class"] = np.bytes_(kind)
        written.attrs["MATLAB_empty"] = np.uint8(1)
        return written

    def text(self, group: Any, name: str, text: str) -> Any:
        """A row of characters."""
        units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")
        return self.chars(group, name, units.reshape(1, -1) if text else units.reshape(0, 0))

    def chars(self, group: Any, name: str, units: np.ndarray) -> Any:
        """An array of UTF-16 units."""
        written = self.data(group, name, units, "char") if units.size else (
            self.size(group, name, units.shape, "char")
        )  # fmt: skip
        written.attrs["MATLAB_int_decode"] = np.int32(UTF16)
        return written

    def cell(self, group: Any, name: str, cell: Cell, place: str, depth: int) -> Any:
        """A cell array."""
        if not cell:
            return self.size(group, name, cell.shape, "cell")
        places = [f"{place}[{i}]" for i in range(len(cell))]
        written = self.references(group, name, cell.shape, cell, places, depth)
        written.attrs["MATLAB_class"] = np.bytes_("cell")
        return written

    def references(
        self,
        group: Any,
        name: str,
        shape: Sequence[int],
        values: Sequence[Any],
        places: Sequence[str],
        depth: int,
    ) -> Any:
        """References to values, which are written too."""
        import h5py

        refs = np.empty(len(values), h5py.ref_dtype)
        home = self.file.require_group(REFS)
        for i, (value, place) in enumerate(zip(values, places, strict=True)):
            refs[i] = self.value(home, next(self.names), value, place, depth + 1).ref
        return group.create_dataset(name, data=refs.reshape(tuple(reversed(shape))))

    def struct(
        self, group: Any, name: str, form: Struct | StructArray, place: str, depth: int
    ) -> Any:
        """A struct of 1 x 1: a group of its fields."""
        struct = form if isinstance(form, Struct) else form[0]
        if not struct:
            return self.size(group, name, (1, 1), "struct")
        written = group.create_group(name)
        for field, value in struct.items():
            self.value(written, field, value, f"{place}.{field}", depth + 1)
        return self.with_fields(written, tuple(struct))

    def struct_array(self, group: Any, name: str, form: StructArray, place: str, depth: int) -> Any:
        """A struct array: a group that holds, for each field, references to its values."""
        if not form or not form.fields:
            return self.with_fields(self.size(group, name, form.shape, "struct"), form.fields)
        written = group.create_group(name)
        for field in form.fields:
            values = [item[field] for item in form]
            places = [f"{place}[{i}].{field}" for i in range(len(form))]
            self.references(written, field, form.shape, values, places, depth)
        return self.with_fields(written, form.fields)

    def with_fields(self, written: Any, fields: Sequence[str]) -> Any:
        """Add MATLAB's attributes of a struct."""
        import h5py

        written.attrs["MATLAB_class"] = np.bytes_("struct")
        if not fields:
            return written
        kind = h5py.vlen_dtype(np.dtype("S1"))
        names = np.empty(len(fields), kind)
        for i, field in enumerate(fields):
            names[i] = np.frombuffer(field.encode(), "S1")
        if sum(map(len, fields)) < LONGEST_FIELDS:
            written.attrs.create("MATLAB_fields", names, dtype=kind)
        else:
            home = self.file.require_group(REFS)
            listed = home.create_dataset(next(self.names), (len(fields),), kind)
            listed.id.write(h5py.h5s.ALL, h5py.h5s.ALL, names)
            written.attrs.create("MATLAB_fields", listed.ref, dtype=h5py.ref_dtype)
        return written

    def sparse(self, group: Any, name: str, form: Sparse) -> Any:
        """A sparse matrix: a group of the starts of its columns, its rows and its data."""
        h, w = form.shape
        written = group.create_group(name)
        self.data(written, "jc", np.searchsorted(form.columns, np.arange(w + 1)).astype("u8"), None)
        if len(form.data):
            self.data(written, "ir", form.rows.astype("u8"), None)
            self.data(written, "data", form.data, None)
        is_logical = form.data.dtype == bool
        written.attrs["MATLAB_class"] = np.bytes_("logical" if is_logical else "double")
        written.attrs["MATLAB_sparse"] = np.uint64(h)
        if is_logical:
            written.attrs["MATLAB_int_decode"] = np.int32(LOGICAL)
        return written
