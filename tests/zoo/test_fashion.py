"""The network for Fashion-MNIST: its table, its derivatives, its recipe.

Numbers derived by hand. A 3 x 3 convolution of C channels into K on Y x X pixels has 9*C*K filters
taps and does Y*X*9*C*K multiply-adds; what follows is normalised by 2*K learnable numbers.

    conv1   9*1*32     =     288   * 28*28 =   225,792   bnorm  64
    conv2   9*32*64    =  18,432   * 14*14 = 3,612,672         128
    conv3   9*64*128   =  73,728   *  7*7  = 3,612,672         256
    conv4   9*128*128  = 147,456   *  7*7  = 7,225,344         256
    conv5   9*128*10   =  11,520   *  1*1  =    11,520   and 10 biases
                         -------            ----------         ---
                         251,424            14,688,000         704
"""

from dataclasses import fields

import numpy as np
import pytest
import torch

from matconvnet.data.augment import ArraySource
from matconvnet.data.imdb import Imdb
from matconvnet.data.mixing import Mix
from matconvnet.nets.display import describe
from matconvnet.nets.fields import camel_case
from matconvnet.train.options import TrainOptions
from matconvnet.train.schedules import Progress, parse_schedule
from matconvnet.zoo import NETWORKS
from tests.helpers import assert_close, randn
from tests.tolerances import CENTRAL_DIFFERENCE

FILTERS = [288, 18_432, 73_728, 147_456, 11_520]
WORK = [225_792, 3_612_672, 3_612_672, 7_225_344, 11_520]
MAPS = [(28, 32), (14, 32), (14, 64), (7, 64), (7, 128), (7, 128), (3, 128), (1, 10)]


def options(kind, given):
    """What a recipe gives to a class of options; it must know every name."""
    names = {camel_case(field.name): field.name for field in fields(kind)}
    return {names[key]: value for key, value in given.items()}


@pytest.fixture
def net():
    return NETWORKS["fashion"](seed=1)


def test_sizes_of_the_maps(net):
    rows = [row for row in describe(net).rows if row.type in ("conv", "mpool")]
    assert [row.size for row in rows] == [(side, side, depth, 1) for side, depth in MAPS]


def test_parameters_and_work(net):
    rows = [row for row in describe(net).rows if row.type == "conv"]
    assert [row.multiply_adds for row in rows] == WORK
    assert [row.num_params for row in rows] == [*FILTERS[:4], FILTERS[4] + 10]
    learned = [p for p in net.params.values() if p.train_method == "gradient"]
    assert sum(p.value.numel() for p in learned if p.value is not None) == 251_424 + 10 + 704


def test_what_follows_what(net):
    assert [link.name for link in net.layers] == [
        *("conv1", "pool1", "bn1", "relu1"),
        *("conv2", "pool2", "bn2", "relu2"),
        *("conv3", "bn3", "relu3"),
        *("conv4", "pool4", "bn4", "relu4"),
        *("conv5", "loss"),
    ]


def test_initial_weights_keep_the_size_of_maps(net):
    filters = [link.params[0].value for link in net.layers if link.name.startswith("conv")]
    for f, gain in zip(filters, (2, 2, 2, 2, 1), strict=True):
        deviation = (gain / (9 * f.shape[2])) ** 0.5
        assert abs(f.std() - deviation) < 5 * deviation / (2 * f.numel()) ** 0.5


def test_derivative_along_a_direction(net):
    """Of the whole network in training mode, against a central difference in float64."""
    net.to(torch.float64)
    inputs = {"x0": 40 * randn((28, 28, 1, 3)), "label": torch.tensor([1, 9, 4])}
    learned = [n for n, p in net.params.items() if p.train_method == "gradient"]
    start = {n: v.clone() for n, v in net.values().items() if n in learned and v is not None}
    sizes = {n: v.std() or 1.0 for n, v in start.items()}  # constants move by 1
    direction = {n: sizes[n] * randn(v.shape, seed=i) for i, (n, v) in enumerate(start.items())}
    ders = net.eval(inputs, {net.output: 1}).param_ders
    want, step = [], 1e-7
    for sign in (1, -1):
        for n, v in start.items():
            net.params[n].value.copy_(v + sign * step * direction[n])
        want.append(net.eval(inputs, mode="normal").values[net.output])
    got = sum((ders[n] * direction[n]).sum() for n in start)
    assert_close(got, (want[0] - want[1]) / (2 * step), CENTRAL_DIFFERENCE)


def test_the_recipe_is_made_of_options_of_training(net):
    recipe = options(TrainOptions, net.meta["trainOpts"])
    schedule = parse_schedule(recipe.pop("learning_rate"))
    epochs = TrainOptions(**recipe, learning_rate=schedule).num_epochs
    rates = [schedule(Progress(1 + int(t), t, epochs, {})) for t in np.linspace(0, epochs, 241)]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0)
    assert 0 < np.argmax(rates) <= 240 * 2 / epochs  # the warm-up ends in one of the first epochs


def test_the_augmentation_is_made_of_options_of_the_data(net):
    given = dict(net.meta["augmentation"])
    mix = Mix(classes=10, **options(Mix, {"labelSmoothing": given.pop("labelSmoothing")}))
    source = ArraySource(**options(ArraySource, given))
    images = np.random.default_rng(0).integers(0, 256, (28, 28, 1, 8)).astype(np.uint8)
    imdb = Imdb.from_arrays(images, np.arange(8), classes=[str(c) for c in range(10)])
    x = source.batch(imdb, np.arange(8), training=True, seed=1)
    x, labels = mix(x, torch.arange(8), np.arange(8), seed=1)
    assert x.shape == (28, 28, 1, 8)
    assert labels.shape == (1, 1, 20, 8)
