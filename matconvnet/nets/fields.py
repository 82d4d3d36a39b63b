"""Options of layers in files: their names there, and their values in plain Python."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

import torch

from matconvnet.blocks.convt import ConvTranspose
from matconvnet.layer import Filter, Layer
from matconvnet.layout import to_tensor
from matconvnet.values import Struct

Form = Literal["chain", "dag"]
"""Where a field is written: in a layer of a SimpleNN struct, or in a block of a DagNN."""


def camel_case(name: str) -> str:
    """The name of a field as MatConvNet writes it: num_groups -> numGroups."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def is_empty(value: Any) -> bool:
    """True for MATLAB's empty array in all its Python spellings."""
    if value is None:
        return True
    if isinstance(value, torch.Tensor):
        return value.numel() == 0
    size = getattr(value, "size", None)
    if isinstance(size, int):
        return size == 0
    return isinstance(value, (list, tuple)) and not value


def to_list(value: Any) -> list[Any]:
    """The numbers in a scalar, list or array, flat."""
    tensor = to_tensor(value)
    if isinstance(tensor, torch.Tensor):
        return tensor.flatten().tolist()
    return list(value) if isinstance(value, (list, tuple)) else [value]


def field_keys(layer: type[Layer], form: Form = "chain") -> dict[str, str]:
    """Names in files of a layer's fields, by field; only of those that a file always has."""
    exceptions = layer.struct_names if form == "chain" else layer.dag_names
    keys = {f.name: exceptions.get(f.name, camel_case(f.name)) for f in fields(layer)}
    return {name: key for name, key in keys.items() if key is not None}


def read_options(layer: type[Layer], entry: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """Options of a layer, by field, from an entry of a file."""
    keys = field_keys(layer, form)
    options: dict[str, Any] = dict(layer.dag_defaults) if form == "dag" else {}
    for f in fields(layer):
        key = keys.get(f.name, camel_case(f.name))
        if key not in entry or (f.name not in keys and is_empty(entry[key])):
            continue
        value = entry[key]
        value = None if is_empty(value) and f.default is None else _plain(value)
        if f.name in ("pad", "crop") and issubclass(layer, (Filter, ConvTranspose)):
            value = _borders(value)
        if isinstance(f.default, bool):
            value = bool(value)
        if f.name in layer.counted_from_one:
            value = to_list(value)[0] - 1
        options[f.name] = value
    return options


def write_options(layer: Layer, form: Form) -> Struct:
    """The fields of a layer under their names in files: the inverse of `read_options`.

    A field that a file need not have is written if it is not at its default.
    """
    keys = field_keys(type(layer), form)
    defaults = {f.name: f.default for f in fields(layer)}
    defaults |= layer.dag_defaults if form == "dag" else {}
    out, rare = Struct(), Struct()
    for f in fields(layer):
        value = getattr(layer, f.name)
        value = value + 1 if f.name in layer.counted_from_one else value
        if f.name in keys:
            out[keys[f.name]] = [] if value is None else _listed(value)
        elif f.compare and value != defaults[f.name]:
            rare[camel_case(f.name)] = _listed(value)
    return Struct(out | rare)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    """Option values as plain numbers and tuples (arrays of weights stay arrays)."""
    tensor = to_tensor(value)
    if isinstance(tensor, torch.Tensor):
        if tensor.numel() == 1:
            return _whole(tensor.item())
        is_vector = tensor.numel() <= 6 and tensor.dim() <= 2
        return tuple(map(_whole, tensor.flatten().tolist())) if is_vector else tensor
    if isinstance(value, list):
        return tuple(map(_whole, value))
    return _whole(value)


def _whole(value: Any) -> Any:
    """MATLAB's numbers are doubles; whole ones count something."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _borders(value: Any) -> Any:
    """Two numbers (vertical, horizontal) as (top, bottom, left, right); others as they are."""
    if isinstance(value, tuple) and len(value) == 2:
        return value[0], value[0], value[1], value[1]
    return value
