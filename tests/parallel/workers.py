"""Real workers for the tests: processes that meet as `torchrun` would have them meet."""

import multiprocessing
import os
import socket
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from matconvnet.parallel.world import join

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["matconvnet.train.trainer", "pytest"])
PATIENCE = 60  # seconds until a test gives up
to_test: list[Connection] = []  # in a worker: the pipe to the test


class Outcome(NamedTuple):
    """How a worker ended.

    value: what its function returned. error: its exception, with all notes. seconds: how long the
    function ran. exitcode: as of multiprocessing, -9 after `kill -9`.
    """

    value: Any
    error: str
    seconds: float
    exitcode: int | None


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    values = (rank, rank, size, size, "127.0.0.1", port)
    return dict(zip(names, map(str, values), strict=True))


class Workers:
    """Processes that each call `function(world, *args)`; `size` is how many."""

    def __init__(self, function, size, *args, timeout=20.0, device="cpu"):
        port = free_port()
        self.pipes, self.processes = [], []
        for rank in range(size):
            ours, theirs = CONTEXT.Pipe()
            work = (theirs, environment(rank, size, port), function, args, timeout, device)
            process = CONTEXT.Process(target=_work, args=work, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def hear(self, rank: int) -> Any:
        """The next message of a worker."""
        assert self.pipes[rank].poll(PATIENCE), f"rank {rank} says nothing"
        return self.pipes[rank].recv()

    def tell(self, rank: int, message: Any) -> None:
        self.pipes[rank].send(message)

    def end_after_steps(self, count: int) -> list[Outcome]:
        """Hear of the first `count` steps of every worker, then `end`."""
        for rank in range(len(self.pipes)):
            assert [self.hear(rank) for _ in range(count)] == list(range(count))
        return self.end()

    def end(self) -> list[Outcome]:
        """Wait for all, and say how they ended; what is left is ended."""
        outcomes = []
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            try:
                report = pipe.recv() if pipe.poll(PATIENCE) else (None, "said nothing", 0.0)
            except (EOFError, ConnectionResetError):
                report = (None, "died", 0.0)
            process.join(PATIENCE)
            outcomes.append(Outcome(*report, process.exitcode))
            process.kill()
        return outcomes


def run_workers(function, size, *args, **options) -> list[Any]:
    """What `function(world, *args)` returns in each of `size` workers."""
    outcomes = Workers(function, size, *args, **options).end()
    errors = [f"rank {rank}: {outcome.error}" for rank, outcome in enumerate(outcomes)]
    assert not any(outcome.error for outcome in outcomes), "\n".join(errors)
    return [outcome.value for outcome in outcomes]


def _work(pipe: Connection, variables, function, args, timeout, device) -> None:
    os.environ.update(variables)
    to_test.append(pipe)
    torch.set_num_threads(1)
    value, error, start = None, "", time.perf_counter()
    try:
        with join(device, timeout=timeout) as world:
            start = time.perf_counter()
            value = function(world, *args)
    except BaseException:
        error = traceback.format_exc()
    pipe.send((value, error, time.perf_counter() - start))
