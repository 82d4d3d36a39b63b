"""`cnn_train_dag`: MATLAB manners around the trainer, for layers wired by names."""

import copy

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.compat.training import cnn_train, cnn_train_dag
from matconvnet.interop.mat import read_mat
from tests.tolerances import REORDERED
from tests.train.common import Data, assert_identical, small_net, values

QUIET = ("expDir", None, "batchSize", 5, "numEpochs", 2, "progress", False, "plotStatistics", False)


def small_dag():
    """The small network wired by names, with an error beside the objective."""
    net = mcn.DagNN.from_simplenn(small_net(), canonical_names=True)
    net.add_layer("err", mcn.Loss("classerror"), ("prediction", "label"), "top1err")
    return net


class Original(Data):
    """The same data as the original has it: `images.set`, numbers and labels from 1."""

    def __init__(self, form=list):
        super().__init__()
        self.codes, self.form, self.asked = {"images": {"set": self.set[None]}}, form, []
        del self.set

    def get_batch(self, imdb, batch):
        assert imdb is self.codes
        self.asked.append(batch.tolist())
        inputs = {"input": self.images[..., batch - 1], "label": 1.0 + self.labels[None, batch - 1]}
        return inputs if self.form is dict else [part for pair in inputs.items() for part in pair]


def run(net=None, data=None, *pairs, **changes):
    data = data or Original()
    return cnn_train_dag(net or small_dag(), data.codes, data.get_batch, *QUIET, *pairs, **changes)


@pytest.mark.parametrize("form", [list, dict])
def test_it_trains_in_place_and_as_cnn_train_does(form):
    net, data = small_dag(), Original(form)
    again, stats = run(net, data, learning_rate=0.05)
    assert again is net
    chain = small_net()
    _, want = cnn_train(
        chain, data.codes, lambda imdb, batch: data.get_batch(imdb, batch)[1::2], *QUIET,
        learning_rate=0.05,
    ) if form is list else (None, None)  # fmt: skip
    if want is not None:
        for got, value in zip(values(net).values(), values(chain).values(), strict=True):
            assert torch.equal(got, value)
        for phase in ("train", "val"):
            for one, other in zip(stats[phase], want[phase], strict=True):
                assert (one.objective, one.top1err) == (other.objective, other.top1err)
    assert list(stats.train[0]) == ["num", "time", "objective", "top1err"]
    assert stats.train[1].objective < stats.train[0].objective
    assert min(i for batch in data.asked for i in batch) == 1


@pytest.mark.parametrize("in_numpy", [True, False])
def test_a_struct_is_answered_in_kind_and_not_modified(in_numpy):
    net = small_dag()
    struct = net.to_struct()
    for param in struct.params:
        param.value = param.value.numpy() if in_numpy else param.value
    before = copy.deepcopy(struct)
    trained, _ = run(struct)
    run(net)
    kind = np.ndarray if in_numpy else torch.Tensor
    for given, old, got, want in zip(
        struct.params, before.params, trained.params, values(net).values(), strict=True
    ):
        assert isinstance(got.value, kind)
        assert (given.value == old.value).all()
        assert torch.equal(torch.as_tensor(got.value), want)
        assert not torch.equal(torch.as_tensor(given.value), want)


@pytest.mark.parametrize(
    "given", [["objective", 1], ("objective", np.ones((1, 1))), {"objective": torch.ones(1)}]
)
def test_der_outputs_in_all_forms(given):
    net, same = small_dag(), small_dag()
    run(net, None, "derOutputs", given)
    run(same)
    assert_identical(values(net), values(same))


def test_several_objectives_are_weighted():
    def doubled():
        net = small_dag()
        net.add_layer("again", mcn.Loss("softmaxlog"), ("prediction", "label"), "second")
        return net

    net, same = doubled(), doubled()
    _, stats = run(net, None, "derOutputs", {"objective": 0.75, "second": 0.25})
    run(same)
    for name, value in values(same).items():
        assert torch.allclose(net.params[name].value, value, rtol=REORDERED, atol=REORDERED)
    assert stats.train[0].second == stats.train[0].objective
    half = doubled()
    run(half, None, "derOutputs", ["objective", 0.5])
    assert not torch.allclose(half.params["layer1f"].value, same.params["layer1f"].value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "derOutputs is empty"),
        ({"objective": np.ones(3)}, r"derOutputs\['objective'\] has 3 elements; wanted a number"),
        (["objective"], "derOutputs is a list that is not name, value"),
    ],
)
def test_wrong_der_outputs(given, message):
    with pytest.raises(ValueError, match=message):
        run(None, None, "derOutputs", given)


def test_evaluation_alone_writes_nothing(tmp_path):
    net = small_dag()
    before = values(net)
    _, stats = run(net, None, "train", np.nan, "derOutputs", [], expDir=tmp_path / "exp")
    assert stats.train == [{"num": 0, "time": 0}]
    assert (stats.val[0].num, len(stats.val)) == (8, 1)
    assert not (tmp_path / "exp").exists()
    assert_identical(values(net), before)


def test_losses_that_ignore_averages_are_not_told():
    net = small_dag()
    net.layers["err"].extra["ignoreAverage"] = True
    _, stats = run(net)
    assert list(stats.val[1]) == ["num", "time", "objective"]


def test_label_zero_is_ignored():
    data = Original()
    data.labels[:14] = -1
    net = small_dag()
    before = values(net)
    _, stats = run(net, data, weightDecay=0)
    assert stats.train[0].objective == stats.train[0].top1err == 0
    assert_identical(values(net), before)


