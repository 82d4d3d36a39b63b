"""The PyTorch twin of a network: the same layers as torch modules, with the same weights."""

import operator
from typing import NamedTuple

import torch
from problems import Problem
from torch import Tensor, fx, nn

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sum import Sum
from matconvnet.graph import Node
from matconvnet.layout import nchw
from matconvnet.nets.network import Param
from matconvnet.window import pair, quad


class Twin(NamedTuple):
    """A module that maps N x C x H x W images to scores; its weights by the names of ours."""

    module: nn.Module
    weights: dict[str, nn.Parameter]


def twin(problem: Problem) -> Twin:
    """Everything up to the loss, as PyTorch users write it: straight-line code, ReLU and sums in
    place, filters that cover a whole map as Linear.
    """
    sizes, _ = problem.sizes()
    net, graph, modules = problem.net, fx.Graph(), nn.ModuleDict()
    values = {net.input: graph.placeholder("x")}
    weights: dict[str, nn.Parameter] = {}
    flat: set[str] = set()
    for node in net.graph.nodes:
        if node.layer.is_loss:
            continue
        (output,), inputs = node.outputs, [values[v] for v in node.inputs]
        if isinstance(node.layer, Sum):
            skip, branch = inputs
            values[output] = graph.call_function(operator.iadd, (branch, skip))
            continue
        params = [net.params[p] for p in node.params]
        module = _module(node, sizes[node.inputs[0]], params)
        is_flat = node.inputs[0] in flat
        if isinstance(module, nn.Linear) and not is_flat:
            inputs = [graph.call_function(torch.flatten, (*inputs, 1))]
            is_flat = True
        if is_flat:
            flat.add(output)
        name = f"{len(modules)}_{type(module).__name__.lower()}"
        modules[name] = module
        values[output] = graph.call_module(name, tuple(inputs))
        own = dict(module.named_parameters())
        trained = [p.name for p in params if p.value is not None and p.train_method != "average"]
        weights.update(zip(trained, own.values(), strict=True))
    scores = values[net.prediction]
    if net.prediction not in flat and sizes[net.prediction][:2] == (1, 1):
        scores = graph.call_function(torch.flatten, (scores, 1))
    graph.output(scores)
    for name, weight in weights.items():
        weight.requires_grad_(net.params[name].train_method == "gradient")
    return Twin(fx.GraphModule(modules, graph), weights)


def _module(node: Node, size: tuple[int, ...], params: list[Param]) -> nn.Module:
    """size: of the map that it reads."""
    layer = node.layer
    if isinstance(layer, Conv):
        return _conv(layer, size, [p.value for p in params if p.value is not None])
    if isinstance(layer, BatchNorm):
        g, b, moments = (p.value for p in params if p.value is not None)
        module = nn.BatchNorm2d(size[2], layer.epsilon, momentum=params[2].learning_rate)
        module.load_state_dict({
            "weight": g, "bias": b, "running_mean": moments[:, 0],
            "running_var": moments[:, 1] ** 2 - layer.epsilon,
            "num_batches_tracked": torch.tensor(0),
        })  # fmt: skip
        return module
    if isinstance(layer, Pooling):
        window, stride = pair(layer.size, "size"), pair(layer.stride, "stride")
        top, bottom, left, right = quad(layer.pad, "pad")
        is_even = (top, left) == (bottom, right)
        # A row more at the bottom and the right only is what torch calls ceil_mode.
        pad, ceil = ((top, left), False) if is_even else ((0, 0), True)
        if layer.method == "max":
            return nn.MaxPool2d(window, stride, pad, ceil_mode=ceil)
        return nn.AvgPool2d(window, stride, pad, ceil_mode=ceil, count_include_pad=False)
    if isinstance(layer, LRN):
        n, kappa, alpha, beta = layer.param
        return nn.LocalResponseNorm(int(n), alpha * n, beta, kappa)
    if isinstance(layer, ReLU):
        return nn.ReLU(inplace=True)
    if isinstance(layer, Dropout):
        return nn.Dropout(layer.rate)
    raise TypeError(f"no torch module for {type(layer).__name__}")


@torch.no_grad()
def _conv(layer: Conv, size: tuple[int, ...], values: list[Tensor]) -> nn.Module:
    (h, w, c, _), f = size, values[0]
    fh, fw, fc, k = f.shape
    top, bottom, left, right = quad(layer.pad, "pad")
    assert (top, left) == (bottom, right), "torch pads both sides alike"
    if (fh, fw) == (h, w) and not top and not left:
        module: nn.Module = nn.Linear(h * w * c, k, bias=len(values) > 1)
        module.weight.copy_(nchw(f).reshape(k, -1))
    else:
        stride = pair(layer.stride, "stride")
        module = nn.Conv2d(c, k, (fh, fw), stride, (top, left), groups=c // fc,
                           bias=len(values) > 1)  # fmt: skip
        module.weight.copy_(nchw(f))
    if len(values) > 1:
        module.bias.copy_(values[1].reshape(-1))
    return module
