"""`torchrun` itself: it starts workers, and starts them again when one is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import matconvnet as mcn
from tests.parallel.test_training import train
from tests.parallel.workers import run_workers

SCRIPT = """
import os, signal, sys
sys.path.insert(0, {root!r})
import torch
from matconvnet.parallel.world import join
from tests.parallel.test_training import Data, train

torch.set_num_threads(1)
calls = []

def get_batch(data, imdb, indices):
    calls.append(0)
    is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if is_first and os.environ["RANK"] == "1" and len(calls) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return data.get_batch(imdb, indices)

with join(timeout=30) as world:
    train(world, sys.argv[1], get_batch=get_batch, checkpoint_every=1, num_epochs=4)
"""


def train_undisturbed(world):
    return train(world, num_epochs=4)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_worker_is_started_again_and_nothing_is_lost(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2])))
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "--max-restarts=1", str(script), str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    found = mcn.load_network(folder / "net-epoch-4.safetensors").values()
    want = run_workers(train_undisturbed, 2)[0][0]
    for name, value in want.items():
        assert torch.equal(found[name], torch.from_numpy(value)), name
