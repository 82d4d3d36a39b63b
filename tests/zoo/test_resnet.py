"""Residual networks: structure, counts, weights, derivatives, files.

Multiply-adds of ResNet-50 by hand, in pixels times filter taps; a section's first block reads maps
of twice the height and width from section 3 on, in its 1 x 1 convolution "a":

    conv1      112*112 * 7*7*3*64                                          =   118,013,952
    section 2   56*56 * (4,096 + 36,864 + 16,384 + 16,384 + 2*69,632)      =   667,942,912
    section 3   56*56 * 256*128 + 28*28 * (344,064 + 3*278,528)            = 1,027,604,480
    section 4   28*28 * 512*256 + 14*14 * (1,376,256 + 5*1,114,112)        = 1,464,336,384
    section 5   14*14 * 1024*512 + 7*7 * (5,505,024 + 2*4,456,448)         =   809,238,528
    prediction  2048*1000                                                  =     2,048,000

A further block of section 3 or 4 adds 28*28 * 278,528 = 14*14 * 1,114,112 = 218,365,952.

Those of ResNet-20; each of the convolutions but the first of a section does 2,359,296:

    conv1       32*32 * 3*3*3*16                                           =       442,368
    section 2   6 * 2,359,296                                              =    14,155,776
    section 3   16*16 * 3*3*16*32 + 5 * 2,359,296                          =    12,976,128
    section 4    8*8  * 3*3*32*64 + 5 * 2,359,296                          =    12,976,128
    prediction  64*10                                                      =           640

and the shortcuts, 16*16 * 16*32 = 8*8 * 32*64 = 131,072 each.
"""

from collections import Counter

import pytest
import torch

import matconvnet as mcn
from matconvnet.layout import channels_last, hwcn, nchw
from matconvnet.zoo import NETWORKS
from matconvnet.zoo.torchvision import from_torch
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE
from tests.zoo.common import (
    check_derivative,
    check_derivatives_are_there,
    count,
    variable_sizes,
    work,
)

IMAGENET, CIFAR = (224, 224, 3), (32, 32, 3)
SECTIONS = {
    "conv1": 118_013_952,
    "conv2": 667_942_912,
    "conv3": 1_027_604_480,
    "conv4": 1_464_336_384,
    "conv5": 809_238_528,
    "predi": 2_048_000,
}
BLOCK = 218_365_952
SMALL_SECTIONS = {
    "conv1": 442_368,
    "conv2": 14_155_776,
    "conv3": 12_976_128,
    "conv4": 12_976_128,
    "predi": 640,
}


@pytest.fixture(scope="module")
def large():
    return NETWORKS["resnet-50"](seed=1)


@pytest.fixture
def small():
    return NETWORKS["resnet-20"](seed=1)


def by_section(counts):
    found = Counter()
    for name, number in counts.items():
        found[name[:5]] += number
    return found


def test_multiply_adds(large, small):
    assert by_section(work(large, IMAGENET)) == SECTIONS
    counts = work(small, CIFAR)
    shortcuts = {name: counts.pop(name) for name in list(counts) if name.endswith("_adapt")}
    assert shortcuts == {"conv3_1_adapt": 131_072, "conv4_1_adapt": 131_072}
    assert by_section(counts) == SMALL_SECTIONS


@pytest.mark.parametrize(
    ("name", "layers", "parameters", "more"),
    [
        ("resnet-50", 177, 25_557_032, {}),
        ("resnet-101", 177 + 170, 44_549_160, {"conv4": 17}),
        ("resnet-152", 177 + 340, 60_192_808, {"conv3": 4, "conv4": 30}),
    ],
)
def test_published_counts(name, layers, parameters, more):
    net = NETWORKS[name]()
    assert (len(net.layers), count(net)) == (layers, parameters)
    added = {section: BLOCK * blocks for section, blocks in more.items()}
    assert by_section(work(net, IMAGENET)) == Counter(SECTIONS) + Counter(added)


