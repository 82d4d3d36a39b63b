"""Updates within the backward pass against those after it."""

import pytest
import torch

from matconvnet.errors import DivergenceError
from matconvnet.fast.evaluator import FastEvaluator
from matconvnet.fast.native import kernels
from matconvnet.parallel.server import LocalServer
from matconvnet.train.options import TrainOptions
from matconvnet.train.update import Updater
from matconvnet.zoo import NETWORKS
from tests.helpers import assert_close
from tests.tolerances import REFERENCE
from tests.train.common import Data, assert_identical, small_net, train, values

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

CASES = [
    {},
    {"momentum": 0.0, "weight_decay": 0.1},
    {"nesterov_update": True},
    {"average": 0.9},
    {"recompute": True},
    {"save_solver_state": False},
]


def net(**changes):
    return small_net(dtype=torch.float32, **changes)


def data():
    found = Data()
    found.images = found.images.astype("float32")
    return found


def afterwards(monkeypatch):
    """Let the derivatives be pushed, and the parameters be updated after the backward pass."""
    monkeypatch.setattr(Updater, "within", lambda *_: None)


def assert_same(got, want):
    """Bit by bit; moments, which another kernel updates, but for a rounding."""
    moments = {p for p, param in got.params.items() if param.train_method == "average"}
    got, want = values(got), values(want)
    followed = got.keys() - moments
    assert_identical({p: got[p] for p in followed}, {p: want[p] for p in followed})
    for p in moments:
        assert_close(got[p], want[p], REFERENCE[torch.float32])


@pytest.mark.parametrize("changes", CASES)
@pytest.mark.parametrize("bnorm", [False, True])
def test_the_same_numbers(changes, bnorm, monkeypatch):
    within, after = net(bnorm=bnorm, dropout=0.3), net(bnorm=bnorm, dropout=0.3)
    first = train(within, data(), **changes)
    assert all("kernels" in told for _, told in first.loop.evaluator.report if "drop" not in told)
    afterwards(monkeypatch)
    second = train(after, data(), **changes)
    assert_same(within, after)
    assert_identical(first.updater.state, second.updater.state)


def test_moments_follow_their_own_rate_whatever_that_of_the_others(monkeypatch):
    within, after = net(bnorm=True), net(bnorm=True)
    for one in (within, after):
        (moments,) = (p for p in one.params.values() if p.train_method == "average")
        moments.learning_rate = 0.25
    train(within, data(), learning_rate=0.0, weight_decay=0.0)
    afterwards(monkeypatch)
    train(after, data(), learning_rate=0.0, weight_decay=0.0)
    assert_same(within, after)


@pytest.mark.parametrize(
    "changes", [{"clip_norm": 0.1}, {"solver": "adam"}, {"num_sub_batches": 2}]
)
def test_what_needs_all_derivatives_waits_for_them(changes, monkeypatch):
    within, after = net(), net()
    train(within, data(), **changes)
    afterwards(monkeypatch)
    train(after, data(), **changes)
    assert_same(within, after)


def test_the_middle_of_an_epoch_tells_how_far_parameters_moved():
    one, imdb = net(), data()
    before = values(one)
    trainer = train(one, imdb, num_epochs=1, batch_size=14, weight_decay=0.01)  # one update
    told = trainer.history.notes[-1]["train"]["update_ratio"]
    for name, old in before.items():
        moved = (values(one)[name] - old).norm() / old.norm()
        assert told[name] == pytest.approx(moved.item(), rel=1e-4)


def test_no_parameter_changes_behind_a_derivative_that_is_not_finite():
    one, imdb = net(), data()
    imdb.images[..., 3] = float("nan")
    before = values(one)
    with pytest.raises(DivergenceError):
        train(one, imdb, batch_size=14, num_epochs=1)
    assert_identical(values(one), before)


def test_derivatives_take_no_memory_of_their_own():
    sizes = {}
    for is_within in (False, True):
        big = NETWORKS["lenet"]()
        updater = Updater(big, TrainOptions(exp_dir=None), LocalServer()).__enter__()
        evaluator = FastEvaluator(big)
        evaluator.stepping = updater.within(2, 0.1) if is_within else None
        inputs = {"x0": torch.randn(28, 28, 1, 2), "label": torch.tensor([1, 2])}
        record = evaluator.eval(inputs, {"x8": 1.0}, on_param=updater.push)
        ders = updater.pull()
        sizes[is_within] = sum(der.numel() for der in ders.values())
        assert not record.param_ders
    assert sizes[False] == sum(p.value.numel() for p in big.params.values())
    assert sizes[True] == 0
