"""Training that fits its batches into a given amount of memory."""

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.nets.memory import memory_plan
from tests.train.common import Data, assert_identical, small_net, train, values

SIZE = 40  # pixels of an image: values outweigh parameters


def large_data():
    data = Data()
    data.images = np.random.default_rng(0).standard_normal((SIZE, SIZE, 2, 22))
    return data


def large_net():
    generator = torch.Generator().manual_seed(1)
    first = torch.randn((3, 3, 2, 4), generator=generator, dtype=torch.float64)
    last = torch.randn((1, 1, 4, 3), generator=generator, dtype=torch.float64)
    layers = [
        (mcn.Conv(), [first, None]), mcn.ReLU(), mcn.Pooling(SIZE - 2, method="avg"),
        (mcn.Conv(), [last, None]), mcn.SoftmaxLoss(),
    ]  # fmt: skip
    return mcn.SimpleNN(layers)


def peak(parts):
    sizes = {"x0": (SIZE, SIZE, 2), "label": (1, 1, 1)}
    return memory_plan(large_net(), sizes, 8, num_sub_batches=parts, precious=["x4"]).peak


def test_batches_are_split_to_fit():
    assert peak(1) > peak(2) > peak(4) > peak(8)
    net, reference = large_net(), large_net()
    trainer = train(net, large_data(), batch_size=8, memory=peak(4), num_epochs=1)
    assert trainer.options.num_sub_batches == 4
    train(reference, large_data(), batch_size=8, num_sub_batches=4, num_epochs=1)
    assert_identical(values(net), values(reference))


def test_what_fits_is_left_alone():
    assert train(small_net(), Data(), batch_size=8, memory="1GB").options.num_sub_batches == 1
    found = train(small_net(), Data(), batch_size=8, memory="1GB", num_sub_batches=4)
    assert found.options.num_sub_batches == 4


def test_too_small_a_budget_says_what_is_needed():
    with pytest.raises(ValueError, match=r"a budget of .* does not suffice: with one image"):
        train(small_net(), Data(), batch_size=8, memory="1KB")
    with pytest.raises(ValueError, match="memory is 'much'; wanted bytes, or a number with a unit"):
        train(small_net(), Data(), memory="much")


class Hungry(mcn.ReLU):
    """A layer for which there is no memory."""

    def forward(self, inputs, params, ctx):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")


def test_running_out_of_memory_says_what_was_predicted_and_what_helps():
    links = [link.layer for link in small_net().layers]
    weights = [[p.value for p in link.params] for link in small_net().layers]
    links[1] = Hungry()
    net = mcn.SimpleNN(list(zip(links, weights, strict=True)))
    with pytest.raises(MemoryError, match=r"3.00 GiB more were asked for") as caught:
        train(net, Data(), batch_size=8)
    message = str(caught.value)
    assert "predicted were" in message
    assert "num_sub_batches=2 (it is 1)" in message


@pytest.mark.parametrize("recompute", [True, ["layer1", "layer3"]], ids=["all", "some"])
def test_recomputing_changes_no_bit(recompute):
    net, reference = small_net(bnorm=True, dropout=0.4), small_net(bnorm=True, dropout=0.4)
    train(net, Data(), recompute=recompute)
    train(reference, Data())
    assert_identical(values(net), values(reference))
