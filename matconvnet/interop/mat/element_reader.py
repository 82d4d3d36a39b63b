"""Reading what arrays of version 5 are made of: tags, sizes, names, numbers.

Nothing in the file is believed: every size is compared with what encloses it before memory is
taken, and all that is made counts against a budget.
"""

import math
import struct
import sys

import numpy as np

from matconvnet.interop.mat import elements as e
from matconvnet.interop.mat.stream import CHUNK, Stream

VALUE = 256
"""Bytes that a value takes beside its numbers, about; what it costs in the budget."""

MAX_DIMS = 32
MAX_NAME = 1024
CUT_SHORT = "is the file damaged, was the download cut short?"


class Budget:
    """How many bytes a file may still become."""

    def __init__(self, size: int) -> None:
        self.size = self.left = size

    def spend(self, size: int, stream: Stream) -> None:
        """Take `size` bytes from the budget; MatFileError if there are not so many."""
        self.left -= size
        if self.left < 0:
            stream.fail(
                f"values that take {-self.left} bytes more than the budget of {self.size}",
                "less",
                "a file made to fill the memory? else give read_mat a larger budget",
            )


class ElementReader:
    """Reads data elements from a stream.

    The methods take `end`, the place where the element that encloses them ends; nothing beyond is
    touched.
    """

    def __init__(self, stream: Stream, order: e.Order, budget: Budget) -> None:
        self.stream = stream
        self.order = order
        self.budget = budget

    def tag(self, end: int) -> tuple[int, int, int]:
        """Read the tag of an element: its type, its size, and where the next element begins."""
        s = self.stream
        at = s.base + s.pos
        if at + 8 > end:
            s.fail(f"{end - at} bytes left", "an element, 8 bytes or more", CUT_SHORT)
        if len(s.buffer) - s.pos < 8:
            s.need(8)
        kind, size = self.order.words.unpack_from(s.buffer, s.pos)
        if kind > 0xFFFF:  # four bytes or less, in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            if size > 4:
                s.fail(f"a small element of {size} bytes", "4 at most")
            s.pos += 4
            return kind, size, at + 8
        if at + 8 + size > end:
            s.fail(
                f"an element of {size} bytes", f"at most {end - at - 8}, what is left", CUT_SHORT
            )
        s.pos += 8
        return kind, size, min(at + 8 + (size + 7 & ~7), end)

    def data(self, end: int, kinds: tuple[int, ...], what: str, limit: int) -> bytes | bytearray:
        """Read an element of one of some types, of `limit` bytes at most, and what pads it."""
        s = self.stream
        kind, size, after = self.tag(end)
        if kind not in kinds or size > limit:
            s.fail(
                f"{size} bytes of type {kind}", f"{what}, {limit} bytes at most of type {kinds[0]}"
            )
        data = s.take(size)
        self.move(after)
        return data

    def move(self, place: int) -> None:
        """Leave out the bytes before `place`."""
        s = self.stream
        if s.base + s.pos != place:
            s.take(place - s.base - s.pos)

    def shape(self, end: int) -> tuple[int, ...]:
        """Read the sizes of an array."""
        data = self.data(end, (e.INT32, e.UINT32), "sizes", 4 * MAX_DIMS)
        if len(data) < 8 or len(data) % 4:
            self.stream.fail(f"sizes of {len(data)} bytes", "4 for each of two axes or more")
        shape = struct.unpack(f"{self.order.mark}{len(data) // 4}i", data)
        # NumPy wants this product to be small even where a size is 0.
        if min(shape) < 0 or math.prod(n or 1 for n in shape) > sys.maxsize // 16:
            self.stream.fail(f"an array of sizes {shape}", "sizes that memory can hold")
        return shape

    def count(self, shape: tuple[int, ...], size: int, end: int) -> int:
        """How many elements an array has that takes `size` bytes or more in the file for each."""
        count = math.prod(shape)
        left = end - self.stream.offset
        if count * size > left:
            self.stream.fail(
                f"{left} bytes for an array of sizes {shape}", f"{count * size} or more"
            )
        return count

    def name(self, end: int) -> str:
        """Read the name of an array, of a class or of a system."""
        data = self.data(end, (e.INT8, e.UINT8, e.UTF8), "a name", MAX_NAME)
        return self.text(data, "utf-8")

    def text(self, data: bytes | bytearray, codec: str) -> str:
        """Decode bytes, which may hold halves of pairs where MATLAB's text does."""
        try:
            return data.decode(codec, "strict" if codec == "utf-8" else "surrogatepass")
        except UnicodeDecodeError as error:
            self.stream.fail(f"text that is no {codec}: {error.reason}", codec)

    def field_names(self, end: int) -> list[str]:
        """Read the names of the fields of a struct, each ended by a 0."""
        s = self.stream
        data = self.data(end, (e.INT32, e.UINT32), "the length of field names", 4)
        length = int.from_bytes(data, "little" if self.order is e.LITTLE else "big")
        kind, size, after = self.tag(end)
        if kind not in (e.INT8, e.UINT8, e.UTF8) or (
            size and not (0 < length <= MAX_NAME and size % length == 0)
        ):
            s.fail(f"{size} bytes of type {kind} for names of length {length}", "names of fields")
        count = size // length if size else 0
        self.budget.spend(VALUE * count + 2 * size, s)
        data = s.take(size)
        self.move(after)
        parts = [bytes(data[i * length : (i + 1) * length]) for i in range(count)]
        names = [self.text(part.partition(b"\0")[0], "utf-8") for part in parts]
        if len(set(names)) != count:
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            s.fail(f"two fields {twice!r}", "different names")
        return names

    def numbers(self, flat: np.ndarray, end: int) -> None:
        """Fill a vector with the numbers of an element, whatever type they are stored in."""
        s = self.stream
        count = len(flat)
        kind, size, after = self.tag(end)
        stored = self.order.storage.get(kind)
        if stored is None or size != count * stored.itemsize:
            s.fail(f"{size} bytes of type {kind}", f"{count} numbers for an array of {flat.dtype}")
        if stored.kind == "f" and (
            flat.dtype.kind in "iu" or (flat.dtype.kind == "f" and stored.itemsize > flat.itemsize)
        ):
            s.fail(f"numbers stored as {stored}", f"such as fit into {flat.dtype}")
        is_same = stored.newbyteorder("=") == flat.dtype
        if is_same and size > CHUNK and flat.flags.c_contiguous:
            s.into(flat.data.cast("B"))
            if not stored.isnative:
                flat.byteswap(inplace=True)
        else:
            step = CHUNK // stored.itemsize
            for i in range(0, count, step):
                n = min(step, count - i)
                s.need(n * stored.itemsize)
                part = np.frombuffer(s.buffer, stored, n, s.pos)
                if not is_same:
                    self.check_range(part, flat.dtype)
                flat[i : i + n] = part
                s.pos += n * stored.itemsize
        self.move(after)

    def check_range(self, part: np.ndarray, dtype: np.dtype) -> None:
        """Refuse integers that the class of their array cannot hold."""
        if dtype.kind in "iu" and not np.can_cast(part.dtype, dtype):
            info, low, high = np.iinfo(dtype), part.min(), part.max()
            if low < info.min or high > info.max:
                self.stream.fail(f"numbers from {low} to {high}", f"such as fit into {dtype}")

    def indices(self, end: int) -> np.ndarray:
        """Read integers of 32 bits, as many as there are."""
        s = self.stream
        kind, size, after = self.tag(end)
        if kind not in (e.INT32, e.UINT32) or size % 4:
            s.fail(f"{size} bytes of type {kind}", "indices of a sparse matrix, type 5")
        self.budget.spend(4 * size, s)
        array = np.frombuffer(s.take(size), self.order.storage[e.INT32]).astype(np.int64)
        self.move(after)
        return array

    def sparse_numbers(self, count: int, allocated: int, end: int) -> np.ndarray:
        """Read the first `count` numbers of an element as doubles."""
        s = self.stream
        kind, size, after = self.tag(end)
        if size == allocated:  # MATLAB stores truth values as bytes, but calls them doubles
            kind = e.UINT8
        stored = self.order.storage.get(kind)
        if stored is None or size % stored.itemsize or size < count * stored.itemsize:
            s.fail(f"{size} bytes of type {kind}", f"{count} numbers or more")
        self.budget.spend(4 * size + 16 * count, s)
        array = np.frombuffer(s.take(size), stored)[:count].astype(np.float64)
        self.move(after)
        return array
