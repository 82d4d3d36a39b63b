"""Options of training, checked when they are made."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from matconvnet.fast.precision import check_precision
from matconvnet.train.schedules import Schedule, as_schedule

ERROR_LABELS = {"multiclass": ("top1err", "top5err"), "binary": ("binerr",), "none": ()}
"""The built-in error functions, and the names of what each returns."""

Indices = Sequence[int] | np.ndarray
Rates = float | Sequence[float] | np.ndarray | Schedule

FORMATS = ("safetensors", "mat")
"""Kinds of files that a checkpoint can be written to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainOptions:
    """How a network is trained.

    Files:
        exp_dir: folder for checkpoints, statistics and figures, made if missing; None: no files.
        resume: go on from the last checkpoint in `exp_dir`.
        keep_last: how many of the last epochs' checkpoints to keep, beside the best; None: all.
        checkpoint_every: updates after which one is written within an epoch; None: none.
        checkpoint_minutes: minutes after which one is written within an epoch; None: none.
        checkpoint_format: "safetensors" (ours), or "mat", which the original resumes from too and
            which is written after whole epochs only.

    Data:
        train, val: indices from 0 into the database; None: its sets 1 and 2; empty: none. Without
            training images the network is evaluated: one epoch, no files, no resuming.
        batch_size: images per update, over all devices.
        num_sub_batches: parts that a batch is evaluated in, to save memory.
        epoch_size: use the first this many of the shuffled training images; None: all.
        prefetch: while a batch is in work, call `get_batch(imdb, next_indices, prefetch=True)`.

    Updates:
        num_epochs: train up to this epoch.
        learning_rate: a number, a list whose last element holds from then on, or a schedule, see
            `schedules`.
        weight_decay: multiplies the parameters and is added to the derivatives.
        momentum, nesterov_update: of the default solver, see `solvers.sgd`.
        solver: a name in `solvers.SOLVERS` or a function of that convention; None: momentum SGD.
        solver_opts: options of `solver` that differ from its defaults.
        save_solver_state: keep momentum from epoch to epoch, and in checkpoints.
        clip_norm: largest norm of all derivatives together, after division by the batch; None: any.
        clip_value: largest absolute value of a derivative, after division by the batch; None: any.
        average: decay of a moving average of the parameters, such as 0.999, which is what
            validation measures and what is saved; None: no average.

    Evaluation:
        der_outputs: the objectives, by variable, with their weights; None: the output of a
            SimpleNN; of a DagNN "objective", or else all values of losses that have a derivative.
        conserve_memory: free values as soon as nothing will read them.
        recompute: True or names of layers: compute values again rather than keep them; slower.
        memory: bytes that training may take, such as "8GB"; batches are split to fit. None: any.
        back_prop_depth: how many layers, from the last, to differentiate; None: all.
        device: where to compute, such as "cpu", "cuda" or "cuda:1".
        precision: "fp32": in the type of the parameters; "bf16", "fp16" or "tf32": layers compute
            in that type, the parameters keep theirs, see `fast.precision`.
        fast: on the CPU, unless the precision is fp16, run programs of kernels in place of layer
            after layer, see `fast.evaluator`; the numbers differ by roundings.
        cuda_graph: on a GPU, record an evaluation once and replay it, see `fast.cuda_graph`.
        sync: wait for the device after each layer, so that times mean something.
        random_seed: epoch e draws its orders and dropout masks from the seed e + random_seed.

    End:
        monitor: the statistic that tells which epoch is best, the smallest; None: the first error,
            else the objective.
        patience: stop after this many epochs without a better one; None: never.

    Reports:
        error_function: of a SimpleNN: "multiclass", "binary", "none", or a function
            `(options, labels, record) -> numbers`, one per name in `error_labels`, each summed
            over the images of the record. A DagNN has layers for its errors.
        error_labels: names of the errors; None: those of the built-in function.
        extract_stats: `(statistics, network) -> statistics`, called after each batch; None: as is.
        plot_statistics: draw learning curves after each epoch.
        plot_diagnostics: draw sizes of updates and of values after each batch; slow.
        page: keep a page, `run.html`, up to date.
        tensorboard: write its event files too.
        profile: measure the time of layers, data and communication: `profile.json`, and its
            timeline `profile-trace.json`.
        progress: report to the terminal.
        post_epoch_fn: called as `(net, options, epoch)`, see `trainer.Epoch`, after each epoch.
            What it returns, unless that is None or empty, replaces `learning_rate`; 0 ends
            training.

    Raises: ValueError and TypeError, naming the option.
    """

    exp_dir: str | Path | None = Path("data/exp")
    resume: bool = True
    keep_last: int | None = 3
    checkpoint_every: int | None = None
    checkpoint_minutes: float | None = 10.0
    checkpoint_format: str = "safetensors"
    train: Indices | None = None
    val: Indices | None = None
    batch_size: int = 256
    num_sub_batches: int = 1
    epoch_size: int | None = None
    prefetch: bool = False
    num_epochs: int = 300
    learning_rate: Rates = 0.001
    weight_decay: float = 0.0005
    momentum: float = 0.9
    nesterov_update: bool = False
    solver: str | Callable[..., Any] | None = None
    solver_opts: Mapping[str, Any] | None = None
    save_solver_state: bool = True
    clip_norm: float | None = None
    clip_value: float | None = None
    average: float | None = None
    der_outputs: Mapping[str, float] | None = None
    conserve_memory: bool = True
    recompute: bool | Sequence[str] = False
    memory: str | int | None = None
    back_prop_depth: int | None = None
    device: str = "cpu"
    precision: str = "fp32"
    fast: bool = True
    cuda_graph: bool = False
    sync: bool = False
    random_seed: int = 0
    monitor: str | None = None
    patience: int | None = None
    error_function: str | Callable[..., Any] = "multiclass"
    error_labels: Sequence[str] | None = None
    extract_stats: Callable[..., Any] | None = None
    plot_statistics: bool = True
    plot_diagnostics: bool = False
    page: bool = True
    tensorboard: bool = False
    profile: bool = False
    progress: bool = True
    post_epoch_fn: Callable[..., Any] | None = None

    def __post_init__(self):
        for name in ("batch_size", "num_sub_batches"):
            _check_count(name, getattr(self, name), least=1)
        for name in ("epoch_size", "back_prop_depth", "keep_last", "checkpoint_every", "patience"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name), least=1)
        _check_count("num_epochs", self.num_epochs, least=0)
        for name in ("weight_decay", "momentum"):
            _check_number(name, getattr(self, name))
        for name in ("checkpoint_minutes", "clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), positive=True)
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average is {self.average!r}; wanted a decay between 0 and 1")
        if self.checkpoint_format not in FORMATS:
            raise ValueError(
                f"checkpoint_format is {self.checkpoint_format!r}; wanted one of {FORMATS}"
            )
        if self.checkpoint_format == "mat" and self.average is not None:
            raise ValueError(
                f"average is {self.average}; a checkpoint in .mat has no place for it beside what "
                "is trained, wanted None or checkpoint_format='safetensors'"
            )
        check_precision(self.precision)
        if self.checkpoint_format == "mat" and self.precision == "fp16":
            raise ValueError(
                "precision is 'fp16'; a checkpoint in .mat has no place for the scale of the "
                "derivatives, wanted another precision or checkpoint_format='safetensors'"
            )
        as_schedule(self.learning_rate)
        if not callable(self.error_function) and self.error_function not in ERROR_LABELS:
            raise ValueError(
                f"error_function is {self.error_function!r}; "
                f"wanted one of {', '.join(ERROR_LABELS)}, or a function"
            )

    @property
    def errors(self) -> tuple[str, ...]:
        """Names of the errors."""
        if self.error_labels is not None:
            return tuple(self.error_labels)
        return () if callable(self.error_function) else ERROR_LABELS[self.error_function]

    def plain(self) -> dict[str, Any]:
        """The options for a file: functions by name, indices by their number."""
        out: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("train", "val"):
            out[name] = None if out[name] is None else len(out[name])
        out["exp_dir"] = None if out["exp_dir"] is None else str(out["exp_dir"])
        out["device"] = str(out["device"])
        if callable(self.learning_rate):
            out["learning_rate"] = str(self.learning_rate)
        return out


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; wanted a whole number")
    if value < least:
        raise ValueError(f"{name} is {value}; wanted {least} or more")


def _check_number(name: str, value: Any, *, positive: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} is {value!r}; wanted a number")
    if not (math.isfinite(value) and value >= 0) or (positive and value == 0):
        raise ValueError(f"{name} is {value}; wanted a number {'> 0' if positive else '>= 0'}")
