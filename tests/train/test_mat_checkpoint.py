"""The original's checkpoints: written as it would, and read whoever wrote them."""

import numpy as np
import pytest
import scipy.io
import torch

import matconvnet as mcn
from matconvnet.errors import FormatError
from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.train.mat_checkpoint import load_mat_checkpoint, save_mat_checkpoint
from matconvnet.values import Cell, Opaque, Struct
from tests import models
from tests.dagnets import residual
from tests.helpers import randn
from tests.train.common import assert_identical, small_net, values

STATS = {
    "train": [
        {"objective": 1.25, "top1err": 0.5, "num": 14, "time": 0.25},
        {"objective": 1.0, "top1err": 0.25, "num": 14, "time": 0.5},
    ],
    "val": [{"num": 0, "time": 0}, {"objective": 2.0, "top1err": 0.75, "num": 8, "time": 0.125}],
}


def momentum_of(net):
    """A state of momentum SGD: a tensor for every parameter that a solver steps."""
    return {
        name: randn(tuple(param.value.shape), i).to(param.value.dtype)
        for i, (name, param) in enumerate(net.params.items())
        if param.value is not None and param.train_method == "gradient"
    }


def adam_of(net):
    """A state of Adam."""
    return {name: {"m": m, "v": m * m, "t": 7.0} for name, m in momentum_of(net).items()}


def path_of(folder, epoch=2):
    return folder / f"net-epoch-{epoch}.mat"


def round_trip(folder, net, state, stats=STATS, rates=()):
    save_mat_checkpoint(path_of(folder), net, state, stats, rates)
    return load_mat_checkpoint(path_of(folder), net)


def single():
    return small_net(bnorm=True, dtype=torch.float32)


def one_filter():
    """Parameters of one element and with axes of size 1 at the end, which MATLAB drops."""
    layers = [
        (mcn.Conv(), [randn((2, 3, 2, 1), 1).float(), torch.tensor([0.5])]),
        (mcn.Conv(), [torch.tensor(2.0).reshape(1, 1, 1, 1), None]),
        mcn.SoftmaxLoss(),
    ]
    return mcn.SimpleNN(layers)


def dag():
    return residual().to(torch.float32)


def oddly_named():
    """A DagNN whose names cannot be fields in MATLAB."""
    net = dag()
    net.rename_param("f1", "block/f1")
    net.rename_param("b1", "block_f1")
    return net


NETWORKS = {f.__name__: f for f in (single, one_filter, small_net, dag, oddly_named)}


@pytest.mark.parametrize("state_of", [momentum_of, adam_of, lambda _net: {}])
@pytest.mark.parametrize("name", NETWORKS)
def test_round_trips_are_exact(name, state_of, tmp_path):
    net = NETWORKS[name]()
    state = state_of(net)
    got = round_trip(tmp_path, net, state, rates=[0.1, 0.05])
    assert type(got.net) is type(net)
    assert_identical(values(got.net), values(net))
    assert_same_state(got.solver_state, state)
    assert (got.epoch, got.stats, got.learning_rates) == (2, STATS, [0.1, 0.05])


def assert_same_state(got, want):
    assert got.keys() == want.keys()
    for name, entry in want.items():
        if isinstance(entry, dict):
            assert got[name].pop("t") == entry["t"]
            assert_identical(got[name], {k: v for k, v in entry.items() if k != "t"})
        else:
            assert_identical({name: got[name]}, {name: entry})


def test_half_types_come_back_as_such(tmp_path):
    net = small_net(dtype=torch.bfloat16)
    got = round_trip(tmp_path, net, momentum_of(net))
    assert_identical(values(got.net), values(net))
    assert_same_state(got.solver_state, momentum_of(net))
    kept = [*values(got.net).values(), *got.solver_state.values()]
    assert {value.dtype for value in kept} == {torch.bfloat16}


def test_an_epoch_without_validation(tmp_path):
    stats = {"train": STATS["train"], "val": []}
    assert round_trip(tmp_path, dag(), {}, stats).stats["val"] == [{"num": 0, "time": 0}] * 2


