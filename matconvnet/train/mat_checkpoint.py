"""The original's checkpoints, `net-epoch-<e>.mat`: its runs go on here, and ours there.

| variable | content                                                                        |
|----------|--------------------------------------------------------------------------------|
| `net`    | the struct of a SimpleNN or DagNN                                              |
| `state`  | `solverState` and `stats.train`, `stats.val` of this epoch                     |
| `stats`  | `train` and `val`: a struct array each, an element per epoch                   |

`solverState` is a cell {layer}{weight} for a SimpleNN, {parameter} for a DagNN, or empty. What it
holds is a tensor, a struct of tensors and numbers, or the number 0 where nothing is kept.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.interop.mat.networks import identifiers, read_network, write_network
from matconvnet.layout import to_tensor
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.dagstruct import records
from matconvnet.nets.fields import is_empty, to_list
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.train.meters import Stats
from matconvnet.values import Cell, Opaque, Struct, StructArray

PATTERN = re.compile(r"net-epoch-(\d+)\.mat")
PHASES = ("train", "val")
HALF_TYPES = (torch.float16, torch.bfloat16)  # not in MATLAB: written as single
OLD_ERRORS = {1: ("binerr",), 2: ("top1err", "top5err")}


class MatCheckpoint(NamedTuple):
    """The state of training after an epoch.

    net: as the file holds it, its parameters named and shaped as in the network that is trained.
    solver_state: by parameter. stats: of all epochs, by phase. learning_rates: of all epochs, or
    none: the original does not keep them.
    """

    epoch: int
    net: Network
    solver_state: dict[str, Any]
    stats: dict[str, list[Stats]]
    learning_rates: list[float]


def save_mat_checkpoint(
    path: str | Path,
    net: Network,
    solver_state: Mapping[str, Any],
    stats: Mapping[str, Sequence[Stats]],
    learning_rates: Sequence[float] = (),
) -> None:
    """Write a checkpoint that the original resumes from; the file is replaced at once or not.

    Functions of custom layers and the labels of the last batch are left out.

    Args:
        path: `net-epoch-<e>.mat`.
        net: a SimpleNN or a DagNN.
        solver_state: what the solver keeps, by parameter.
        stats: of all epochs, "train" and "val".
        learning_rates: of all epochs; kept in `state.learningRates`, which the original ignores.

    Raises: TypeError, ValueError, naming what the file cannot hold; OSError.
    Source: saveState and saveStats of cnn_train.m.
    """
    struct = write_network(net)
    if isinstance(net, SimpleNN):
        struct["layers"] = Cell(map(_without_labels, struct["layers"]))
    state = Struct(
        solverState=_write_state(net, solver_state),
        stats=Struct({phase: stats[phase][-1] for phase in PHASES if stats[phase]}),
    )
    if learning_rates:
        state["learningRates"] = list(learning_rates)
    history = Struct({phase: _write_stats(stats[phase]) for phase in PHASES})
    write_mat(path, {"net": struct, "state": state, "stats": history})


def load_mat_checkpoint(path: str | Path, net: Network) -> MatCheckpoint:
    """Read a checkpoint of the original's, or one of ours.

    Files of before 2015, with the variable `info` and momentum in the layers, are read too; they
    do not tell numbers of images and seconds, which are 0.

    Args:
        path: the file; its epoch is the number in its name, else that of its statistics.
        net: the network that is trained; it is not modified.

    Raises: FormatError, if the file holds no network of this kind, or no statistics, which the
        original writes last. MatFileError, if it is damaged. OSError.
    Source: loadState of cnn_train.m.
    """
    path = Path(path)
    try:
        return _read(path, read_mat(path), net)
    except (FormatError, OSError):
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} does not hold a checkpoint: {error!r}") from error


def _read(path: Path, variables: Mapping[str, Any], net: Network) -> MatCheckpoint:
    struct = variables.get("net")
    if not isinstance(struct, Mapping):
        raise FormatError(f"{path} holds {list(variables)}; wanted net, state and stats")
    if "stats" not in variables and "info" not in variables:
        raise FormatError(
            f"{path} has no stats: the program that wrote it was interrupted, or it holds a "
            "network alone; delete it to resume from the checkpoint before"
        )
    found = read_network(struct, path)
    if not isinstance(found, DagNN if isinstance(net, DagNN) else SimpleNN):
        raise FormatError(
            f"{path} holds a {type(found).__name__}; the network in training is a "
            f"{type(net).__name__}"
        )
    state = _struct(variables.get("state"))
    kept = dict(_states(state, struct))
    if isinstance(net, DagNN) and isinstance(found, DagNN):
        for name, written in identifiers(list(net.params)).items():
            if written != name and written in found.params:
                found.rename_param(written, name)
                kept[name] = kept.pop(written, None)
    values = net.values()
    for name, param in found.params.items():
        param.value = _fit(param.value, values.get(name))
    solver_state = {
        name: _read_entry(entry, values[name], f"{path}: the solver state of {name!r}")
        for name, entry in kept.items()
        if name in values and not _is_none(entry)
    }
    stats = _read_stats(variables, path)
    match = PATTERN.fullmatch(path.name)
    epoch = int(match[1]) if match else len(stats["train"])
    rates = [float(rate) for rate in to_list(state.get("learningRates", []))]
    return MatCheckpoint(epoch, found, solver_state, stats, rates)


def _without_labels(layer: Mapping[str, Any]) -> Struct:
    return Struct({k: v for k, v in layer.items() if k != "class" and not callable(v)})


def _write_state(net: Network, state: Mapping[str, Any]) -> Cell | None:
    """The cell `solverState`; None, which is `[]`, where nothing is kept."""
    if not state:
        return None
    if isinstance(net, SimpleNN):
        lists = [[state.get(param.name, 0) for param in link.params] for link in net.layers]
        return Cell([Cell(items, (1, len(items))) for items in lists], (1, len(lists)))
    items = [state.get(name, 0) for name in net.params]
    return Cell(items, (1, len(items)))


def _write_stats(epochs: Sequence[Stats]) -> StructArray:
    """A struct array; a statistic that an epoch lacks is `[]`."""
    fields = dict.fromkeys(name for stats in epochs for name in stats)
    return StructArray(
        (Struct({name: stats.get(name) for name in fields}) for stats in epochs), fields=fields
    )


def _struct(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _states(state: Mapping[str, Any], struct: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the solver keeps for each parameter, by the name that it has in the file."""
    kept = state.get("solverState")
    if isinstance(struct["layers"], Cell):
        if kept is None:  # of before 2015
            kept = [layer.get("momentum") for layer in struct["layers"]]
        for i, entries in enumerate(to_list(kept), 1):
            for j, entry in enumerate(entries if isinstance(entries, Cell) else [], 1):
                yield f"l{i}_{j}", entry
    else:
        names = [record["name"] for record in records(struct.get("params"), "params")]
        yield from zip(names, to_list(kept), strict=False)


