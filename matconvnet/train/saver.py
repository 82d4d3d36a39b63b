"""The state of a training, to checkpoints and back."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matconvnet.errors import DivergenceError
from matconvnet.fast.loss_scale import LossScale
from matconvnet.nets.network import Network
from matconvnet.parallel.world import World
from matconvnet.train import checkpoint as files
from matconvnet.train.average import WeightAverage
from matconvnet.train.checkpoint import Checkpoint
from matconvnet.train.divergence import all_finite, explain
from matconvnet.train.history import History
from matconvnet.train.options import TrainOptions
from matconvnet.train.stopping import monitored
from matconvnet.train.store import Store
from matconvnet.train.update import Updater


@dataclass
class Saver:
    """Writes checkpoints, and takes up the last one.

    folder: None for no files. store: of rank 0 alone. rates: learning rates that `post_epoch_fn`
    gave in place of the option. loss_scale: of float16. saved: when a checkpoint was
    written, by `time.monotonic`.
    """

    net: Network
    options: TrainOptions
    folder: Path | None
    store: Store | None
    world: World
    history: History
    updater: Updater
    average: WeightAverage | None
    loss_scale: LossScale | None = None
    rates: list[float] | None = None
    saved: float = field(default_factory=time.monotonic)

    def resume(self) -> Checkpoint | None:
        """Take up the last checkpoint, if there is one and it is wanted.

        Rank 0 looks for it; the others read the file that it found.
        """
        if self.folder is None:
            return None
        name = None
        if self.store is not None and not self.options.resume:
            self.store.set_aside()
        elif self.store is not None:
            name = self.store.newest(self.net)
        name = self.world.broadcast(name)
        if name is None:
            return None
        checkpoint = files.load(self.folder / name, self.net)
        if self.options.progress and self.world.rank == 0:
            within = "" if checkpoint.step is None else f", update {checkpoint.step}"
            print(f"resuming by loading epoch {checkpoint.epoch}{within}", flush=True)
        files.restore(self.net, checkpoint)
        self.updater.restore(checkpoint.solver_state)
        if self.average is not None and checkpoint.average is not None:
            state = {**checkpoint.average, "values": checkpoint.net.values()}
            self.average.restore(state, self.net)
        if self.loss_scale is not None and checkpoint.loss_scale is not None:
            self.loss_scale.restore(checkpoint.loss_scale)
        self.history.restore(checkpoint)
        self.rates = checkpoint.rates
        return checkpoint

    def is_due(self, step: int) -> bool:
        """True, if a checkpoint within the epoch is to be written after `step` updates of it."""
        every, minutes = self.options.checkpoint_every, self.options.checkpoint_minutes
        is_counted = every is not None and step % every == 0
        return is_counted or (minutes is not None and time.monotonic() - self.saved > 60 * minutes)

    def save_epoch(self, epoch: int) -> None:
        """Write the checkpoint of an epoch; one that diverged leaves none.

        Raises: DivergenceError, naming the parameter that is not finite.
        """
        values = [value for value in self.net.values().values() if value is not None]
        if not all_finite(values):
            reason = explain(self.net, [], None)
            raise DivergenceError(f"a parameter is not finite after epoch {epoch}: {reason}")
        best = monitored(self.history.stats, self.options.monitor)[-1]
        self._write(self._state(epoch), best if math.isfinite(best) else None)

    def save_within(
        self, epoch: int, step: int, progress: dict[str, Any], generators: dict[str, Any]
    ) -> None:
        """Write a checkpoint within an epoch; all workers take part.

        step: updates done. progress: of the pass, see `Pass.state`. generators: their states.
        """
        if self.folder is not None:
            states = self.world.gather(generators)
            made = self._state(epoch)
            self._write(made._replace(step=step, progress=progress, generators=states))

    def _state(self, epoch: int) -> Checkpoint:
        """The state of training at the end of an epoch."""
        history = self.history
        return Checkpoint(
            epoch, self.net, self.updater.state, history.stats, history.learning_rates,
            self.options.plain(), notes=history.notes, rates=self.rates,
            loss_scale=None if self.loss_scale is None else self.loss_scale.state(),
        )  # fmt: skip

    def _write(self, checkpoint: Checkpoint, value: float | None = None) -> None:
        """Write a checkpoint, with the averaged parameters in the network if there is an average.

        value: the statistic that is monitored.
        """
        if self.store is not None and self.average is not None:
            trained = {"count": self.average.count, "parameters": self.net.values()}
            with self.average.swapped(self.net):
                self.store.save(checkpoint._replace(average=trained), value)
        elif self.store is not None:
            self.store.save(checkpoint, value)
        self.saved = time.monotonic()
