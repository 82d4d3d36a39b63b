"""A small training run that is killed over and over, at any instant."""

import random
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from matconvnet.train.store import checkpoints_in
from tests.parallel.workers import CONTEXT
from tests.train.common import values
from tests.train.test_resuming import run

LONGEST = 0.4  # seconds from the start of a run to its end by force
OPTIONS = {"num_epochs": 12, "average": 0.9, "keep_last": 2}


def uninterrupted() -> dict[str, torch.Tensor]:
    """The parameters that every run has to end with."""
    return values(run(None, **OPTIONS).net)


def train_under_fire(folder: Path, rng: random.Random, most: int) -> tuple[dict, int]:
    """Train in a process that is killed and started again until it is done.

    most: kills; after them, it is left in peace. Returns: the parameters, and how often it died.
    """
    kills = 0
    while True:
        ours, theirs = CONTEXT.Pipe()
        child = CONTEXT.Process(target=_train, args=(folder, theirs), daemon=True)
        child.start()
        ours.recv()
        if kills < most:
            time.sleep(rng.uniform(0, LONGEST))
            child.kill()
        child.join()
        if child.exitcode != -signal.SIGKILL:
            assert child.exitcode == 0, "the run failed"
            return values(run(folder, **OPTIONS).net), kills
        kills += 1


def _train(folder: Path, ready: Connection) -> None:
    torch.set_num_threads(1)
    ready.send("imported")
    run(folder, **OPTIONS)


def shoot(folder: Path, count: int, seed: int, report=print) -> int:
    """Kill runs `count` times in all; every run has to end as if nothing had happened.

    Returns: how many runs came to their end.
    """
    torch.set_num_threads(1)  # as in the runs: with more, sums have other bits
    rng, whole, runs, kills = random.Random(seed), uninterrupted(), 0, 0
    while kills < count:
        place = folder / f"run-{runs}"
        found, died = train_under_fire(place, rng, count - kills)
        for name, value in whole.items():
            assert torch.equal(found[name], value), f"{name} of run {runs} differs"
        assert not list(place.glob(".*.tmp"))
        assert {f.step for f in checkpoints_in(place)} == {None}
        runs, kills = runs + 1, kills + died
        report(f"{kills} kills, {runs} runs ended bit for bit as the uninterrupted one")
    return runs
