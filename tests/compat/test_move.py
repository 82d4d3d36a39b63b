"""vl_simplenn_move: a copy whose weights are elsewhere."""

import numpy as np
import pytest
import torch

from matconvnet.blocks import BatchNorm, Conv, ReLU
from matconvnet.compat.move import vl_simplenn_move
from matconvnet.nets.simplenn import SimpleNN

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def struct():
    return {
        "layers": [
            {
                "type": "conv",
                "weights": [torch.ones(3, 3, 1, 2), []],
                "momentum": [torch.ones(2), 0],
            },
            {"type": "custom", "weights": [torch.ones(3)]},
            {"type": "conv", "filters": np.ones((1, 1, 2, 2)), "biases": np.ones(2)},
            {"type": "softmaxloss", "class": torch.ones(4)},
        ],
        "meta": {"inputSize": [9, 9, 1]},
    }


def test_a_struct():
    net = struct()
    moved = vl_simplenn_move(net, "cpu")
    first, custom, old, loss = moved.layers
    assert first.type == "conv"
    assert torch.equal(first.weights[0], net["layers"][0]["weights"][0])
    assert first.weights[1] == []
    assert isinstance(old.filters, np.ndarray)
    first.weights[0].zero_()
    first.momentum[0].zero_()
    old.filters[:] = 0
    old["biases"][:] = 0
    first["pad"] = 7
    again = struct()
    for layer, want in zip(net["layers"], again["layers"], strict=True):
        assert layer.keys() == want.keys()
    assert net["layers"][0]["weights"][0].min() == net["layers"][0]["momentum"][0].min() == 1
    assert net["layers"][2]["filters"].min() == net["layers"][2]["biases"].min() == 1
    assert custom.weights[0] is net["layers"][1]["weights"][0]
    assert loss["class"] is net["layers"][3]["class"]
    assert moved.meta == again["meta"]


def test_a_network():
    weights = [torch.ones(2), torch.ones(2), torch.ones(2, 2)]
    net = SimpleNN([Conv(size=(3, 3, 1, 2)), (BatchNorm(), weights), ReLU()], {"classes": 2})
    net.layers[0].params[1].learning_rate = 0.5
    moved = vl_simplenn_move(net, "cpu")
    assert isinstance(moved, SimpleNN)
    assert moved.params["l1_2"].learning_rate == 0.5
    assert moved.params["l2_3"].train_method == "average"
    x = torch.randn(5, 5, 1, 3, generator=torch.Generator().manual_seed(0))
    want = net.eval({"x0": x}).values["x3"]
    assert torch.equal(moved.eval({"x0": x}).values["x3"], want)
    for param in moved.params.values():
        param.value.zero_()
    moved.meta["classes"] = 3
    assert torch.equal(net.eval({"x0": x}).values["x3"], want)
    assert net.meta == {"classes": 2}


@no_gpu
@pytest.mark.parametrize("net", [{"layers": []}, SimpleNN([])], ids=["struct", "network"])
def test_no_gpu(net):
    with pytest.raises(RuntimeError, match="destination is 'gpu', but torch finds no CUDA device"):
        vl_simplenn_move(net, "gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_to_the_gpu_and_back():
    net = struct()
    moved = vl_simplenn_move(net, "gpu")
    assert moved.layers[0].weights[0].is_cuda
    assert moved.layers[2].filters.is_cuda
    assert not moved.layers[1].weights[0].is_cuda
    assert not net["layers"][0]["weights"][0].is_cuda
    back = vl_simplenn_move(moved, "cpu")
    assert torch.equal(back.layers[0].weights[0], net["layers"][0]["weights"][0])
    chain = vl_simplenn_move(SimpleNN([Conv(size=(3, 3, 1, 2))]), "gpu")
    assert all(value.is_cuda for value in chain.values().values())


def test_an_unknown_destination():
    with pytest.raises(ValueError, match="Unknown destination 'tpu'; wanted 'gpu' or 'cpu'"):
        vl_simplenn_move(struct(), "tpu")
