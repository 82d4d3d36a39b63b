"""Binary files of Caffe (`.caffemodel`, `.binaryproto`): the blobs of layers, as arrays.

Of a network's message only names and blobs are read, straight from the bytes: numbers become an
array at once, nothing else is made of a file, and a damaged one has no say in what is allocated.
Source: protobuf's "Encoding"; caffe.proto for the numbers of fields.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from matconvnet.errors import FormatError

LAYER, OLD_LAYER = 100, 2
"""Fields of a NetParameter."""

SHAPE, DATA, DOUBLE_DATA, DIM = 7, 5, 8, 1
"""Fields of a BlobProto, and of its shape; 1 to 4 are the four axes of old ones."""

MOST_LAYERS = 10_000
MOST_FIELDS = 10_000  # of a layer or a blob
MOST_AXES = 32


class Numbers(NamedTuple):
    """Fields of a layer. oldest: the one in which it holds a layer of the oldest form."""

    name: int
    blobs: int
    oldest: int | None = None


FIELDS = {LAYER: Numbers(1, 7), OLD_LAYER: Numbers(4, 6, 1)}


class Field(NamedTuple):
    """A field of a message: its number, its content (a number or bytes), its place in the file."""

    number: int
    content: int | memoryview
    at: int


class Layer(NamedTuple):
    """A layer and its blobs, each an encoded BlobProto."""

    name: str
    blobs: list[memoryview]


def layers(data: bytes) -> list[Layer]:
    """The layers of an encoded NetParameter.

    Raises: FormatError, telling where the bytes are no such thing.
    """
    found = []
    for field in _fields(memoryview(data)):
        if field.number in FIELDS and isinstance(field.content, memoryview):
            if len(found) == MOST_LAYERS:
                raise FormatError(f"it has more than {MOST_LAYERS} layers")
            found.append(_layer(field.content, field.at, FIELDS[field.number]))
    return found


def _layer(content: memoryview, start: int, numbers: Numbers) -> Layer:
    name, blobs = "", []
    for number, value, _ in _few_fields(content, start):
        if isinstance(value, int):
            continue
        if number == numbers.oldest:
            raise FormatError(
                "it is of the oldest form (2013), which Caffe's upgrade_net_proto_binary upgrades"
            )
        if number == numbers.name:
            name = bytes(value).decode(errors="replace")
        elif number == numbers.blobs:
            blobs.append(value)
    return Layer(name, blobs)


def array(encoded: bytes | memoryview) -> np.ndarray:
    """The numbers of an encoded BlobProto as float32, in its shape; old blobs have four axes.

    Raises: FormatError, if it is none, or holds more or fewer numbers than its shape tells.
    """
    old, shape = [0, 0, 0, 0], None
    chunks: dict[int, list[memoryview]] = {DATA: [], DOUBLE_DATA: []}
    for number, value, at in _few_fields(memoryview(encoded), 0):
        if isinstance(value, int):
            if 1 <= number <= 4:
                old[number - 1] = _signed(value)
        elif number == SHAPE:
            shape = _dims(value, at)
        elif number in chunks:
            chunks[number].append(value)
    sizes = tuple(old if shape is None else shape)
    parts, kind = (chunks[DOUBLE_DATA], "<f8") if chunks[DOUBLE_DATA] else (chunks[DATA], "<f4")
    width, length = np.dtype(kind).itemsize, sum(map(len, parts))
    if min(sizes, default=1) < 0 or math.prod(sizes) * width != length:
        raise FormatError(f"a blob of shape {sizes} holds {length} bytes of numbers of {width}")
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    return np.frombuffer(data, kind).astype(np.float32).reshape(sizes)


def _dims(content: memoryview, start: int) -> list[int]:
    """The axes of a shape, which are one packed field or a field each."""
    dims: list[int] = []
    for number, value, at in _few_fields(content, start):
        if number != DIM:
            continue
        packed, here = ([value], 0) if isinstance(value, int) else ([], 0)
        while isinstance(value, memoryview) and here < len(value) and len(packed) <= MOST_AXES:
            dim, here = _varint(value, here, at)
            packed.append(dim)
        dims += map(_signed, packed)
        if len(dims) > MOST_AXES:
            raise FormatError(f"a blob has more than {MOST_AXES} axes")
    return dims


def _few_fields(data: memoryview, start: int) -> Iterator[Field]:
    """`_fields`, not more than there are limits for."""
    for count, field in enumerate(_fields(data, start)):
        if count == MOST_FIELDS:
            raise FormatError(f"what begins at byte {start} has more than {MOST_FIELDS} fields")
        yield field


def _fields(data: memoryview, start: int = 0) -> Iterator[Field]:
    """The fields of a message; `start` is its place in the file. Floats are four or eight bytes."""
    at = 0
    while at < len(data):
        here = start + at
        key, at = _varint(data, at, here)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at, here)
            yield Field(number, value, here)
            continue
        if kind not in (1, 2, 5):
            raise FormatError(f"at byte {here} there is {key}, which begins no field")
        size = 8 if kind == 1 else 4
        if kind == 2:
            size, at = _varint(data, at, here)
        if size > len(data) - at:
            raise FormatError(
                f"a field at byte {here} has {size} bytes, and {len(data) - at} are left"
            )
        yield Field(number, data[at : at + size], start + at)
        at += size


def _varint(data: memoryview, at: int, here: int) -> tuple[int, int]:
    """A number of seven bits a byte, up to 64 bits, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            break
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
    raise FormatError(f"at byte {here} there is a number without an end")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
