"""The same trainer for a DagNN: several objectives, several inputs, errors that are layers."""

import numpy as np
import pytest
import torch

import matconvnet as mcn
from tests.helpers import assert_close
from tests.tolerances import REORDERED
from tests.train.common import Data, assert_identical, options, small_net, train, values
from tests.train.test_checkpoint import without_time


def dag_of(net):
    """The DagNN of a chain; its loss is called "objective"."""
    dag = mcn.DagNN.from_simplenn(net)
    dag.rename_var(dag.graph.outputs[0], "objective")
    return dag


@pytest.mark.parametrize("changes", [{}, {"num_sub_batches": 2, "solver": "adam"}], ids=str)
def test_a_chain_and_its_dag_train_to_the_same_bits(changes):
    chain = small_net(bnorm=True, dropout=0.3)
    dag = dag_of(small_net(bnorm=True, dropout=0.3))
    first, second = train(chain, Data(), **changes), train(dag, Data(), **changes)
    for want, got in zip(values(chain).values(), values(dag).values(), strict=True):
        assert torch.equal(got, want)
    for phase in ("train", "val"):
        want = [epoch["objective"] for epoch in first.history.stats[phase]]
        assert [epoch["objective"] for epoch in second.history.stats[phase]] == want


def two_headed(weights=None):
    """Two heads on one convolution, with an objective and an error each."""
    net = mcn.DagNN()
    net.add_layer("conv", mcn.Conv(size=(3, 3, 2, 4)), "input", "x1", ("f", "b"))
    net.add_layer("relu", mcn.ReLU(), "x1", "x2")
    for head in ("a", "b"):
        params = (f"{head}f", f"{head}b")
        net.add_layer(f"{head}conv", mcn.Conv(size=(4, 3, 4, 3)), "x2", f"{head}x", params)
        net.add_layer(f"{head}loss", mcn.Loss(), (f"{head}x", f"{head}label"), f"{head}loss")
        error = mcn.Loss(loss="classerror")
        net.add_layer(f"{head}err", error, (f"{head}x", f"{head}label"), f"{head}err")
    net.init_params(3)
    net.to(torch.float64)
    return net


def two_labels(data, zeros=()):
    def get_batch(imdb, indices):
        x, labels = data.get_batch(imdb, indices)
        return {"input": x, "alabel": labels, "blabel": (labels + 1) % 3}

    return get_batch


def test_several_objectives_are_weighted():
    def step(ders):
        data, net = Data(), two_headed()
        before = values(net)
        train(
            net, data, get_batch=two_labels(data), der_outputs=ders, num_epochs=1, val=(),
            batch_size=14, weight_decay=0.0, momentum=0.0, learning_rate=1.0,
        )  # fmt: skip
        return {name: value - before[name] for name, value in values(net).items()}

    both, a, b = step({"aloss": 2.0, "bloss": 0.5}), step({"aloss": 1.0}), step({"bloss": 1.0})
    for name, moved in both.items():
        assert_close(moved, 2.0 * a[name] + 0.5 * b[name], REORDERED, name)
    assert a["af"].abs().max() > 0
    assert a["bf"].abs().max() == 0


def test_all_losses_with_a_derivative_are_objectives_by_default():
    data, net, reference = Data(), two_headed(), two_headed()
    trainer = train(net, data, get_batch=two_labels(data))
    train(reference, data, get_batch=two_labels(data), der_outputs={"aloss": 1, "bloss": 1})
    assert_identical(values(net), values(reference))
    stats = trainer.history.stats["val"][-1]
    assert list(stats) == ["aloss", "aerr", "bloss", "berr", "num", "time"]
    record = net.eval(two_labels(data)(data, np.arange(14, 22)), mode="test")
    for name in ("aloss", "berr"):
        assert_close(stats[name], float(record.values[name]) / 8, REORDERED, name)


def test_statistics_of_maps_are_per_pixel():
    net = mcn.DagNN()
    net.add_layer("conv", mcn.Conv(size=(3, 3, 2, 3)), "input", "x", ("f", "b"))
    net.add_layer("loss", mcn.Loss(), ("x", "label"), "objective")
    net.init_params(0)
    net.to(torch.float64)
    data = Data()

    def get_batch(imdb, indices):
        x, labels = data.get_batch(imdb, indices)
        return {"input": x, "label": np.broadcast_to(labels, (4, 3, 1, len(indices))).copy()}

    stats = train(net, data, get_batch=get_batch, train=()).history.stats["val"][0]
    record = net.eval(get_batch(data, np.arange(14, 22)), mode="test")
    assert_close(stats["objective"], float(record.values["objective"]) / (4 * 3 * 8), REORDERED)


def test_a_dag_resumes_exactly(tmp_path):
    data = Data()

    def run(folder, epochs):
        given = {"get_batch": two_labels(data), "num_epochs": epochs, "solver": "adadelta"}
        return train(two_headed(), data, folder, **given)

    whole = run(None, 4)
    run(tmp_path, 2)
    parts = run(tmp_path, 4)
    assert_identical(values(parts.net), values(whole.net))
    assert without_time(parts.history.stats) == without_time(whole.history.stats)
    assert isinstance(mcn.load_network(tmp_path / "net-epoch-4.safetensors"), mcn.DagNN)


def test_extract_stats_has_the_last_word():
    data = Data()

    def extract(stats, net):
        return {**stats, "both": stats["aloss"] + stats["bloss"]} if "aloss" in stats else stats

    stats = train(two_headed(), data, get_batch=two_labels(data), extract_stats=extract)
    last = stats.history.stats["train"][-1]
    assert last["both"] == last["aloss"] + last["bloss"]


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"der_outputs": {"closs": 1}}, ValueError, "der_outputs names 'closs'; wanted variables"),
        ({"der_outputs": {}}, ValueError, "der_outputs is empty"),
        ({"get_batch": lambda imdb, i: {"alabel": i}}, ValueError, "wanted 'input' among them"),
        ({"get_batch": lambda imdb, i: {"input": imdb.images[..., :2]}}, ValueError, "2 images"),
    ],
    ids=["unknown", "none", "no data", "too few"],
)  # fmt: skip
def test_wrong_input(changes, error, match):
    data = Data()
    with pytest.raises(error, match=match):
        train(two_headed(), data, **{"get_batch": two_labels(data), **changes})


def test_inputs_that_are_missing_are_named():
    data = Data()

    def get_batch(imdb, indices):
        batch = two_labels(data)(imdb, indices)
        del batch["blabel"]
        return batch

    with pytest.raises(ValueError, match=r"\['bloss', 'berr'\] were not evaluated"):
        train(two_headed(), data, get_batch=get_batch, der_outputs={"aloss": 1})


def test_a_pair_serves_all_labels():
    data, net, reference = Data(), two_headed(), two_headed()

    def same(imdb, indices):
        x, labels = data.get_batch(imdb, indices)
        return {"input": x, "alabel": labels, "blabel": labels}

    train(net, data)
    train(reference, data, get_batch=same)
    assert_identical(values(net), values(reference))


def test_only_networks_of_ours_are_trained():
    with pytest.raises(TypeError, match="net is Linear; wanted a SimpleNN or a DagNN"):
        mcn.Trainer(torch.nn.Linear(1, 1), Data(), options=options())
