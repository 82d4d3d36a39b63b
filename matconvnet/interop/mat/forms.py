"""What both writers write: any Python value in the form of the MATLAB value that it becomes.

MATLAB has no place for an `Opaque`, so it is written as a struct with three marked fields, which
any program can read and which our readers turn into the `Opaque` again.
"""

import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray

MAX_DEPTH = 100
"""How deeply structs and cells may be nested in a file."""

CLASSES = (
    "float64", "float32", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64", "complex128", "complex64",
)  # fmt: skip
"""NumPy's names of MATLAB's numeric classes and of logical."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
NUMBERS = (int, float, complex, np.number, np.bool_)
OPAQUE = ("matconvnetOpaque", "className", "content")

Form = np.ndarray | str | Cell | Struct | StructArray | Sparse


def to_form(value: Any, place: str) -> Form:
    """The MATLAB value that `value` becomes; the elements of cells and structs stay as they are.

    Args:
        value: as `matconvnet.values` lists.
        place: where it stands, such as "net.layers[3].pad", for the error message.

    Returns: an array of two axes or more, of one of CLASSES or "U1"; a string; a Cell, Struct,
        StructArray or Sparse whose sizes, and whose fields' names, have been checked.
    Raises: TypeError, ValueError, naming the place.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Opaque):
        return Struct(zip(OPAQUE, value, strict=True))
    if isinstance(value, Sparse):
        return _sparse(value, place)
    if isinstance(value, StructArray):
        return _struct_array(value, place)
    if isinstance(value, Mapping):
        for name in value:
            check_name(name, place)
        return Struct(value)
    if isinstance(value, Cell):
        _check_shape(value, place)
        return value
    if isinstance(value, (list, tuple)) and not _are_numbers(value):
        return Cell(value)
    return _array(value, place)


def unpack(struct: Struct) -> Struct | Opaque:
    """The Opaque that was written as this struct; the struct itself, if it is none."""
    if tuple(struct) != OPAQUE:
        return struct
    kind, class_name, _ = struct.values()
    is_ours = kind in ("object", "opaque", "function") if isinstance(kind, str) else False
    return Opaque(*struct.values()) if is_ours and isinstance(class_name, str) else struct


def check_name(name: Any, place: str) -> None:
    """Raise ValueError unless `name` can name a variable or a field of a struct in MATLAB."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"{place or 'the file'} has the field {name!r}; wanted a letter and at most 62 more "
            "letters, digits and underscores"
        )


def _are_numbers(values: list[Any] | tuple[Any, ...]) -> bool:
    return all(isinstance(v, NUMBERS) for v in values)


def _array(value: Any, place: str) -> np.ndarray:
    """Numbers, lists of numbers, arrays and tensors as an array of two axes or more."""
    torch = sys.modules.get("torch")  # whoever has a tensor has loaded it
    if torch is not None and isinstance(value, torch.Tensor):
        from matconvnet.layout import to_numpy

        array = to_numpy(value.resolve_conj().resolve_neg())
    elif value is None or (isinstance(value, (list, tuple)) and not value):
        array = np.zeros((0, 0))
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
    elif isinstance(value, NUMBERS):
        array = _doubles([value], place)
    elif isinstance(value, (list, tuple)):
        array = _doubles(value, place)
    else:
        raise TypeError(
            f"{place} is {type(value).__name__}; wanted numbers, strings, arrays, lists and dicts"
        )
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype.name not in CLASSES and array.dtype != "U1":
        raise TypeError(f"{place} is an array of {array.dtype}; wanted one of {list(CLASSES)}")
    return array.reshape(1, -1) if array.ndim < 2 else array


def _doubles(values: list[Any] | tuple[Any, ...], place: str) -> np.ndarray:
    """Python's numbers as doubles; truth values, if all are such, as logical."""
    if all(isinstance(v, (bool, np.bool_)) for v in values):
        return np.array(values, dtype=bool)
    is_complex = any(isinstance(v, (complex, np.complexfloating)) for v in values)
    for v in values:
        if isinstance(v, (int, np.integer)) and not _is_exact(int(v)):
            raise ValueError(f"{place} is {v}; wanted an integer that a double can hold exactly")
    return np.array(values, dtype=np.complex128 if is_complex else np.float64)


def _is_exact(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _check_shape(value: Cell | StructArray, place: str) -> None:
    count = 1
    for size in value.shape:
        count *= size
    if len(value.shape) < 2 or min(value.shape) < 0 or count != len(value):
        raise ValueError(
            f"{place} has {len(value)} elements and shape {value.shape}; wanted two sizes or more "
            "whose product is the number of elements"
        )


def _struct_array(value: StructArray, place: str) -> StructArray:
    _check_shape(value, place)
    for name in value.fields:
        check_name(name, place)
    for i, item in enumerate(value):
        if set(item) != set(value.fields):
            raise ValueError(
                f"{place}[{i}] has the fields {list(item)}; wanted those of the struct array, "
                f"{list(value.fields)}"
            )
    return value


def _sparse(value: Sparse, place: str) -> Sparse:
    rows, columns, data = (np.asarray(v).ravel() for v in value[1:])
    h, w = value.shape
    is_inside = len(rows) == len(columns) == len(data) and (
        not len(rows)
        or (rows.min() >= 0 and rows.max() < h and 0 <= columns.min() < w > columns.max())
    )
    if not is_inside or data.dtype.name not in ("bool", "float64", "complex128"):
        raise ValueError(
            f"{place} is a sparse {h} x {w} matrix with {len(rows)} rows, {len(columns)} columns "
            f"and {len(data)} data of {data.dtype}; wanted as many of each, rows and columns "
            "inside the matrix, and data of bool, float64 or complex128"
        )
    order = np.lexsort((rows, columns))
    rows, columns, data = rows[order], columns[order], data[order]
    if ((rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])).any():
        raise ValueError(f"{place} is a sparse matrix that names an element twice; wanted it once")
    return Sparse((h, w), rows, columns, data)
