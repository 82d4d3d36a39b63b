"""The folder of a run: which checkpoints it holds, which of them are whole, and which to keep."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from matconvnet.errors import FormatError
from matconvnet.files import write_atomic
from matconvnet.nets.network import Network
from matconvnet.train import checkpoint as files
from matconvnet.train.checkpoint import Checkpoint

NAME = re.compile(r"net-epoch-(\d+)(?:-step-(\d+))?\.(safetensors|mat)")
MANIFEST = "checkpoints.json"
LOCK, PROBE = ".lock", ".probe"
OLD_FILES = (MANIFEST, "stats.jsonl")


class Found(NamedTuple):
    """A file of the folder that is named like a checkpoint; step None: of a whole epoch."""

    epoch: int
    step: int | None
    path: Path

    @property
    def age(self) -> tuple[int, float]:
        """Larger for a later state of training."""
        return self.epoch, float("inf") if self.step is None else self.step


class Store:
    """The checkpoints in a folder, which belongs to one run at a time.

    A file is written whole or not at all. The manifest, `checkpoints.json`, lists size and SHA-256
    of each, so that a damaged one is never taken up.

    Args:
        folder: made if missing.
        suffix: of new files, ".safetensors" or ".mat".
        keep_last: how many epochs to keep, beside the best; None: all.

    Raises: OSError, if the folder cannot be written, or another run is writing to it.
    """

    def __init__(self, folder: Path, suffix: str = ".safetensors", keep_last: int | None = None):
        self.folder, self.suffix, self.keep_last = folder, suffix, keep_last
        check_folder(folder)
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OSError(
                f"exp_dir {str(folder)!r} is in use by another run; wait for it, or give another"
            ) from None
        for path in folder.glob(".*.tmp"):  # of a run that was killed as it wrote
            if PROBE not in path.name:  # other workers may be looking at the folder
                path.unlink(missing_ok=True)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception: object) -> None:
        """Let others have the folder."""
        self._lock.release()

    def newest(self, net: Network) -> str | None:
        """The file of the latest checkpoint that is whole; None, if there is none.

        One that is not is passed over, with a warning, for the one before.
        """
        manifest = read_manifest(self.folder)
        for found in sorted(checkpoints_in(self.folder), key=lambda f: f.age, reverse=True):
            try:
                wanted = manifest.get(found.path.name, {}).get("sha256")
                if wanted is not None and _sha256(found.path) != wanted:
                    raise FormatError(f"its SHA-256 is not the one in {MANIFEST}")
                files.load(found.path, net)
                self._remove_steps_before(found)
                return found.path.name
            except (OSError, FormatError, TypeError) as error:
                warnings.warn(
                    f"cannot resume from {found.path}, trying the one before: {error}",
                    stacklevel=2,
                )
        return None

    def set_aside(self) -> None:
        """Move the checkpoints of an earlier run to `previous-1`, `previous-2`, ..."""
        old = [found.path for found in checkpoints_in(self.folder)]
        if not old:
            return
        numbers = range(1, len(list(self.folder.glob("previous-*"))) + 2)
        target = next(p for i in numbers if not (p := self.folder / f"previous-{i}").exists())
        target.mkdir()
        for path in [*old, *(self.folder / name for name in OLD_FILES)]:
            with suppress(FileNotFoundError):
                path.rename(target / path.name)

    def save(self, checkpoint: Checkpoint, value: float | None = None) -> Path:
        """Write a checkpoint, then remove those that it makes needless.

        value: the statistic that is monitored, for the manifest; the smallest is the best.
        """
        step = "" if checkpoint.step is None else f"-step-{checkpoint.step}"
        suffix = self.suffix if checkpoint.step is None else ".safetensors"
        path = self.folder / f"net-epoch-{checkpoint.epoch}{step}{suffix}"
        files.save(path, checkpoint)
        entry = {
            "file": path.name, "epoch": checkpoint.epoch, "step": checkpoint.step,
            "bytes": path.stat().st_size, "sha256": _sha256(path), "value": value,
        }  # fmt: skip
        entries = {**read_manifest(self.folder), path.name: entry}
        kept = self._kept(entries, Found(checkpoint.epoch, checkpoint.step, path))
        listed = [entry for name, entry in entries.items() if name in kept]
        _write_manifest(self.folder, listed)
        for found in checkpoints_in(self.folder):
            if found.path.name not in kept:
                found.path.unlink(missing_ok=True)
        return path

    def _remove_steps_before(self, found: Found) -> None:
        """Remove checkpoints within epochs that a later one makes needless."""
        for other in checkpoints_in(self.folder):
            if other.step is not None and other.age < found.age:
                other.path.unlink(missing_ok=True)

    def _kept(self, entries: Mapping[str, Mapping[str, Any]], new: Found) -> set[str]:
        """Names of the files that stay, now that `new` is written."""
        found = sorted(checkpoints_in(self.folder), key=lambda f: f.age)
        epochs = [f for f in found if f.step is None]
        kept = epochs if self.keep_last is None else epochs[-self.keep_last :]
        names = {f.path.name for f in epochs}
        valued = [e for e in entries.values() if e["value"] is not None and e["file"] in names]
        best = min(valued, key=lambda e: e["value"])["file"] if valued else None
        return {f.path.name for f in kept} | {new.path.name} | ({best} if best else set())


def checkpoints_in(folder: Path) -> Iterator[Found]:
    """The files of a folder that are named like checkpoints."""
    for path in folder.iterdir():
        match = NAME.fullmatch(path.name)
        if match:
            yield Found(int(match[1]), int(match[2]) if match[2] else None, path)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of the manifest by file; none, if it is missing or damaged.

    A checkpoint that is not listed has a checksum of its own all the same.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["checkpoints"]
        return {entry["file"]: entry for entry in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def check_folder(folder: Path) -> None:
    """Make `folder`, and make sure before the work that its results can be written.

    Raises: OSError, naming exp_dir and what is wrong with it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{PROBE}-{os.getpid()}"
        write_atomic(probe, lambda path: path.write_bytes(b""))
        probe.unlink(missing_ok=True)  # another worker may have been as far
    except OSError as error:
        raise type(error)(
            error.errno, f"exp_dir {str(folder)!r} cannot be written: {error.strerror}"
        ) from error


def _write_manifest(folder: Path, entries: list[dict[str, Any]]) -> None:
    text = json.dumps({"format": 1, "checkpoints": entries}, indent=1)
    write_atomic(folder / MANIFEST, lambda path: path.write_text(text + "\n", encoding="utf-8"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
