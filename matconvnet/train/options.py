"""Options of training, checked when they are made."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

ERROR_LABELS = {"multiclass": ("top1err", "top5err"), "binary": ("binerr",), "none": ()}
"""The built-in error functions, and the names of what each returns."""

Indices = Sequence[int] | np.ndarray
Schedule = float | Sequence[float] | np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainOptions:
    """How a network is trained.

    Files:
        exp_dir: folder for checkpoints, statistics and figures, made if missing; None: no files.
        resume: go on from the last checkpoint in `exp_dir`.

    Data:
        train, val: indices from 0 into the database; None: its sets 1 and 2; empty: none. Without
            training images the network is evaluated: one epoch, no files, no resuming.
        batch_size: images per update, over all devices.
        num_sub_batches: parts that a batch is evaluated in, to save memory.
        epoch_size: use the first this many of the shuffled training images; None: all.
        prefetch: while a batch is in work, call `get_batch(imdb, next_indices, prefetch=True)`.

    Updates:
        num_epochs: train up to this epoch.
        learning_rate: a number, or a schedule whose last element holds from then on.
        weight_decay: multiplies the parameters and is added to the derivatives.
        momentum, nesterov_update: of the default solver, see `solvers.sgd`.
        solver: a name in `solvers.SOLVERS` or a function of that convention; None: momentum SGD.
        solver_opts: options of `solver` that differ from its defaults.
        save_solver_state: keep momentum from epoch to epoch, and in checkpoints.

    Evaluation:
        conserve_memory: free values as soon as nothing will read them.
        back_prop_depth: how many layers, from the last, to differentiate; None: all.
        device: where to compute, such as "cpu", "cuda" or "cuda:1".
        sync: wait for the device after each layer, so that times mean something.
        random_seed: epoch e draws its orders and dropout masks from the seed e + random_seed.

    Reports:
        error_function: "multiclass", "binary", "none", or a function
            `(options, labels, record) -> numbers`, one per name in `error_labels`, each summed
            over the images of the record.
        error_labels: names of the errors; None: those of the built-in function.
        plot_statistics: draw learning curves after each epoch.
        plot_diagnostics: draw sizes of updates and of values after each batch; slow.
        progress: report to the terminal.
        post_epoch_fn: called as `(net, options, epoch)`, see `trainer.Epoch`, after each epoch.
            What it returns replaces `learning_rate`, 0 ends training, None changes nothing.

    Raises: ValueError and TypeError, naming the option.
    """

    exp_dir: str | Path | None = Path("data/exp")
    resume: bool = True
    train: Indices | None = None
    val: Indices | None = None
    batch_size: int = 256
    num_sub_batches: int = 1
    epoch_size: int | None = None
    prefetch: bool = False
    num_epochs: int = 300
    learning_rate: Schedule = 0.001
    weight_decay: float = 0.0005
    momentum: float = 0.9
    nesterov_update: bool = False
    solver: str | Callable[..., Any] | None = None
    solver_opts: Mapping[str, Any] | None = None
    save_solver_state: bool = True
    conserve_memory: bool = True
    back_prop_depth: int | None = None
    device: str = "cpu"
    sync: bool = False
    random_seed: int = 0
    error_function: str | Callable[..., Any] = "multiclass"
    error_labels: Sequence[str] | None = None
    plot_statistics: bool = True
    plot_diagnostics: bool = False
    progress: bool = True
    post_epoch_fn: Callable[..., Any] | None = None

    def __post_init__(self):
        for name in ("batch_size", "num_sub_batches"):
            _check_count(name, getattr(self, name), least=1)
        for name in ("epoch_size", "back_prop_depth"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name), least=1)
        _check_count("num_epochs", self.num_epochs, least=0)
        for name in ("weight_decay", "momentum"):
            _check_number(name, getattr(self, name))
        if not np.size(self.learning_rate):
            raise ValueError("learning_rate is empty; wanted a number or a schedule of numbers")
        for rate in np.ravel(np.asarray(self.learning_rate, dtype=object)):
            _check_number("learning_rate", rate)
        if not callable(self.error_function) and self.error_function not in ERROR_LABELS:
            raise ValueError(
                f"error_function is {self.error_function!r}; "
                f"wanted one of {', '.join(ERROR_LABELS)}, or a function"
            )

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        schedule = np.ravel(np.asarray(self.learning_rate, dtype=float))
        return float(schedule[min(epoch, schedule.size) - 1])

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
        return out


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; wanted a whole number")
    if value < least:
        raise ValueError(f"{name} is {value}; wanted {least} or more")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} is {value!r}; wanted a number")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; wanted a number >= 0")
