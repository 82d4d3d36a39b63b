"""Acceptance tests of the original, through `cnn_train` and `cnn_train_dag` alike."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.compat.training import cnn_train, cnn_train_dag
from matconvnet.zoo.lenet import lenet
from tests.helpers import assert_close
from tests.tolerances import REORDERED
from tests.train import test_cnn_train, test_cnn_train_dag
from tests.train.common import assert_identical, small_net, values
from tests.train.test_cnn_train_dag import small_dag

QUIET = {"expDir": None, "progress": False, "plotStatistics": False}


def both(net, images, labels, sets, **options):
    """Train a chain and its DagNN; (networks, statistics) of both."""
    imdb = {"images": {"set": sets}}
    dag = mcn.DagNN.from_simplenn(mcn.SimpleNN.from_struct(net.to_struct()), canonical_names=True)
    dag.add_layer("err", mcn.Loss("classerror"), ("prediction", "label"), "top1err")
    dag.convert(torch.clone)

    def chain_batch(_imdb, batch):
        return images[..., batch - 1], labels[batch - 1]

    def dag_batch(_imdb, batch):
        return ["input", images[..., batch - 1], "label", labels[batch - 1]]

    options = {**QUIET, **options}
    _, stats = cnn_train(net, imdb, chain_batch, options)
    _, dag_stats = cnn_train_dag(dag, imdb, dag_batch, options)
    return (net, dag), (stats, dag_stats)


def assert_equal_runs(nets, stats):
    """Bit for bit."""
    chain, dag = (list(values(net).values()) for net in nets)
    assert_identical(dict(enumerate(dag)), dict(enumerate(chain)))
    for phase in ("train", "val"):
        for one, other in zip(stats[0][phase], stats[1][phase], strict=True):
            assert one.objective == other.objective
            assert one.top1err == other.top1err


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("solver", [None, "adagrad", "adadelta", "rmsprop", "adam"])
def test_logistic_regression(solver, dtype):
    rng = np.random.default_rng(0)
    labels = np.repeat([1.0, 2.0], 100)
    means = rng.standard_normal((15, 10, 5, 2))
    images = 2 * rng.standard_normal((15, 10, 5, 200)) + means[..., labels.astype(int) - 1]
    weights = [1e-3 * rng.standard_normal((15, 10, 5, 2)), np.zeros(2)]
    layers = [
        {"type": "conv", "weights": [w.astype(dtype) for w in weights]},
        {"type": "softmaxloss"},
    ]
    nets, stats = both(
        mcn.SimpleNN.from_struct({"layers": layers}), images.astype(dtype), labels, np.ones(200),
        numEpochs=1, batchSize=10, learningRate=0.001, solver=solver, val=float("nan"),
    )  # fmt: skip
    for one in stats:
        assert one.train[0].top1err < 0.35
        assert one.train[0].objective < 0.5
    chain, dag = (list(values(net).values()) for net in nets)
    assert_identical(dict(enumerate(dag)), dict(enumerate(chain)))


def test_lenet_on_digits():
    imdb = mcn.load_digits()
    images = imdb.images[..., :1100].astype("f4")
    images -= images.mean(3, keepdims=True)
    sets = np.where(np.arange(1100) < 1000, 1, 2)
    nets, stats = both(
        lenet(), images, imdb.labels[:1100] + 1.0, sets,
        numEpochs=1, batchSize=50, learningRate=0.001, prefetch=False,
    )  # fmt: skip
    assert_equal_runs(nets, stats)
    assert stats[0].val[0].top1err < 0.5


WORKER = """
import sys
import numpy as np
from tests.train.test_two_trainers import found_in
np.savez(f"{sys.argv[1]}/rank{sys.argv[2]}.npz", *found_in(sys.argv[1]))
"""


def found_in(folder):
    """Parameters and statistics of short runs in `folder`, with one trainer and the other."""
    found = []
    for module, make in ((test_cnn_train, small_net), (test_cnn_train_dag, small_dag)):
        net, name = make(), module.__name__.rpartition(".")[2]
        _, stats = module.run(net, None, "expDir", f"{folder}/{name}", "learningRate", 0.05)
        found += [value.numpy() for value in values(net).values()]
        found += [[s.objective, s.top1err, s.num] for phase in stats.values() for s in phase]
    return found


def workers(folder, size):
    """What each of `size` workers found."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(s.getsockname()[1])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(rank)],
            env={**os.environ, **place, "RANK": str(rank), "WORLD_SIZE": str(size)},
        )
        for rank in range(size)
    ]
    try:
        assert [worker.wait(timeout=60) for worker in started] == [0] * size
    finally:
        for worker in started:
            worker.kill()
    archives = [np.load(folder / f"rank{rank}.npz") for rank in range(size)]
    return [[archive[name] for name in archive.files] for archive in archives]


def test_two_workers_equal_one(tmp_path):
    one = found_in(tmp_path / "1")
    first, second = workers(tmp_path, 2)
    for want, got, same in zip(one, first, second, strict=True):
        assert (got == same).all()
        assert_close(got, want, REORDERED)
    names = {path.name for path in (tmp_path / "test_cnn_train_dag").iterdir()}
    assert {"net-epoch-1.safetensors", "net-epoch-2.safetensors"} <= names
