"""`cnn_train` and `cnn_train_dag`: the trainer with the original's manners."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from matconvnet.compat.display import vl_simplenn_display
from matconvnet.compat.simplenn import chain_of, cudnn_flags
from matconvnet.compat.training_batches import (
    ChainBatches,
    DagBatches,
    Extracting,
    derivatives,
    in_order,
)
from matconvnet.compat.training_options import COMMON, error_labels, training_options
from matconvnet.layout import map_arrays, to_numpy
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.fields import camel_case, is_empty
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.nets.struct import layer_list, weight_list
from matconvnet.parallel.links import place_of_this_process
from matconvnet.train.options import TrainOptions
from matconvnet.train.trainer import Epoch, Trainer
from matconvnet.values import Struct, StructArray

CHAIN_OPTIONS = {
    **{name: default for name, default in COMMON.items() if name != "der_outputs"},
    "cudnn": True,
    "memory_map_file": None,
}
CHAIN_ONLY = (
    "conserve_memory", "error_function", "error_labels", "extract_stats", "plot_diagnostics"
)  # fmt: skip
DAG_OPTIONS = {
    **{name: default for name, default in COMMON.items() if name not in CHAIN_ONLY},
    "der_outputs": {"objective": 1},
    "extract_stats_fn": None,
}


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
        *pairs: name, value pairs and dicts, names in any case: those of the original, and those of
            `TrainOptions` (progress, checkpointFormat ...). train and val are image numbers from
            1; empty: by set; NaN: none. gpus is empty or one number from 1. solver is a name or
            `w, state = f(w, state, der, opts, lr)`; errorFunction 'multiclass', 'binary', 'none'
            or `f(params, labels, res)`; postEpochFn `f(net, params, state)`. parameterServer and
            memoryMapFile have no effect: started by torchrun, the workers find each other.
        **options: the same as keywords.

    Returns:
        (net, stats): the trained network, of the kind that was given, a struct tidied; and
        `stats.train`, `stats.val`, lists with a struct for each epoch.

    Raises: TypeError: an unknown option. Else as `Trainer`.
    Source: cnn_train.m. Here evaluation (train NaN) takes one epoch, and the network given, never
        that of a checkpoint; a checkpoint gives parameters to the network given.
    """
    opts, own = training_options(CHAIN_OPTIONS, pairs, options, imdb, get_batch)
    in_numpy = not isinstance(net, SimpleNN) and _is_numpy(_weights(net))
    chain = net if isinstance(net, SimpleNN) else chain_of(net, in_numpy)

    def answer() -> Any:
        return chain if isinstance(net, SimpleNN) else _as_given(chain, net, in_numpy)

    params = _params(opts)
    batches = ChainBatches(get_batch, chain)
    if opts["error_function"] != "none":
        own["error_labels"] = error_labels(opts)
        own["error_function"] = batches.error_function(opts["error_function"], params)
    if opts["progress"] and place_of_this_process().rank == 0:
        vl_simplenn_display(chain, batch_size=own["batch_size"])
    own["post_epoch_fn"] = _post_epoch(own["post_epoch_fn"], answer, params, get_batch)
    with cudnn_flags(bool(opts["cudnn"])):
        _, stats = Trainer(chain, imdb, batches, TrainOptions(**own)).run()
    batches.forget_labels()
    return answer(), _told(stats)


def cnn_train_dag(
    net: Any, imdb: Any, get_batch: Callable[..., Any], *pairs: Any, **options: Any
) -> tuple[Any, Struct]:
    """Train a network of layers wired by names.

    Args:
        net: a DagNN, which is trained in place, or the struct of one, which is not modified.
            `net.conserve_memory` holds.
        imdb: the database, as for `cnn_train`.
        get_batch: `get_batch(imdb, batch) -> inputs`: batch holds image numbers from 1, inputs is a
            list `["input", im, "label", labels, ...]` or a dict. What losses compare with counts as
            for `cnn_train`; other inputs are taken as they are.
        *pairs: as for `cnn_train`, but for errors and cudnn. derOutputs tells the objectives and
            their weights, `["objective", 1]` or a dict. extractStatsFn is
            `stats = f(stats, net)`, called after each batch with the statistics so far; it may
            read `net.vars[...].value` of variables that are precious.
        **options: the same as keywords.

    Returns:
        (net, stats): the trained network, of the kind that was given; and `stats.train`,
        `stats.val`, lists with a struct for each epoch: num, time, and for each loss the mean of
        its output variable, under its name.

    Raises: as `cnn_train`; ValueError, if derOutputs is empty.
    Source: cnn_train_dag.m. Here evaluation (train NaN) writes nothing.
    """
    opts, own = training_options(DAG_OPTIONS, pairs, options, imdb, get_batch)
    in_numpy = not isinstance(net, DagNN) and _is_numpy(_values(net))
    dag = net if isinstance(net, DagNN) else DagNN.from_struct(net)

    def answer() -> Any:
        return dag if isinstance(net, DagNN) else _in_kind(dag.to_struct(), in_numpy)

    extract = opts["extract_stats_fn"]
    own |= {
        "extract_stats": in_order if is_empty(extract) else Extracting(extract),
        "der_outputs": derivatives(opts["der_outputs"]) if len(own["train"]) else None,
        "conserve_memory": dag.conserve_memory,
        "error_function": "none",
        "post_epoch_fn": _post_epoch(own["post_epoch_fn"], answer, _params(opts), get_batch),
    }
    _, stats = Trainer(dag, imdb, DagBatches(get_batch, dag), TrainOptions(**own)).run()
    return answer(), _told(stats)


def _told(stats: Mapping[str, list[Any]]) -> Struct:
    return Struct({phase: [Struct(s) for s in all_] for phase, all_ in stats.items()})


def _params(opts: Mapping[str, Any]) -> Struct:
    """The options under the original's names, as its functions are given them."""
    return Struct({camel_case(name): value for name, value in opts.items()})


def _is_numpy(weights: list[Any]) -> bool:
    """True, if a weight of a struct is a NumPy array."""
    return any(isinstance(w, np.ndarray) for w in weights)


def _weights(net: Any) -> list[Any]:
    return [w for entry in layer_list(net) for w in weight_list(entry)]


def _values(net: Mapping[str, Any]) -> list[Any]:
    params = net.get("params", [])
    return [param.get("value") for param in ([params] if isinstance(params, dict) else params)]


def _post_epoch(
    function: Any, answer: Callable[[], Any], params: Struct, get_batch: Any
) -> Callable[..., Any] | None:
    """A function `f(net, params, state)` of the original as one for the trainer."""
    if function is None:
        return None

    def call(_net: Network, _options: TrainOptions, told: Epoch) -> Any:
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


def _in_kind(struct: Struct, in_numpy: bool) -> Struct:
    """The struct of a DagNN, the values of its parameters as arrays, if that is wanted."""
    if in_numpy:
        struct["params"] = StructArray(
            Struct(param, value=to_numpy(param["value"])) for param in struct["params"]
        )
    return struct
