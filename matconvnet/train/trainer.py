"""The training loop: epochs, phases, batches, updates."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from matconvnet.data import batches as data
from matconvnet.errors import DivergenceError
from matconvnet.executor import Record
from matconvnet.layout import to_numpy
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.parallel.server import LocalServer, ParameterServer
from matconvnet.train import checkpoint as files
from matconvnet.train.diagnostics import diagnose, outputs
from matconvnet.train.divergence import Part, all_finite, explain
from matconvnet.train.history import History
from matconvnet.train.inputs import GetBatch, check_batch, check_prefetch, find_indices
from matconvnet.train.meters import Meter, Stats, error_function
from matconvnet.train.options import TrainOptions
from matconvnet.train.report import show_phase
from matconvnet.train.update import Updater

Phase = Literal["train", "val"]
Permute = Callable[[np.ndarray, torch.Generator], np.ndarray]


class Epoch(NamedTuple):
    """What `post_epoch_fn` is told of an epoch (from 1): its data, and the results so far."""

    epoch: int
    learning_rate: float
    train: np.ndarray
    val: np.ndarray
    imdb: Any
    get_batch: GetBatch
    stats: dict[str, list[Stats]]
    solver_state: dict[str, Any]


@dataclass
class Pass:
    """One pass over some images.

    masks: source of the masks of dropout. upcoming: the sub-batches that follow. parts: those of
    the current batch, as they were evaluated.
    """

    phase: Phase
    epoch: int
    learning_rate: float
    masks: torch.Generator
    meter: Meter
    upcoming: list[np.ndarray]
    parts: list[Part] = field(default_factory=list)


def shuffle(indices: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """The indices in an order drawn from `generator`."""
    return indices[torch.randperm(len(indices), generator=generator).numpy()]


def prediction_of(net: SimpleNN) -> str:
    """The variable that holds the predictions: what the last layer, the objective, reads."""
    return net.graph.producer[net.output].inputs[0]


class Trainer:
    """Trains a network on a database.

        for every epoch, for every batch of B images:
            der = sum over the images of the derivative of the objective
            w   = a step of the solver along der / B + weight_decay * w

    Args:
        net: the network; training changes its parameters. Its last layer is the objective.
        imdb: the database, whatever `get_batch` reads; its `set` (1 train, 2 val) tells which
            images are for what, unless options `train` and `val` do.
        get_batch: `get_batch(imdb, indices) -> (images, labels)`: indices an int64 array from 0,
            images H x W x C x N floats, labels from 0 with -1 = ignore. None: that of `data`. It
            may draw from torch's global random numbers, whose seed is set for every epoch.
        options: see TrainOptions.
        permute: puts the images of an epoch in order, `permute(indices, generator)`: train, then
            val.
        server: sums derivatives over workers; None: there is one worker.

    Raises: OSError, if `exp_dir` cannot be written; ValueError, TypeError for wrong indices.
    """

    def __init__(
        self,
        net: SimpleNN,
        imdb: Any,
        get_batch: GetBatch | None = None,
        options: TrainOptions | None = None,
        *,
        permute: Permute = shuffle,
        server: ParameterServer | None = None,
    ):
        self.net, self.imdb = net, imdb
        self.get_batch: GetBatch = get_batch or data.get_batch
        self.options = options or TrainOptions()
        self.permute, self.server = permute, server
        self.device = torch.device(self.options.device)
        self.train = find_indices(imdb, self.options.train, 1, "train")
        self.val = find_indices(imdb, self.options.val, 2, "val")
        if not self.train.size and not self.val.size:
            raise ValueError("there are no images in train nor in val; wanted some in either")
        if self.options.prefetch:
            check_prefetch(self.get_batch)
        self.prediction = prediction_of(net)
        self.error_of = error_function(self.options, self.prediction)
        self.folder = None
        if self.options.exp_dir is not None and self.train.size:
            self.folder = Path(self.options.exp_dir)
            files.check_folder(self.folder)

    def run(self) -> tuple[SimpleNN, dict[str, list[Stats]]]:
        """Train up to epoch `num_epochs`, from the last checkpoint if there is one.

        Returns: the network, on the CPU, and its statistics: for "train" and "val" a list with a
            dict per epoch: objective, errors, num (images), time (seconds).
        Raises: DivergenceError, naming epoch, batch and layer, at the first number that is not
            finite; errors of the layers and of `get_batch`, with a note that names the batch.
        """
        self.net.convert(lambda value: value.to(self.device, copy=True))  # spare shared arrays
        self.history = History(self.folder)
        with Updater(self.net, self.options, self.server or LocalServer()) as self.updater:
            start = self.history.resume(self.net, self.updater, self.options)
            last = self.options.num_epochs if self.train.size else 1
            for epoch in range(start + 1, last + 1):
                rate = self.options.rate(epoch)
                with self._seeded(epoch) as (orders, masks):
                    train = self.permute(self.train, orders)[: self.options.epoch_size]
                    val = self.permute(self.val, orders)
                    train_stats = self._phase("train", train, epoch, rate, masks)
                    val_stats = self._phase("val", val, epoch, rate, masks)
                self.history.add(rate, train_stats, val_stats)
                self.history.save(self.net, self.updater, self.options)
                if self._is_told_to_stop(epoch, rate, train, val):
                    break
        self.net.to("cpu")
        return self.net, self.history.stats

    def _phase(
        self, phase: Phase, indices: np.ndarray, epoch: int, rate: float, masks: torch.Generator
    ) -> Stats:
        """Work through some images batch by batch; their statistics."""
        options, meter = self.options, Meter(self.options.errors)
        batches = list(data.batch_indices(indices, options.batch_size, options.num_sub_batches))
        upcoming = [part for batch in batches for part in batch.parts][1:]
        run = Pass(phase, epoch, rate, masks, meter, upcoming)
        with show_phase(phase, epoch, len(batches), options.progress) as show:
            for number, batch in enumerate(batches, 1):
                with self._located(run, number, batch):
                    self._step(run, batch)
                show(number, *meter.tick(batch.size), meter.stats)
        if not options.save_solver_state:
            self.updater.state.clear()
        return meter.stats

    def _step(self, run: Pass, batch: data.Batch) -> None:
        """Evaluate a batch part by part; to train, add up the derivatives and update."""
        net, updater, training = self.net, self.updater, run.phase == "train"
        record = None
        for part in batch.parts:
            inputs, labels = self._fetch(run, part)
            record = net.eval(
                inputs,
                {net.output: 1} if training else None,
                mode="normal" if training else "test",
                generator=run.masks,
                record=record,
                accumulate=record is not None,
                on_param=updater.push if part is batch.parts[-1] else None,
                depth=self.options.back_prop_depth,
                conserve_memory=self.options.conserve_memory,
                precious=self._precious(),
                wanted_inputs=(),
                out=updater.spare if record is None else None,
                sync=self.options.sync,
            )
            errors = self.error_of(labels, record)
            objective = run.meter.add(record.values[net.output], errors, len(part))
            if not math.isfinite(objective):
                raise DivergenceError(f"the objective is {objective}")
        if training:
            ders = updater.pull()
            if not all_finite(ders.values()):
                raise DivergenceError("a derivative is not finite")
            updater.update(ders, batch.size, run.learning_rate)
            if record is not None:
                self._diagnose(record, run.learning_rate)

    def _fetch(self, run: Pass, part: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """The input variables of the network for a sub-batch, and its labels."""
        batch = self.get_batch(self.imdb, part)
        if self.options.prefetch and run.upcoming:
            self.get_batch(self.imdb, run.upcoming.pop(0), prefetch=True)
        x, labels = check_batch(batch, len(part), self.device)
        inputs = dict.fromkeys(self.net.graph.inputs, labels) | {self.net.input: x}
        run.parts.append(Part(part, inputs, run.masks.clone_state()))
        return inputs, labels

    @contextmanager
    def _located(self, run: Pass, number: int, batch: data.Batch) -> Iterator[None]:
        """Say in which batch an error happened, and which layer made a number not finite."""
        where = f"epoch {run.epoch}, {run.phase} batch {number}"
        run.parts.clear()
        try:
            yield
        except DivergenceError as error:
            training, depth = run.phase == "train", self.options.back_prop_depth
            reason = explain(self.net, run.parts, training=training, depth=depth)
            raise DivergenceError(f"{error} in {where}: {reason}") from None
        except Exception as error:
            indices = np.concatenate([np.zeros(0, int), *batch.parts])
            error.add_note(f"in {where}, images {np.array2string(indices, separator=', ')}")
            raise

    @contextmanager
    def _seeded(self, epoch: int) -> Iterator[tuple[torch.Generator, torch.Generator]]:
        """Generators for the order of the images and for masks; torch's own is seeded alike."""
        seed = epoch + self.options.random_seed
        orders = masks = torch.Generator().manual_seed(seed)
        if self.device.type != "cpu":
            masks = torch.Generator(self.device).manual_seed(seed)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield orders, masks

    def _is_told_to_stop(self, epoch: int, rate: float, train: np.ndarray, val: np.ndarray) -> bool:
        """Call `post_epoch_fn`, and take the learning rates that it returns."""
        if self.options.post_epoch_fn is None:
            return False
        told = Epoch(
            epoch,
            rate,
            train,
            val,
            self.imdb,
            self.get_batch,
            self.history.stats,
            self.updater.state,
        )
        answer = to_numpy(self.options.post_epoch_fn(self.net, self.options, told))
        if answer is None or np.size(answer) == 0:
            return False
        self.options = replace(self.options, learning_rate=answer)
        return np.size(answer) == 1 and not np.any(answer)

    def _precious(self) -> set[str]:
        """Variables that are read after an evaluation."""
        names = {self.prediction}
        if self.options.plot_diagnostics:
            names.update(outputs(self.net))
        return names

    def _diagnose(self, record: Record, rate: float) -> None:
        """Measure and draw the last update, if the options ask for it."""
        if not self.options.plot_diagnostics:
            return
        from matconvnet.train.plots import plot_diagnostics

        self.diagnostics = diagnose(self.net, record, self.updater.state, rate)
        if self.folder is not None:
            plot_diagnostics(self.folder, self.diagnostics, record.values[self.prediction])
