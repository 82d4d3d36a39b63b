"""What a training tells while it runs: lines or a progress bar, and statistics as JSON lines."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from matconvnet.files import write_atomic
from matconvnet.train.meters import Stats

STATS_FILE = "stats.jsonl"
NOT_SHOWN = ("num", "time")


Show = Callable[[int, float, float, Stats], None]
"""Shows the state after a batch (from 1): average and current images per second, statistics."""


def console_line(
    phase: str, epoch: int, batch: int, batches: int, average: float, current: float, stats: Stats
) -> str:
    """One line per batch, statistics in alphabetical order.

    `train: epoch 01:   1/  3: 223.7 (223.7) Hz objective: 1.063 top1err: 0.625 top5err: 0.000`
    """
    head = f"{phase}: epoch {epoch:02d}: {batch:3d}/{batches:3d}:"
    return f"{head} {average:.1f} ({current:.1f}) Hz{_values(stats)}"


@contextmanager
def show_phase(phase: str, epoch: int, batches: int, enabled: bool) -> Iterator[Show]:
    """Report on a phase of an epoch: a progress bar on a terminal, else one line per batch."""
    if not enabled or not batches:
        yield lambda *_: None
        return
    if not sys.stdout.isatty():
        yield lambda batch, *state: print(
            console_line(phase, epoch, batch, batches, *state), flush=True
        )
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[values]}"),
    )  # fmt: skip
    with Progress(*columns) as progress:
        task = progress.add_task(f"{phase} epoch {epoch:02d}", total=batches, values="")

        def show(batch: int, average: float, _current: float, stats: Stats) -> None:
            values = f"{average:.1f} images/s{_values(stats)}"
            progress.update(task, completed=batch, values=values)

        yield show


def write_stats(
    folder: Path, stats: Mapping[str, Sequence[Stats]], learning_rates: Sequence[float]
) -> None:
    """Write all statistics to `stats.jsonl`, one line per epoch and phase.

    A line holds epoch (from 1), phase ("train" or "val"), learning_rate, the statistics, num
    (images) and time (seconds).
    """
    lines = [
        json.dumps({"epoch": epoch, "phase": phase, "learning_rate": rate, **values})
        for epoch, (rate, *both) in enumerate(
            zip(learning_rates, stats["train"], stats["val"], strict=True), 1
        )
        for phase, values in zip(("train", "val"), both, strict=True)
    ]
    text = "".join(f"{line}\n" for line in lines)
    write_atomic(folder / STATS_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def _values(stats: Stats) -> str:
    names = sorted(name for name in stats if name not in NOT_SHOWN)
    return "".join(f" {name}: {stats[name]:.3f}" for name in names)
