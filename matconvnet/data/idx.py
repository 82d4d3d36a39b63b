"""IDX, the file format of MNIST: a type, the sizes of an array and its elements, big-endian."""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from matconvnet.errors import FormatError

TYPES = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # a deflate stream never grows by more: at most 258 bytes from 2 bits


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file, plain or compressed by gzip, whatever its name.

    The sizes that the file declares are compared with its length before memory is taken.

    Args:
        path: the file.
    Returns: the array, with the sizes and the type in the file, in the byte order of the machine.
    Raises: FormatError (a ValueError), if the magic number is wrong, if data are missing, damaged
        or left over; OSError, if the file cannot be read.
    Source: "The MNIST database of handwritten digits", section "The IDX file format".
    """
    path = Path(path)
    with path.open("rb") as raw:
        length = os.fstat(raw.fileno()).st_size
        compressed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        if not compressed:
            return _read(raw, path, limit=length)
        try:
            with gzip.open(raw) as file:
                return _read(cast(BinaryIO, file), path, limit=length * DEFLATE_RATIO)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FormatError(f"{path}: the gzip data are damaged: {error}") from error


def _read(file: BinaryIO, path: Path, limit: int) -> np.ndarray:
    """Read the array from a stream that cannot hold more than `limit` bytes."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] == 0:
        types = " ".join(f"{code:02x}" for code in TYPES)
        raise FormatError(
            f"{path}: found magic number '{magic.hex(' ')}'; wanted 00 00, a type of {types}, "
            "and the number of axes, 1 or more"
        )
    dtype, axes = TYPES[magic[2]], magic[3]
    sizes = file.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise FormatError(f"{path}: truncated: found {len(sizes)} bytes of sizes, not {4 * axes}")
    shape = struct.unpack(f">{axes}I", sizes)
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > limit:
        raise FormatError(
            f"{path}: truncated: sizes {shape} of {dtype.name} want {wanted} bytes of data; "
            f"a file of this length holds at most {limit}"
        )
    data = file.read(wanted + 1)
    if len(data) < wanted:
        raise FormatError(f"{path}: truncated: found {len(data)} bytes of data, wanted {wanted}")
    if len(data) > wanted:
        raise FormatError(f"{path}: found bytes after the {wanted} wanted by sizes {shape}")
    try:
        return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:
        raise FormatError(f"{path}: no array can have the sizes {shape}: {error}") from error
