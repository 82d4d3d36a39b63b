"""Runs the worker process that reads 7.3 files: starts it, asks it, ends it.

One worker is started when the first file is read, and kept; see `worker73` for what it does.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import numpy as np

from matconvnet.interop.mat.protocol73 import FRAME, REQUEST

ROOT = Path(__file__).resolve().parents[3]
"""The folder that holds the package."""

FORKS = sys.platform == "linux"
"""Whether one worker may serve many files; where forks are not safe each gets a new worker."""

ARGUMENTS = ["-P", "-m", "matconvnet.interop.mat.worker73"]
"""What Python is told to run; -P keeps the working directory out of it."""

PATIENCE = 2.0
"""Seconds that a worker has to end when it is told to."""

Process = subprocess.Popen[bytes]


class WorkerError(Exception):
    """The worker gave no whole answer: it died, was stopped, or said what it should not."""


class Answer:
    """The frames of one answer, and the time left for them."""

    def __init__(self, process: Process, seconds: float):
        self.process = process
        self.is_whole = False  # True, once nothing of the answer is left in the pipe
        self.is_late = False
        self.timer = threading.Timer(0, self.stop)
        self.seconds = 0.0
        self.allow(seconds)

    def allow(self, seconds: float) -> None:
        """Let the rest of the answer take so many seconds from now, then stop the worker."""
        self.timer.cancel()
        self.seconds = seconds
        self.timer = threading.Timer(seconds, self.stop)
        self.timer.daemon = True
        self.timer.start()

    def stop(self) -> None:
        """End the worker before its time."""
        self.is_late = True
        stop(self.process)

    def frame(self, kind: bytes, most: int) -> tuple[bytes, int]:
        """The kind and the length of the next frame, which is of this kind or E."""
        head = bytearray(FRAME.size)
        self.fill(memoryview(head))
        got, length = FRAME.unpack(head)
        if got not in (kind, b"E") or length > most:
            raise WorkerError(f"it sent {length} bytes of kind {got!r}")
        return got, length

    def content(self, length: int) -> Any:
        """The JSON in a frame."""
        data = bytearray(length)
        self.fill(memoryview(data))
        return json.loads(data)

    def array(self, target: np.ndarray) -> None:
        """Fill an array that is contiguous, in C order, with the next bytes."""
        self.fill(target.reshape(-1).view(np.uint8).data)

    def fill(self, memory: memoryview) -> None:
        """Fill `memory` with the next bytes."""
        pipe = cast(BufferedReader, self.process.stdout)
        if pipe.readinto(memory) == len(memory):
            return
        code = self.process.wait()
        if self.is_late or code == getattr(signal, "SIGXCPU", None):
            limit = f"{self.seconds:.1f} seconds" if self.is_late else "one value may take"
            raise WorkerError(f"it took longer than {limit} and was stopped")
        raise WorkerError(f"it died with code {code}")


class Server:
    """The worker of this process; it answers one question at a time."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process: Process | None = None

    @contextmanager
    def ask(self, request: dict[str, Any], seconds: float) -> Iterator[Answer]:
        """The answer to a question; unless it is read to its end, the worker is ended."""
        data = json.dumps({**request, "fork": FORKS}).encode()
        with self.lock:
            process = self.start()
            answer = Answer(process, seconds)
            try:
                assert process.stdin
                with suppress(OSError):  # of one that died: then there is no answer either
                    process.stdin.write(REQUEST.pack(len(data)) + data)
                    process.stdin.flush()
                yield answer
            finally:
                answer.timer.cancel()
                if not (answer.is_whole and FORKS):
                    self.end()

    def start(self) -> Process:
        """The worker, started if there is none that lives."""
        if self.process and self.process.poll() is None:
            return self.process
        self.end()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *(path for path in sys.path if path)]),
            "HDF5_PLUGIN_PATH": "",
            "HDF5_PLUGIN_PRELOAD": "::",  # libhdf5: load no plugins
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, *ARGUMENTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        return self.process

    def end(self) -> None:
        """End the worker, if there is one, and collect it."""
        process, self.process = self.process, None
        if process:
            stop(process)
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()  # pyright: ignore[reportOptionalMemberAccess]

    def forget(self) -> None:
        """In a fork of this process: leave the worker to the original."""
        if self.process:
            self.process.returncode = 0  # the fork is not its parent and must not wait for it
            for pipe in (self.process.stdin, self.process.stdout):
                os.close(pipe.fileno())  # pyright: ignore[reportOptionalMemberAccess]
        self.__init__()


def stop(process: Process) -> None:
    """End a worker, which then ends what it started."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
        process.wait()


server = Server()
atexit.register(server.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=server.forget)
