"""Being told to stop: a run finishes its step, saves, and ends."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

NAMES = ("SIGTERM", "SIGINT")


class StopSignals:
    """While entered, notes SIGTERM and Ctrl-C in place of dying of them; the second Ctrl-C counts.

    Signals reach the main thread alone: in another one, nothing is noted.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        """Take over the signals."""
        if threading.current_thread() is threading.main_thread():
            for name in NAMES:
                number = signal.Signals[name]
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back; answer one that came after the last chance to."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None and self.received is not None:
            self.end()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def end(self) -> NoReturn:
        """End the process, now that everything is saved.

        Raises: KeyboardInterrupt after Ctrl-C; else SystemExit with status 0.
        """
        if self.received is signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(0)
