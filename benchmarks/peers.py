"""The PyTorch twin of a SimpleNN: the same network of torch modules, with the same weights."""

import torch
from torch import Tensor, nn

from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.geometry import variable_sizes
from matconvnet.layout import nchw
from matconvnet.nets.simplenn import Link, SimpleNN
from matconvnet.window import pair, quad


def twin(net: SimpleNN, input_size: tuple[int, int, int, int]) -> nn.Sequential:
    """Everything up to the loss as PyTorch users write it; filters over a whole map are Linear."""
    shapes = {n: None if v is None else tuple(v.shape) for n, v in net.values().items()}
    sizes = variable_sizes(net.graph, {net.input: input_size}, shapes)
    modules: list[nn.Module] = []
    for i, link in enumerate(net.layers):
        size = tuple(int(v) for v in sizes[f"x{i}"])
        if not link.layer.is_loss:
            modules.extend(_modules(link, size, any(isinstance(m, nn.Flatten) for m in modules)))
    return nn.Sequential(*modules)


def _modules(link: Link, size: tuple[int, ...], is_flat: bool) -> list[nn.Module]:
    layer, (h, w, c, _) = link.layer, size
    if isinstance(layer, Conv):
        f, b = (p.value for p in link.params)
        fh, fw, fc, k = f.shape
        top, bottom, left, right = quad(layer.pad, "pad")
        assert (top, left) == (bottom, right), "torch pads both sides alike"
        if (fh, fw) == (h, w):
            module: nn.Module = nn.Linear(h * w * c, k)
            _load(module, nchw(f).reshape(k, -1), b)
            return [module] if is_flat else [nn.Flatten(), module]
        module = nn.Conv2d(
            c, k, (fh, fw), pair(layer.stride, "stride"), (top, left), groups=c // fc
        )
        _load(module, nchw(f), b)
        return [module]
    if isinstance(layer, Pooling):
        window, stride = pair(layer.size, "size"), pair(layer.stride, "stride")
        ceil = any(quad(layer.pad, "pad"))  # a row more at the bottom and the right
        if layer.method == "max":
            return [nn.MaxPool2d(window, stride, ceil_mode=ceil)]
        return [nn.AvgPool2d(window, stride, ceil_mode=ceil, count_include_pad=False)]
    if isinstance(layer, LRN):
        n, kappa, alpha, beta = layer.param
        return [nn.LocalResponseNorm(int(n), alpha * n, beta, kappa)]
    if isinstance(layer, ReLU):
        return [nn.ReLU()]
    if isinstance(layer, Dropout):
        return [nn.Dropout(layer.rate)]
    raise TypeError(f"no torch module for {type(layer).__name__}")


@torch.no_grad()
def _load(module: nn.Module, f: Tensor, b: Tensor) -> None:
    module.weight.copy_(f)
    module.bias.copy_(b.reshape(-1))
