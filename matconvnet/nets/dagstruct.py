"""DagNN structs: layers, parameters and variables as MatConvNet stores them in files.

A struct is `{"layers": [...], "params": [...], "vars": [...], "meta": {...}}`: each of `layers` has
a name, a `type` such as "dagnn.Conv", the names of its inputs, outputs and params, and a `block`
with the properties of its class.
"""

import itertools
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.layer import Layer
from matconvnet.layout import as4d, channels_last, to_tensor
from matconvnet.nets.fields import camel_case, field_keys, is_empty, read_options, write_options
from matconvnet.nets.network import Param
from matconvnet.nets.registry import TYPES, Unknown, find
from matconvnet.values import Cell, Struct

PREFIX = "dagnn."
FIELDS = ("layers", "params", "vars", "meta")
LAYER_FIELDS = ("name", "type", "inputs", "outputs", "params", "block")
PARAM_FIELDS = ("name", "value", "learningRate", "weightDecay", "trainMethod")


class Placed(NamedTuple):
    """A layer of a DagNN in its place.

    extra: properties of its block that no layer reads, and its `type`, where that is another name
    than the layer's own.
    """

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...]
    extra: dict[str, Any]


def records(value: Any, name: str) -> list[Mapping[str, Any]]:
    """The elements of a struct array, which is a struct if there is one and may be left out.

    Raises: FormatError, naming the field.
    """
    if isinstance(value, Mapping):
        return [value]
    if is_empty(value):
        return []
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, Mapping) for v in value):
        raise FormatError(f"{name} is {type(value).__name__}; wanted a struct array")
    return list(value)


def read_layer(entry: Mapping[str, Any], keep_unknown: bool = False) -> Placed:
    """Read one element of `layers`.

    Args:
        entry: the struct.
        keep_unknown: of a class that nobody registered, make a placeholder.

    Raises: FormatError, naming the layer.
    """
    name, kind = entry.get("name"), entry.get("type")
    if not isinstance(name, str) or not isinstance(kind, str):
        raise FormatError(f"a layer has name {name!r} and type {kind!r}; wanted two strings")
    if kind not in TYPES and not keep_unknown:
        raise FormatError(
            f"layer {name!r} is of class {kind!r}, which is not known; "
            f"matconvnet.register({kind!r}, layer) makes it so"
        )
    inputs, outputs, params = (
        _names(entry.get(key), f"{key} of layer {name!r}")
        for key in ("inputs", "outputs", "params")
    )
    block = entry.get("block")
    block = block if isinstance(block, Mapping) else {}
    layer = find(kind, lambda cls: read_options(cls, {**_option_pairs(block, cls), **block}, "dag"))
    if isinstance(layer, Unknown):
        layer = replace(layer, num_outputs=len(outputs))
    read = set(field_keys(type(layer), "dag").values())
    extra = {key: value for key, value in block.items() if key not in read}
    if kind != PREFIX + layer.dag_type:
        extra["type"] = kind
    return Placed(name, layer, inputs, outputs, params, extra)


def write_layer(placed: Placed) -> Struct:
    """The element of `layers`: the inverse of `read_layer`."""
    layer = placed.layer
    options = {} if isinstance(layer, Unknown) else write_options(layer, "dag")
    keys = field_keys(type(layer), "dag").values()
    block = Struct({key: value for key, value in options.items() if key in keys})
    pairs = [item for pair in options.items() if pair[0] not in keys for item in pair]
    if pairs:
        block["opts"] = Cell(pairs)
    block.update(placed.extra)
    kind = block.pop("type", PREFIX + layer.dag_type)
    names = {key: Cell(getattr(placed, key)) for key in ("inputs", "outputs", "params")}
    return Struct(name=placed.name, type=kind, **names, block=block)


def read_param(record: Mapping[str, Any], params: Mapping[str, Param], banks: set[str]) -> None:
    """Read one element of `params` into the parameter that it names, if there is one.

    banks: the parameters that are filters, which have four axes here.

    Raises: FormatError, naming the parameter.
    """
    name = record.get("name", "")
    if name not in params:
        return
    param, value = params[name], record.get("value")
    tensor = None if is_empty(value) else to_tensor(value)
    if tensor is not None and not isinstance(tensor, Tensor):
        raise FormatError(f"param {name!r} is {type(value).__name__}; wanted an array")
    if tensor is not None and name in banks:
        tensor = channels_last(as4d(tensor, f"param {name!r}"))
    param.value = tensor
    param.learning_rate = float(record.get("learningRate", param.learning_rate))
    param.weight_decay = float(record.get("weightDecay", param.weight_decay))
    param.train_method = record.get("trainMethod", param.train_method)


def write_param(param: Param) -> Struct:
    """The element of `params` of a parameter."""
    value = torch.zeros(0, 0) if param.value is None else param.value
    rates = (param.learning_rate, param.weight_decay, param.train_method)
    return Struct(zip(PARAM_FIELDS, (param.name, value, *rates), strict=True))


def _names(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,) if value else ()
    if is_empty(value):
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise FormatError(f"{what} is {value!r}; wanted a cell of strings")
    return tuple(value)


def _option_pairs(block: Mapping[str, Any], layer: type[Layer]) -> dict[str, Any]:
    """Options that are no properties of the class, but name, value pairs in its `opts`."""
    keys = field_keys(layer, "dag")
    rare = [camel_case(f.name) for f in fields(layer) if f.name not in keys]
    opts = block.get("opts")
    items = list(opts) if isinstance(opts, (list, tuple)) else []
    lower = {key.lower(): key for key in rare}
    return {
        lower[name.lower()]: value
        for name, value in itertools.pairwise(items)
        if isinstance(name, str) and name.lower() in lower
    }
