"""Several workers train as one does: the same numbers to rounding, restarts and signals too."""

import os
import signal
import time
from functools import partial

import numpy as np
import pytest

import matconvnet as mcn
from matconvnet.parallel.world import World
from tests.helpers import assert_close
from tests.parallel.workers import Workers, run_workers
from tests.tolerances import REORDERED
from tests.train.common import Data, options, small_net, values

CASES = {
    "plain": {},
    "sub-batches, small last batch": {"num_sub_batches": 3, "batch_size": 13},
    "adam, average, clipping": {
        "solver": "adam", "learning_rate": 0.01, "average": 0.8, "clip_norm": 0.1
    },
}  # fmt: skip


def train(world, folder=None, *, bnorm=False, get_batch=None, **changes):
    """Train the small network; parameters and statistics."""
    data = Data()
    get_batch = get_batch or Data.get_batch
    given = options(folder, **changes)
    net = small_net(bnorm=bnorm)
    trainer = mcn.Trainer(net, data, partial(get_batch, data), given, world=world)
    _, stats = trainer.run()
    return {name: value.numpy() for name, value in values(net).items()}, stats


def train_all(world):
    return {name: train(world, **changes) for name, changes in CASES.items()}


@pytest.fixture(scope="module", params=[2, 3], ids=["2 workers", "3 workers"])
def ranks(request):
    return run_workers(train_all, request.param)


@pytest.mark.parametrize("case", CASES)
def test_workers_equal_one_to_rounding(ranks, case):
    want, stats = train(World(), **CASES[case])
    for found in ranks:
        got, their_stats = found[case]
        for name, value in want.items():
            assert_close(got[name], value, REORDERED, name)
        for phase in ("train", "val"):
            for ours, theirs in zip(stats[phase], their_stats[phase], strict=True):
                assert theirs["num"] == ours["num"]
                for name in ("objective", "top1err", "top5err"):
                    assert_close(theirs[name], ours[name], REORDERED, name)


@pytest.mark.parametrize("case", CASES)
def test_workers_end_with_the_same_bits(ranks, case):
    first = ranks[0][case][0]
    for found in ranks[1:]:
        for name, value in first.items():
            assert np.array_equal(found[case][0][name], value), name


def test_moments_are_averaged_over_workers():
    """Three workers see the parts that one worker makes of a batch."""
    want, _ = train(World(), bnorm=True, batch_size=6, num_sub_batches=3)
    for got, _ in run_workers(train_moments, 3):
        for name, value in want.items():
            assert_close(got[name], value, REORDERED, name)


def train_moments(world):
    return train(world, bnorm=True, batch_size=6)


def train_different(world):
    net, data = small_net(), Data()
    if world.rank == 1:
        net.params["l1_1"].value[0, 0, 0, 0] += 1
    mcn.Trainer(net, data, data.get_batch, options(), world=world).run()


def test_workers_that_start_from_other_parameters_are_named():
    outcomes = Workers(train_different, 2).end()
    for outcome in outcomes:
        assert "the sums of the parameters of rank 1 differs from that of rank 0" in outcome.error


def die_in_the_second_epoch(world, folder, number):
    calls = []

    def get_batch(data, imdb, indices):
        calls.append(0)
        if len(calls) == 8 and world.rank == 1:
            os.kill(os.getpid(), number)
        return data.get_batch(imdb, indices)

    return train(world, folder, get_batch=get_batch, checkpoint_every=1, num_epochs=4)


def train_on(world, folder):
    return train(world, folder, checkpoint_every=1, num_epochs=4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_worker_that_dies_ends_the_others_and_any_number_of_them_goes_on(tmp_path, size):
    start = time.perf_counter()
    outcomes = Workers(die_in_the_second_epoch, 2, tmp_path, signal.SIGKILL, timeout=10.0).end()
    assert outcomes[1].exitcode == -signal.SIGKILL
    assert "ConnectionError" in outcomes[0].error
    assert time.perf_counter() - start < 40
    want, _ = train(World(), num_epochs=4)
    for got, stats in run_workers(train_on, size, tmp_path):
        assert len(stats["train"]) == 4
        for name, value in want.items():
            assert_close(got[name], value, REORDERED, name)


def test_a_signal_to_one_worker_ends_all_after_the_step(tmp_path):
    outcomes = Workers(die_in_the_second_epoch, 2, tmp_path, signal.SIGTERM).end()
    for outcome in outcomes:
        assert "SystemExit: 0" in outcome.error
    assert [path.name for path in tmp_path.glob("*-step-*")] == ["net-epoch-2-step-3.safetensors"]
    want, _ = train(World(), num_epochs=4)
    for got, _ in run_workers(train_on, 2, tmp_path):
        for name, value in want.items():
            assert_close(got[name], value, REORDERED, name)
