"""MATLAB values in Python: what a `.mat` file holds, without loss of class, shape or order.

| MATLAB                     | Python                                                        |
|----------------------------|---------------------------------------------------------------|
| numeric array              | `ndarray` of that class, two axes or more, Fortran order      |
| 1 x 1 double               | `float`; complex: `complex`                                   |
| 1 x 1 of another class     | NumPy scalar, such as `numpy.float32(1)`                      |
| logical                    | `ndarray` of bool; 1 x 1: `bool`                              |
| char, one row or empty     | `str`                                                         |
| char, several rows         | `ndarray` of "U1"                                             |
| cell                       | `Cell`, a list                                                |
| struct, 1 x 1              | `Struct`                                                      |
| struct array               | `StructArray`                                                 |
| sparse                     | `Sparse`                                                      |
| function handle, object    | `Opaque`                                                      |

Written, a list or tuple of numbers is a row of doubles, any other one a cell of one row, an empty
one and None are `[]`, dicts are structs, tensors are arrays, and a vector of one axis is a row.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np


class Struct(dict[str, Any]):
    """A dictionary whose entries are attributes too: `net.layers[0].weights`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no field {name!r}; there are {list(self)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]


class Cell(list[Any]):
    """A cell array: its elements column by column, and its shape (one row, if none is given)."""

    def __init__(self, items: Iterable[Any] = (), shape: tuple[int, ...] | None = None):
        super().__init__(items)
        self.shape = (min(1, len(self)), len(self)) if shape is None else shape


class StructArray(list[Struct]):
    """A struct array: its elements column by column, all with the same fields, and its shape."""

    def __init__(
        self,
        items: Iterable[Struct] = (),
        shape: tuple[int, ...] | None = None,
        fields: Iterable[str] = (),
    ):
        super().__init__(items)
        self.shape = (1, len(self)) if shape is None else shape
        self.fields = tuple(self[0] if len(self) else fields)


class Sparse(NamedTuple):
    """A sparse matrix of H x W: `data[i]` stands in row `rows[i]`, column `columns[i]`, from 0."""

    shape: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    data: np.ndarray


class Opaque(NamedTuple):
    """A value that only MATLAB can use: an object or a function handle.

    kind: "object", "opaque" or "function". class_name: of the object; of a function its text, where
    the file tells it. content: what the file holds of it, in the forms above.
    """

    kind: str
    class_name: str
    content: Any