def test_counts_of_the_small_one(small):
    """Filters as in the docstring, twice the channels of 19 normalisations, 10 biases."""
    filters = 432 + 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864 + 640
    assert count(small) == filters + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 10 == 269_722


def test_names_and_sizes_are_those_of_the_original(large):
    names = list(large.layers)
    assert names[:7] == [
        *("conv1_conv", "conv1_bn", "conv1_relu", "conv1_pool"),
        *("conv2_1_adapt_conv_conv", "conv2_1_adapt_conv_bn", "conv2_1a_conv"),
    ]
    at = names.index("conv3_2a_conv")
    assert names[at : at + 10] == [
        *("conv3_2a_conv", "conv3_2a_bn", "conv3_2a_relu"),
        *("conv3_2b_conv", "conv3_2b_bn", "conv3_2b_relu"),
        *("conv3_2c_conv", "conv3_2c_bn", "conv3_2_sum", "conv3_2_relu"),
    ]
    assert names[-5:] == ["prediction_avg", "prediction", "loss", "top1error", "top5error"]
    assert list(large.layers["conv3_2_sum"].inputs) == ["conv3_1", "conv3_2c_bn"]
    assert list(large.layers["conv3_1_sum"].inputs) == ["conv3_1_adapt_conv_bn", "conv3_1c_bn"]
    assert list(large.params)[:4] == ["conv1_f", "conv1_bn_w", "conv1_bn_b", "conv1_bn_m"]
    sizes = variable_sizes(large, IMAGENET)
    found = [sizes[v][:3] for v in ("conv1_relu", "conv1", "conv2_3", "conv3_4", "conv4_6")]
    assert found == [(112, 112, 64), (56, 56, 64), (56, 56, 256), (28, 28, 512), (14, 14, 1024)]
    assert sizes["conv5_3"][:3] == (7, 7, 2048)
    assert sizes["conv3_1a_relu"][:3] == (56, 56, 128)  # the stride is in the 3 x 3 convolution
    assert sizes["prediction"][:3] == (1, 1, 1000)
    assert {n.outputs[0] for n in large.graph.nodes if n.layer.is_loss} == {
        *("objective", "top1error", "top5error"),
    }


def test_initial_weights_and_multipliers(large):
    for name, param in large.params.items():
        value = param.value
        if name.endswith("_f"):
            deviation = (2 / value[..., 0].numel()) ** 0.5 / (100 if name == "conv1_f" else 1)
            assert abs(value.std() - deviation) < 5 * deviation / (2 * value.numel()) ** 0.5
        else:
            assert (value == (1 if name.endswith("_bn_w") else 0)).all()
        is_first, is_moment = name == "conv1_f", name.endswith("_bn_m")
        assert param.learning_rate == (1e-4 if is_first else 0.3 if is_moment else 1)
        assert param.weight_decay == 1 or is_moment
    kinds = Counter(n.layer.type_name for n in large.graph.nodes)
    assert (kinds["conv"], kinds["bnorm"], kinds["sum"]) == (54, 53, 16)
    assert {n.layer.epsilon for n in large.graph.nodes if n.layer.type_name == "bnorm"} == {1e-5}


def test_recipes(large, small):
    recipe = large.meta["trainOpts"]
    assert recipe["learningRate"] == [0.1] * 30 + [0.01] * 30 + [0.001] * 30
    assert (recipe["batchSize"], recipe["numSubBatches"], recipe["weightDecay"]) == (256, 4, 1e-4)
    assert large.meta["inputSize"] == ["input", [224, 224, 3, 32]]
    assert large.meta["augmentation"]["jitterScale"] == [0.4, 1.1]
    recipe = small.meta["trainOpts"]
    assert len(recipe["learningRate"]) == recipe["numEpochs"] == 164
    assert round(recipe["numEpochs"] * 50_000 / recipe["batchSize"], -3) == 64_000


def test_every_parameter_learns(large):
    check_derivatives_are_there(large, "objective")


