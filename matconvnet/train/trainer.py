"""The training loop: epochs, phases, batches, updates."""

import math
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

from matconvnet.data import batches as data
from matconvnet.fast.cuda_graph import Captured
from matconvnet.fast.evaluator import FastEvaluator
from matconvnet.fast.loss_scale import LossScale
from matconvnet.fast.peaks import measure_peaks
from matconvnet.fast.precision import note, with_precision
from matconvnet.layout import to_numpy
from matconvnet.nets.network import Network
from matconvnet.parallel.world import World, join
from matconvnet.train.average import WeightAverage
from matconvnet.train.budget import Budget
from matconvnet.train.checkpoint import Checkpoint
from matconvnet.train.confusion import Confusion
from matconvnet.train.generators import Generators, global_generators_kept
from matconvnet.train.history import History
from matconvnet.train.inputs import Feed, GetBatch, check_batch, check_prefetch, find_indices
from matconvnet.train.journal import Journal
from matconvnet.train.loop import Loop, Pass
from matconvnet.train.measures import measures_of, objectives
from matconvnet.train.meters import Stats
from matconvnet.train.options import TrainOptions
from matconvnet.train.profile import Profile
from matconvnet.train.saver import Saver
from matconvnet.train.schedules import Progress, as_schedule
from matconvnet.train.signals import StopSignals
from matconvnet.train.stopping import is_over
from matconvnet.train.store import Store, check_folder
from matconvnet.train.update import Updater

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


