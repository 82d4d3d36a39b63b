"""`cnn_train` with MATLAB manners: structs, option pairs, labels and image numbers from 1."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from matconvnet.compat.display import vl_simplenn_display
from matconvnet.compat.options import parse_options
from matconvnet.compat.simplenn import chain_of, cudnn_flags, labels_from_one
from matconvnet.executor import Record
from matconvnet.layer import Layer
from matconvnet.layout import map_arrays, to_numpy, to_tensor
from matconvnet.nets.custom import Custom, Entry
from matconvnet.nets.fields import camel_case, is_empty
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.nets.struct import layer_list, weight_list
from matconvnet.train.meters import binary, multiclass
from matconvnet.train.options import ERROR_LABELS, TrainOptions
from matconvnet.train.trainer import Epoch, Trainer, prediction_of
from matconvnet.values import Struct

OWN = {f.name: f.default for f in fields(TrainOptions) if f.name not in ("resume", "device")}
OPTIONS = {
    **OWN, "continue": True, "gpus": None, "cudnn": True,
    "profile": False, "parameter_server": None, "memory_map_file": None,
}  # fmt: skip
CAN_BE_EMPTY = ("solver", "solver_opts", "error_labels", "epoch_size", "back_prop_depth",
                "post_epoch_fn")  # fmt: skip
NUMBERS = ("batch_size", "num_sub_batches", "num_epochs", "epoch_size", "back_prop_depth",
           "random_seed")  # fmt: skip


def cnn_train(
    net: Any, imdb: Any, get_batch: Callable[..., Any], *pairs: Any, **options: Any
) -> tuple[Any, Struct]:
    """Train a chain of layers.

    Args:
        net: a network struct, which is not modified, or a SimpleNN, which is trained in place.
        imdb: the database; `imdb.images.set` (or `imdb.set`, fields or keys) holds 1 for training
            and 2 for validation images, unless options train and val tell.
        get_batch: `get_batch(imdb, batch) -> (im, labels)`: batch holds image numbers from 1, im is
            H x W x C x N, NumPy or torch, labels are from 1 with 0 = ignore (+-1 with 0 = ignore
            for binary losses). With prefetch it is also called with `prefetch=True`.
        *pairs: name, value pairs and dicts, names in any case: those of the original, and
            `progress` (ours; False: be silent). train and val are image numbers from 1; empty: by
            set; NaN: none. gpus is empty or one number from 1. errorFunction is
            'multiclass', 'binary', 'none' or `f(params, labels, res)`; postEpochFn
            `f(net, params, state)`. profile, parameterServer and memoryMapFile have no effect.
        **options: the same as keywords.

    Returns:
        (net, stats): the trained network, of the kind that was given, a struct tidied; and
        `stats.train`, `stats.val`, lists with a struct for each epoch.

    Raises: TypeError: an unknown option. Else as `Trainer`.
    Source: cnn_train.m. Here evaluation (train NaN) takes one epoch, and the network given, never
        that of a checkpoint; a checkpoint gives parameters to the network given.
    """
    opts = parse_options(OPTIONS, pairs, options)
    in_numpy = not isinstance(net, SimpleNN) and _is_numpy(net)
    chain = net if isinstance(net, SimpleNN) else chain_of(net, in_numpy)
    own = _plain(opts, imdb)
    params = Struct({camel_case(name): value for name, value in opts.items()})

    def answer() -> Any:
        return chain if isinstance(net, SimpleNN) else _as_given(chain, net, in_numpy)

    batches = _Batches(get_batch, chain)
    if opts["error_function"] != "none":
        own["error_labels"] = _error_labels(opts)
        own["error_function"] = batches.error_function(opts["error_function"], params)
    if own["post_epoch_fn"] is not None:
        own["post_epoch_fn"] = _post_epoch(opts["post_epoch_fn"], answer, params, get_batch)
    if opts["progress"]:
        vl_simplenn_display(chain, batch_size=own["batch_size"])
    with cudnn_flags(bool(opts["cudnn"])):
        _, stats = Trainer(chain, imdb, batches, TrainOptions(**own)).run()
    batches.forget_labels()
    return answer(), Struct({phase: [Struct(s) for s in all_] for phase, all_ in stats.items()})


class _Batches:
    """`get_batch` for the trainer: numbers from 0, and what came last in its original form."""

    def __init__(self, get_batch: Callable[..., Any], chain: SimpleNN):
        self.get_batch, self.chain = get_batch, chain
        self.prediction = prediction_of(chain)
        self.labels: Any = None
        self.in_numpy = False
        readers = [link.layer for link in chain.layers if link.layer.label_inputs]
        self.reader: Layer | None = readers[-1] if readers else None
        last = chain.layers[-1].layer
        self.custom = cast(dict[str, Any], last.struct) if isinstance(last, Custom) else None

    def __call__(self, imdb: Any, indices: np.ndarray, prefetch: bool = False) -> Any:
        if prefetch:
            return self.get_batch(imdb, indices + 1, prefetch=True)
        im, self.labels = self.get_batch(imdb, indices + 1)
        self.in_numpy = isinstance(im, np.ndarray)
        if self.custom is not None:
            self.custom["class"] = self.labels
        labels = _tensor(self.labels)
        return im, labels if self.reader is None else labels_from_one(self.reader, labels)

    def forget_labels(self) -> None:
        """Take the labels of the last batch from the last layer, if it is a custom one."""
        if self.custom is not None:
            self.custom.pop("class", None)

    def error_function(self, function: Any, params: Struct) -> Any:
        """An error function of the original as one for the trainer."""
        if function == "multiclass":
            return lambda _options, _labels, record: multiclass(
                record.values[self.prediction], self._classes(record)
            )
        if function == "binary":
            return lambda _options, _labels, record: binary(
                record.values[self.prediction], self._tensor_like(record)
            )
        if not callable(function):
            return function  # TrainOptions explains
        return lambda _options, _labels, record: function(params, self.labels, self._res(record))

    def _tensor_like(self, record: Record) -> Tensor:
        return _tensor(self.labels).to(record.values[self.prediction].device)

    def _classes(self, record: Record) -> Tensor:
        """Classes from 0, whatever the last layer takes for labels."""
        labels = self._tensor_like(record)
        if labels.dim() == 4 and labels.shape[2] == 2:
            return torch.cat((labels[:, :, :1] - 1, labels[:, :, 1:]), 2)
        return labels - 1

    def _res(self, record: Record) -> list[Entry]:
        count = len(self.chain.layers) + 1
        values = [record.values.get(f"x{i}") for i in range(count)]
        return [Entry(x=to_numpy(value) if self.in_numpy else value) for value in values]


def _is_numpy(net: Any) -> bool:
    """True, if a weight of the struct is a NumPy array."""
    weights = [w for entry in layer_list(net) for w in weight_list(entry)]
    return any(isinstance(w, np.ndarray) for w in weights)


def _plain(opts: Mapping[str, Any], imdb: Any) -> dict[str, Any]:
    """The options under their own names, with Python's values."""
    own = {name: opts[name] for name in OWN}
    for name in CAN_BE_EMPTY:
        own[name] = None if is_empty(opts[name]) else opts[name]
    for name in NUMBERS:
        own[name] = _number(own[name])
    for name, code in (("train", 1), ("val", 2)):
        own[name] = _images(opts[name], imdb, code)
    gpus = np.ravel([] if opts["gpus"] is None else opts["gpus"]).tolist()
    if len(gpus) > 1:
        raise ValueError(f"gpus is {gpus}; wanted one GPU at most")
    device = f"cuda:{int(gpus[0]) - 1}" if gpus else "cpu"
    return {**own, "resume": bool(opts["continue"]), "device": device}