def test_the_layout_of_a_simplenn_is_that_of_the_original(tmp_path):
    net = single()
    net.layers[-1].extra["class"] = np.ones((1, 5))
    state = momentum_of(net)
    save_mat_checkpoint(path_of(tmp_path), net, state, STATS)
    got = scipy.io.loadmat(path_of(tmp_path), struct_as_record=False)
    assert {name for name in got if not name.startswith("__")} == {"net", "state", "stats"}
    layers = got["net"][0, 0].layers
    assert layers.shape == (1, 5)
    assert "class" not in layers[0, 4][0, 0]._fieldnames
    assert layers[0, 0][0, 0].weights[0, 0].dtype == np.float32

    kept = got["state"][0, 0].solverState
    assert [cell.shape for cell in kept[0]] == [(1, 2), (1, 3), (1, 0), (1, 2), (1, 0)]
    for i, j, shape in ((0, 0, (3, 2, 2, 4)), (0, 1, (1, 4)), (1, 0, (1, 4))):
        entry = kept[0, i][0, j]
        assert entry.shape == layers[0, i][0, 0].weights[0, j].shape == shape
        assert (entry == state[f"l{i + 1}_{j + 1}"].numpy()).all()
    moments, no_bias = kept[0, 1][0, 2], kept[0, 3][0, 1]
    assert (moments.tolist(), no_bias.tolist()) == ([[0]], [[0]])

    stats = got["stats"][0, 0]
    assert stats.train.shape == stats.val.shape == (1, 2)
    assert stats.train[0, 1].objective.item() == 1.0
    assert stats.val[0, 0].objective.shape == (0, 0)
    now = got["state"][0, 0].stats[0, 0]
    assert (now.train[0, 0].num.item(), now.val[0, 0].top1err.item()) == (14, 0.75)


def test_the_layout_of_a_dagnn_is_that_of_the_original(tmp_path):
    net = dag()
    save_mat_checkpoint(path_of(tmp_path), net, {"b1": torch.ones(3)}, STATS)
    got = read_mat(path_of(tmp_path))
    assert [param.name for param in got.net.params] == ["f1", "b1", "f2"]
    assert got.state.solverState.shape == (1, 3)
    assert got.state.solverState[::2] == [0, 0]
    assert got.state.solverState[1].tolist() == [[1, 1, 1]]
    save_mat_checkpoint(path_of(tmp_path), net, {}, STATS)
    assert read_mat(path_of(tmp_path)).state.solverState.shape == (0, 0)


def test_the_state_of_a_dagnn_follows_the_order_of_the_file(tmp_path):
    net = dag()
    save_mat_checkpoint(path_of(tmp_path), net, momentum_of(net), STATS)
    variables = read_mat(path_of(tmp_path))
    variables.net.params.reverse()
    variables.state.solverState.reverse()
    write_mat(path_of(tmp_path), variables)
    assert_same_state(load_mat_checkpoint(path_of(tmp_path), net).solver_state, momentum_of(net))


def test_columns_are_read_as_the_parameters_are(tmp_path):
    net = single()
    save_mat_checkpoint(path_of(tmp_path), net, momentum_of(net), STATS)
    variables = read_mat(path_of(tmp_path))
    variables.net.layers[0].weights[1] = variables.net.layers[0].weights[1].T
    variables.state.solverState[0][1] = variables.state.solverState[0][1].T
    write_mat(path_of(tmp_path), variables)
    got = load_mat_checkpoint(path_of(tmp_path), net)
    assert torch.equal(got.net.values()["l1_2"], net.values()["l1_2"])
    assert torch.equal(got.solver_state["l1_2"], momentum_of(net)["l1_2"])


def test_custom_layers_leave_their_functions_behind(tmp_path):
    loss = {"type": "custom", "forward": max, "backward": min, "class": np.ones(3), "margin": 2.0}
    net = mcn.SimpleNN([(mcn.Conv(), [torch.ones(1, 1, 2, 3), None]), loss])
    save_mat_checkpoint(path_of(tmp_path), net, {}, STATS)
    assert read_mat(path_of(tmp_path)).net.layers[1] == {"type": "custom", "margin": 2.0}
    assert_identical(values(load_mat_checkpoint(path_of(tmp_path), net).net), values(net))