def test_targets_and_other_inputs_are_taken_as_they_are():
    net = mcn.DagNN()
    net.add_layer("conv", mcn.Conv(size=(6, 5, 2, 1)), "input", "y", ("f", "b"))
    net.add_layer("distance", mcn.PDist(2, aggregate=True), ("y", "target"), "objective")
    net.add_layer("logistic", mcn.Loss("logistic"), ("y", "sign"), "second")
    net.init_params()
    net.to(torch.float64)
    net.params["f"].value.zero_()
    seen = {}

    def get_batch(_imdb, batch):
        target = np.full((1, 1, 1, batch.size), 3.0)
        return {"input": np.zeros((6, 5, 2, batch.size)), "target": target, "sign": -target / 3}

    def keep(_net, _params, _state):
        seen.update({"target": net.vars["target"].value, "sign": net.vars["sign"].value})

    net.vars["target"].precious = net.vars["sign"].precious = True
    _, stats = cnn_train_dag(
        net, {"set": [1, 1, 2]}, get_batch, *QUIET, numEpochs=1, postEpochFn=keep,
    )  # fmt: skip
    assert seen["target"].unique().tolist() == [3]
    assert seen["sign"].unique().tolist() == [-1]
    assert stats.train[0].objective == pytest.approx(3, abs=1e-2)  # |0 - 3|
    assert stats.train[0].second == pytest.approx(np.log(2))


def test_statistics_are_means_over_locations():
    net = mcn.DagNN()
    net.add_layer("conv", mcn.Conv(size=(1, 1, 2, 3)), "input", "y", ("f", "b"))
    net.add_layer("loss", mcn.Loss("softmaxlog"), ("y", "label"), "objective")
    net.init_params()
    net.params["f"].value.zero_()

    def get_batch(_imdb, batch):
        images = np.ones((6, 5, 2, batch.size), "f4")
        return ["input", images, "label", np.ones((6, 5, 1, batch.size))]

    options = {"train": np.nan, "val": range(1, 4)}
    _, stats = cnn_train_dag(net, {}, get_batch, *QUIET, options)
    assert stats.val[0].objective == pytest.approx(np.log(3), rel=1e-6)
    assert stats.val[0].num == 3


def test_extract_stats_fn():
    told = []

    def extract(stats, net):
        told.append(dict(stats))
        assert net.vars["x1"].value.shape[2] == 4
        return {**stats, "batches": stats.get("batches", 0) + 1, "size": len(net.params)}

    net = small_dag()
    net.conserve_memory = False
    _, stats = run(net, None, "extractStatsFn", extract, numEpochs=1)
    assert [one["num"] for one in told] == [5, 10, 14, 5, 8]
    assert stats.train[0].items() >= {"num": 14, "batches": 3, "size": 3}.items()
    assert stats.val[0].items() >= {"num": 8, "batches": 2}.items()
    assert "objective" not in stats.train[0]


def test_post_epoch_fn():
    told = []

    def hook(net, params, state):
        told.append((params.epoch, params.derOutputs, min(params.train), list(state.stats.val)))
        assert isinstance(net, mcn.DagNN)
        assert set(state.solverState) == {"layer1f", "layer1b", "layer3f"}
        return [] if params.epoch == 1 else 0

    _, stats = run(None, None, "numEpochs", 5, "postEpochFn", hook)
    assert told == [
        (i, {"objective": 1}, 1, ["num", "time", "objective", "top1err"]) for i in (1, 2)
    ]
    assert len(stats.train) == 2


def test_a_momentum_solver_of_the_users_gets_its_options_as_a_struct():
    def solver(w=None, state=0, der=None, opts=None, lr=0.0):
        if w is None:
            return {"rho": 0.5}
        state = opts.rho * state - der
        return w + lr * state, state

    net, same = small_dag(), small_dag()
    run(net, None, "solver", solver, "solverOpts", {"rho": 0.9})
    run(same, None, "momentum", 0.9)
    for name, value in values(same).items():
        assert torch.allclose(net.params[name].value, value, rtol=REORDERED, atol=REORDERED)


@pytest.mark.parametrize("form", ["safetensors", "mat"])
def test_continue(form, tmp_path):
    whole, parts = small_dag(), small_dag()
    _, want = run(whole, expDir=tmp_path / "a", numEpochs=3)
    run(parts, expDir=tmp_path / "b", numEpochs=1, checkpointFormat=form)
    fresh = small_dag()
    _, stats = run(fresh, expDir=tmp_path / "b", numEpochs=3, checkpointFormat=form)
    assert_identical(values(fresh), values(whole))
    assert [s.objective for s in stats.train] == [s.objective for s in want.train]
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert {f"net-epoch-{epoch}.{form}" for epoch in (1, 2, 3)} <= names
    if form == "mat":
        kept = read_mat(tmp_path / "b" / "net-epoch-3.mat")
        assert set(kept) == {"net", "state", "stats"}
        assert kept.state.solverState.shape == (1, 3)
        assert [layer.type for layer in kept.net.layers][:2] == ["dagnn.Conv", "dagnn.ReLU"]


def test_options_of_the_other_function_are_unknown():
    with pytest.raises(TypeError, match="Unknown parameter 'errorFunction'"):
        run(None, None, "errorFunction", "none")
    with pytest.raises(ValueError, match=r"gpus is \[1, 2\]; .*torchrun --nproc-per-node=2"):
        run(None, None, "gpus", [1, 2])
    with pytest.raises(TypeError, match="prefetch is True, but get_batch has no parameter"):
        run(None, None, "prefetch", True)


def test_prefetch_tells_get_batch_what_comes_next():
    data, told = Original(), []

    def get_batch(imdb, batch, prefetch=False):
        if prefetch:
            told.append(batch.tolist())
            return None
        return data.get_batch(imdb, batch)

    cnn_train_dag(small_dag(), data.codes, get_batch, *QUIET, prefetch=True, numEpochs=1)
    assert told == [*data.asked[1:3], data.asked[4]]
