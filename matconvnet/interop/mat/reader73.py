"""Reads MATLAB 7.3 files, which are HDF5, into the forms of `matconvnet.values`.

libhdf5 runs in another process (`worker73`) behind guards. It sends a tree that describes the
values, and then the data of all arrays, which are received in the memory they will stay in.
"""

import math
import os
from typing import Any, BinaryIO, NoReturn

import numpy as np

from matconvnet.errors import MatFileError
from matconvnet.interop.mat.forms import unpack
from matconvnet.interop.mat.protocol73 import NUMBERS, VALUE, blocks
from matconvnet.interop.mat.server73 import Answer, WorkerError, server
from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray

SECONDS = 60.0
"""Time to read a file of no size."""

BYTES_PER_SECOND = 5e6
"""The slowest reading that is waited for."""

USERBLOCK = 512
MARK = b"MATLAB 7.3 MAT-file"
HDF5 = b"\x89HDF\r\n\x1a\n"
MAX_REPORT = 1 << 16

Node = dict[str, Any]


def read73(path: str | os.PathLike[str], budget: int) -> Struct:
    """Read all variables of a 7.3 file.

    Args:
        path: the file.
        budget: bytes that its values may take in memory.

    Returns: the variables by name, in the forms that `matconvnet.values` lists.
    Raises: MatFileError, naming the place in the file, what is there, what was wanted and the
        likely cause; ImportError, if h5py is not installed; OSError.
    """
    name = os.fsdecode(path)
    try:
        with open(name, "rb", buffering=0) as file:
            size = _check_header(name, file)
            request = {"path": os.path.abspath(name), "budget": budget}
            with server.ask(request, _seconds(size)) as answer:
                return _Reading(name, file, budget, answer).variables()
    except WorkerError as error:
        cause = "is the file damaged, or made to do harm?"
        _fail(name, "/", f"what its reader did not survive: {error}", "HDF5", cause)
    except MemoryError:
        raise MatFileError(f"{name}: the memory does not suffice for its values") from None


def _seconds(count: int) -> float:
    return SECONDS + count / BYTES_PER_SECOND


def _fail(name: str, place: str, found: str, wanted: str, cause: str) -> NoReturn:
    raise MatFileError(f"{name}: at {place}: {found}; wanted {wanted} ({cause})")


def _check_header(name: str, file: BinaryIO) -> int:
    """Make sure that a file has MATLAB's header and then HDF5's; returns its size."""
    head = file.read(USERBLOCK + len(HDF5))
    if head.startswith(HDF5):
        cause = "is it HDF5 of another program than MATLAB?"
        _fail(name, "byte 0", "HDF5 without MATLAB's header", repr(MARK), cause)
    if not head.startswith(MARK):
        _fail(name, "byte 0", repr(head[:20]), repr(MARK), "is it another kind of file?")
    if head[USERBLOCK:] != HDF5:
        found = repr(head[USERBLOCK:])
        _fail(name, f"byte {USERBLOCK}", found, repr(HDF5), "was the download cut short?")
    return os.fstat(file.fileno()).st_size


