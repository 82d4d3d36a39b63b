"""State dicts: names and shapes of PyTorch, out of a network and into it."""

import numpy as np
import pytest
import torch
from torch import nn

import matconvnet as mcn
from matconvnet.interop.torch_state import load_state_dict, state_dict
from matconvnet.layout import hwcn, nchw
from matconvnet.nets.own import FunctionLayer
from tests.helpers import assert_close, randn
from tests.tolerances import AUTOGRAD, REFERENCE

CLOSE = REFERENCE[torch.float32]

X = randn((2, 4, 9, 8))  # N C H W


def theirs(seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), nn.BatchNorm2d(6, 1e-3),
        nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False, groups=2), nn.Flatten(),
        nn.Linear(4 * 10 * 14, 5),
    ).double()  # fmt: skip
    for name, tensor in module.named_buffers():
        if name.endswith(("mean", "var")):
            tensor.copy_(randn(tensor.shape, seed + 1).abs() + 0.3)
    return module.eval()


def ours():
    """The same network, with names of its own."""
    net = mcn.DagNN()
    net.add_layer("conv", mcn.Conv(stride=(2, 1), pad=(1, 1, 0, 0), size=(3, 2, 2, 6)), "x", "a")
    net.add_layer("bn", mcn.BatchNorm(1e-3, num_channels=6), "a", "b")
    net.add_layer("relu", mcn.ReLU(), "b", "c")
    up = mcn.ConvTranspose(upsample=2, num_groups=2, size=(2, 2, 2, 6), has_bias=False)
    net.add_layer("up", up, "c", "d")
    net.add_layer("fc", mcn.Conv(size=(10, 14, 4, 5)), "d", "y")
    return net


NAMES = {"conv": "0", "bn": "1", "up": "3", "fc": "5"}


def predict(net):
    record = net.eval({net.input: hwcn(X)}, mode="test", conserve_memory=False)
    return nchw(record.values[net.prediction])[:, :, 0, 0]


@pytest.mark.parametrize("is_drawn", [True, False])
def test_a_module_of_torch_becomes_a_network(is_drawn):
    module, net = theirs(), ours()
    if is_drawn:
        net.init_params()
        net.to(torch.float64)
    load_state_dict(net, module.state_dict(), NAMES)
    assert_close(predict(net), module(X), AUTOGRAD)
    assert net.params["convf"].value.stride()[2] == 1  # channels-last


def test_a_network_becomes_a_module_of_torch():
    net, module = ours(), theirs()
    load_state_dict(net, theirs(seed=5).state_dict(), NAMES)
    state = state_dict(net, linear=["fc"])
    assert {name.split(".")[0] for name in state} == set(NAMES)
    renamed = {f"{NAMES[layer]}.{name}": state[f"{layer}.{name}"]
               for layer, name in (key.split(".") for key in state)}  # fmt: skip
    assert list(renamed) == list(module.state_dict())
    assert all(tensor.is_contiguous() for tensor in state.values())
    module.load_state_dict(renamed)
    assert_close(module(X), predict(net), AUTOGRAD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_out_and_in_again(dtype):
    layers = [
        mcn.Conv(size=(3, 3, 2, 4)), (mcn.BatchNorm(), [randn((4,)), randn((4,), 1), MOMENTS]),
        (mcn.Conv(), [randn((1, 1, 4, 3)), None]),
        FunctionLayer(lambda x, w: w * x, params={"w": np.ones((1, 1, 3))}),
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)),
        (lambda x, s: s * x, [torch.ones(1)]),
    ]  # fmt: skip
    net, twin = (mcn.SimpleNN(layers, seed=seed).to(dtype) for seed in (1, 2))
    state = state_dict(net)
    assert [name for name in state if name.startswith("layer5")] == [
        "layer5.0.weight", "layer5.0.bias", "layer5.1.weight", "layer5.1.bias",
        "layer5.1.running_mean", "layer5.1.running_var", "layer5.1.num_batches_tracked",
    ]  # fmt: skip
    assert "layer3.bias" not in state
    assert "layer6.param0" in state
    twin.convert(torch.zeros_like)
    load_state_dict(twin, {name: tensor.numpy() for name, tensor in state.items()})
    for name, param in net.params.items():
        if param.value is not None:
            assert_close(twin.params[name].value, param.value, REFERENCE[dtype], name)
            assert twin.params[name].value.dtype == dtype


