"""VGG-M, VGG-S and the very deep ones: tables, counts, weights, and what torch.nn makes of them.

A convolution of C channels into K, F x F, onto Y x Y pixels has F*F*C*K weights and K biases, and
does Y*Y*F*F*C*K multiply-adds. Rows of the tables below are (Y, F, C, K).
"""

from math import sqrt

import pytest
import torch

from matconvnet.layout import hwcn, nchw
from matconvnet.zoo import NETWORKS
from matconvnet.zoo.torchvision import from_torch
from tests.helpers import assert_close
from tests.tolerances import REFERENCE
from tests.zoo.common import check_derivatives_are_there, count, variable_sizes, work

NAMES = ("vgg-m", "vgg-s", "vgg-vd-16", "vgg-vd-19")
SIZE = (224, 224, 3)
TOP = [(1, 1, 4096, 4096), (1, 1, 4096, 1000)]
SIX = [(1, 6, 512, 4096), *TOP]
SEVEN = [(1, 7, 512, 4096), *TOP]
TABLES = {
    "vgg-m": [
        *((109, 7, 3, 96), (26, 5, 96, 256)),
        *((13, 3, 256, 512), (13, 3, 512, 512), (13, 3, 512, 512), *SIX),
    ],
    "vgg-s": [
        *((109, 7, 3, 96), (33, 5, 96, 256)),
        *((17, 3, 256, 512), (17, 3, 512, 512), (17, 3, 512, 512), *SIX),
    ],
    "vgg-vd-16": [
        *((224, 3, 3, 64), (224, 3, 64, 64)),
        *((112, 3, 64, 128), (112, 3, 128, 128)),
        *((56, 3, 128, 256), (56, 3, 256, 256), (56, 3, 256, 256)),
        *((28, 3, 256, 512), (28, 3, 512, 512), (28, 3, 512, 512)),
        *([(14, 3, 512, 512)] * 3),
        *SEVEN,
    ],
    "vgg-vd-19": [
        *((224, 3, 3, 64), (224, 3, 64, 64)),
        *((112, 3, 64, 128), (112, 3, 128, 128)),
        *((56, 3, 128, 256), *([(56, 3, 256, 256)] * 3)),
        *((28, 3, 256, 512), *([(28, 3, 512, 512)] * 3)),
        *([(14, 3, 512, 512)] * 4),
        *SEVEN,
    ],
}
POOLED = {  # heights after the poolings
    "vgg-m": [54, 13, 6],
    "vgg-s": [37, 17, 6],
    "vgg-vd-16": [112, 56, 28, 14, 7],
    "vgg-vd-19": [112, 56, 28, 14, 7],
}
PARAMETERS = {  # as published
    "vgg-m": 102_908_520,
    "vgg-s": 102_908_520,
    "vgg-vd-16": 138_357_544,
    "vgg-vd-19": 143_667_240,
}
BATCHES = {"vgg-m": 196, "vgg-s": 128, "vgg-vd-16": 32, "vgg-vd-19": 24}


