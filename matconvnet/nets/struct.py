"""SimpleNN structs: networks written as plain dictionaries, as MatConvNet stores them.

A struct is `{"layers": [{"type": "conv", "weights": [f, b], "pad": 1}, ...], "meta": {...}}`.
`tidy` fills in what may be left out; `read_layer` makes a layer of one entry.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch

from matconvnet.errors import FormatError
from matconvnet.layer import Layer
from matconvnet.layout import to_tensor
from matconvnet.nets.fields import field_keys, is_empty, read_options, to_list, write_options
from matconvnet.nets.registry import TYPES, find
from matconvnet.values import Struct

HAS_OPTS = ("conv", "convt", "pool")
REQUIRED = ("pool",)  # struct fields without a default
PARENTS = {"classes", "normalization"}  # top-level fields of old files that now live in meta


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
    given = net.get("meta")
    meta = Struct(given if isinstance(given, Mapping) else {})
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


def tidy_layer(layer: Mapping[str, Any], index: int) -> Struct:
    """One entry in the current form, with its defaults; `index` counts layers from 1."""
    out = Struct(layer)
    kind = out["type"]
    if kind == "custom":
        return out
    if "filters" in out and "biases" in out and "weights" not in out:
        out["weights"] = [out.pop("filters"), out.pop("biases")]
    out["weights"] = weight_list(out)
    if kind == "bnorm":
        _add_moments(out, index)
    out.setdefault("name", f"layer{index}")
    out.setdefault("precious", False)
    if kind not in TYPES:
        return out
    registered = TYPES[kind]
    if isinstance(registered, type):
        keys = field_keys(registered)
        for f in fields(registered):
            if f.name in keys and keys[f.name] not in REQUIRED and f.default is not MISSING:
                out.setdefault(keys[f.name], [] if f.default is None else f.default)
    if kind in HAS_OPTS:
        out.setdefault("opts", [])
    return out


def weight_list(entry: Mapping[str, Any]) -> list[Any]:
    """The weights of a layer; none, where they are empty in whatever way."""
    weights = entry.get("weights")
    return [] if is_empty(weights) else list(weights)  # pyright: ignore[reportArgumentType]


def _add_moments(out: Struct, index: int) -> None:
    if not out["weights"]:
        raise FormatError(f"layer {index} is a bnorm without weights; wanted multipliers, biases")
    if len(out["weights"]) < 3:
        g = to_tensor(out["weights"][0])
        moments = torch.zeros(g.numel(), 2, dtype=g.dtype, device=g.device)
        is_array = g is not out["weights"][0]
        out["weights"].append(moments.numpy() if is_array else moments)


def read_layer(entry: Mapping[str, Any], index: int, keep_unknown: bool = False) -> Layer:
    """The Layer that a tidy struct entry describes.

    Args:
        entry: the struct, tidied.
        index: the number of the layer, from 1, for errors.
        keep_unknown: of a type that nobody registered, make a placeholder.

    Raises: FormatError, naming the layer, if its type is unknown or a required field is missing.
    """
    kind = entry["type"]
    if kind not in TYPES and not keep_unknown:
        raise FormatError(
            f"Unknown layer type {kind!r} (layer {index}, {entry.get('name')!r}); wanted one of "
            f"{sorted([*(name for name in TYPES if '.' not in name), 'custom'])}"
        )
    if kind == "pool" and "pool" not in entry:
        raise FormatError(f"layer {index}, {entry.get('name')!r}, is a pool without field 'pool'")
    return find(kind, lambda layer: read_options(layer, entry, "chain"))


def write_layer(layer: Layer) -> Struct:
    """The struct entry of a layer: its type and options; the inverse of `read_layer`."""
    out = Struct(type=layer.type_name) | write_options(layer, "chain")
    if layer.type_name in HAS_OPTS:
        out["opts"] = []
    return Struct(out)
