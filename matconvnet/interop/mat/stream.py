"""Bytes from front to back, of a file or of one compressed element in it, never all in memory."""

import os
import zlib
from abc import ABC, abstractmethod
from io import FileIO
from typing import NoReturn

from matconvnet.errors import MatFileError

CHUNK = 1 << 16
"""Bytes that are read ahead; what is larger goes from the source to its place at once."""

INPUT = 1 << 14
"""Bytes that zlib is given at a time: what they become stays in the cache until it is copied."""

MAX_RATIO = 1032
"""Bytes that DEFLATE can make of one, at most."""


class Stream(ABC):
    """A buffer over a source of bytes; `buffer[pos]` is the next byte, number `base + pos`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.buffer = b""
        self.pos = 0
        self.base = 0

    @abstractmethod
    def pull(self, size: int) -> bytes:
        """At most `size` bytes behind the buffer; none at the end of the source."""

    def pull_into(self, view: memoryview) -> int:
        """Fill the front of `view` from behind the buffer; returns how many bytes that were."""
        piece = self.pull(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def place(self) -> str:
        """Where the stream stands, for messages."""
        return f"at byte {self.offset}"

    @property
    def offset(self) -> int:
        """The number of the next byte."""
        return self.base + self.pos

    def fail(self, found: str, wanted: str, cause: str = "is the file damaged?") -> NoReturn:
        """Raise MatFileError for the current place."""
        raise MatFileError(f"{self.path}: {self.place()}: {found}; wanted {wanted} ({cause})")

    def need(self, size: int) -> None:
        """Have `size` bytes in the buffer, few of them."""
        if len(self.buffer) - self.pos >= size:
            return
        self.base += self.pos
        self.buffer, self.pos = self.buffer[self.pos :], 0
        while len(self.buffer) < size:
            piece = self.pull(CHUNK)
            if not piece:
                self._end(size - len(self.buffer))
            self.buffer += piece

    def some(self, size: int) -> bytes:
        """From one to `size` bytes; none at the end of the source."""
        piece = self.buffer[self.pos : self.pos + size]
        if piece:
            self.pos += len(piece)
            return piece
        piece = self.pull(min(size, CHUNK))
        self.base += len(piece)
        return piece

    def take(self, size: int) -> bytes | bytearray:
        """The next `size` bytes."""
        if size <= CHUNK:
            self.need(size)
            at = self.pos
            self.pos += size
            return self.buffer[at : at + size]
        pieces = bytearray()
        while len(pieces) < size:
            piece = self.some(size - len(pieces))
            if not piece:
                self._end(size - len(pieces))
            pieces += piece
        return pieces

    def into(self, view: memoryview) -> None:
        """Fill `view` with the next bytes."""
        done = min(len(view), len(self.buffer) - self.pos)
        view[:done] = self.buffer[self.pos : self.pos + done]
        self.pos += done
        while done < len(view):
            count = self.pull_into(view[done:])
            if not count:
                self._end(len(view) - done)
            done += count
            self.base += count

    def _end(self, missing: int) -> NoReturn:
        self.fail("the data end here", f"{missing} bytes more", "was the download cut short?")


class FileStream(Stream):
    """The bytes of a file."""

    def __init__(self, file: FileIO, path: str) -> None:
        super().__init__(path)
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def pull(self, size: int) -> bytes:
        """As of Stream."""
        return self.file.read(size)

    def pull_into(self, view: memoryview) -> int:
        """As of Stream."""
        return self.file.readinto(view)


class InflatedStream(Stream):
    """What the next `size` bytes of a file hold, compressed with zlib."""

    def __init__(self, source: FileStream, size: int) -> None:
        super().__init__(source.path)
        self.source = source
        self.start = source.offset
        self.left = size
        self.limit = size * MAX_RATIO
        self.inflate = zlib.decompressobj()
        self.input = b""

    def place(self) -> str:
        """As of Stream."""
        return f"at byte {self.offset} of what the data compressed at byte {self.start} hold"

    def pull(self, size: int) -> bytes:
        """As of Stream."""
        while not self.inflate.eof:
            if not self.input:
                self.input = self.source.some(min(INPUT, self.left))
                self.left -= len(self.input)
            is_last = not self.input  # zlib may hold back some output all the same
            try:
                piece = self.inflate.decompress(self.input, min(size, CHUNK))
            except zlib.error as error:
                self.fail(str(error).rpartition(": ")[2], "data as zlib makes them")
            self.input = self.inflate.unconsumed_tail
            if piece or is_last:
                return piece
        return b""

    def finish(self) -> None:
        """Check that the data end here, whole and with the right checksum, and leave the source.

        Some writers leave up to 7 zeros behind the compressed data.
        """
        if self.pos < len(self.buffer) or self.pull(1):
            self.fail("more data", "the end of the compressed data, as the array is complete")
        if not self.inflate.eof:
            self.fail("no checksum", "one at the end of the compressed data")
        rest = self.inflate.unused_data
        count = len(rest) + self.left
        if count > 7 or any(rest + self.source.take(self.left)):
            self.source.fail(f"{count} bytes behind compressed data", "none")
