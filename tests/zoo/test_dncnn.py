"""DnCNN: counts, weights, derivatives, files, and the network that its authors trained.

By hand: taps of the filters are 3*3*1*64 = 576, fifteen times 3*3*64*64 = 36,864, and 3*3*64*1 =
576, together 554,112, each a multiply-add per pixel. There are 64 + 1 biases, and two numbers for
each of fifteen times 64 normalised channels, 1,920.
"""

from math import sqrt

import pytest
import torch

import matconvnet as mcn
from matconvnet.train.options import TrainOptions
from matconvnet.train.trainer import Trainer
from matconvnet.zoo import NETWORKS
from tests import models
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE
from tests.zoo.common import check_derivative, count, learned, work

NOISE = 25 / 255


@pytest.fixture
def net():
    return NETWORKS["dncnn"](seed=1)


def test_parameters_and_work(net):
    assert count(net) == 554_112 + 65 + 1920 == 556_097
    assert list(work(net, (40, 40, 1)).values()) == [
        1600 * taps for taps in (576, *[36_864] * 15, 576)
    ]


def test_what_follows_what(net):
    assert [link.name for link in net.layers] == [
        *("conv1", "relu1"),
        *(f"{kind}{i}" for i in range(2, 17) for kind in ("conv", "bn", "relu")),
        *("conv17", "loss"),
    ]


def test_initial_weights(net):
    deviation = sqrt(2 / 576)
    for link in net.layers:
        values = [param.value for param in link.params]
        if link.layer.type_name == "conv":
            f, b = values
            assert abs(f.std() - deviation) < 5 * deviation / (2 * f.numel()) ** 0.5
            assert (b is None) == (link.name not in ("conv1", "conv17"))
            assert b is None or not b.any()
        elif values:
            g, b, moments = values
            assert (g.abs() >= 0.025).all()
            assert 0.25 * g.numel() < (g > 0).sum() < 0.75 * g.numel()
            assert not b.any()
            assert not moments.any()


def test_objective_is_half_the_squares(net):
    x, noise = randn((8, 9, 1, 2), 0, torch.float32), randn((8, 9, 1, 2), 1, torch.float32)
    record = net.eval({"x0": x, "label": noise}, precious=[net.prediction])
    difference = record.values[net.prediction] - noise
    assert_close(record.values[net.output], difference.square().sum() / 2, REFERENCE[x.dtype])


def test_derivative_along_a_direction(net):
    inputs = {"x0": randn((10, 10, 1, 3)), "label": randn((10, 10, 1, 3), 1)}
    check_derivative(net, inputs, net.output, step=1e-8)  # 1e-7 crosses a kink of a relu


def test_every_parameter_learns(net):
    inputs = {"x0": randn((40, 40, 1, 2), 0, torch.float32),
              "label": randn((40, 40, 1, 2), 1, torch.float32)}  # fmt: skip
    ders = net.eval(inputs, {net.output: 1}).param_ders
    for name in learned(net):
        assert ders[name].isfinite().all(), name
        assert ders[name].any(), name


def test_it_learns_by_its_recipe(net):
    """To tell noise from what is smooth; twenty steps."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.linspace(0, 1, 12)[:, None, None, None].expand(12, 12, 1, 8)
    noise = NOISE * torch.randn(12, 12, 1, 8, generator=generator)
    recipe = net.meta["trainOpts"]
    options = TrainOptions(
        learning_rate=recipe["learningRate"][0], solver=recipe["solver"], weight_decay=0,
        error_function=recipe["errorFunction"], num_epochs=20, batch_size=8,
        train=torch.arange(8).numpy(), val=torch.arange(0).numpy(), plot_statistics=False,
    )  # fmt: skip
    _, stats = Trainer(
        net, None, lambda _, at: (clean[..., at] + noise[..., at], noise[..., at]), options
    ).run()
    objectives = [epoch["objective"] for epoch in stats["train"]]
    assert objectives[-1] < 0.5 * objectives[0]
    assert objectives[-1] < 0.5 * noise.square().sum() / 2 / 8


@pytest.mark.parametrize("ending", ["mat", "safetensors"])
def test_files_hold_it_all(net, tmp_path, ending):
    mcn.save(net, tmp_path / f"net.{ending}")
    back = mcn.load(tmp_path / f"net.{ending}")
    for link, other in zip(net.layers, back.layers, strict=True):
        assert (other.name, len(other.params)) == (link.name, len(link.params))
        for param, copied in zip(link.params, other.params, strict=True):
            rules = (param.learning_rate, param.weight_decay, param.train_method)
            assert (copied.learning_rate, copied.weight_decay, copied.train_method) == rules
    x, noise = randn((8, 9, 1, 2), 0, torch.float32), randn((8, 9, 1, 2), 1, torch.float32)
    got, want = (
        n.eval({"x0": x, "label": noise}, {n.output: 1}).values[n.output] for n in (back, net)
    )
    assert_close(got, want, REFERENCE[torch.float32])


def test_weights_of_its_authors_fit(net):
    """Layer by layer; biases before normalisation, which ours lacks, are zero there."""
    theirs = mcn.load(models.path("dncnn_s25_bnorm"))
    assert [link.layer.type_name for link in theirs.layers[:-1]] == [
        link.layer.type_name for link in net.layers[:-1]
    ]
    for link, other in zip(net.layers[:-1], theirs.layers[:-1], strict=True):
        for param, source in zip(link.params, other.params, strict=True):
            if param.value is None:
                assert not source.value.any()
            else:
                param.value = source.value.reshape(param.value.shape).clone()
    x = randn((20, 30, 1, 2), dtype=torch.float32)
    got, want = (
        n.eval({"x0": x}, mode="test", precious=["x48"]).values["x48"] for n in (net, theirs)
    )
    assert_close(got, want, REFERENCE[torch.float32])
