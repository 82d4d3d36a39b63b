"""The files that tell of a run while it goes on: statistics, figures, a page, event files."""

import platform
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from matconvnet._version import __version__
from matconvnet.nets.network import Network
from matconvnet.train.history import History
from matconvnet.train.options import TrainOptions
from matconvnet.train.report import write_about, write_json, write_stats

PAGE_SECONDS = 5.0
"""The page is not written more often than this."""


class Journal:
    """Writes what is known of a run to its folder; without a folder, nothing.

    status in `run.json`: "running", then "finished", "stopped" (asked to) or "failed".
    """

    def __init__(
        self,
        folder: Path | None,
        net: Network,
        history: History,
        options: TrainOptions,
        world_size: int = 1,
    ):
        self.folder, self.history, self.options = folder, history, options
        self.confusion: dict[str, Any] | None = None
        self._written = 0.0
        self._stack = ExitStack()
        self._events: Any = None
        count = sum(value.numel() for value in net.values().values() if value is not None)
        self.about: dict[str, Any] = {
            "network": {
                "name": net.meta.get("name"), "kind": type(net).__name__,
                "layers": len(net.graph.nodes), "parameters": count,
            },
            "options": options.plain(), "status": "running", "message": "",
            "started": _now(), "device": options.device, "world_size": world_size,
            "versions": {
                "matconvnet": __version__, "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }  # fmt: skip

    def __enter__(self) -> "Journal":
        """Say that the run has begun."""
        if self.folder is not None and self.options.tensorboard:
            from matconvnet.train.tensorboard import TensorBoard

            self._events = self._stack.enter_context(TensorBoard(self.folder))
        self._tell()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Say how the run ended, if the folder still takes it."""
        with suppress(OSError) if error is not None else nullcontext():
            self._end(error)
        self._stack.close()

    def _end(self, error: BaseException | None) -> None:
        """Say how the run ended."""
        status, message = "finished", ""
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            status, message = "stopped", "asked to stop; start again to go on"
        elif error is not None:
            status, message = "failed", f"{type(error).__name__}: {error}"
        self.about |= {"status": status, "message": message}
        self._tell()

    def batch(self, live: Mapping[str, Any]) -> None:
        """Show the state within an epoch: epoch, phase, batch, batches, statistics, speed."""
        if time.monotonic() - self._written > PAGE_SECONDS:
            self._write_page(live)

    def epoch(self) -> None:
        """Write the statistics of all epochs."""
        if self.folder is None:
            return
        rows = self.history.rows()
        write_stats(self.folder, rows)
        if self.confusion is not None:
            write_json(self.folder / "confusion.json", self.confusion)
        if self._events is not None:
            self._events.add(rows)
        if self.options.plot_statistics:
            from matconvnet.train.plots import plot_statistics

            plot_statistics(self.folder, self.history.stats)
        self._tell()

    def _tell(self) -> None:
        if self.folder is None:
            return
        self.about["updated"] = _now()
        write_about(self.folder, self.about)
        self._write_page(None)

    def _write_page(self, live: Mapping[str, Any] | None) -> None:
        self._written = time.monotonic()
        if self.folder is None or not self.options.page:
            return
        from matconvnet.train.page import write_page

        write_page(
            self.folder, rows=self.history.rows(), about=self.about,
            live=None if live is None else dict(live), confusion=self.confusion,
        )  # fmt: skip


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
