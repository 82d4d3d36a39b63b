"""`kill -9` at random instants; `scripts/kill_training.py` does it more often."""

import os

import pytest
import torch

from tests.train.killing import shoot


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_runs_that_are_killed_end_as_if_nothing_had_happened(tmp_path):
    threads = torch.get_num_threads()
    try:
        assert shoot(tmp_path, count=10, seed=0) >= 1
    finally:
        torch.set_num_threads(threads)
