"""One pass over some images, batch by batch: evaluation, derivatives, updates."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from matconvnet.data import batches as data
from matconvnet.errors import DivergenceError
from matconvnet.executor import Record
from matconvnet.fast.evaluator import FastEvaluator
from matconvnet.fast.loss_scale import LossScale
from matconvnet.fast.precision import Evaluator
from matconvnet.nets.memory import is_out_of_memory
from matconvnet.nets.network import Network
from matconvnet.parallel.world import World
from matconvnet.train.average import WeightAverage
from matconvnet.train.budget import Budget
from matconvnet.train.confusion import Confusion
from matconvnet.train.diagnostics import diagnose, outputs
from matconvnet.train.divergence import NO_LAYER, Part, explain
from matconvnet.train.generators import Generators
from matconvnet.train.inputs import Feed, Inputs
from matconvnet.train.journal import Journal
from matconvnet.train.measures import Measures
from matconvnet.train.meters import Meter, Stats
from matconvnet.train.options import TrainOptions
from matconvnet.train.profile import Profile
from matconvnet.train.report import show_phase
from matconvnet.train.saver import Saver
from matconvnet.train.signals import StopSignals
from matconvnet.train.update import Updater

Phase = Literal["train", "val"]

MOST_CLASSES = 1000
"""Of more classes, nobody reads which are taken for which."""


@dataclass
class Pass:
    """One pass over some images, and how far it has come.

    step: batches done. learning_rate: of the last update. parts: the sub-batches of the current
    batch, as they were evaluated. ratios: |dw| / |w| of the update in the middle,
    by parameter. stats: as they were told after the last batch. confusion: of the classes, if they
    are known.
    is_due, is_stopped: after this batch, the run has to be saved, or to end.
    """

    phase: Phase
    epoch: int
    batches: list[data.Batch]
    generators: Generators
    meter: Meter
    step: int = 0
    learning_rate: float = 0.0
    parts: list[Part] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    stats: Stats = field(default_factory=dict)
    confusion: Confusion | None = None
    is_due: bool = False
    is_stopped: bool = False

    def state(self) -> dict[str, Any]:
        """What is known of the batches done, as plain data."""
        return {
            "meter": self.meter.state(), "learning_rate": self.learning_rate,
            "ratios": self.ratios,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned."""
        self.meter.restore(state["meter"])
        self.learning_rate, self.ratios = state["learning_rate"], dict(state["ratios"])