def _number(value: Any) -> Any:
    """Whole numbers as int; infinity, where it means no limit, as None."""
    if isinstance(value, (float, np.number)):
        if math.isinf(value):
            return None
        return int(value) if value == int(value) else value
    return value


def _images(given: Any, imdb: Any, code: int) -> np.ndarray:
    """Indices from 0 of the images of a phase."""
    numbers = np.ravel([] if given is None else to_numpy(given))
    if numbers.size == 1 and np.isnan(numbers[0]):
        return np.zeros(0, np.int64)
    if numbers.size:
        if (numbers != np.floor(numbers)).any() or numbers.min() < 1:
            raise ValueError(f"train and val are image numbers from 1; found {numbers.min()}")
        return numbers.astype(np.int64) - 1
    sets = _get(_get(imdb, "images"), "set")
    sets = _get(imdb, "set") if sets is None else sets
    if sets is None:
        raise ValueError("imdb has no images.set; give the image numbers as train and val")
    return np.flatnonzero(np.ravel(to_numpy(sets)) == code)


def _get(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def _tensor(labels: Any) -> Tensor:
    tensor = to_tensor(labels)
    return tensor if isinstance(tensor, Tensor) else torch.as_tensor(tensor)


def _error_labels(opts: Mapping[str, Any]) -> Any:
    if not is_empty(opts["error_labels"]):
        return opts["error_labels"]
    function = opts["error_function"]
    return ERROR_LABELS.get(function) if isinstance(function, str) else None


def _post_epoch(
    function: Any, answer: Callable[[], Any], params: Struct, get_batch: Any
) -> Callable[..., Any]:
    """A function `f(net, params, state)` of the original as one for the trainer."""

    def call(_net: SimpleNN, _options: TrainOptions, told: Epoch) -> Any:
        told_params = Struct(
            params, epoch=told.epoch, learningRate=told.learning_rate, train=told.train + 1,
            val=told.val + 1, imdb=told.imdb, getBatch=get_batch,
        )  # fmt: skip
        stats = {phase: Struct(all_[-1]) for phase, all_ in told.stats.items()}
        state = Struct(solverState=told.solver_state, stats=Struct(stats))
        return function(answer(), told_params, state)

    return call


def _as_given(chain: SimpleNN, net: Mapping[str, Any], in_numpy: bool) -> Struct:
    """The chain as a struct, its arrays and functions of the kind in `net`, without labels."""
    out = chain.to_struct()
    for entry, given in zip(out["layers"], layer_list(net), strict=True):
        entry.pop("class", None)
        if given["type"] == "custom":
            entry.update({key: given[key] for key in ("forward", "backward") if key in given})
        if in_numpy and "weights" in entry:
            entry["weights"] = map_arrays(entry["weights"], to_numpy)
    return out
