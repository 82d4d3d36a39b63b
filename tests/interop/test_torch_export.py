"""Networks as programs of torch.export: run, stored, read again."""

import pytest
import torch
from torch import nn

import matconvnet as mcn
from matconvnet.interop.torch_export import export
from matconvnet.layout import hwcn, nchw
from tests import models
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

TOLERANCE = REFERENCE[torch.float32]


def everything():
    """A network with every layer that has options worth a mistake."""
    layers = [
        mcn.Conv(size=(3, 2, 2, 4), pad=(1, 0, 2, 1), stride=(1, 2), dilate=(2, 1)),
        mcn.BatchNorm(num_channels=4), mcn.ReLU(0.1), mcn.LRN((3, 1, 0.5, 0.75)),
        mcn.Pooling(3, stride=2, pad=(0, 1, 0, 1)),
        mcn.Pooling((3, 2), stride=1, pad=(2, 1, 0, 1), method="avg"),
        mcn.ConvTranspose(size=(3, 2, 2, 4), upsample=2, crop=(1, 0, 1, 0), num_groups=2),
        mcn.Dropout(0.5), mcn.Conv(size=(2, 2, 2, 6)), mcn.Sigmoid(), mcn.SpNorm(),
        mcn.NormOffset(), mcn.LpNorm(), nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
        lambda x: x * x + 0.5, mcn.Conv(size=(9, 6, 6, 5)), mcn.Softmax(), mcn.SoftmaxLoss(),
    ]  # fmt: skip
    net = mcn.SimpleNN(layers)
    net.params["l2_3"].value.copy_(torch.stack((randn((4,)), randn((4,), 1).abs() + 0.5), 1))
    return net


def sum_of_branches():
    net = mcn.DagNN()
    net.add_layer("a", mcn.Conv(size=(3, 3, 2, 4), pad=1), "x", "a")
    net.add_layer("b", mcn.Conv(size=(1, 1, 2, 4)), "x", "b")
    net.add_layer("sum", mcn.Sum(), ["a", "b"], "sum")
    net.add_layer("both", mcn.Concat(), ["sum", "a"], "both")
    net.init_params()
    return net


def check(net, program, shape, counts):
    for count in counts:
        x = randn((count, *shape), count, torch.float32)
        made = net.eval({net.input: hwcn(x)}, mode="test", conserve_memory=False)
        want = nchw(made.values[net.prediction])
        assert_close(program.module()(x), want, TOLERANCE)


@pytest.mark.parametrize("make", [everything, sum_of_branches])
def test_a_program_takes_any_number_of_images(make, tmp_path):
    net = make()
    program = export(net, torch.randn(1, 2, 12, 13))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert {str(call).split(".")[0] for call in calls if "getitem" not in str(call)} == {"aten"}
    check(net, program, (2, 12, 13), (1, 2, 5))
    torch.export.save(program, tmp_path / "net.pt2")
    check(net, torch.export.load(tmp_path / "net.pt2"), (2, 12, 13), (1, 3))


def test_the_network_is_as_it_was():
    net = everything()
    x = randn((12, 13, 2, 3), dtype=torch.float32)
    before = net.eval({"x0": x}, mode="test").values["x17"]
    export(net, nchw(x))
    assert torch.equal(net.eval({"x0": x}, mode="test").values["x17"], before)
    net.eval({"x0": x}, {"x17": before})  # the module in it, too


def test_layout_of_the_house():
    net = sum_of_branches()
    x = randn((6, 7, 2, 3), dtype=torch.float32)
    program = export(net, x[..., :1], layout="hwcn")
    made = net.eval({"x": x}, mode="test")
    assert_close(program.module()(x), made.values["both"], TOLERANCE)


def test_what_cannot_be_exported():
    with pytest.raises(ValueError, match=r"example has shape \(2, 6, 7\); wanted four axes"):
        export(sum_of_branches(), torch.randn(2, 6, 7))
    net = sum_of_branches()
    net.add_layer("more", mcn.Sum(), ["both", "y"], "z")
    with pytest.raises(ValueError, match="'z' does not follow from 'x' alone"):
        export(net, torch.randn(2, 2, 6, 7))


@pytest.mark.parametrize("name", ["cifar_lenet_epoch20", "dcfnet_net7", "lapsrn_x2"])
def test_real_networks(name):
    net = mcn.load(models.path(name))
    reference = models.reference(name)
    x = nchw(torch.from_numpy(next(reference[key] for key in ("x", "LR") if key in reference)))
    check(net, export(net, x), x.shape[1:], (1, 3))