@pytest.fixture(scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def net(name):
    return NETWORKS[name](seed=2)


def of(*names):
    """Tests of these networks, one network after the other, as they are large."""
    return pytest.mark.parametrize("name", names, indirect=True, scope="module")


each, some = of(*NAMES), of("vgg-m", "vgg-s", "vgg-vd-16")


@each
def test_table(name, net):
    sizes = variable_sizes(net, SIZE)
    convs = [n for n in net.graph.nodes if n.layer.type_name == "conv"]
    found = [(sizes[n.outputs[0]][0], *net.values()[n.params[0]].shape[1:]) for n in convs]
    assert found == TABLES[name]
    pools = [n for n in net.graph.nodes if n.layer.type_name == "pool"]
    assert [sizes[n.outputs[0]][0] for n in pools] == POOLED[name]


@each
def test_parameters_and_work(name, net):
    assert count(net) == PARAMETERS[name]
    by_hand = [y * y * f * f * c * k for y, f, c, k in TABLES[name]]
    assert list(work(net, SIZE).values()) == by_hand


@each
def test_initial_weights(name, net):
    *filters, last = [link.params[0].value for link in net.layers if link.params]
    is_deep = name.startswith("vgg-vd")
    wanted = [sqrt(2 / (f * f * k)) if is_deep else 0.01 for _, f, _, k in TABLES[name]]
    wanted[-1] /= 10 if is_deep else 1
    for f, deviation in zip((*filters, last), wanted, strict=True):
        assert abs(f.std() - deviation) < 5 * deviation / (2 * f.numel()) ** 0.5
    assert not any(link.params[1].value.any() for link in net.layers if link.params)


@each
def test_multipliers_and_recipe(name, net):
    rules = {
        tuple((p.learning_rate, p.weight_decay) for p in link.params)
        for link in net.layers
        if link.params
    }
    assert rules == {((1, 1), (2, 0))}
    recipe, rates = net.meta["trainOpts"], net.meta["trainOpts"]["learningRate"]
    assert (len(rates), recipe["numEpochs"]) == (60, 60)
    assert (rates[0], rates[-1]) == (pytest.approx(1e-2), pytest.approx(1e-4))
    assert (recipe["batchSize"], recipe["weightDecay"]) == (BATCHES[name], 0.0005)
    assert net.meta["inputSize"] == [224, 224, 3, 32]
    assert net.meta["normalization"] == {"imageSize": [224, 224, 3], "cropSize": 0.875}
    assert "classes" not in net.meta


@some
def test_every_parameter_learns(net):
    check_derivatives_are_there(net, net.output, batch=1)


def names(net):
    return [link.name for link in net.layers]


START = {
    "vgg-m": ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3"],
    "vgg-s": ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3"],
    "vgg-vd-16": ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1"],
    "vgg-vd-19": ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1"],
}
END = ["pool5", "fc6", "relu6", "dropout6", "fc7", "relu7", "dropout7", "fc8", "loss"]


@each
def test_what_follows_what(name, net):
    assert names(net)[: len(START[name])] == START[name]
    assert names(net)[-len(END) :] == END


@pytest.mark.parametrize("plain", NAMES)
def test_with_batch_normalisation(plain):
    net = NETWORKS[f"{plain}-bnorm"](seed=2)
    normalised = [k for *_, k in TABLES[plain][:-1]]
    assert count(net) == PARAMETERS[plain] + 2 * sum(normalised)
    found = [link for link in net.layers if link.layer.type_name == "bnorm"]
    assert [link.params[2].value.shape[0] for link in found] == normalised
    for link in found:
        assert link.layer.epsilon == 1e-4
        rules = [(p.learning_rate, p.weight_decay) for p in link.params]
        assert rules == [(2, 0), (1, 0), (0.1, 0)]
    types = {link.layer.type_name for link in net.layers}
    assert types == {"conv", "bnorm", "relu", "pool", "softmaxloss"}
    assert names(net)[:3] == (
        ["conv1_1", "bn1_1", "relu1_1"] if "vd" in plain else ["conv1", "bn1", "relu1"]
    )
    rates = net.meta["trainOpts"]["learningRate"]
    assert (len(rates), rates[0], rates[-1]) == (20, pytest.approx(1e-1), pytest.approx(1e-4))
    if plain == "vgg-m":
        check_derivatives_are_there(net, net.output)


@of("vgg-vd-16")
def test_it_is_the_network_of_torchvision(net):
    """VGG-VD-16 is their vgg16: with the same weights it gives the same scores."""
    state = {}
    for i, link in enumerate(link for link in net.layers if link.params):
        f, b = (param.value for param in link.params)
        at = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 0, 3, 6)[i]
        layer = f"features.{at}" if i < 13 else f"classifier.{at}"
        state[f"{layer}.weight"] = nchw(f) if i < 13 else nchw(f).flatten(1)
        state[f"{layer}.bias"] = b
    theirs = from_torch(state, "vgg16")
    x = hwcn(60 * torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    got, want = (
        n.eval({n.input: x}, mode="test", conserve_memory=True, precious=[n.prediction]).values[
            n.prediction
        ]
        for n in (net, theirs)
    )
    assert want.std() > 0.1
    assert_close(got, want, REFERENCE[torch.float32])
