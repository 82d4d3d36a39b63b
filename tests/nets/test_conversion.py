"""SimpleNN and DagNN: the same network, bit for bit, and back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from matconvnet.blocks import (
    LRN,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dropout,
    Loss,
    LpNorm,
    NormOffset,
    PDist,
    Pooling,
    ReLU,
    Scale,
    Sigmoid,
    Softmax,
    SoftmaxLoss,
    SpNorm,
    Sum,
)
from matconvnet.errors import GraphError
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Struct
from tests.golden_data import arrays, cases
from tests.helpers import randn

STRUCTS = {
    case["id"]: case
    for case in cases("vl_simplenn_tidy")
    if not any(layer["type"] == "custom" for layer in case["inputs"]["layers"])  # not recorded
}


def conv(*size, bias=True, **options):
    return Conv(size=size, **options), [
        randn(size, 3), randn((size[3],), 4) if bias else None
    ]  # fmt: skip


def bnorm(channels):
    values = [randn((channels,), 5), randn((channels,), 6), randn((channels, 2), 7).abs()]
    return BatchNorm(epsilon=1e-4), values


def chain():
    """One layer of every type that fits between a map and its labels."""
    up = ConvTranspose(upsample=2, crop=(1, 1, 1, 1), num_groups=2)
    return SimpleNN([
        conv(3, 3, 2, 4, pad=(0, 1, 1, 0), stride=2), bnorm(4), ReLU(0.1), Dropout(0.4),
        conv(1, 1, 2, 4, bias=False), LRN((3, 1, 0.1, 0.75)), (up, [randn((3, 2, 1, 4), 8), None]),
        SpNorm((3, 3, 0.5, 0.5)), NormOffset((0.1, 0.5)), LpNorm(), Sigmoid(),
        Pooling(3, method="avg", stride=2, pad=1), Pooling(2, stride=1, pad=(0, 1, 0, 1)),
        conv(5, 3, 2, 3), Softmax(), SoftmaxLoss(),
    ], {"inputSize": [10, 9, 2]})  # fmt: skip


def run(net, x, labels, output, **options):
    """An evaluation with derivatives and the same dropout for every network."""
    inputs = dict.fromkeys(net.graph.inputs, labels) | {net.input: x}
    generator = torch.Generator().manual_seed(3)
    return net.eval(inputs, {output: 1}, generator=generator, **options)


@pytest.mark.parametrize("mode", ["normal", "test"])
@pytest.mark.parametrize("canonical_names", [False, True])
def test_both_compute_the_same_bit_for_bit(mode, canonical_names):
    net = chain()
    dag = DagNN.from_simplenn(net, canonical_names=canonical_names)
    x, labels = randn((10, 9, 2, 3)), torch.arange(3)
    one = run(net, x, labels, net.output, mode=mode)
    two = run(dag, x, labels, dag.get_outputs()[0], mode=mode, conserve_memory=False)
    assert len(one.values) == len(two.values) == 18
    assert len(one.ders) == len(two.ders) == 17
    assert len(one.param_ders) == len(two.param_ders) == 9
    variables = [v for node in dag.graph.nodes for v in node.outputs]
    for i, v in enumerate([dag.input, *variables]):
        assert torch.equal(one.values[f"x{i}"], two.values[v])
        assert torch.equal(one.ders[f"x{i}"], two.ders[v])
    params = [p for p in net.params.values() if p.value is not None]
    for mine, other in zip(params, dag.params.values(), strict=True):
        assert torch.equal(one.param_ders[mine.name], two.param_ders[other.name])


def test_names_are_those_of_the_original():
    dag = DagNN.from_simplenn(chain())
    assert list(dag.vars)[:3] == ["x0", "x1", "x2"]
    assert dag.get_inputs() == ["x0", "label"]
    assert list(dag.layers) == [f"layer{i}" for i in range(1, 17)]
    assert list(dag.params) == [
        "layer1f", "layer1b", "layer2m", "layer2b", "layer2x", "layer5f", "layer7f", "layer14f",
        "layer14b",
    ]  # fmt: skip
    assert dag.layers["layer16"].block == Loss("softmaxlog")
    assert dag.meta == {"inputSize": [10, 9, 2]}


def test_blocks_know_the_shapes_of_their_parameters():
    dag = DagNN.from_simplenn(chain())
    blocks = {name: layer.block for name, layer in dag.layers.items()}
    assert (blocks["layer1"].size, blocks["layer1"].has_bias) == ((3, 3, 2, 4), True)
    assert (blocks["layer5"].size, blocks["layer5"].has_bias) == ((1, 1, 2, 4), False)
    assert (blocks["layer7"].size, blocks["layer7"].has_bias) == ((3, 2, 1, 4), False)
    assert blocks["layer2"] == BatchNorm(epsilon=1e-4, num_channels=4)
    dag.init_params()
    assert dag.params["layer7f"].value.shape == (3, 2, 1, 4)


def test_rates_are_copied_for_each_parameter():
    f, b = np.zeros((1, 1, 2, 3)), np.zeros(3)
    g = [np.ones(3), np.zeros(3)]
    dag = DagNN.from_simplenn({"layers": [
        {"type": "conv", "weights": [f, b], "learningRate": [2, 3], "weightDecay": [4, 0]},
        {"type": "bnorm", "weights": list(g), "learningRate": [5, 6], "weightDecay": [7, 8]},
        {"type": "bnorm", "weights": list(g), "learningRate": [5, 6, 0.3]},
    ]})  # fmt: skip
    rates = [param.learning_rate for param in dag.params.values()]
    decays = [param.weight_decay for param in dag.params.values()]
    assert rates == [2, 3, 5, 6, 0.1, 5, 6, 0.3]
    assert decays == [4, 0, 7, 8, 0, 1, 1, 0]
    methods = {name: param.train_method for name, param in dag.params.items()}
    assert [name for name, method in methods.items() if method == "average"] == [
        "layer2x", "layer3x"
    ]  # fmt: skip


def test_names_that_are_not_unique_are_numbered():
    entries = [{"type": "relu", "name": name} for name in ("relu", "relu", "relu1", "relu")]
    dag = DagNN.from_simplenn({"layers": entries})
    assert list(dag.layers) == ["relu", "relu1", "relu11", "relu2"]


def test_several_losses_have_labels_and_objectives_of_their_own():
    entries = [{"type": "softmax"}, {"type": "pdist", "p": 1}, {"type": "loss"}]
    dag = DagNN.from_simplenn({"layers": entries}, canonical_names=True)
    assert dag.layers["layer2"].inputs == ("prob", "label")
    assert dag.layers["layer3"].inputs == ("objective", "label1")
    assert dag.layers["layer3"].outputs == ("objective1",)


def test_canonical_names_say_what_variables_are():
    softmax, loss, relu = {"type": "softmax"}, {"type": "softmaxloss"}, {"type": "relu"}
    inputs = [Struct(name="data", size=[1, 1, 1, 1])]
    net = {"layers": [relu, relu, loss], "meta": {"inputs": inputs}}
    dag = DagNN.fromSimpleNN(net, "CanonicalNames", True)
    assert list(dag.vars) == ["input", "x1", "prediction", "label", "objective"]
    assert dag.meta["inputs"][0].name == "input"
    assert inputs[0].name == "data"
    plain = DagNN.from_simplenn(net)
    assert plain.meta["inputs"][0].name == "x0"
    dag = DagNN.from_simplenn({"layers": [relu, softmax, relu, softmax]}, canonical_names=True)
    assert list(dag.vars) == ["input", "prediction", "prob", "prediction1", "prob1"]
    dag = DagNN.from_simplenn({"layers": [softmax, loss]}, canonical_names=True)
    assert list(dag.vars) == ["input", "prob", "label", "objective"]


def test_precious_outputs_and_options_of_the_original_are_kept():
    f = np.zeros((1, 1, 2, 3))
    entry = {"type": "conv", "weights": [f, []], "precious": True, "opts": ["CuDNN"], "odd": 3}
    dag = DagNN.from_simplenn({"layers": [entry, {"type": "relu"}]})
    assert dag.precious == ["x1"]
    assert dag.layers["layer1"].extra == {"opts": ["CuDNN"]}
    link = dag.to_simplenn().layers[0]
    assert (link.precious, link.extra) == (True, {"opts": ["CuDNN"]})


def test_a_convolution_without_filters_has_no_parameters():
    net = SimpleNN([(Conv(stride=2, pad=1), [None, None]), ReLU()])
    dag, x = DagNN.from_simplenn(net), randn((5, 4, 2, 2))
    assert len(dag.params) == 0
    p = randn((4, 3, 2, 2), 1)
    one, two = net.eval({"x0": x}, {"x2": p}), dag.eval({"x0": x}, {"x2": p})
    assert torch.equal(one.ders["x0"], two.ders["x0"])
    assert [p.value for p in dag.to_simplenn().layers[0].params] == [None, None]


def test_weights_are_shared_and_meta_data_copied():
    net = chain()
    dag = DagNN.from_simplenn(net)
    assert dag.params["layer1f"].value is net.params["l1_1"].value
    dag.meta["inputSize"].append(7)
    assert net.meta == {"inputSize": [10, 9, 2]}
    dag.to_simplenn().meta["inputSize"].append(8)
    assert dag.meta == {"inputSize": [10, 9, 2, 7]}


def test_custom_and_own_layers_are_converted_too():
    def forward(layer, before, after):
        after.x = 2 * before.x
        return after

    def backward(layer, before, after):
        before.dzdx = 2 * after.dzdx
        return before

    custom = {"type": "custom", "forward": forward, "backward": backward}
    net = SimpleNN([custom, lambda x: x + 1, torch.nn.Conv2d(2, 3, 1).double()])
    dag, x, p = DagNN.from_simplenn(net), randn((3, 2, 2, 2)), randn((3, 2, 3, 2), 1)
    one = net.eval({"x0": x}, {"x3": p})
    two = dag.eval({"x0": x}, {"x3": p})
    assert torch.equal(one.values["x3"], two.values["x3"])
    assert torch.equal(one.ders["x0"], two.ders["x0"])
    assert list(dag.params) == ["layer3_weight", "layer3_bias"]
    for mine, other in zip(one.param_ders.values(), two.param_ders.values(), strict=True):
        assert torch.equal(mine, other)


def test_an_empty_network_is_converted_both_ways():
    dag = DagNN.from_simplenn({"layers": []}, canonical_names=True)
    assert len(dag.layers) == len(dag.vars) == 0
    assert dag.to_simplenn().layers == ()


@pytest.mark.parametrize("name", STRUCTS)
def test_there_and_back_is_the_same_network(name):
    case = arrays(STRUCTS[name])["outputs"]
    net = SimpleNN.from_struct(case)
    assert_same_chain(DagNN.from_simplenn(net, canonical_names=True).to_simplenn(), net)


def test_there_and_back_keeps_training():
    net = chain()
    net.params["l1_1"].train_method = "none"
    net.params["l2_3"].learning_rate = 0.7
    net.layers[3].name = "drop"
    back = DagNN.from_simplenn(net).to_simplenn()
    assert_same_chain(back, net)
    x, labels = randn((10, 9, 2, 3)), torch.arange(3)
    one, two = run(net, x, labels, net.output), run(back, x, labels, back.output)
    assert one.values.keys() == two.values.keys()
    assert all(torch.equal(two.values[v], value) for v, value in one.values.items())
    assert all(torch.equal(two.param_ders[p], der) for p, der in one.param_ders.items())


def plain(layer):
    """The layer as a chain has it: its weights tell their size, softmaxloss is the log loss."""
    if isinstance(layer, (Conv, ConvTranspose)):
        return replace(layer, size=None, has_bias=True)
    if isinstance(layer, BatchNorm):
        return replace(layer, num_channels=None)
    return SoftmaxLoss() if layer == Loss() else layer


def assert_same_chain(got, want):
    assert got.meta == want.meta
    assert [link.name for link in got.layers] == [link.name for link in want.layers]
    for mine, other in zip(got.layers, want.layers, strict=True):
        assert mine.layer == plain(other.layer)
        assert mine.precious == other.precious
        for a, b in zip(mine.params, other.params, strict=True):
            assert a.value is b.value
            assert (a.name, a.train_method) == (b.name, b.train_method)
            assert (a.learning_rate, a.weight_decay) == (b.learning_rate, b.weight_decay)


def wired(*layers):
    net = DagNN()
    for i, (block, inputs, outputs, *params) in enumerate(layers):
        net.add_layer(f"l{i}", block, inputs, outputs, *params)
    return net


CONV = Conv(size=(1, 1, 2, 2), has_bias=False)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            wired((ReLU(), "x", "a"), (ReLU(), "a", "b"), (Sigmoid(), "a", "c")),
            r"variable 'a' branches, to layers \['l1', 'l2'\]",
        ),
        (
            wired((ReLU(), "x", "a"), (Loss(), ("a", "c"), "y"), (Loss(), ("a", "c"), "z")),
            r"variable 'a' branches, to layers \['l1', 'l2'\]",
        ),
        (
            wired((ReLU(), "x", "a"), (Sum(), ("a", "w"), "b")),
            r"layer 'l1' \(Sum\) reads \['a', 'w'\]",
        ),
        (
            wired((ReLU(), "x", "a"), (Scale(), ("a", "w"), "b", ())),
            r"layer 'l1' \(Scale\) reads \['a', 'w'\]",
        ),
        (
            wired((ReLU(), "x", "a"), (lambda x: (x, x), "a", ("b", "c"))),
            r"layer 'l1' \(FunctionLayer\) reads \['a'\] and writes \['b', 'c'\]",
        ),
        (
            wired((ReLU(), "x", "a"), (ReLU(), "y", "b")),
            "layer 'l1' reads 'y', not 'a'",
        ),
        (
            wired((ReLU(), "x", "a"), (Loss(), ("a", "label", "weights"), "b")),
            r"layer 'l1' \(Loss\) reads \['label', 'weights'\] too",
        ),
        (
            wired((ReLU(), "x", "a"), (Sigmoid(), "a", "b"), (PDist(), ("b", "a"), "y")),
            r"variable 'a' branches, to layers \['l1', 'l2'\]",
        ),
        (
            wired((ReLU(), "x", "a"), (PDist(), ("a", "a"), "y")),
            r"layer 'l1' \(PDist\) reads \['a'\] too",
        ),
        (
            wired((CONV, "x", "a", "f"), (CONV, "a", "b", "f")),
            r"parameter 'f' is shared by layers \['l0', 'l1'\]",
        ),
    ],
)
def test_what_is_no_chain_is_named(net, message):
    with pytest.raises(GraphError, match=message):
        net.to_simplenn()


def test_a_chain_is_found_whatever_the_order_and_the_names():
    net = wired((Softmax(), "c", "p"), (CONV, "data", "b", "f"), (ReLU(), "b", "c"))
    net.init_params()
    back = net.to_simplenn()
    assert [link.name for link in back.layers] == ["l1", "l2", "l0"]
    x = randn((3, 3, 2, 1), dtype=torch.float32)
    assert torch.equal(back.eval({"x0": x}).values["x3"], net.eval({"data": x}).values["p"])