class _Reading:
    """Makes values of one answer of the worker."""

    def __init__(self, name: str, file: BinaryIO, budget: int, answer: Answer):
        self.name = name
        self.file = file
        self.left = budget
        self.answer = answer

    def variables(self) -> Struct:
        try:
            content = self.answer.content(self.frame(b"T", self.left))
            self.answer.allow(_seconds(min(content["bytes"], self.left)))
            variables = self.struct(content["tree"])
            self.answer.content(self.frame(b"Z", MAX_REPORT))
        except MatFileError:
            raise
        except (LookupError, TypeError, ValueError, RecursionError, OverflowError) as error:
            raise WorkerError(f"it sent what makes no sense, {error!r}") from error
        self.answer.is_whole = True
        return variables

    def frame(self, kind: bytes, most: int) -> int:
        """The length of the next frame of this kind; raises the error that may come in place."""
        got, length = self.answer.frame(kind, max(most, MAX_REPORT))
        if got == kind:
            return length
        report = self.answer.content(length)
        self.answer.is_whole = True
        if "missing" in report:
            raise ImportError(
                f"{self.name} is a file of MATLAB 7.3, which wants h5py ({report['missing']}); "
                "pip install h5py"
            )
        _fail(self.name, report["place"], report["found"], report["wanted"], report["cause"])

    def charge(self, count: int) -> None:
        """Take bytes from the budget, whatever the worker has counted."""
        self.left -= count
        if self.left < 0:
            raise ValueError("values beyond the budget")

    def value(self, node: Node) -> Any:
        """The value that a node describes."""
        match node["is"]:
            case "array":
                return _value(self.array(node), node["class"])
            case "empty":
                return _empty(node)
            case "cell":
                items, shape = [self.value(item) for item in node["items"]], _shape(node)
                _check_count(items, shape)
                return Cell(items, shape)
            case "struct":
                return self.struct(node)
            case "sparse":
                return self.sparse(node)
            case "opaque":
                content = self.value(node["content"])
                name = _function(content) if node["kind"] == "function" else node["class"]
                return Opaque(node["kind"], name, content)
        raise ValueError(node["is"])

    def struct(self, node: Node) -> Any:
        fields, shape = node["fields"], _shape(node)
        count = math.prod(shape)
        self.charge(VALUE * count)
        columns = [[self.value(item) for item in column] for column in node["columns"]]
        for column in columns:
            _check_count(column, shape)
        items = [
            Struct(zip(fields, (column[i] for column in columns), strict=True))
            for i in range(count)
        ]
        return unpack(items[0]) if shape == (1, 1) else StructArray(items, shape, fields)

    def sparse(self, node: Node) -> Sparse:
        parts = {name: self.array(part).ravel() for name, part in node["parts"].items()}
        data = parts.get("data", np.zeros(0, _dtype(node["class"])))
        self.charge(8 * data.size)
        starts, rows = (
            parts.get(key, np.zeros(0, np.int64)).view(np.int64) for key in ("jc", "ir")
        )
        counts = np.diff(starts)
        is_sound = (
            starts.size
            and starts[0] == 0
            and starts[-1] == rows.size == data.size
            and (counts >= 0).all()
            and ((rows >= 0) & (rows < node["rows"])).all()
        )
        columns = np.repeat(np.arange(counts.size), counts) if is_sound else rows
        if not is_sound or ((np.diff(rows) <= 0) & (np.diff(columns) == 0)).any():
            found = f"a sparse matrix of {data.size} data, {rows.size} rows, {starts.size} columns"
            wanted = f"rows in order, below {node['rows']}, in columns in order"
            _fail(self.name, node["place"], found, wanted, "is the file damaged?")
        values = data.astype(bool) if node["class"] == "logical" else _complex(data)
        return Sparse((node["rows"], counts.size), rows, columns, values)

    def array(self, node: Node) -> np.ndarray:
        """The data of an array, received into memory of MATLAB's order."""
        shape, block = _shape(node), node["block"]
        if node["type"] not in NUMBERS.values():
            raise ValueError(node["type"])
        number = np.dtype(node["type"])
        dtype = np.dtype([("real", number), ("imag", number)]) if node["complex"] else number
        self.charge(dtype.itemsize * math.prod(shape))
        data = np.empty(shape, dtype, order="F")
        if node["offset"] is not None:
            self.piece(data, node["offset"])
            return data
        rows = data.T.reshape(shape[::-1][len(shape) - len(block) :])
        for start, size in blocks(rows.shape, block):
            place = tuple(slice(i, i + n) for i, n in zip(start, size, strict=True))
            target = rows[place]
            received = target if target.flags.c_contiguous else np.empty(size, dtype)
            if self.frame(b"D", received.nbytes) != received.nbytes:
                raise ValueError("a block of another size")
            self.answer.array(received)
            if received is not target:
                rows[place] = received
        return data

    def piece(self, data: np.ndarray, offset: int) -> None:
        """Fill an array with bytes of the file."""
        memory = data.T.reshape(-1).view(np.uint8).data
        self.file.seek(offset)
        done = 0
        while done < len(memory):
            count = self.file.readinto(memory[done:])  # pyright: ignore[reportAttributeAccessIssue]
            if not count:
                cause = "was the download cut short?"
                _fail(self.name, f"byte {offset + done}", "the end", f"{len(memory)} bytes", cause)
            done += count


def _shape(node: Node) -> tuple[int, ...]:
    shape = tuple(node["shape"])
    if len(shape) < 2 or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(shape)
    return shape


def _check_count(items: list[Any], shape: tuple[int, ...]) -> None:
    if len(items) != math.prod(shape):
        raise ValueError(f"{len(items)} elements of shape {shape}")


def _dtype(kind: str) -> np.dtype:
    return np.dtype(bool if kind == "logical" else NUMBERS.get(kind, "f8"))


def _complex(data: np.ndarray) -> np.ndarray:
    """The same numbers, with pairs of real and imaginary parts as complex numbers."""
    if data.dtype.names is None:
        return data
    if data.dtype["real"].kind == "f":
        return data.view(np.dtype(f"c{data.dtype.itemsize}"))
    return data["real"] + 1j * data["imag"]


def _value(data: np.ndarray, kind: str) -> Any:
    """An array of a class of MATLAB in its form."""
    if kind == "char":
        return _text(data)
    data = data.astype(bool) if kind == "logical" else _complex(data)
    if data.shape != (1, 1):
        return data
    return data.item() if data.dtype.char in "?dD" else data[0, 0]


def _text(data: np.ndarray) -> str | np.ndarray:
    if (data.shape[0] == 1 and data.ndim == 2) or not data.size:
        return data.astype("<u2").tobytes().decode("utf-16-le", "surrogatepass")
    return data.astype(np.uint32).view("U1")


def _empty(node: Node) -> Any:
    """A value without elements."""
    kind, shape = node["class"], _shape(node)
    if math.prod(shape):
        raise ValueError(shape)
    if kind == "struct":
        return StructArray((), shape, node["fields"])
    if kind == "cell":
        return Cell((), shape)
    return "" if kind == "char" else np.zeros(shape, _dtype(kind), order="F")


def _function(content: Any) -> str:
    """The text of a function handle, where its record has it."""
    while isinstance(content, dict):
        content = content.get("function_handle", content.get("function"))
    return content.removeprefix("sf%0") if isinstance(content, str) else ""
