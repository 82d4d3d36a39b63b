"""Networks in `.mat` files: which of its many forms a file has, and the form we write."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.interop.mat.writer import Version
from matconvnet.layout import as4d, channels_last_, to_tensor
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.dagstruct import records
from matconvnet.nets.names import unique_name
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Cell, Opaque, Struct, StructArray

LONGEST_NAME = 63
IDENTIFIER = re.compile(rf"[A-Za-z]\w{{0,{LONGEST_NAME - 1}}}", re.ASCII)
RESAVE = (
    "it was saved as an object, which only MATLAB can read; there, save its fields: "
    "`s = net.saveobj(); save('net.mat', '-struct', 's')`"
)


def load_mat(path: str | Path, *, budget: int | None = None) -> Network | Struct:
    """Read the network, or the image database, in a `.mat` file.

    Networks are SimpleNN structs of every age or DagNN structs, as the variables of the file or in
    one of them; what else the file holds is put into `net.beside`. Layers of a type that nobody
    registered become placeholders, listed in `net.unknown`. Class labels and image numbers of a
    database count from 1, as they do in the file.

    Args:
        path: the file, of MAT version 5, 6, 7 or 7.3.
        budget: the most bytes that reading may allocate; None: in proportion to the file.

    Returns: a SimpleNN or a DagNN; or the variables, if they are those of an image database.
    Raises: MatFileError, if the file is damaged; FormatError, if it holds nothing of the kind;
        OSError.
    """
    variables = read_mat(path, budget=budget)
    found = _find(variables, path)
    if found is None:
        return variables
    name, struct = found
    net = read_network(struct, path)
    if name is not None:
        net.beside = Struct({k: v for k, v in variables.items() if k != name})
    return net


def save_mat(net: Network, path: str | Path, *, version: Version | None = None) -> None:
    """Write a network as MatConvNet reads it.

    Names in a DagNN that MATLAB cannot make fields of are changed, "a/b" to "a_b".

    The fields of the network are the variables of the file; if the network has something
    `beside` it, they are the fields of a variable `net`, as in checkpoints of training.

    Args:
        net: the network.
        path: the file.
        version: "7" (compressed), "6" (not) or "7.3"; None: "7", or "7.3" where a variable
            exceeds 2 GB.

    Raises: TypeError, ValueError, naming what the file cannot hold; OSError.
    """
    struct = write_network(net)
    beside = net.beside
    write_mat(path, struct if beside is None else {"net": struct, **beside}, version=version)


def write_network(net: Network) -> Struct:
    """The struct of a network, with MATLAB's classes and orientations."""
    struct = net.to_struct()
    if isinstance(net, SimpleNN):
        struct["layers"] = Cell(map(_write_layer, struct["layers"]))
    else:
        _rename(struct)
    return struct


def _write_layer(layer: Struct) -> Struct:
    """A layer of a SimpleNN, its lists as cells."""
    cells = {key: Cell(layer[key]) for key in ("weights", "opts") if _is_list(layer.get(key))}
    return Struct(layer | cells)


def _is_list(value: Any) -> bool:
    """True for a list of Python's own."""
    return isinstance(value, (list, tuple)) and not isinstance(value, Cell)


def _rename(struct: Struct) -> None:
    """Give the objects of a DagNN names that MATLAB can make fields of."""
    for key, users in (("vars", ("inputs", "outputs")), ("params", ("params",)), ("layers", ())):
        names = identifiers([item["name"] for item in struct[key]])
        for item in struct[key]:
            item["name"] = names[item["name"]]
        for layer in struct["layers"]:
            for user in users:
                layer[user] = Cell(names[name] for name in layer[user])


def identifiers(names: list[str]) -> dict[str, str]:
    """For every name a MATLAB identifier of its own; the same, if it is one."""
    taken = {name for name in names if IDENTIFIER.fullmatch(name)}
    found = {name: name for name in taken}
    for name in names:
        if name in found:
            continue
        root = re.sub(r"\W", "_", name, flags=re.ASCII)[: LONGEST_NAME - 5]
        root = root if root[:1].isalpha() else f"x{root}"
        found[name] = unique_name(root, taken)
        taken.add(found[name])
    return found


def _find(variables: Struct, path: str | Path) -> tuple[str | None, Mapping[str, Any]] | None:
    """The struct of the network and the variable it is in, if any; None for a database."""
    if _is_network(variables):
        return None, variables
    inside = [name for name, value in variables.items() if _is_network(value)]
    name = "net" if "net" in inside else inside[0] if len(inside) == 1 else None
    if name is not None:
        return name, variables[name]
    for name, value in variables.items():
        if isinstance(value, Opaque) and (name == "net" or value.class_name.startswith("dagnn.")):
            raise FormatError(f"{path}: variable {name!r} is a {value.class_name}: {RESAVE}")
    if any(isinstance(v, Mapping) and "data" in v for v in variables.values()):
        return None
    if "imdb" in variables or "images" in variables:
        return None
    found = ", ".join(f"{name} ({_kind(value)})" for name, value in variables.items())
    raise FormatError(
        f"{path} holds {found or 'no variables'}; wanted a network, `layers` or a struct with that "
        "field, or an image database, `images`"
    )


def _is_network(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(
        value.get("layers"), (Cell, StructArray, Mapping)
    )


def _kind(value: Any) -> str:
    if isinstance(value, Opaque):
        return f"object of class {value.class_name}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ if not shape else f"{' x '.join(map(str, shape))} array"


def read_network(struct: Mapping[str, Any], path: str | Path) -> Network:
    """The network of a struct that `read_mat` read; `path` names the file in errors.

    The struct is spent: filters are put in order in its memory.

    Raises: FormatError, naming the file, if the struct is no network.
    """
    try:
        if isinstance(struct["layers"], Cell):
            layers = [_lean_layer(layer) for layer in struct["layers"]]
            return SimpleNN.from_struct({**struct, "layers": layers}, keep_unknown=True)
        params = [
            Struct(param, value=_lean(param.get("value")))
            for param in records(struct.get("params"), "params")
        ]
        return DagNN.from_struct({**struct, "params": params}, keep_unknown=True)
    except (FormatError, TypeError, ValueError, KeyError) as error:
        raise FormatError(f"{path} holds a network that cannot be read: {error}") from error


def _lean_layer(layer: Any) -> Any:
    """A layer of a SimpleNN, its weights as tensors in the memory that they were read to."""
    if not isinstance(layer, Mapping):
        return layer
    out = Struct(layer)
    for key in ("filters", "biases"):
        if key in out:
            out[key] = _lean(out[key])
    if isinstance(out.get("weights"), list):
        out["weights"] = [_lean(weight) for weight in out["weights"]]
    return out


def _lean(value: Any) -> Any:
    """An array of a file as a tensor, filters in channels-last order, without a second copy."""
    if isinstance(value, Opaque):
        raise FormatError(
            f"a weight is an object of class {value.class_name}; in MATLAB, move the network to "
            "main memory before saving it: `net = vl_simplenn_move(net, 'cpu')`"
        )
    if isinstance(value, (float, np.generic)):
        value = np.full((1, 1), value)
    tensor = to_tensor(value)
    if not isinstance(tensor, Tensor) or tensor.dim() < 3 or not tensor.is_floating_point():
        return tensor
    return channels_last_(as4d(tensor, "weight")) if tensor.dim() < 5 else tensor
