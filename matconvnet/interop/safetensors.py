"""Networks in one .safetensors file: arrays as tensors, everything else as JSON in its header.

The header's metadata hold `matconvnet` (the version of this format), `structure` (JSON) and
`crc32` of the structure and of all arrays, so that a damaged file is never taken for a network.
In the JSON `{"$tensor": name}` and `{"$array": name}` stand for arrays, `{"$float": "nan"}` for a
number that JSON lacks, `{"$function": name}` for a function, which a file cannot hold, and
`{"$Cell": ...}` and the like for values of MATLAB.
"""

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.files import write_atomic
from matconvnet.layout import to_numpy, to_tensor
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray

VERSION = "2"
VERSIONS = ("1", "2")  # that we read; 1 had chains only
KINDS: dict[str, type[SimpleNN] | type[DagNN]] = {"SimpleNN": SimpleNN, "DagNN": DagNN}
FORMS: dict[str, Any] = {form.__name__: form for form in (Cell, StructArray, Sparse, Opaque)}
MARKS = ("$tensor", "$array", "$float", "$function", *(f"${name}" for name in FORMS))

Path_ = str | os.PathLike[str]


class NetworkFile(NamedTuple):
    """What a file holds: the network, and what was stored beside it."""

    net: Network
    extra_meta: dict[str, Any]


def save_network(net: Network, path: Path_, extra_meta: Mapping[str, Any] | None = None) -> None:
    """Write a network to a file, atomically: an older file stays whole until the new one is.

    Labels of the last batch (the field `class` of a layer) are left out; of functions of custom
    layers only the name is stored.

    Args:
        net: the network, on any device.
        path: the file, by custom `*.safetensors`.
        extra_meta: what else to store: nested dicts and lists of numbers, strings, tensors, arrays.

    Raises: TypeError, naming the place of a value that the file cannot hold; OSError.
    """
    struct = net.to_struct()
    if isinstance(net, SimpleNN):
        struct["layers"] = [
            {key: value for key, value in layer.items() if key != "class"}
            for layer in struct["layers"]
        ]
    tensors: dict[str, Tensor] = {}
    content = {
        "kind": next(name for name, kind in KINDS.items() if isinstance(net, kind)),
        "train_methods": {name: param.train_method for name, param in net.params.items()},
        "beside": net.beside,
        "extra": dict(extra_meta or {}),
    }
    encoded = {"net": _encode(struct, "", tensors), **_encode(content, "", tensors)}
    structure = json.dumps(encoded, allow_nan=False)
    metadata = {
        "matconvnet": VERSION,
        "structure": structure,
        "crc32": f"{_checksum(structure, tensors):08x}",
    }
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_network(path: Path_) -> Network:
    """Read the network in a file that `save_network` wrote.

    Functions of custom layers are not in the file: evaluating such a layer raises TypeError.

    Raises: FormatError (a ValueError), if it is no such file or is damaged; OSError.
    """
    return read_file(path).net


def read_file(path: Path_) -> NetworkFile:
    """Read the network in a file, and what was stored beside it; raises as `load_network`."""
    path = Path(path)
    path.open("rb").close()  # OSError with the usual words
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"{path} is no whole safetensors file: {error}") from error
    if metadata.get("matconvnet") not in VERSIONS:
        raise FormatError(
            f"{path} has format {metadata.get('matconvnet')!r}; wanted a network file, {VERSION!r}"
        )
    structure = metadata.get("structure", "")
    if metadata.get("crc32") != f"{_checksum(structure, tensors):08x}":
        raise FormatError(f"{path} is damaged: its checksum does not fit its content")
    try:
        content = _decode(json.loads(structure), tensors)
        is_old = metadata["matconvnet"] == "1"
        struct = {key: content[key] for key in ("layers", "meta")} if is_old else content["net"]
        net = KINDS[content.get("kind", "SimpleNN")].from_struct(struct, keep_unknown=True)
        net.beside = content.get("beside")
        for name, method in content["train_methods"].items():
            net.params[name].train_method = method
        return NetworkFile(net, content["extra"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} does not describe a network: {error!r}") from error


def _encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON can hold it; its arrays go to `tensors`, under the name of their place."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "UO":
        value = value.tolist()
    if isinstance(value, (Tensor, np.ndarray, np.number, np.bool_)):
        if not _is_real(value):
            raise TypeError(f"{place} is an array of {value.dtype}; wanted real numbers")
        tensor = to_tensor(value)
        while place in tensors:  # {"a.b": ...} beside {"a": {"b": ...}}
            place += "'"
        tensors[place] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"$tensor" if isinstance(value, Tensor) else "$array": place}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    for name, form in FORMS.items():
        if isinstance(value, form):
            parts = list(value) if isinstance(value, tuple) else [value.shape, list(value)]
            return {f"${name}": _encode(parts, place, tensors)}
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{place}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str) or key in MARKS]
        if wrong:
            raise TypeError(f"{place or 'the file'} has the key {wrong[0]!r}; wanted other strings")
        return {
            key: _encode(item, f"{place}.{key}" if place else key, tensors)
            for key, item in value.items()
        }
    if callable(value):
        return {"$function": getattr(value, "__qualname__", type(value).__name__)}
    raise TypeError(
        f"{place} is {type(value).__name__}; wanted numbers, strings, arrays, lists and dicts"
    )


def _is_real(value: Tensor | np.ndarray | np.generic) -> bool:
    if isinstance(value, Tensor):
        return not value.is_complex()
    return value.dtype.kind in "biuf"


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_encode`; dicts become structs."""
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$array" in value:
        return to_numpy(tensors[value["$array"]])[()]  # without axes: a number
    for name, form in FORMS.items():
        if f"${name}" in value:
            first, *rest = _decode(value[f"${name}"], tensors)
            if isinstance(first, list):  # a shape
                first = tuple(first)
            parts = (*rest, first) if form in (Cell, StructArray) else (first, *rest)
            return form(*parts)
    if "$float" in value:
        return float(value["$float"])
    return Struct({key: _decode(item, tensors) for key, item in value.items()})


def _checksum(structure: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of the JSON, then of every array: its name, type, shape and bytes."""
    crc = zlib.crc32(structure.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
