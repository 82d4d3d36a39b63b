"""The epochs behind us: their statistics, in memory and in the files of `exp_dir`."""

from pathlib import Path

from matconvnet.errors import DivergenceError
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.train import checkpoint as files
from matconvnet.train.divergence import all_finite, explain
from matconvnet.train.meters import Stats
from matconvnet.train.options import TrainOptions
from matconvnet.train.report import write_stats
from matconvnet.train.update import Updater


class History:
    """Statistics and learning rates of all epochs; with a folder, its checkpoints and figures."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.stats: dict[str, list[Stats]] = {"train": [], "val": []}
        self.learning_rates: list[float] = []

    def resume(self, net: SimpleNN, updater: Updater, options: TrainOptions) -> int:
        """Take up the last checkpoint; its epoch, 0 if there is none."""
        if self.folder is None or not options.resume:
            return 0
        found = files.last_checkpoint(self.folder)
        if found is None:
            return 0
        if options.progress:
            print(f"resuming by loading epoch {found.epoch}", flush=True)
        files.restore(net, found)
        updater.restore(found.solver_state)
        self.stats, self.learning_rates = found.stats, found.learning_rates
        return found.epoch

    def add(self, learning_rate: float, train: Stats, val: Stats) -> None:
        """Append the statistics of an epoch."""
        self.stats["train"].append(train)
        self.stats["val"].append(val)
        self.learning_rates.append(learning_rate)

    def save(self, net: SimpleNN, updater: Updater, options: TrainOptions) -> None:
        """Write the files of the last epoch; an epoch that diverged leaves none."""
        if self.folder is None:
            return
        epoch = len(self.learning_rates)
        if not all_finite(value for value in net.values().values() if value is not None):
            reason = explain(net, [], training=False, depth=None)
            raise DivergenceError(f"a parameter is not finite after epoch {epoch}: {reason}")
        files.save_checkpoint(
            self.folder,
            files.Checkpoint(
                epoch, net, updater.state, self.stats, self.learning_rates, options.plain()
            ),
        )
        write_stats(self.folder, self.stats, self.learning_rates)
        if options.plot_statistics:
            from matconvnet.train.plots import plot_statistics

            plot_statistics(self.folder, self.stats)
