"""What a training tells while it runs: lines or a progress bar, and the files that hold the truth.

`stats.jsonl` has one line of JSON per epoch and phase, `run.json` says what the run is and how it
does. Both are strict JSON: a number that is not finite is null.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matconvnet.files import write_atomic

STATS_FILE = "stats.jsonl"
ABOUT_FILE = "run.json"
NOT_SHOWN = ("num", "time")

Row = dict[str, Any]
"""A line of `stats.jsonl`."""

Show = Callable[[int, float, float, Mapping[str, float]], None]
"""Shows the state after a batch (from 1): average and current images per second, statistics."""


def console_line(
    phase: str,
    epoch: int,
    batch: int,
    batches: int,
    average: float,
    current: float,
    stats: Mapping[str, float],
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

        def show(batch: int, average: float, _current: float, stats: Mapping[str, float]) -> None:
            values = f"{average:.1f} images/s{_values(stats)}"
            progress.update(task, completed=batch, values=values)

        yield show


def write_stats(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all statistics to `stats.jsonl`.

    Args:
        folder: of the run.
        rows: a dict per epoch and phase: epoch (from 1), phase ("train" or "val"), learning_rate,
            the statistics, num (images), time (s), data_time (s waited for data),
            images_per_second, and for "train" update_ratio, {parameter: |dw| / |w|}.
    """
    text = "".join(f"{json.dumps(_plain(row), allow_nan=False)}\n" for row in rows)
    write_atomic(folder / STATS_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def read_stats(folder: Path) -> list[Row]:
    """The lines of `stats.jsonl`; none, if a run has only begun and there is no file.

    Raises: ValueError, naming the file and the line, if one is not what `write_stats` writes.
    """
    path = folder / STATS_FILE
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        row = _parse(line, f"line {number} of {path}")
        if not isinstance(row.get("epoch"), int) or row.get("phase") not in ("train", "val"):
            raise ValueError(
                f"line {number} of {path} has epoch {row.get('epoch')!r} and phase "
                f"{row.get('phase')!r}; wanted a whole number, and 'train' or 'val'"
            )
        rows.append(row)
    return rows


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `run.json`.

    Args:
        folder: of the run.
        about: network, options, status ("running", "finished", "stopped", "failed"), message,
            started and updated (ISO 8601 times), device, world_size, versions.
    """
    write_json(folder / ABOUT_FILE, about)


def read_about(folder: Path) -> dict[str, Any]:
    """What `run.json` holds; nothing, if there is no such file.

    Raises: ValueError, naming the file, if it is not an object in JSON.
    """
    path = folder / ABOUT_FILE
    return _parse(_read_text(path), str(path)) if path.exists() else {}


def write_json(path: Path, content: Any) -> None:
    """Write `content` as strict JSON, atomically."""
    text = json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from None


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds {type(content).__name__}; wanted an object in JSON")
    return content


def _plain(value: Any) -> Any:
    """What JSON can hold: arrays as lists, numbers that are not finite as None, else the text."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return getattr(value, "__name__", str(value))


def _values(stats: Mapping[str, float]) -> str:
    names = sorted(name for name in stats if name not in NOT_SHOWN)
    return "".join(f" {name}: {stats[name]:.3f}" for name in names)
