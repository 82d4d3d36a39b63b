"""Networks made ready for use: what is merged, dropped and added, and that it computes the same."""

import pytest
import torch

import matconvnet as mcn
from matconvnet.nets.example import example_inputs
from matconvnet.values import Cell
from tests.helpers import assert_close, randn

SAME = 1e-12  # the same numbers in another order, in float64


def moments(channels, seed):
    return torch.stack((randn((channels,), seed), randn((channels,), seed + 1).abs() + 0.5), 1)


def bnorm(channels, seed=3):
    return [randn((channels,), seed), randn((channels,), seed + 1), moments(channels, seed + 2)]


def chain(bias=True):
    """Convolution, batch normalisation, dropout, and a loss, in double precision."""
    return mcn.SimpleNN(
        [
            {"type": "conv", "weights": [randn((3, 3, 2, 4)), randn((4,), 1) if bias else []],
             "pad": 1, "momentum": [1, 2], "name": "conv1",
             "opts": Cell(["CudnnWorkspaceLimit", 1.0, "NoCuDNN"])},
            {"type": "bnorm", "weights": bnorm(4), "epsilon": 1e-4},
            {"type": "relu"},
            {"type": "dropout", "rate": 0.5},
            {"type": "conv", "weights": [randn((1, 1, 4, 3), 7), randn((3,), 8)]},
            {"type": "softmaxloss", "class": [1, 2]},
        ],
        {"classes": {"name": ["a", "b", "c"]}},
    )  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
def test_a_chain(bias):
    net, x = chain(bias), randn((5, 4, 2, 3), 9)
    before = {name: value.clone() for name, value in net.values().items() if value is not None}
    net.beside = {"state": 1}
    small = mcn.deploy(net)
    assert [link.layer.type_name for link in small.layers] == ["conv", "relu", "conv", "softmax"]
    wanted = mcn.softmax(net.eval({"x0": x}, mode="test").values["x5"])
    assert_close(small.eval({"x0": x}, mode="test").values["x4"], wanted, SAME)
    assert_close(small.eval({"x0": x}).values["x4"], wanted, SAME)
    assert small.layers[0].extra == {"opts": Cell(["NoCuDNN"])}
    assert small.meta == net.meta
    assert small.beside is None
    assert all(torch.equal(net.values()[name], value) for name, value in before.items())
    shared = {v.data_ptr() for v in net.values().values() if v is not None}
    assert shared.isdisjoint(v.data_ptr() for v in small.values().values())


def test_biases_before_batch_normalisation_are_scaled_too():
    """The original adds them unscaled; by hand, for one pixel and one channel."""
    net = mcn.SimpleNN(
        [
            {"type": "conv", "weights": [torch.full((1, 1, 1, 1), 2.0), torch.tensor([5.0])]},
            {"type": "bnorm", "weights": [torch.tensor([3.0]), torch.tensor([0.5]),
                                          torch.tensor([[1.0, 2.0]])]},
        ]
    )  # fmt: skip
    small = mcn.deploy(net)
    assert float(small.params["l1_1"].value) == pytest.approx(2 * 3 / 2)
    assert float(small.params["l1_2"].value) == pytest.approx(0.5 + (5 - 1) * 3 / 2)


def test_softmax_is_added_where_it_was_or_is_wanted():
    layers = chain().to_struct()["layers"]
    kinds = [link.layer.type_name for link in mcn.deploy(chain(), softmax=False).layers]
    assert kinds[-1] == "conv"
    regression = mcn.SimpleNN([*layers[:-1], {"type": "pdist", "p": 2}])
    assert [link.layer.type_name for link in mcn.deploy(regression).layers][-1] == "conv"
    assert [link.layer.type_name for link in mcn.deploy(regression, softmax=True).layers][
        -1
    ] == "softmax"
    done = mcn.SimpleNN([*layers[:-1], {"type": "softmax"}, {"type": "loss", "loss": "log"}])
    kinds = [link.layer.type_name for link in mcn.deploy(done, softmax=True).layers]
    assert kinds[-2:] == ["conv", "softmax"]


