"""The networks of the zoo against their published tables."""

import pytest
import torch

from matconvnet import executor
from matconvnet.layout import channels_last
from matconvnet.zoo import NETWORKS
from tests.zoo.common import work


def count(net):
    """Learnable numbers: weights, not the running averages."""
    params = [p for p in net.params.values() if p.value is not None]
    return sum(p.value.numel() for p in params if p.train_method == "gradient")


def sizes(net, images=2):
    """Sizes of all variables, from the layers alone."""
    size = (*net.meta["inputSize"][:3], images)
    found = []
    for node in net.graph.nodes:
        shapes = [None if v is None else v.shape for v in map(net.values().get, node.params)]
        (size,) = node.layer.output_sizes([size], shapes)
        found.append(size)
    return found


def test_multiply_adds():
    """Pixels of the output times taps of the filters."""
    same = 4096 * 4096 + 4096 * 1000
    assert sum(work(NETWORKS["alexnet"](), (227, 227, 3)).values()) == (
        55**2 * 121 * 3 * 96 + 27**2 * 25 * 48 * 256
        + 13**2 * 9 * (256 * 384 + 192 * 384 + 192 * 256) + 36 * 256 * 4096 + same
    )  # fmt: skip
    assert sum(work(NETWORKS["vgg-f"](), (224, 224, 3)).values()) == (
        54**2 * 121 * 3 * 64 + 27**2 * 25 * 64 * 256
        + 13**2 * 9 * 3 * 256 * 256 + 36 * 256 * 4096 + same
    )  # fmt: skip


BNORM = {  # channels of the normalised convolutions; each has two learnable numbers a channel
    "lenet-bnorm": (20, 50, 500),
    "alexnet-bnorm": (96, 256, 384, 384, 256, 4096, 4096),
    "vgg-f-bnorm": (64, 256, 256, 256, 256, 4096, 4096),
}


@pytest.mark.parametrize(
    ("name", "layers", "parameters", "classes"),
    [
        ("lenet", 8, 431_080, 10),
        ("lenet-bnorm", 11, 431_080 + sum(BNORM["lenet-bnorm"]), 10),  # less as many biases
        ("cifar-lenet", 13, 145_578, 10),
        ("cifar-nin", 23, 966_986, 10),
        ("alexnet", 23, 60_965_224, 1000),
        ("alexnet-bnorm", 26, 60_965_224 + 2 * sum(BNORM["alexnet-bnorm"]), 1000),
        ("vgg-f", 23, 60_834_536, 1000),
        ("vgg-f-bnorm", 26, 60_834_536 + 2 * sum(BNORM["vgg-f-bnorm"]), 1000),
    ],
)
def test_layers_parameters_and_classes(name, layers, parameters, classes):
    net = NETWORKS[name]()
    assert len(net.layers) == layers
    assert count(net) == parameters
    assert sizes(net)[-2] == (1, 1, classes, 2)
    assert [len(p.value) for p in net.params.values() if p.train_method == "average"] == list(
        BNORM.get(name, ())
    )


@pytest.mark.parametrize(
    ("name", "heights"),
    [
        ("lenet", [24, 12, 8, 4, 1, 1]),
        ("cifar-lenet", [32, 16, 16, 8, 8, 4, 1, 1]),
        ("cifar-nin", [32, 32, 32, 15, 15, 15, 15, 7, 7, 7, 7, 1]),
        ("alexnet", [55, 27, 27, 13, 13, 13, 13, 6, 1, 1, 1]),
        ("vgg-f", [54, 27, 27, 13, 13, 13, 13, 6, 1, 1, 1]),
    ],
)
def test_heights_after_convolutions_and_pools(name, heights):
    net = NETWORKS[name]()
    found = [
        size[0]
        for size, link in zip(sizes(net), net.layers, strict=True)
        if link.layer.type_name in ("conv", "pool")
    ]
    assert found == heights


@pytest.mark.parametrize("name", ["lenet", "lenet-bnorm", "cifar-lenet", "cifar-nin"])
def test_evaluation_agrees_with_the_sizes(name):
    net = NETWORKS[name]()
    x = torch.randn(*net.meta["inputSize"], 2, generator=torch.Generator().manual_seed(0))
    values = executor.forward(
        net.graph, net.values(), {"x0": x, "label": torch.tensor([1, 2])}
    ).values
    # The value of a loss is one number, of whatever shape.
    assert [tuple(values[f"x{i}"].shape) for i in range(1, len(net.layers))] == sizes(net)[:-1]