@dataclass
class Loop:
    """Works through passes.

    rate: the learning rate at an epoch (from 1) and a number of epochs done. evaluator: evaluates
    the network. profile: of the training, if it is wanted. loss_scale: of float16.
    """

    net: Network
    options: TrainOptions
    feed: Feed
    measures: Measures
    objectives: dict[str, float]
    world: World
    updater: Updater
    average: WeightAverage | None
    journal: Journal
    signals: StopSignals
    saver: Saver
    budget: Budget
    rate: Callable[[int, float], float]
    evaluator: Evaluator
    profile: Profile | None = None
    loss_scale: LossScale | None = None

    def begin(self, phase: Phase, epoch: int, generators: Generators, indices: np.ndarray) -> Pass:
        """A pass over some images, of which each batch is shared by the workers."""
        options, world = self.options, self.world
        batches = data.batch_indices(
            indices, options.batch_size, options.num_sub_batches, world.rank, world.size
        )
        return Pass(phase, epoch, list(batches), generators, Meter(self.measures.names))

    def run(self, run: Pass) -> dict[str, Any]:
        """Work through the batches that are left of a pass; notes on its speed.

        A pass that is told to stop ends after the batch under way.
        """
        count, left = len(run.batches), run.batches[run.step :]
        step = self._train if run.phase == "train" else self._evaluate
        seed, waited = run.epoch + self.options.random_seed, self.feed.waited
        inputs = self.feed.read([part for b in left for part in b.parts], run.phase, seed)
        shown = self.options.progress and self.world.rank == 0
        with show_phase(run.phase, run.epoch, count, shown) as show, closing(inputs):
            for batch in left:
                with self._located(run, batch):
                    step(run, batch, inputs)
                run.step += 1
                average, current = run.meter.tick(batch.size)
                stats = run.stats = self._extract(run.meter.stats)
                show(run.step, average, current, stats)
                self.journal.batch(
                    {
                        "epoch": run.epoch, "phase": run.phase, "batch": run.step,
                        "batches": count, **stats, "images_per_second": average,
                    }
                )  # fmt: skip
                if run.is_stopped:
                    break
                if run.is_due:
                    generators = run.generators.state()
                    self.saver.save_within(run.epoch, run.step, run.state(), generators)
        if not run.meter.num:
            return {}
        speed = run.meter.num / max(run.meter.clock.time, 1e-9)
        return {"data_time": self.feed.waited - waited, "images_per_second": speed}

    def _extract(self, stats: Stats) -> Stats:
        """What the user makes of the statistics, who may look at the network after this batch."""
        extract = self.options.extract_stats
        return stats if extract is None else extract(stats, self.net)

    def _train(self, run: Pass, batch: data.Batch, inputs: Iterator[Inputs]) -> None:
        """Add up the derivatives of a batch, and update the parameters."""
        updater, count = self.updater, len(run.batches)
        run.learning_rate = self.rate(run.epoch, run.epoch - 1 + run.step / count)
        if isinstance(self.evaluator, FastEvaluator):
            self.evaluator.stepping = updater.within(batch.size, run.learning_rate)
        is_middle = run.step == count // 2
        before = updater.copies() if is_middle else {}
        record = self._evaluate(run, batch, inputs)
        ders = updater.pull()
        if not self._are_usable(ders):
            return
        start = time.perf_counter()
        updater.update(ders, batch.size, run.learning_rate)
        if self.profile is not None:
            self.profile.add_update(time.perf_counter() - start)
        if is_middle:
            run.ratios = updater.ratios(before, run.learning_rate)
        if self.average is not None:
            self.average.update(self.net)
        if record is not None and self.options.plot_diagnostics:
            self._diagnose(record, run.learning_rate)

    def _are_usable(self, ders: Mapping[str, Tensor]) -> bool:
        """False for derivatives that overflow float16: this update is left out.

        Raises: DivergenceError, if the scale of the derivatives is not what makes them overflow.
        """
        is_finite, scale = self.updater.are_finite(ders), self.loss_scale
        if scale is not None:
            scale.note(is_finite)
        if not is_finite and (scale is None or scale.is_spent):
            raise DivergenceError("a derivative is not finite")
        return is_finite

    def _evaluate(self, run: Pass, batch: data.Batch, inputs: Iterator[Inputs]) -> Record | None:
        """Evaluate a batch part by part, and measure it; to train, differentiate.

        Returns: the evaluation of the last part, whose derivatives have gone to the server.
        """
        options, training, record = self.options, run.phase == "train", None
        profile = self.profile if training else None
        sums, images = np.zeros((2, len(self.measures.names))), 0
        for part in batch.parts:
            waited = self.feed.waited
            values = next(inputs)
            if profile is not None:
                profile.add_wait(self.feed.waited - waited)
            run.parts.append(Part(part, values, run.generators.masks.clone_state()))
            record = self.evaluator.eval(
                values,
                self.objectives if training else None,
                mode="normal" if training else "test",
                generator=run.generators.masks,
                record=record,
                accumulate=record is not None,
                on_param=self.updater.push if part is batch.parts[-1] else None,
                depth=options.back_prop_depth,
                conserve_memory=options.conserve_memory,
                recompute=options.recompute,
                precious=self._precious(),
                wanted_inputs=(),
                out=self.updater.spare if record is None else None,
                sync=options.sync or self.profile is not None,
            )
            if profile is not None:
                profile.add(record, len(part))
            measured = self.measures(record, values, len(part))
            sums += measured.sums.tolist(), measured.counts  # one wait for a GPU
            images += len(part)
            if not training and self.measures.compared is not None:
                self._confuse(run, record, values)
        self._share(run, sums, images)
        return record

    def _confuse(self, run: Pass, record: Record, inputs: Inputs) -> None:
        """Count which classes are taken for which."""
        scores, labels = (
            record.values.get(name, inputs.get(name)) for name in self.measures.compared or ()
        )
        if scores is None or labels is None or scores.dim() != 4:
            return
        if run.confusion is None and scores.shape[2] <= MOST_CLASSES:
            run.confusion = Confusion(scores.shape[2])
        if run.confusion is not None:
            run.confusion.add(scores, labels)

    def _share(self, run: Pass, sums: np.ndarray, images: int) -> None:
        """Add up over the workers what was measured, and whether to save or to stop."""
        step = run.step + 1
        is_within = run.phase == "train" and step < len(run.batches)
        is_due = is_within and self.world.rank == 0 and self.saver.is_due(step)
        told = [images, is_due, self.signals.received is not None]
        shared = self.world.sum(np.concatenate((sums.ravel(), told)))
        (totals, counts), (images, due, stop) = shared[:-3].reshape(2, -1), shared[-3:]
        run.meter.add(totals, counts, int(images))
        run.is_due, run.is_stopped = bool(due), bool(stop)
        for name, value in zip(self.measures.names, totals.tolist(), strict=True):
            if name in self.measures.objectives and not math.isfinite(value):
                raise DivergenceError(f"the {name} is {value}")

    @contextmanager
    def _located(self, run: Pass, batch: data.Batch) -> Iterator[None]:
        """Say in which batch an error happened, and which layer made a number not finite."""
        where = f"epoch {run.epoch}, {run.phase} batch {run.step + 1}"
        run.parts.clear()
        try:
            yield
        except DivergenceError as error:
            ders = self.objectives if run.phase == "train" else None
            net = self.evaluator if isinstance(self.evaluator, Network) else self.net
            own = explain(net, run.parts, ders, depth=self.options.back_prop_depth)
            reasons = [reason for reason in self.world.gather(own) if reason is not None]
            raise DivergenceError(f"{error} in {where}: {[*reasons, NO_LAYER][0]}") from None
        except Exception as error:
            if is_out_of_memory(error):
                inputs = run.parts[-1].inputs if run.parts else None
                raise self.budget.explain(error, inputs) from error
            indices = np.concatenate([np.zeros(0, int), *batch.parts])
            error.add_note(f"in {where}, images {np.array2string(indices, separator=', ')}")
            raise

    def _precious(self) -> set[str]:
        """Variables that are read after an evaluation."""
        names = set(self.measures.precious)
        if self.options.plot_diagnostics:
            names.update(outputs(self.net))
        return names

    def _diagnose(self, record: Record, rate: float) -> None:
        """Measure and draw the last update."""
        from matconvnet.train.plots import plot_diagnostics

        self.diagnostics = diagnose(self.net, record, self.updater.state, rate)
        if self.journal.folder is not None and self.measures.prediction is not None:
            prediction = record.values[self.measures.prediction]
            plot_diagnostics(self.journal.folder, self.diagnostics, prediction)