def dag():
    """Two branches with a convolution transpose in groups, a shared filter bank, two losses."""
    net = mcn.DagNN()
    net.add_layer("conv", mcn.Conv(pad=1, has_bias=False), "input", "a", ["f"])
    net.add_layer("bn", mcn.BatchNorm(), "a", "b", ["g", "o", "m"])
    net.add_layer("up", mcn.ConvTranspose(upsample=2, num_groups=2), "b", "c", ["uf", "ub"])
    net.add_layer("bn2", mcn.BatchNorm(), "c", "prediction", ["g2", "o2", "m2"])
    net.add_layer("loss", mcn.Loss(), ["prediction", "label"], "objective")
    net.add_layer("error", mcn.Loss("classerror"), ["prediction", "label"], "top1err")
    values = {"f": randn((3, 3, 2, 4)), "uf": randn((2, 2, 3, 4), 1), "ub": randn((6,), 2)}
    values |= dict(zip(("g", "o", "m", "g2", "o2", "m2"), bnorm(4) + bnorm(6, 9), strict=True))
    for name, value in values.items():
        net.params[name].value = value
    return net


def test_a_graph():
    net, x = dag(), randn((4, 5, 2, 2), 5)
    small = mcn.deploy(net)
    assert list(small.layers) == ["conv", "up", "prob"]
    wanted = mcn.softmax(net.eval({"input": x}, mode="test").values["prediction"])
    values = small.eval({"input": x}, mode="test").values
    assert_close(values["prob"], wanted, SAME)
    assert list(net.layers) == ["conv", "bn", "up", "bn2", "loss", "error"]


def two_readers(net):
    net.add_layer("sigmoid", mcn.Sigmoid(), "a", "side")


def shared_filters(net):
    net.add_layer("twin", mcn.Conv(pad=1, has_bias=False), "input", "side", ["f"])


def precious_output(net):
    net.vars["a"].precious = True


def relu_before(net):
    net.set_layer_outputs("conv", ["z"])
    net.add_layer("relu", mcn.ReLU(), "z", "a")


@pytest.mark.parametrize("change", [two_readers, shared_filters, precious_output, relu_before])
def test_what_cannot_be_merged_stays_and_is_said(change):
    net = dag()
    change(net)
    with pytest.warns(UserWarning, match="'bn' is not merged"):
        small = mcn.deploy(net)
    assert "bn" in small.layers
    assert "bn2" not in small.layers
    x = randn((4, 5, 2, 2), 5)
    wanted = mcn.softmax(net.eval({"input": x}, mode="test").values["prediction"])
    assert_close(small.eval({"input": x}, mode="test").values["prob"], wanted, SAME)


def test_dropout_between_graph_input_and_output_keeps_the_input():
    net = mcn.DagNN()
    net.add_layer("drop", mcn.Dropout(), "x", "a")
    net.add_layer("relu", mcn.ReLU(), "a", "b")
    net.add_layer("last", mcn.Dropout(), "b", "y")
    small = mcn.deploy(net)
    assert small.get_inputs() == ["x"]
    assert small.get_outputs() == ["y"]


@pytest.mark.parametrize("make", [chain, dag])
def test_batch_normalisation_put_back_computes_the_same(make):
    net = mcn.deploy(make())
    again = mcn.insert_bnorm(net, epsilon=1e-3)
    inputs = example_inputs(net, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = [n.eval(inputs, mode="test").values[n.prediction] for n in (net, again)]
    assert_close(values[1], values[0], SAME)
    nodes = again.graph.nodes
    assert sum(isinstance(node.layer, mcn.BatchNorm) for node in nodes) == 1
    averaged = [p for p in again.params.values() if p.train_method == "average"]
    assert [p.learning_rate for p in averaged] == [0.1]
    undone = mcn.deploy(again, softmax=False)
    assert_close(undone.eval(inputs, mode="test").values[undone.prediction], values[0], SAME)
