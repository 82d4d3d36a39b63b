"""Caffe files made by hand: the wire format of protobuf, with numbers from caffe.proto.

Nothing here is taken from the package, so that its schema is checked and not repeated.
"""

import struct

import numpy as np

NET_LAYER, NET_OLD_LAYER = 100, 2
LAYER_NAME, LAYER_TYPE, LAYER_BLOBS = 1, 2, 7
OLD_NAME, OLD_BLOBS = 4, 6
BLOB_NUM, BLOB_DATA, BLOB_SHAPE, SHAPE_DIM = 1, 5, 7, 1


def varint(number):
    """A number, seven bits a byte, the last byte without the eighth."""
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, value):
    """A field: an integer, or bytes with their length in front."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(values, old=False):
    """A BlobProto; old ones have four axes, in four fields."""
    a = np.asarray(values, np.float32)
    data = field(BLOB_DATA, struct.pack(f"<{a.size}f", *a.ravel().tolist()))
    if old:
        shape = (1,) * (4 - a.ndim) + a.shape
        return b"".join(field(BLOB_NUM + i, n) for i, n in enumerate(shape)) + data
    return field(BLOB_SHAPE, field(SHAPE_DIM, b"".join(map(varint, a.shape)))) + data


def caffemodel(weights, old=False):
    """A NetParameter with the blobs of layers."""
    layer, name, blobs = (
        (NET_OLD_LAYER, OLD_NAME, OLD_BLOBS) if old else (NET_LAYER, LAYER_NAME, LAYER_BLOBS)
    )
    return b"".join(
        field(layer, field(name, key) + b"".join(field(blobs, blob(a, old)) for a in arrays))
        for key, arrays in weights.items()
    )