DEVIATIONS = {
    "lenet": [0.01] * 4,
    "lenet-bnorm": [0.01] * 4,
    "cifar-lenet": [0.01, 0.05, 0.05, 0.05, 0.05],
    "cifar-nin": [(2 / fan) ** 0.5 for fan in (75, 192, 160, 2400, 192, 192, 1728, 192)]
    + [0.1 * (2 / 192) ** 0.5],
    "vgg-f": [0.01] * 8,
    "vgg-f-bnorm": [0.01] * 8,
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_initial_weights(name):
    net = NETWORKS[name](seed=3)
    convs = [link for link in net.layers if link.layer.type_name == "conv"]
    for link, deviation in zip(convs, DEVIATIONS[name], strict=True):
        filters, biases = link.params[0].value, link.params[1].value
        bound = 5 * deviation / filters.numel() ** 0.5  # five standard errors
        assert abs(filters.mean()) < bound
        assert abs(filters.std() - deviation) < bound
        assert filters.data_ptr() == channels_last(filters).data_ptr()
        assert biases is None or not biases.any()
    for link in net.layers:
        if link.layer.type_name == "bnorm":
            g, b, moments = (p.value for p in link.params)
            assert (g == 1).all()
            assert not b.any()
            assert not moments.any()


def test_the_seed_decides_the_weights():
    one, same, other = (NETWORKS["lenet"](seed=s).values()["l1_1"] for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def multipliers(net, kind):
    links = [link for link in net.layers if link.layer.type_name == kind]
    return [[(p.learning_rate, p.weight_decay) for p in link.params] for link in links]


def test_multipliers():
    assert multipliers(NETWORKS["lenet"](), "conv") == [[(1, 1), (1, 1)]] * 4
    assert multipliers(NETWORKS["lenet-bnorm"](), "bnorm") == [[(1, 0), (1, 0), (0.05, 0)]] * 3
    quick = multipliers(NETWORKS["cifar-lenet"](), "conv")
    assert quick == [[(0.1, 1), (2, 1)]] * 4 + [[(0.01, 1), (0.2, 1)]]
    nin = multipliers(NETWORKS["cifar-nin"](), "conv")
    assert nin == [[(1, 1), (10, 1)]] * 8 + [[(0.001, 1), (0.01, 1)]]
    fast = NETWORKS["vgg-f-bnorm"]()
    assert multipliers(fast, "conv") == [[(1, 1), (2, 0)]] * 8
    assert multipliers(fast, "bnorm") == [[(2, 0), (1, 0), (0.1, 0)]] * 7


def of_type(net, kind):
    return [link.layer for link in net.layers if link.layer.type_name == kind]


def test_layer_options():
    fast, alex = NETWORKS["vgg-f-bnorm"](), NETWORKS["alexnet"]()
    assert [layer.epsilon for layer in of_type(NETWORKS["lenet-bnorm"](), "bnorm")] == [1e-5] * 3
    assert [layer.epsilon for layer in of_type(fast, "bnorm")] == [1e-4] * 7
    assert [layer.param for layer in of_type(alex, "normalize")] == [(5, 1, 0.0001 / 5, 0.75)] * 2
    assert [layer.rate for layer in of_type(alex, "dropout")] == [0.5] * 2
    assert [link.name for link in fast.layers][:5] == ["conv1", "bn1", "relu1", "pool1", "conv2"]
    assert [link.name for link in alex.layers][:4] == ["conv1", "relu1", "norm1", "pool1"]
    assert [link.name for link in alex.layers][-4:] == ["relu7", "dropout7", "fc8", "loss"]


@pytest.mark.parametrize(
    ("name", "first", "last", "epochs", "batch", "decay"),
    [
        ("lenet", 0.001, 0.001, 20, 100, 0.0005),
        ("cifar-lenet", 0.05, 0.0005, 45, 100, 0.0001),
        ("cifar-nin", 0.002, 0.0004, 103, 100, 0.0005),
        ("alexnet", 1e-2, 1e-4, 60, 256, 0.0005),
        ("alexnet-bnorm", 1e-1, 1e-4, 20, 256, 0.0005),
    ],
)
def test_recipes(name, first, last, epochs, batch, decay):
    recipe = NETWORKS[name]().meta["trainOpts"]
    rates = recipe["learningRate"]
    rates = rates if isinstance(rates, list) else [rates] * epochs
    assert len(rates) == recipe["numEpochs"] == epochs
    assert (rates[0], rates[-1]) == (pytest.approx(first), pytest.approx(last))
    assert (recipe["batchSize"], recipe["weightDecay"]) == (batch, decay)