def changed(folder, change):
    """A checkpoint of `single` with something changed in it."""
    save_mat_checkpoint(path_of(folder), single(), momentum_of(single()), STATS)
    variables = read_mat(path_of(folder))
    change(variables)
    write_mat(path_of(folder), variables)
    return path_of(folder)


def put(value):
    def change(variables):
        variables.state.solverState[0][0] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("stats"), r"net-epoch-2\.mat has no stats: .*interrupted.*delete it"),
        (lambda v: v.pop("net"), r"holds \['state', 'stats'\]; wanted net, state and stats"),
        (lambda v: v.update(stats=1.0), "stats is float; wanted a struct of train, val"),
        (put(Opaque("opaque", "gpuArray", [])), "solver state of 'l1_1' is an object of class gpu"),
        (put("text"), "solver state of 'l1_1' is str; wanted numbers"),
        (lambda v: v.stats.train[0].update(num="many"), "does not hold a checkpoint: ValueError"),
        (lambda v: v.update(info=v.pop("stats")), "does not hold a checkpoint: "),
        (lambda v: v.update(net=Struct(layers=Cell([1.0]))), "holds a network that cannot be read"),
    ],
)
def test_what_cannot_be_resumed_from_is_said(change, message, tmp_path):
    with pytest.raises(FormatError, match=message):
        load_mat_checkpoint(changed(tmp_path, change), single())


def test_the_other_kind_of_network_is_refused(tmp_path):
    save_mat_checkpoint(path_of(tmp_path), dag(), {}, STATS)
    with pytest.raises(FormatError, match="holds a DagNN; the network in training is a SimpleNN"):
        load_mat_checkpoint(path_of(tmp_path), single())


@pytest.mark.parametrize("empty", [0.0, np.zeros((0, 0)), Cell()])
def test_no_state_in_all_its_forms(empty, tmp_path):
    path = changed(tmp_path, lambda v: v.state.update(solverState=empty))
    assert load_mat_checkpoint(path, single()).solver_state == {}


def real(name):
    """A network file as the network that it holds, to resume to."""
    return models.path(name), mcn.load(models.path(name))


def test_a_run_of_the_original(tmp_path):
    path, net = real("plate_epoch50")
    got = load_mat_checkpoint(path, net)
    assert got.epoch == len(got.stats["train"]) == len(got.stats["val"]) == 50
    assert_identical(values(got.net), values(net))
    assert set(got.solver_state) == {f"l{i}_{j}" for i in (1, 4, 7) for j in (1, 2)}
    for name, velocity in got.solver_state.items():
        assert velocity.shape == net.values()[name].shape
        assert velocity.dtype == torch.float32
    last = read_mat(path)
    assert got.stats["val"][-1]["top1err"] == pytest.approx(float(last.state.stats.val.top1err))
    assert got.stats["train"][3]["num"] == 6133
    assert (got.solver_state["l4_1"].numpy() == last.state.solverState[3][0]).all()

    again = round_trip(tmp_path, got.net, got.solver_state, got.stats)
    assert_same_state(again.solver_state, got.solver_state)
    assert again.stats == got.stats


def test_statistics_of_the_original_to_the_end():
    path, net = real("landcover_now_epoch100")
    got = load_mat_checkpoint(path, net)
    assert got.epoch == 100
    assert got.stats["val"][-1]["top1err"] == pytest.approx(0.02)  # see tests/models.py


def test_a_file_of_before_2015():
    path, net = real("cifar_lenet_epoch20")
    got = load_mat_checkpoint(path, net)
    assert got.epoch == 20
    assert got.stats["val"][-1]["top1err"] == pytest.approx(0.199, abs=1e-3)
    assert got.stats["train"][0]["top5err"] == pytest.approx(0.09824)
    assert got.stats["train"][0]["num"] == 0
    momentum = read_mat(path).net.layers[3].momentum[0]
    assert (got.solver_state["l4_1"].numpy() == momentum).all()


def test_a_network_alone_is_no_checkpoint():
    path, net = real("dncnn_dagnn_epoch50")
    with pytest.raises(FormatError, match=r"has no stats: .* or it holds a network alone"):
        load_mat_checkpoint(path, net)
