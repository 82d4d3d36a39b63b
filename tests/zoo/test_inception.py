"""Inception: sizes, counts, wiring, weights, derivatives.

Rows below are (Y, taps of a filter's window, C, K): a convolution of C channels into K on Y x Y
pixels of output has taps*C*K weights, K biases, 2*K numbers of its normalisation, and does
Y*Y*taps*C*K multiply-adds.
"""

import pytest
import torch

from matconvnet.zoo import NETWORKS
from tests.zoo.common import check_derivatives_are_there, count, variable_sizes, work

SIZE = (299, 299, 3)
STEM = [(149, 9, 3, 32), (147, 9, 32, 32), (147, 9, 32, 64), (73, 1, 64, 80), (71, 9, 80, 192)]
MODULE5_4 = [(17, 9, 288, 384), (35, 1, 288, 64), (35, 9, 64, 96), (17, 9, 96, 96)]
MODULE6 = [
    (17, 1, 768, 192),
    *((17, 1, 768, 160), (17, 7, 160, 160), (17, 7, 160, 192)),
    *((17, 1, 768, 160), *([(17, 7, 160, 160)] * 3), (17, 7, 160, 192)),
    (17, 1, 768, 192),
]
MODULE6_5 = [
    *((17, 1, 768, 192), (8, 9, 192, 320)),
    *((17, 1, 768, 192), (17, 7, 192, 192), (17, 7, 192, 192), (8, 9, 192, 192)),
]
SIZES = {
    "conv": (149, 149, 32),
    "conv1": (147, 147, 32),
    "conv2": (147, 147, 64),
    "pool_pool": (73, 73, 64),
    "conv4": (71, 71, 192),
    "pool1_pool": (35, 35, 192),
    **{f"inception5_{i}": (35, 35, 288) for i in (1, 2, 3)},
    "inception5_4": (17, 17, 768),
    **{f"inception6_{i}": (17, 17, 768) for i in (1, 2, 3, 4)},
    "inception6_5": (8, 8, 1280),
    **{f"inception7_{i}": (8, 8, 1280) for i in (1, 2)},
    "pool_2_pool": (1, 1, 1280),
    "prediction": (1, 1, 1000),
}


def module5(c):
    return [
        (35, 1, c, 64),
        *((35, 1, c, 48), (35, 25, 48, 64)),
        *((35, 1, c, 64), (35, 9, 64, 96), (35, 9, 96, 96)),
        (35, 1, c, 64),
    ]


def module7():
    return [
        (8, 1, 1280, 320),
        *((8, 1, 1280, 384), (8, 3, 384, 384), (8, 3, 384, 384)),
        *((8, 1, 1280, 448), (8, 9, 448, 384), (8, 3, 384, 384), (8, 3, 384, 384)),
        (8, 1, 1280, 192),
    ]


TABLE = [
    *STEM, *module5(192), *module5(288), *module5(288), *MODULE5_4,
    *(4 * MODULE6), *MODULE6_5, *module7(), *module7(),
]  # fmt: skip


@pytest.fixture(scope="module")
def net():
    return NETWORKS["inception"](seed=1)


def test_sizes(net):
    sizes = variable_sizes(net, SIZE)
    assert {name: sizes[name][:3] for name in SIZES} == SIZES


def test_parameters_and_work(net):
    numbers = sum(taps * c * k + 3 * k for _, taps, c, k in TABLE) + 1280 * 1000 + 1000
    assert count(net) == numbers == 22_008_168
    by_hand = [y * y * taps * c * k for y, taps, c, k in TABLE] + [1280 * 1000]
    found = work(net, SIZE)
    assert [found[name] for name in net.layers if name in found] == by_hand


def test_wiring(net):
    def reads(name):
        return list(net.layers[name].inputs)

    assert reads("inception6_1") == [
        *("inception6_1_a1", "inception6_1_b3", "inception6_1_c5", "inception6_1_d2"),
    ]
    for first in ("a1", "b1", "c1", "d1"):
        assert reads(f"inception6_2_{first}") == ["inception6_1"]
    assert reads("inception6_1_c3") == ["inception6_1_c2"]
    assert reads("inception6_5") == ["inception6_5_a2", "inception6_5_b4", "inception6_5_c1_pool"]
    assert [net.params[f"inception6_1_b{i}_f"].value.shape[:2] for i in (2, 3)] == [(1, 7), (7, 1)]
    assert net.layers["inception6_1_d1"].block.method == "avg"
    assert net.layers["inception6_5_c1"].block.method == "max"
    assert list(net.layers["conv1"].params) == ["conv1_f", "conv1_b"]
    assert list(net.layers["conv1_bn"].params) == ["conv1_bn_w", "conv1_bn_b", "conv1_bn_m"]
    assert net.layers["prediction_dropout"].block.rate == 0.2
    assert [n.outputs[0] for n in net.graph.nodes if n.layer.is_loss] == [
        *("prediction_loss", "prediction_top1error", "prediction_top5error"),
    ]


def test_initial_weights_and_recipe(net):
    for name, param in net.params.items():
        if name.endswith("_f"):
            deviation = (2 / param.value[..., 0].numel()) ** 0.5
            error = deviation / (2 * param.value.numel()) ** 0.5
            assert abs(param.value.std() - deviation) < 5 * error
        else:
            assert torch.all(param.value == (1 if name.endswith("_bn_w") else 0))
    recipe, rates = net.meta["trainOpts"], net.meta["trainOpts"]["learningRate"]
    assert len(rates) == recipe["numEpochs"] == 60
    assert (rates[0], rates[-1]) == (pytest.approx(1e-1), pytest.approx(1e-3))
    assert (recipe["batchSize"], recipe["numSubBatches"], recipe["weightDecay"]) == (256, 3, 1e-4)


def test_every_parameter_learns(net):
    check_derivatives_are_there(net, "prediction_loss")