MOMENTS = torch.stack((randn((4,), 2), randn((4,), 3).abs() + 0.1), 1)


def test_running_variance():
    moments = torch.tensor([[1.0, 2.0], [3.0, 0.0]])  # the second was never estimated
    bnorm = mcn.BatchNorm(1e-2)
    net = mcn.SimpleNN([(bnorm, [torch.ones(2, 1), torch.zeros(2, 1), moments])])
    state = state_dict(net)
    assert_close(state["layer1.running_mean"], torch.tensor([1.0, 3.0]), CLOSE)
    assert_close(state["layer1.running_var"], torch.tensor([4 - 1e-2, 0]), CLOSE)
    state["layer1.running_var"] += 5
    load_state_dict(net, state)
    assert_close(net.params["l1_3"].value[:, 1] ** 2, torch.tensor([9, 5.01]), CLOSE)
    assert net.params["l1_1"].value.shape == (2, 1)


def test_buffers_of_modules_are_written():
    inside = nn.BatchNorm2d(3)
    net = mcn.SimpleNN([inside])
    state = state_dict(net)
    state["layer1.running_mean"] = torch.tensor([1.0, 2, 3])
    load_state_dict(net, state)
    assert inside.running_mean.tolist() == [1, 2, 3]
    state["layer1.running_mean"].zero_()
    assert inside.running_mean.tolist() == [1, 2, 3]


def test_shared_parameters_have_every_name():
    net = mcn.DagNN()
    net.add_layer("a", mcn.Conv(size=(1, 1, 2, 2), has_bias=False), "x", "y", "f")
    net.add_layer("b", mcn.Conv(size=(1, 1, 2, 2), has_bias=False), "y", "z", "f")
    net.init_params()
    state = state_dict(net)
    assert torch.equal(state["a.weight"], state["b.weight"])
    load_state_dict(net, {name: 2 * tensor for name, tensor in state.items()})
    assert torch.equal(net.params["f"].value, 2 * hwcn(state["a.weight"]))


def test_filters_that_lost_an_axis():
    net = mcn.SimpleNN([(mcn.Conv(), [torch.ones(3, 3, 2), None])])
    state = state_dict(net)
    assert state["layer1.weight"].shape == (1, 2, 3, 3)
    load_state_dict(net, {"layer1.weight": 2 * state["layer1.weight"]})
    assert torch.equal(net.params["l1_1"].value, torch.full((3, 3, 2), 2.0))


def test_values_are_written_into_the_tensors_that_are_there():
    net = ours()
    net.init_params()
    value = net.params["fcf"].value
    module = mcn.to_module(net)
    load_state_dict(net, theirs().state_dict(), NAMES)
    assert net.params["fcf"].value is value
    assert torch.equal(module.fcf, value)


def test_all_that_does_not_fit_is_told_at_once():
    net = ours()
    net.init_params()
    before = {name: p.value.clone() for name, p in net.params.items()}
    state = theirs().state_dict()
    state["5.weight"] = state["5.weight"][:, 1:]
    state["0.weight"] = state["0.weight"].transpose(2, 3)
    del state["1.bias"], state["1.num_batches_tracked"]
    state["7.bias"] = state["6.bias"] = torch.ones(2)
    with pytest.raises(
        mcn.FormatError,
        match=r"missing: 1.bias; left over: 7.bias, 6.bias; of another shape: "
        r"0.weight is \(6, 2, 2, 3\), wanted \(6, 2, 3, 2\), "
        r"5.weight is \(5, 559\), wanted \(5, 4, 10, 14\)",
    ):
        load_state_dict(net, state, NAMES)
    assert all(torch.equal(p.value, before[name]) for name, p in net.params.items())


def test_names_of_layers_are_checked():
    with pytest.raises(KeyError, match=r"names has \['cnv'\], which are no layers; wanted some of"):
        load_state_dict(ours(), {}, {"cnv": "0"})
    with pytest.raises(KeyError, match=r"linear has \['fc8'\]"):
        state_dict(mcn.SimpleNN([mcn.ReLU()]), linear=["fc8"])