def test_it_is_the_network_of_torchvision(large):
    """Their resnet50: with the same weights and moments it gives the same scores."""
    net, state, generator = large.copy(), {}, torch.Generator().manual_seed(3)
    theirs = {"a": "1", "b": "2", "c": "3"}
    for name, param in net.params.items():
        unit, kind = name.rsplit("_bn_", 1) if "_bn_" in name else name.rsplit("_", 1)
        if unit in ("conv1", "prediction"):
            conv, bnorm = {"conv1": ("conv1", "bn1"), "prediction": ("fc", "")}[unit]
        else:
            block = f"layer{int(unit[4]) - 1}.{int(unit[6:].rstrip('abcdeptonv_')) - 1}"
            if unit.endswith("_adapt_conv"):
                conv, bnorm = f"{block}.downsample.0", f"{block}.downsample.1"
            else:
                conv, bnorm = (f"{block}.{part}{theirs[unit[-1]]}" for part in ("conv", "bn"))
        if kind == "m":
            mean = 0.1 * torch.randn(len(param.value), generator=generator)
            variance = 1 + torch.rand(len(param.value), generator=generator)
            param.value = torch.stack((mean, (variance + 1e-5).sqrt()), 1)
            state[f"{bnorm}.running_mean"], state[f"{bnorm}.running_var"] = mean, variance
        elif "_bn_" in name:
            state[f"{bnorm}.{'weight' if kind == 'w' else 'bias'}"] = param.value
        elif unit == "prediction":
            is_bias = kind == "b"
            state[f"fc.{'bias' if is_bias else 'weight'}"] = (
                param.value if is_bias else nchw(param.value)[..., 0, 0]
            )
        else:
            state[f"{conv}.weight"] = nchw(param.value)
    other = from_torch(state, "resnet50")
    x = hwcn(60 * torch.randn(1, 3, 224, 224, generator=generator))
    got, want = (
        n.eval({n.input: x}, mode="test", precious=[n.prediction]).values[n.prediction]
        for n in (net, other)
    )
    assert want.std() > 0.01
    assert_close(got, want, REFERENCE[torch.float32])


def test_shortcuts_halve_maps_and_add_zeros(small):
    x = randn((32, 32, 3, 2), dtype=torch.float32)
    values = small.eval({"input": x}, conserve_memory=False).values
    for name, c in (("conv3_1", 16), ("conv4_1", 32)):
        before = values[small.layers[f"{name}_adapt"].inputs[0]]
        after = values[f"{name}_adapt"]
        assert torch.equal(after[:, :, :c], before[::2, ::2])
        assert not after[:, :, c:].any()
        param = small.params[f"{name}_adapt_f"]
        assert (param.train_method, param.learning_rate) == ("none", 0)
        assert param.value.data_ptr() == channels_last(param.value).data_ptr()


def test_derivative_along_a_direction(small):
    inputs = {"input": randn((32, 32, 3, 2)), "label": torch.tensor([3, 7])}
    check_derivative(small, inputs, "objective")


@pytest.mark.parametrize("ending", ["mat", "safetensors"])
def test_files_hold_it_all(small, tmp_path, ending):
    mcn.save(small, tmp_path / f"net.{ending}")
    back = mcn.load(tmp_path / f"net.{ending}")
    assert list(back.layers) == list(small.layers)
    for name, param in small.params.items():
        other = back.params[name]
        assert torch.equal(other.value.reshape(param.value.shape), param.value)
        rules = (param.learning_rate, param.weight_decay, param.train_method)
        assert (other.learning_rate, other.weight_decay, other.train_method) == rules
    inputs = {"input": randn((32, 32, 3, 2), dtype=torch.float32), "label": torch.tensor([3, 7])}
    want, got = (
        net.eval(inputs, {"objective": 1}, precious=["prediction"]) for net in (small, back)
    )
    for name in ("prediction", "objective", "top1error", "top5error"):
        assert_close(got.values[name], want.values[name], REFERENCE[torch.float32], name)
    assert mcn.load(tmp_path / f"net.{ending}").memory_plan(batch=2).peak > 0  # it tells its size
