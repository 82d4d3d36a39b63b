"""Training in another precision than that of the parameters."""

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.data.imdb import load_digits
from matconvnet.errors import DivergenceError
from matconvnet.fast import loss_scale
from matconvnet.fast.loss_scale import FIRST
from matconvnet.nets.dagnn import DagNN
from matconvnet.zoo import lenet
from tests.tolerances import TRAINED
from tests.train.common import Data, assert_identical, options, small_net, train, values

HALF = ("bf16", "fp16")


class Images(Data):
    """The small database in float32."""

    def __init__(self):
        super().__init__()
        self.images = self.images.astype(np.float32)


def net_of(**changes):
    return small_net(dtype=torch.float32, **changes)


def last(trainer, name="objective"):
    return trainer.history.stats["train"][-1][name]


@pytest.mark.parametrize("kind", ["simple", "dag"])
@pytest.mark.parametrize("precision", HALF)
def test_training_in_half_types_goes_as_in_float32(precision, kind, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**8)  # from which no derivative here overflows
    data = Images()
    trained = {}
    for name in ("fp32", precision):
        net = net_of(bnorm=True, dropout=0.2)
        net = DagNN.from_simplenn(net) if kind == "dag" else net
        trained[name] = train(net, data, precision=name, num_epochs=6)
        assert {v.dtype for v in values(net).values()} == {torch.float32}
    if kind == "simple":
        want = last(trained["fp32"])
        assert last(trained[precision]) == pytest.approx(want, rel=TRAINED[precision])
    for name, value in values(trained["fp32"].net).items():
        got = values(trained[precision].net)[name]
        assert not torch.equal(got, value)  # it was computed in another type
        difference = (got - value).norm() / value.norm()
        assert difference < TRAINED[precision], name


@pytest.mark.parametrize(
    "changes",
    [
        {"num_sub_batches": 2},
        {"conserve_memory": False},
        {"recompute": True, "num_sub_batches": 2},
        {"back_prop_depth": 2},
        {"clip_norm": 1.0},
        {"average": 0.9},
        {"solver": "adam", "learning_rate": 0.001},
        {"fast": False},
    ],
    ids=str,
)
def test_it_goes_with_the_other_options(changes):
    data = Images()
    trained = {
        precision: train(net_of(), data, precision=precision, num_epochs=2, **changes)
        for precision in ("fp32", "bf16")
    }
    got, want = (values(trained[precision].net) for precision in ("bf16", "fp32"))
    for name in want:
        assert (got[name] - want[name]).norm() < TRAINED["bf16"] * want[name].norm(), name


@pytest.mark.parametrize("solver", [None, "adam", "adamw", "adagrad", "adadelta", "rmsprop"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_evaluations_see_every_update(solver, clip_norm):
    trainer = train(
        net_of(bnorm=True), Images(), precision="bf16", solver=solver, clip_norm=clip_norm,
        fast=False,
    )  # fmt: skip
    seen = trainer.loop.evaluator.values()
    for name, value in values(trainer.net).items():
        assert torch.equal(seen[name], value.to(seen[name].dtype)), name


def test_recomputing_changes_no_bit():
    nets = [net_of(dropout=0.3, bnorm=True) for _ in range(2)]
    train(nets[0], Images(), precision="bf16")
    train(nets[1], Images(), precision="bf16", recompute=True)
    assert_identical(values(nets[0]), values(nets[1]))


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("within", [False, True], ids=["epochs", "updates"])
def test_resuming_is_exact(tmp_path, precision, within):
    data, through, again = Images(), net_of(dropout=0.2), net_of(dropout=0.2)
    whole = train(through, data, precision=precision, num_epochs=4)
    every = {"checkpoint_every": 2} if within else {}
    train(again, data, tmp_path, precision=precision, num_epochs=2, **every)
    again = net_of(dropout=0.2)
    trainer = train(again, data, tmp_path, precision=precision, num_epochs=4, **every)
    assert_identical(values(again), values(through))
    if precision == "fp16":
        assert trainer.loop.loss_scale.value < FIRST
        assert trainer.loop.loss_scale.state() == whole.loop.loss_scale.state()


class Loud(Images):
    """Labels whose weights make the derivatives of some batches overflow float16 when scaled."""

    def get_batch(self, imdb, indices):
        x, c = super().get_batch(imdb, indices)
        weights = np.where(np.arange(len(c)) == 0, 20.0, 1.0)
        return x, np.stack([c.astype(float), weights]).reshape(1, 1, 2, -1)


def test_an_update_that_overflows_is_left_out_and_the_scale_halved(tmp_path):
    data = Loud()
    net = net_of()
    before = values(net)
    trainer = train(net, data, tmp_path, precision="fp16", num_epochs=1, batch_size=14)
    assert_identical(values(net), before)
    assert trainer.loop.loss_scale.state() == {"value": FIRST / 2, "good": 0}
    trainer = train(net, data, tmp_path, precision="fp16", num_epochs=20, batch_size=14)
    scale = trainer.loop.loss_scale
    assert scale.value < FIRST / 2
    assert scale.good > 0
    assert any(not torch.equal(value, before[name]) for name, value in values(net).items())
    assert np.isfinite(last(trainer))


def test_derivatives_that_overflow_at_any_scale_are_a_divergence():
    data = Images()
    data.images *= 1e30
    with pytest.raises(DivergenceError, match="not finite"):
        train(net_of(), data, precision="fp16")


def test_parameters_in_float64_keep_it():
    net = small_net(bnorm=True)
    train(net, Data(), precision="bf16")
    assert {v.dtype for v in values(net).values()} == {torch.float64}


def test_tf32_on_a_cpu_is_float32_with_a_note(capsys):
    nets = [net_of(), net_of()]
    train(nets[0], Images())
    train(nets[1], Images(), precision="tf32", progress=True)
    assert_identical(values(nets[0]), values(nets[1]))
    assert capsys.readouterr().out.count("tf32 is a precision of GPUs") == 1


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="'half'; wanted one of fp32, tf32, bf16, fp16"):
        options(precision="half")


def test_mat_checkpoints_cannot_keep_the_scale():
    options(precision="bf16", checkpoint_format="mat")
    with pytest.raises(ValueError, match="no place for the scale"):
        options(precision="fp16", checkpoint_format="mat")


def test_a_digit_classifier_learns_in_bf16():
    net = lenet(batch_normalization=True)
    trainer = mcn.Trainer(
        net, load_digits(), options=options(
            train=np.arange(0, 8000, 4), val=np.arange(8000, 10000, 4), num_epochs=2, batch_size=50,
            learning_rate=0.01, precision="bf16",
        ),
    )  # fmt: skip
    trainer.run()
    assert trainer.history.stats["val"][-1]["top1err"] < 0.06
