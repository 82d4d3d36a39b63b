"""SimpleNN structs: networks written as plain dictionaries, as MatConvNet stores them.

A struct is `{"layers": [{"type": "conv", "weights": [f, b], "pad": 1}, ...], "meta": {...}}`.
`tidy` fills in what may be left out; `read_layer` makes a layer of one entry.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from matconvnet.blocks import LAYERS
from matconvnet.errors import FormatError
from matconvnet.layer import Layer
from matconvnet.layout import to_tensor
from matconvnet.values import Struct

TYPES: dict[str, type[Layer]] = {
    name: layer
    for layer in LAYERS
    if layer.num_inputs == 1
    for name in (layer.type_name, *layer.aliases)
}
"""Layers that fit in a chain, by the name of their type in structs."""

HAS_OPTS = ("conv", "convt", "pool")
REQUIRED = ("pool",)  # struct fields without a default
PARENTS = {"classes", "normalization"}  # top-level fields of old files that now live in meta


def camel_case(name: str) -> str:
    """The name of a field as MatConvNet writes it: num_groups -> numGroups."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def field_keys(layer: type[Layer]) -> dict[str, str]:
    """Struct keys of a layer's fields, by field; only of those that a struct always has."""
    keys = {f.name: layer.struct_names.get(f.name, camel_case(f.name)) for f in fields(layer)}
    return {name: key for name, key in keys.items() if key is not None}


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


def layer_list(net: Any) -> list[Mapping[str, Any]]:
    """The layers of a network struct, checked to be a list of structs with a type."""
    if not isinstance(net, Mapping) or "layers" not in net:
        found = list(net) if isinstance(net, Mapping) else type(net).__name__
        raise FormatError(f"net is {found}; wanted a struct with a field 'layers'")
    layers = net["layers"]
    if isinstance(layers, Mapping) or not isinstance(layers, (list, tuple)):
        raise FormatError(
            f"net.layers is {type(layers).__name__}; wanted a list of structs "
            "(a struct array belongs to a DagNN file)"
        )
    for i, layer in enumerate(layers, 1):
        if not isinstance(layer, Mapping) or "type" not in layer:
            raise FormatError(f"layer {i} has no field 'type'")
    return list(layers)


def tidy(net: Mapping[str, Any]) -> Struct:
    """Bring a network struct of any age into the current form.

    Old field names become the current ones, missing options get their defaults, and batch
    normalisation its moments. Custom layers are left alone. `net` is not modified.

    Returns: a new Struct with the fields `layers` and `meta`.
    Raises: FormatError, if there are no layers, or a layer has no type.
    Source: vl_simplenn_tidy.
    """
    layers = [tidy_layer(layer, i) for i, layer in enumerate(layer_list(net), 1)]
    meta = Struct(net.get("meta") or {})
    for key in PARENTS & set(net):
        meta[key] = net[key]
    _add_crop_size(meta)
    return Struct(layers=layers, meta=meta)


def _add_crop_size(meta: Struct) -> None:
    """CropSize = size / (size + border), where only the border is given."""
    norm = meta.get("normalization")
    if not isinstance(norm, Mapping) or "cropSize" in norm:
        return
    if {"border", "imageSize"} <= set(norm):
        size = [float(v) for v in to_list(norm["imageSize"])[:2]]
        border = [float(v) for v in to_list(norm["border"])]
        border = (border * 2)[:2]
        crop = [s / (s + b) for s, b in zip(size, border, strict=True)]
        meta["normalization"] = Struct(norm, cropSize=crop)


def to_list(value: Any) -> list[Any]:
    """The numbers in a scalar, list or array, flat."""
    tensor = to_tensor(value)
    return tensor.flatten().tolist() if isinstance(tensor, torch.Tensor) else (
        list(value) if isinstance(value, (list, tuple)) else [value]
    )  # fmt: skip


def tidy_layer(layer: Mapping[str, Any], index: int) -> Struct:
    """One entry in the current form, with its defaults; `index` counts layers from 1."""
    out = Struct(layer)
    kind = out["type"]
    if kind == "custom":
        return out
    if "filters" in out and "biases" in out and "weights" not in out:
        out["weights"] = [out.pop("filters"), out.pop("biases")]
    out["weights"] = list(out.get("weights") or [])
    if kind == "bnorm":
        _add_moments(out, index)
    out.setdefault("name", f"layer{index}")
    out.setdefault("precious", False)
    if kind not in TYPES:
        return out
    keys = field_keys(TYPES[kind])
    for f in fields(TYPES[kind]):
        if f.name in keys and keys[f.name] not in REQUIRED:
            out.setdefault(keys[f.name], [] if f.default is None else f.default)
    if kind in HAS_OPTS:
        out.setdefault("opts", [])
    return out


def _add_moments(out: Struct, index: int) -> None:
    if not out["weights"]:
        raise FormatError(f"layer {index} is a bnorm without weights; wanted multipliers, biases")
    if len(out["weights"]) < 3:
        g = to_tensor(out["weights"][0])
        moments = torch.zeros(g.numel(), 2, dtype=g.dtype, device=g.device)
        is_array = g is not out["weights"][0]
        out["weights"].append(moments.numpy() if is_array else moments)


def read_layer(entry: Mapping[str, Any], index: int) -> Layer:
    """The Layer that a tidy struct entry describes.

    Raises: FormatError, naming the layer, if its type is unknown or a required field is missing.
    """
    kind = entry["type"]
    if kind not in TYPES:
        raise FormatError(
            f"Unknown layer type {kind!r} (layer {index}, {entry.get('name')!r}); "
            f"wanted one of {sorted([*TYPES, 'custom'])}"
        )
    layer = TYPES[kind]
    keys = field_keys(layer)
    options = {}
    for f in fields(layer):
        key = keys.get(f.name, camel_case(f.name))
        if key in entry and (f.name in keys or not is_empty(entry[key])):
            value = entry[key]
            options[f.name] = None if is_empty(value) and f.default is None else _plain(value)
        if kind in HAS_OPTS and f.name in ("pad", "crop") and f.name in options:
            options[f.name] = _borders(options[f.name])
    if kind == "pool" and "size" not in options:
        raise FormatError(f"layer {index}, {entry.get('name')!r}, is a pool without field 'pool'")
    return layer(**options)


def _plain(value: Any) -> Any:
    """Option values as plain numbers and tuples (arrays of weights stay arrays)."""
    tensor = to_tensor(value)
    if isinstance(tensor, torch.Tensor):
        if tensor.numel() == 1:
            return tensor.item()
        is_vector = tensor.numel() <= 6 and tensor.dim() <= 2
        return tuple(tensor.flatten().tolist()) if is_vector else tensor
    return tuple(value) if isinstance(value, list) else value


def _borders(value: Any) -> Any:
    """Two numbers (vertical, horizontal) as (top, bottom, left, right); others as they are."""
    if isinstance(value, tuple) and len(value) == 2:
        return value[0], value[0], value[1], value[1]
    return value


def write_layer(layer: Layer) -> Struct:
    """The struct entry of a layer: its type and options; the inverse of `read_layer`."""
    out = Struct(type=layer.type_name)
    for name, key in field_keys(type(layer)).items():
        value = getattr(layer, name)
        out[key] = [] if value is None else list(value) if isinstance(value, tuple) else value
    for f in fields(layer):
        if f.name not in field_keys(type(layer)) and getattr(layer, f.name) != f.default:
            out[camel_case(f.name)] = getattr(layer, f.name)
    if layer.type_name in HAS_OPTS:
        out["opts"] = []
    return out
