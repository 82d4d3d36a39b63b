"""What must hold for the objects of a 7.3 file before libhdf5 may read their data.

Runs in the worker process only, see `worker73`.
"""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from h5py import h5a, h5d, h5l, h5o, h5s, h5t, h5z  # pyright: ignore

from matconvnet.interop.mat.protocol73 import BLOCK, NUMBERS

MAX_ATTRIBUTE = 1 << 16
"""Bytes of one attribute."""

MAX_TEXT = 256
"""Bytes of an attribute that is a text."""

MAX_ELEMENTS = 1 << 48
"""Elements of an array, as in MATLAB."""

MAX_INFLATION = 1032
"""Bytes that deflate can make of one."""

FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}
LINKS = {h5l.TYPE_SOFT: "soft", h5l.TYPE_EXTERNAL: "external"}

DAMAGED = "is the file damaged?"
FOREIGN = "is it HDF5 of another program than MATLAB?"
HOSTILE = "is the file damaged, or made to do harm?"


class RefusalError(Exception):
    """What is wrong with a file: what was found, what was wanted, and the likely cause."""


def refuse(found: str, wanted: str, cause: str) -> NoReturn:
    """Give up on the file."""
    raise RefusalError(found, wanted, cause)


class Budget:
    """Bytes that values may take, and bytes of the file that data sets may hold."""

    def __init__(self, budget: int, file_size: int):
        self.budget = self.left = budget
        self.file_size = self.unused = file_size
        self.counted: set[int] = set()  # addresses of the data sets taken from `unused`

    def charge(self, count: int) -> None:
        """Take bytes for values."""
        self.left -= count
        if self.left < 0:
            refuse(
                f"values of {self.budget - self.left} bytes or more",
                f"at most the budget of {self.budget} bytes",
                "does it need a larger `budget`, or was it made to do harm?",
            )

    def occupy(self, dataset: Any, stored: int) -> None:
        """Take bytes of the file for a data set, once."""
        address = h5o.get_info(dataset).addr
        if address not in self.counted:
            self.counted.add(address)
            self.unused -= stored
        if self.unused < 0:
            refuse("data sets larger than the file", f"at most {self.file_size} bytes", HOSTILE)


def check_storage(dataset: Any, count: int, budget: Budget) -> Sequence[int] | None:
    """Make sure that `count` bytes of data can come from the file; returns the size of chunks."""
    made = dataset.get_create_plist()
    layout = made.get_layout()
    if layout not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        refuse("a virtual data set", "data in this file", HOSTILE)
    if made.get_external_count():
        refuse("data in another file", "data in this file", HOSTILE)
    if odd := {made.get_filter(i)[0] for i in range(made.get_nfilters())} - FILTERS:
        refuse(f"the HDF5 filter {min(odd)}", "deflate, shuffle or fletcher32", HOSTILE)
    stored = dataset.get_storage_size()
    budget.occupy(dataset, stored)
    if layout != h5d.CHUNKED:
        if stored != count:
            refuse(f"{stored} bytes of data", f"the {count} bytes of its shape", DAMAGED)
        return None
    if stored * MAX_INFLATION < count:
        refuse(f"{stored} bytes of data", f"enough for the {count} bytes of its shape", HOSTILE)
    chunk = made.get_chunk()
    if math.prod(chunk) * dataset.get_type().get_size() > max(2 * count, BLOCK):
        refuse(f"chunks of {chunk}", f"chunks no larger than the data, {count} bytes", HOSTILE)
    return chunk


def offset_of(dataset: Any) -> int | None:
    """Where the data of a data set begin in the file, if they stand there as they are in memory."""
    kind = dataset.get_type()
    is_contiguous = dataset.get_create_plist().get_layout() == h5d.CONTIGUOUS
    return (
        dataset.get_offset()
        if is_contiguous and h5t.py_create(kind.dtype.newbyteorder("=")).equal(kind)
        else None
    )


def shape_of(dataset: Any) -> tuple[int, ...]:
    """The shape of a data set, in the order of HDF5."""
    space = dataset.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        refuse("a data set without extent", "an array", FOREIGN)
    shape = tuple(int(n) for n in space.get_simple_extent_dims())
    check_size(shape)
    return shape


def check_size(size: Sequence[int]) -> None:
    """Refuse sizes that no array in memory can have, even where there is a zero among them."""
    if math.prod(max(1, n) for n in size) >= MAX_ELEMENTS:
        refuse(f"an array of size {list(size)}", f"fewer than {MAX_ELEMENTS} elements", HOSTILE)


def number_type(dataset: Any) -> tuple[str, bool]:
    """The NumPy name of the numbers in a data set, and whether they are complex."""
    kind = dataset.get_type()
    if kind.committed():
        refuse("a data type with a name of its own", "a plain type", FOREIGN)
    is_complex = isinstance(kind, h5t.TypeCompoundID)
    if is_complex:
        names = [kind.get_member_name(i) for i in range(kind.get_nmembers())]
        if names != [b"real", b"imag"]:
            refuse(f"a compound of {names}", "numbers, or real and imag", FOREIGN)
        whole, kind = kind, kind.get_member_type(0)
        if not kind.equal(whole.get_member_type(1)) or whole.get_size() != 2 * kind.get_size():
            refuse("real and imaginary parts that differ", "two of one type", DAMAGED)
    if isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID):
        name = kind.dtype.str[1:]
        if name in NUMBERS.values() and h5t.py_create(kind.dtype).equal(kind):
            return name, is_complex
    refuse(f"data of the HDF5 type {type(kind).__name__}", "numbers", FOREIGN)


def attribute(found: Any, name: str) -> Any:
    """An attribute of bounded size; None, if there is none."""
    code = name.encode()
    if not h5a.exists(found, code):
        return None
    opened = h5a.open(found, code)
    if opened.get_storage_size() > MAX_ATTRIBUTE:
        refuse(f"{name} of {opened.get_storage_size()} bytes", f"at most {MAX_ATTRIBUTE}", HOSTILE)
    return opened


def text(found: Any, name: str) -> str | None:
    """The text of an attribute; None, if there is none."""
    opened = attribute(found, name)
    if opened is None:
        return None
    kind = opened.get_type()
    if not isinstance(kind, h5t.TypeStringID) or kind.is_variable_str():
        refuse(f"{name} that is no text of fixed length", "such a text", FOREIGN)
    if kind.get_size() > MAX_TEXT:
        refuse(f"{name} of {kind.get_size()} bytes", f"at most {MAX_TEXT}", HOSTILE)
    data = np.empty(opened.shape, f"S{kind.get_size()}")
    opened.read(data)
    return data.item().decode()


def integer(found: Any, name: str) -> int | None:
    """The integer in an attribute; None, if there is none."""
    opened = attribute(found, name)
    if opened is None:
        return None
    if not isinstance(opened.get_type(), h5t.TypeIntegerID):
        refuse(f"{name} that is no integer", "an integer", DAMAGED)
    data = np.empty(opened.shape, opened.dtype)
    opened.read(data)
    return int(data.item())
