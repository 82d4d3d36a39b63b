"""Options of `cnn_train` and `cnn_train_dag`: MATLAB's spellings and values as TrainOptions."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from matconvnet.compat.options import parse_options
from matconvnet.layout import to_numpy
from matconvnet.nets.fields import is_empty
from matconvnet.parallel.links import place_of_this_process
from matconvnet.train.inputs import check_prefetch
from matconvnet.train.options import ERROR_LABELS, TrainOptions
from matconvnet.train.solvers import SOLVERS
from matconvnet.values import Struct

RENAMED = ("resume", "device")  # "continue" and "gpus" here
COMMON = {
    **{f.name: f.default for f in fields(TrainOptions) if f.name not in RENAMED},
    "keep_last": None,
    "checkpoint_minutes": None,
    "page": False,
    "continue": True,
    "gpus": None,
    "parameter_server": None,
}
"""Options of both functions, with their defaults: the original keeps every checkpoint."""


def training_options(
    defaults: Mapping[str, Any],
    pairs: Sequence[Any],
    keywords: Mapping[str, Any],
    imdb: Any,
    get_batch: Callable[..., Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options as they were given, and as TrainOptions takes them.

    Args:
        defaults: every option that the function has.
        pairs, keywords: as in `parse_options`.
        imdb: the database, whose sets tell the images where the options do not.
        get_batch: checked to take `prefetch`, if that is on.

    Returns: (all options by their names in `defaults`, the arguments of TrainOptions).
    Raises: TypeError, ValueError, naming the option.
    """
    opts = parse_options(defaults, pairs, keywords)
    own = {f.name: opts[f.name] for f in fields(TrainOptions) if f.name in opts}
    for f in fields(TrainOptions):
        if f.name in own and f.default is None and is_empty(own[f.name]):
            own[f.name] = None
        if f.name in own and (f.default is None or type(f.default) is int):
            own[f.name] = _number(own[f.name])
    for name, code in (("train", 1), ("val", 2)):
        own[name] = find_images(opts[name], imdb, code)
    own["solver"] = _solver(own["solver"])
    own["resume"], own["device"] = bool(opts["continue"]), _device(opts["gpus"])
    if opts["prefetch"]:
        check_prefetch(get_batch)
    return opts, own


def find_images(given: Any, imdb: Any, code: int) -> np.ndarray:
    """Indices from 0 of the images of a phase.

    Args:
        given: image numbers from 1; empty: those of set `code`; NaN: none.
        imdb: the database; `imdb.images.set` or `imdb.set`, fields or keys, hold the codes.
        code: of the set: 1 train, 2 val.

    Raises: ValueError.
    """
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


def error_labels(opts: Mapping[str, Any]) -> Any:
    """Names of the errors: those given, or those of the built-in function."""
    if not is_empty(opts["error_labels"]):
        return opts["error_labels"]
    function = opts["error_function"]
    return ERROR_LABELS.get(function) if isinstance(function, str) else None


def _get(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def _number(value: Any) -> Any:
    """Whole numbers as int; infinity, which means no limit, as None; other values as they are."""
    if isinstance(value, (float, np.number)):
        if math.isinf(value):
            return None
        return int(value) if float(value).is_integer() else float(value)
    return value


def _solver(solver: Any) -> Any:
    """A solver by its name, also as `solver.adam`, or a function whose options are a struct."""
    if isinstance(solver, str):
        return solver.removeprefix("@").removeprefix("solver.")
    if not callable(solver) or solver in SOLVERS.values():
        return solver

    @functools.wraps(solver)
    def call(*arguments: Any) -> Any:
        if not arguments:
            return solver()
        value, state, der, options, rate = arguments
        return solver(value, state, der, Struct(options), rate)

    return call


def _device(gpus: Any) -> str:
    numbers = np.ravel([] if gpus is None else gpus).tolist()
    if len(numbers) > 1:
        raise ValueError(
            f"gpus is {numbers}; wanted one at most: for several, say gpus=1, and start the script "
            f"with `torchrun --nproc-per-node={len(numbers)} script.py`"
        )
    if not numbers:
        return "cpu"
    return "cuda" if place_of_this_process().size > 1 else f"cuda:{int(numbers[0]) - 1}"
