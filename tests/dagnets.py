"""A small DagNN for tests: a residual block with a loss and an error."""

import torch

from matconvnet.blocks import Conv, Loss, ReLU, Sum
from matconvnet.nets.dagnn import DagNN
from tests.helpers import randn


def double(net):
    """The network with parameters drawn, in float64."""
    net.init_params()
    return net.to(torch.float64)


def residual():
    """x -> conv a -> relu b -> conv c, + a -> sum d -> loss; and an error on the same scores."""
    net = DagNN()
    net.add_layer("c1", Conv(size=(3, 3, 2, 3), pad=1), "x", "a", ("f1", "b1"))
    net.add_layer("re", ReLU(), "a", "b")
    net.add_layer("c2", Conv(size=(1, 1, 3, 3), has_bias=False), "b", "c", "f2")
    net.add_layer("sum", Sum(), ("c", "a"), "d")
    net.add_layer("loss", Loss(), ("d", "label"), "objective")
    net.add_layer("err", Loss("classerror"), ("d", "label"), "error")
    return double(net)


def batch(size=(1, 1, 2, 4), classes=3, seed=0):
    """Values of x and label."""
    return {"x": randn(size, seed), "label": torch.arange(size[3]) % classes}


def kept(net, key):
    """Variables that have a value, or a derivative."""
    return {name for name, var in net.vars.items() if getattr(var, key) is not None}