def _is_none(entry: Any) -> bool:
    """True for 0, which stands for no state, and for `[]`."""
    return is_empty(entry) or (isinstance(entry, (float, np.number)) and not entry)


def _read_entry(entry: Any, value: Tensor | None, place: str) -> Any:
    """What a solver keeps for a parameter: a tensor, a number, or a dict of them."""
    if isinstance(entry, Mapping):
        return {key: _read_entry(item, value, place) for key, item in entry.items()}
    if isinstance(entry, Opaque):
        raise FormatError(
            f"{place} is an object of class {entry.class_name}; wanted an array: in MATLAB, gather "
            "it from the GPU"
        )
    if isinstance(entry, (float, np.number)) and not _is_momentum(entry, value):
        return float(entry)
    if not isinstance(entry, (float, np.number, np.ndarray)):
        raise FormatError(f"{place} is {type(entry).__name__}; wanted numbers")
    return _fit(to_tensor(np.atleast_2d(entry)), value)


def _is_momentum(number: float | np.number, value: Tensor | None) -> bool:
    """True, if a number is a tensor that belongs to a parameter of one element, by its class."""
    is_double = value is not None and value.dtype == torch.float64
    return value is not None and value.numel() == 1 and isinstance(number, float) == is_double


def _fit(tensor: Tensor | None, value: Tensor | None) -> Tensor | None:
    """A tensor of a file in the shape of the parameter `value`, where only axes of size 1 differ.

    MATLAB drops such axes at the end, and has no vectors of one axis.
    """
    if tensor is None or value is None:
        return tensor
    if value.dtype in HALF_TYPES:
        tensor = tensor.to(value.dtype)
    sizes, wanted = ([n for n in t.shape if n != 1] for t in (tensor, value))
    return tensor.reshape(value.shape) if sizes == wanted else tensor


def _read_stats(variables: Mapping[str, Any], path: Path) -> dict[str, list[Stats]]:
    """Statistics by phase, as many of either."""
    source = variables.get("stats", variables.get("info"))
    if not isinstance(source, Mapping) or "train" not in source:
        raise FormatError(
            f"{path}: stats is {type(source).__name__}; wanted a struct of train, val"
        )
    is_old = "stats" not in variables
    stats: dict[str, list[Stats]] = {
        phase: list(_old_epochs(source.get(phase)) if is_old else _epochs(source, phase))
        for phase in PHASES
    }
    while len(stats["val"]) < len(stats["train"]):
        stats["val"].append({"num": 0, "time": 0})
    return stats


def _epochs(source: Mapping[str, Any], phase: str) -> Iterator[Stats]:
    for record in records(source.get(phase), f"stats.{phase}"):
        yield {name: _number(value) for name, value in record.items() if not is_empty(value)}


def _number(value: Any) -> float:
    return float(np.ravel(value)[0])


def _old_epochs(info: Any) -> Iterator[Stats]:
    """Statistics of files of before 2015: a row for each, an element per epoch."""
    objective = np.ravel(info["objective"]).tolist()
    errors = np.reshape(info["error"], (-1, len(objective)), order="F")
    names = OLD_ERRORS.get(len(errors), ())
    for epoch, value in enumerate(objective):
        found = {name: float(row[epoch]) for name, row in zip(names, errors, strict=False)}
        yield {"objective": value, **found, "num": 0, "time": 0}
