"""Meta data of a network as JSON, for the metadata of an ONNX file."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.layout import to_numpy
from matconvnet.values import Struct

ARRAY = "$array"
"""Marks an array: {"$array": type, "shape": [...], "values": [...]}, the last axis fastest."""


def to_json(value: Any) -> str:
    """Numbers, strings, arrays, lists and dicts as JSON; null for what it cannot hold."""
    return json.dumps(_encode(value))


def from_json(text: str, name: str) -> Any:
    """The inverse of `to_json`; dicts become structs.

    Raises: FormatError, with the `name` of the entry, if it is no such JSON.
    """
    try:
        return _decode(json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"entry {name!r} of the metadata is no meta data: {error!r}") from error


def _encode(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = to_numpy(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufU":
            return None
        values = value.ravel().tolist()
        return {ARRAY: value.dtype.str, "shape": list(value.shape), "values": values}
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return [_encode(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else None


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if ARRAY not in value:
        return Struct({key: _decode(item) for key, item in value.items()})
    kind = np.dtype(value[ARRAY])
    if kind.kind not in "biufU":
        raise ValueError(f"an array of {kind}")
    return np.array(value["values"], kind).reshape(value["shape"])
