"""The first number that is not finite ends training, and its origin is named."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.layer import Elementwise
from tests.train.common import Data, assert_identical, small_net, train, values


@dataclass(frozen=True)
class Spoiler(Elementwise):
    """The identity, but for a number that is not finite, in the value or in the derivative."""

    value: float = 1.0
    derivative: float = 1.0

    def forward(self, inputs, params, ctx):
        return (inputs[0] * self.value,), None

    def backward(self, call, der_outputs):
        return (der_outputs[0] * self.derivative,), ()


def net_with(layer):
    layers = [(link.layer, [p.value for p in link.params]) for link in small_net().layers]
    return mcn.SimpleNN([*layers[:2], layer, *layers[2:]])


def diverge(net, data=None, match="", folder=None, **changes):
    with pytest.raises(mcn.DivergenceError, match=match):
        train(net, data or Data(), folder, **changes)


def test_a_parameter():
    net = small_net()
    net.params["l3_1"].value[0, 0, 0, 0] = float("nan")
    diverge(
        net, match="the objective is nan in epoch 1, train batch 1: "
        "parameter 'l3_1' of layer 'layer3' is not finite",
    )  # fmt: skip


def test_images_are_named_by_their_index():
    data = Data()
    data.images[1, 2, 0, 4] = np.nan
    data.images[0, 0, 1, 12] = np.inf
    order = {"permute": lambda indices, _: indices}
    diverge(small_net(), data, r"epoch 1, train batch 1: the data .*: image\(s\) \[4\]", **order)
    data.images[..., 4] = 0
    diverge(
        small_net(), data, r"train batch 3: the data .*: image\(s\) \[12\]",
        num_sub_batches=2, **order,
    )  # fmt: skip


@pytest.mark.parametrize("spoiled", [float("inf"), float("nan")])
def test_the_output_of_a_layer(spoiled):
    net = net_with(Spoiler(value=spoiled))
    diverge(net, match="batch 1: the output of layer 'layer3' is the first that is not finite")


def test_the_derivative_of_a_layer_leaves_the_parameters():
    net = net_with(Spoiler(derivative=float("inf")))
    before = values(net)
    diverge(
        net, match="a derivative is not finite in epoch 1, train batch 1: "
        "the derivative of layer 'layer3' is the first that is not finite",
        num_sub_batches=2,
    )  # fmt: skip
    assert_identical(values(net), before)


def test_dropout_is_evaluated_with_the_same_masks():
    """The layer after dropout overflows only where the mask of this very batch is not zero."""
    generator = torch.Generator().manual_seed(2)
    f = torch.rand((1, 1, 1, 2), generator=generator)
    net = mcn.SimpleNN(
        [mcn.Dropout(0.9), (mcn.Conv(), [1e30 * f, None]), Spoiler(1e30), mcn.SoftmaxLoss()]
    )
    data = Data()
    data.images = np.ones((1, 1, 1, 22), np.float32)
    data.labels = data.labels % 2
    diverge(net, data, "the output of layer 'layer3' is the first", batch_size=1)


def test_untrained_moments_spoil_the_validation():
    net = small_net(bnorm=True)
    diverge(net, match="in epoch 1, val batch 1: the output of layer 'layer2'", train=())


def test_a_sum_over_sub_batches_can_overflow():
    f = torch.ones((1, 1, 1, 2), dtype=torch.float32)
    net = mcn.SimpleNN([(mcn.Conv(), [f, None]), Spoiler(0.0, 2e38), mcn.SoftmaxLoss()])
    data = Data()
    data.images = np.ones((1, 1, 1, 22), np.float32)
    data.labels[:] = 0
    diverge(net, data, "no single layer made it", batch_size=4, num_sub_batches=4)


def test_too_high_a_learning_rate_keeps_the_last_good_checkpoint(tmp_path):
    rates = [0.05, 0.05, 1e200]
    net = small_net()
    diverge(net, match="epoch 3", folder=tmp_path, learning_rate=rates, num_epochs=4)
    found = sorted(path.name for path in tmp_path.glob("net-epoch-*"))
    assert found == ["net-epoch-1.safetensors", "net-epoch-2.safetensors"]
    again = train(small_net(), Data(), tmp_path, num_epochs=3)
    reference = train(small_net(), Data(), num_epochs=3)
    assert_identical(values(again.net), values(reference.net))


def test_parameters_that_the_last_update_spoiled_are_not_saved(tmp_path):
    net = small_net()
    diverge(
        net, match="a parameter is not finite after epoch 1: parameter 'l1_1' of layer 'layer1'",
        folder=tmp_path, learning_rate=1e308, weight_decay=1e308, val=(), batch_size=100,
    )  # fmt: skip
    assert list(tmp_path.glob("net-*")) == []
