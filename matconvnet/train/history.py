"""The epochs behind us: their statistics, and what else was noted of them."""

from collections.abc import Mapping
from typing import Any

from matconvnet.train.checkpoint import Checkpoint
from matconvnet.train.meters import Stats
from matconvnet.train.report import Row

PHASES = ("train", "val")


class History:
    """All complete epochs.

    stats: by phase, a dict per epoch. learning_rates: of the last update of each epoch. notes: a
    dict per epoch, by phase: data_time (s), images_per_second, update_ratio.
    """

    def __init__(self):
        self.stats: dict[str, list[Stats]] = {phase: [] for phase in PHASES}
        self.learning_rates: list[float] = []
        self.notes: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.stats["train"])

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up the epochs of a checkpoint."""
        self.stats = {phase: list(checkpoint.stats[phase]) for phase in PHASES}
        lacking = len(self) - len(checkpoint.learning_rates)  # the original does not keep them
        self.learning_rates = [*checkpoint.learning_rates, *[float("nan")] * lacking]
        self.notes = [*checkpoint.notes, *[{}] * (len(self) - len(checkpoint.notes))]

    def add(self, rate: float, stats: Mapping[str, Stats], notes: dict[str, Any]) -> None:
        """Append an epoch: its statistics and notes, by phase."""
        for phase in PHASES:
            self.stats[phase].append(stats[phase])
        self.learning_rates.append(rate)
        self.notes.append(notes)

    def rows(self) -> list[Row]:
        """The lines of `stats.jsonl`: one per epoch and phase."""
        return [
            {
                "epoch": e, "phase": phase, "learning_rate": self.learning_rates[e - 1],
                **self.stats[phase][e - 1], **self.notes[e - 1].get(phase, {}),
            }
            for e in range(1, len(self) + 1)
            for phase in PHASES
        ]  # fmt: skip