def shuffle(indices: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """The indices in an order drawn from `generator`."""
    return indices[torch.randperm(len(indices), generator=generator).numpy()]


class Trainer:
    """Trains a network on a database.

        for every epoch, for every batch of B images:
            der = sum over the images, and over all workers, of the derivative of the objectives
            w   = a step of the solver along der / B + weight_decay * w

    Under torchrun, each process is a worker with its share of every batch.

    Args:
        net: the network; training changes its parameters. The last layer of a SimpleNN is the
            objective.
        imdb: the database, whatever `get_batch` reads; its `set` (1 train, 2 val) tells which
            images are for what, unless options `train` and `val` do.
        get_batch: `get_batch(imdb, indices) -> (images, labels)`: indices an int64 array from 0,
            images H x W x C x N floats, labels from 0 with -1 = ignore; or a dict of variables. It
            may draw from the global random numbers of Python, NumPy and torch, whose seeds are set
            for every epoch. Or an object that also has
            `batches(imdb, parts, *, phase, seed, device)`, an iterator over the batches of the
            index arrays `parts`, in order, which may load ahead; what it gives for an image may
            depend on the seed and on the image's index alone. None: that of `data`.
        options: see TrainOptions.
        permute: puts the images of an epoch in order, `permute(indices, generator)`: train, then
            val.
        world: the workers; None: those that torchrun started, or this one.

    Raises: OSError, if `exp_dir` cannot be written; ValueError, TypeError for wrong indices.
    """

    def __init__(
        self,
        net: Network,
        imdb: Any,
        get_batch: GetBatch | None = None,
        options: TrainOptions | None = None,
        *,
        permute: Permute = shuffle,
        world: World | None = None,
    ):
        self.net, self.imdb = net, imdb
        self.get_batch: GetBatch = get_batch or data.get_batch
        self.options = options or TrainOptions()
        self.permute = permute
        self._world = world
        self.train = find_indices(imdb, self.options.train, 1, "train")
        self.val = find_indices(imdb, self.options.val, 2, "val")
        if not self.train.size and not self.val.size:
            raise ValueError("there are no images in train nor in val; wanted some in either")
        if self.options.prefetch:
            check_prefetch(self.get_batch)
        self.measures = measures_of(net, self.options)
        self.objectives = objectives(net, self.options.der_outputs) if self.train.size else {}
        self.schedule = as_schedule(self.options.learning_rate)
        self.folder = None
        if self.options.exp_dir is not None and self.train.size:
            self.folder = Path(self.options.exp_dir)
            check_folder(self.folder)

    def run(self) -> tuple[Network, dict[str, list[Stats]]]:
        """Train up to epoch `num_epochs`, from the last checkpoint if there is one.

        SIGTERM and Ctrl-C are answered after the update under way: the state is saved, and the
        process ends, with status 0 or by KeyboardInterrupt.

        Returns: the network, on the CPU, and its statistics: for "train" and "val" a list with a
            dict per epoch: objective, errors, num (images), time (seconds). With option `average`
            the network has the averaged parameters.
        Raises: DivergenceError, naming epoch, batch and layer, at the first number that is not
            finite; errors of the layers and of `get_batch`, with a note that names the batch.
        """
        with ExitStack() as stack:
            self.world = self._world or stack.enter_context(join(self.options.device))
            self.net.convert(lambda v: v.to(self.world.device, copy=True))  # spare shared arrays
            budget = self._fit_to_memory()
            self.history = History()
            self.loop = self._make_loop(stack, budget)
            self.saver, self.updater = self.loop.saver, self.loop.updater
            resumed = self.saver.resume()
            if self.saver.rates is not None:
                self._set_rates(self.saver.rates)
            self._check_agreement()
            if resumed is None or not (self._is_over() or self.saver.rates == [0]):
                self._run_epochs(resumed)
            self._finish_profile()
            if self.loop.average is not None:
                self.loop.average.give(self.net)
        self.net.to("cpu")
        return self.net, self.history.stats

    def _fit_to_memory(self) -> Budget:
        """Split batches so that a step fits into option `memory`."""
        budget = Budget(
            self.net, self.options, self.measures.precious, self.objectives, self.world.size
        )
        if self.options.memory is not None:
            one = np.concatenate((self.train, self.val))[:1]
            batch = self.get_batch(self.imdb, one)
            self.options = budget.fit(check_batch(batch, 1, self.net, self.world.device))
        return budget

    def _make_loop(self, stack: ExitStack, budget: Budget) -> Loop:
        """What works through the batches, with all that it needs open until the stack unwinds."""
        net, options, world, history = self.net, self.options, self.world, self.history
        store = None
        if self.folder is not None and world.rank == 0:
            suffix = f".{options.checkpoint_format}"
            store = stack.enter_context(Store(self.folder, suffix, options.keep_last))
        stack.enter_context(global_generators_kept(world.device))
        folder = self.folder if world.rank == 0 else None
        journal = stack.enter_context(Journal(folder, net, history, options, world.size))
        signals = stack.enter_context(StopSignals())
        updater = stack.enter_context(Updater(net, options, world.server()))
        average = None if options.average is None else WeightAverage(options.average)
        scale = LossScale() if options.precision == "fp16" else None
        saver = Saver(net, options, self.folder, store, world, history, updater, average, scale)
        precise = with_precision(net, options.precision, scale)
        evaluator = Captured(precise) if options.cuda_graph else precise
        has_kernels = options.precision != "fp16" and world.device.type == "cpu"
        if has_kernels and options.fast and not options.plot_diagnostics:
            evaluator = FastEvaluator(net, options.precision)
        told = note(options.precision, world.device)
        if told and options.progress and world.rank == 0:
            print(told, flush=True)
        feed = Feed(net, self.imdb, self.get_batch, world.device, options.prefetch)
        return Loop(
            net, options, feed, self.measures, self.objectives, world, updater, average, journal,
            signals, saver, budget, self._rate, evaluator,
            Profile(net) if options.profile else None, scale,
        )  # fmt: skip

    def _check_agreement(self) -> None:
        """Make sure that all workers have the same parameters.

        Raises: ValueError, naming the workers that differ from rank 0.
        """
        if self.world.size > 1:
            values = (v for v in self.net.values().values() if v is not None)
            sums = [float(v.sum(dtype=torch.float64)) for v in values]
            self.world.agree("the sums of the parameters", str(sums))

    def _note_confusion(self, run: Pass) -> None:
        """Add up over the workers which classes were taken for which."""
        if self.folder is None or self.loop.measures.compared is None:
            return
        found = self.world.gather(None if run.confusion is None else run.confusion.to_dict())
        parts = [Confusion.from_dict(content) for content in found if content is not None]
        if parts:
            total = parts[0]
            total.counts = np.sum([part.counts for part in parts], axis=0)
            names = getattr(self.imdb, "classes", None) or ()
            if len(names) == len(total.classes):
                total.classes = [str(name) for name in names]
            self.loop.journal.confusion = total.to_dict()

    def _finish_profile(self) -> None:
        """Complete the profile, if one was made, and write it."""
        profile, folder = self.loop.profile, self.loop.journal.folder
        if profile is not None:
            profile.traffic = self.updater.server.traffic
            profile.peaks = measure_peaks(self.world.device)
            if isinstance(self.loop.evaluator, FastEvaluator):
                profile.report = self.loop.evaluator.report
            if folder is not None:
                profile.write(folder)

    def _rate(self, epoch: int, done: float) -> float:
        progress = Progress(epoch, done, self.options.num_epochs, self.history.stats)
        rate = float(self.schedule(progress))
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"learning_rate gave {rate} for {progress}; wanted a number >= 0")
        return rate

    def _run_epochs(self, resumed: Checkpoint | None) -> None:
        """Train and validate, epoch by epoch; `resumed` may lie within the first."""
        last = self.options.num_epochs if self.train.size else 1
        first = 1 if resumed is None else resumed.epoch + (resumed.step is None)
        for epoch in range(first, last + 1):
            seed = epoch + self.options.random_seed
            generators = Generators(seed, self.world.device, self.world.rank)
            train = self.permute(self.train, generators.orders)[: self.options.epoch_size]
            val = self.permute(self.val, generators.orders)
            learning = self.loop.begin("train", epoch, generators, train)
            if resumed is not None and resumed.epoch == epoch:
                self._take_up(learning, resumed)
            self._run_epoch(learning, self.loop.begin("val", epoch, generators, val))
            self.saver.save_epoch(epoch)
            self.loop.journal.epoch()
            if self._is_told_to_stop(epoch, train, val) or self._is_over():
                return

    def _run_epoch(self, learning: Pass, checking: Pass) -> None:
        """Train on some images, validate on others, and note the results."""
        loop = self.loop
        notes: dict[str, Any] = {"train": loop.run(learning)}
        at_end = learning.generators.state()
        if learning.is_stopped:
            self._stop(learning, at_end)
        if learning.ratios:
            notes["train"]["update_ratio"] = learning.ratios
        with nullcontext() if loop.average is None else loop.average.swapped(self.net):
            notes["val"] = loop.run(checking)
        if checking.is_stopped:
            self._stop(learning, at_end)
        self._note_confusion(checking)
        if not self.options.save_solver_state:
            self.updater.state.clear()
        stats = {"train": _told(learning), "val": _told(checking)}
        self.history.add(learning.learning_rate, stats, notes)

    def _stop(self, learning: Pass, generators: dict[str, Any]) -> NoReturn:
        """Save and end, as this worker or another was asked to."""
        self.saver.save_within(learning.epoch, learning.step, learning.state(), generators)
        self.loop.signals.end()

    def _take_up(self, run: Pass, checkpoint: Checkpoint) -> None:
        """Go to where a checkpoint left a pass."""
        assert checkpoint.step is not None
        assert checkpoint.progress is not None
        run.step = checkpoint.step
        run.restore(checkpoint.progress)
        states = checkpoint.generators or []
        if len(states) == self.world.size:  # other workers draw other masks
            run.generators.restore(states[self.world.rank])

    def _is_over(self) -> bool:
        """True, if patience is at its end."""
        patience = self.options.patience
        return patience is not None and is_over(self.history.stats, self.options.monitor, patience)

    def _is_told_to_stop(self, epoch: int, train: np.ndarray, val: np.ndarray) -> bool:
        """Call `post_epoch_fn`, and take the learning rates that it returns."""
        if self.options.post_epoch_fn is None:
            return False
        told = Epoch(
            epoch, self.history.learning_rates[-1], train, val, self.imdb, self.get_batch,
            self.history.stats, self.updater.state,
        )  # fmt: skip
        answer = to_numpy(self.options.post_epoch_fn(self.net, self.options, told))
        if answer is None or np.size(answer) == 0:
            return False
        rates = np.ravel(answer).tolist()
        self._set_rates(rates)
        self.saver.save_epoch(epoch)
        return rates == [0]

    def _set_rates(self, rates: list[float]) -> None:
        """Take learning rates in place of those of the options."""
        self.options = replace(self.options, learning_rate=rates)
        self.schedule, self.saver.rates = as_schedule(rates), rates


def _told(run: Pass) -> Stats:
    """The statistics of a pass, also of one without batches."""
    return run.stats or run.meter.stats
