"""The statistics of a run for TensorBoard, an optional package."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from matconvnet.train.curves import number, statistics

FOLDER = "tensorboard"
SPEEDS = ("images_per_second", "data_time", "time")


class TensorBoard:
    """Writes scalars by epoch to the folder `tensorboard` of a run.

    Tags: train/objective, val/top1err, ... for each statistic; learning_rate;
    speed/train/images_per_second, data_time and time; update_ratio/<parameter>. A run that is
    resumed replaces the epochs that it repeats.

    Args:
        folder: of the run.

    Raises: ImportError, if the package tensorboard is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "the package tensorboard is not installed; "
                "wanted: pip install 'matconvnet[tensorboard]'"
            ) from error
        self._open, self._folder = SummaryWriter, folder / FOLDER
        self._writer, self._last = None, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write those lines of `stats.jsonl` whose epochs come after all that were added before."""
        rows = [row for row in rows if row["epoch"] > self._last]
        if not rows:
            return
        epochs = [row["epoch"] for row in rows]
        if self._writer is None:
            # Whatever an earlier run wrote from this epoch on is hidden.
            self._writer = self._open(str(self._folder), purge_step=min(epochs))
        for row in rows:
            for tag, value in scalars(row).items():
                self._writer.add_scalar(tag, value, row["epoch"])
        self._last = max(epochs)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of `stats.jsonl`, by tag."""
    phase = row["phase"]
    found = {f"{phase}/{name}": row[name] for name in statistics([row])}
    found |= {f"speed/{phase}/{name}": row.get(name) for name in SPEEDS}
    if phase == "train":
        found["learning_rate"] = row.get("learning_rate")
        ratios = row.get("update_ratio") or {}
        found |= {f"update_ratio/{name}": value for name, value in ratios.items()}
    return {tag: value for tag, raw in found.items() if (value := number(raw)) is not None}
