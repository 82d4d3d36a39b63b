"""Parameters of a network under the names and in the shapes of PyTorch, and back."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.errors import FormatError
from matconvnet.graph import Node
from matconvnet.layer import Layer
from matconvnet.layout import as4d, empty_map, hwcn, nchw, to_tensor
from matconvnet.nets.network import Network
from matconvnet.nets.own import ModuleLayer

COUNT = "num_batches_tracked"  # torch writes it beside running averages; nobody needs it


def state_dict(net: Network, *, linear: Iterable[str] = ()) -> dict[str, Tensor]:
    """Copies of the parameters, by the names that modules of torch.nn give them.

        layer               entries
        convolution         weight K x C x H x W, bias K
        transposed          weight C x K x H x W, bias K
        BatchNorm           weight, bias, running_mean, running_var = sigma^2 - epsilon: C each;
                            num_batches_tracked
        a module of yours   its own state_dict
        others              their `param_names`, in our shapes

    Each name begins with that of the layer and a dot; layers that share a parameter each have it.

    Args:
        net: the network.
        linear: names of convolutions to write as torch.nn.Linear has them, K x (C*H*W).

    Raises: KeyError, if `linear` names what is no layer.
    """
    linear, state = set(linear), {}
    _check_names(net, linear, "linear")
    for node in net.graph.nodes:
        for name, tensor in _entries(node.layer, _values(net, node)).items():
            tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
            is_linear = name == "weight" and node.name in linear
            state[f"{node.name}.{name}"] = tensor.flatten(1) if is_linear else tensor
    return state


@torch.no_grad()
def load_state_dict(
    net: Network, state: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> None:
    """Give the parameters of a network the values of a state dict; undoes `state_dict`.

    Values are written into the tensors that are there, in their type; a parameter without value
    gets one, if its layer knows its size. A weight of two axes, K x (C*H*W), becomes filters that
    cover a map.

    Args:
        net: the network.
        state: tensors or arrays by name.
        names: by layer, the name of its module in `state`, where that is another.

    Raises: FormatError, naming all entries that are missing, left over, or of another shape;
        nothing is written then. KeyError, if `names` names what is no layer.
    """
    names = names or {}
    _check_names(net, names, "names")
    left = {name: to_tensor(value) for name, value in state.items()}
    found: list[tuple[Node, dict[str, Tensor]]] = []
    missing, wrong = [], []
    for node in net.graph.nodes:
        entries = {}
        for name, old in _entries(node.layer, _values(net, node)).items():
            key = f"{names.get(node.name, node.name)}.{name}"
            if key not in left:
                if not key.endswith(COUNT):
                    missing.append(key)
                continue
            value = left.pop(key)
            if value.dim() == 2 and old.dim() == 4 and value.numel() == old.numel():
                value = value.reshape(len(value), *old.shape[1:])
            if value.shape != old.shape:
                wrong.append(f"{key} is {tuple(value.shape)}, wanted {tuple(old.shape)}")
            entries[name] = value
        found.append((node, entries))
    if missing or left or wrong:
        problems = {"missing": missing, "left over": list(left), "of another shape": wrong}
        text = "; ".join(f"{what}: {', '.join(which)}" for what, which in problems.items() if which)
        raise FormatError(f"state does not fit the network; {text}")
    for node, entries in found:
        values = _inverse(node.layer, entries, len(node.params))
        for param, value in zip(node.params, values, strict=False):
            if value is not None:
                _assign(net, param, value)


def _check_names(net: Network, names: Iterable[str], what: str) -> None:
    known = [node.name for node in net.graph.nodes]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise KeyError(f"{what} has {unknown}, which are no layers; wanted some of {known}")


def _values(net: Network, node: Node) -> list[Tensor | None]:
    """Parameters of a layer; in place of one without value a tensor without memory, if it can."""
    values = [net.params[name].value for name in node.params]
    if all(value is not None for value in values):
        return values
    try:
        with torch.device("meta"):
            drawn = node.layer.init_params()
    except ValueError:  # the layer does not know its size: the parameter is absent
        return values
    drawn = [*drawn, *(None for _ in values)]
    return [new if old is None else old for old, new in zip(values, drawn, strict=False)]


def _entries(layer: Layer, values: Sequence[Tensor | None]) -> dict[str, Tensor]:
    """Entries of a state dict, by the end of their name, for the parameters of a layer."""
    if isinstance(layer, BatchNorm):
        return _bnorm_entries(layer, values)
    if isinstance(layer, (Conv, ConvTranspose)):
        f, b = (*values, None, None)[:2]
        found = {
            "weight": None if f is None else nchw(as4d(f, "filters")),
            "bias": None if b is None else b.reshape(-1),
        }
    else:
        found = dict(zip(_names(layer, len(values)), values, strict=True)) | _rest(layer)
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _bnorm_entries(layer: BatchNorm, values: Sequence[Tensor | None]) -> dict[str, Tensor]:
    g, b, moments = values
    if g is None or b is None or moments is None:
        return {}
    mean, sigma = moments.double().unbind(1)
    variance = (sigma**2 - layer.epsilon).clamp(min=0)
    return {
        "weight": g.reshape(-1),
        "bias": b.reshape(-1),
        "running_mean": mean.to(moments.dtype),
        "running_var": variance.to(moments.dtype),
        COUNT: torch.tensor(0),
    }


def _inverse(layer: Layer, entries: dict[str, Tensor], count: int) -> list[Tensor | None]:
    """The parameters of a layer, from its entries; what stays in a module is written there."""
    if not entries:
        return [None] * count
    if isinstance(layer, BatchNorm):
        mean, variance = entries["running_mean"], entries["running_var"].double()
        sigma = (variance + layer.epsilon).sqrt().to(mean.dtype)
        return [entries["weight"], entries["bias"], torch.stack((mean, sigma), 1)]
    if isinstance(layer, (Conv, ConvTranspose)):
        f = entries.get("weight")
        return [None if f is None else hwcn(f), entries.get("bias")]
    for name, tensor in _rest(layer).items():
        tensor.copy_(entries.get(name, tensor))
    return [entries.get(name) for name in _names(layer, count)]


def _names(layer: Layer, count: int) -> list[str]:
    """Names of `count` parameters, those that the layer does not name by their number."""
    more = (f"param{i}" for i in range(len(layer.param_names), count))
    return [*layer.param_names, *more][:count]


def _rest(layer: Layer) -> dict[str, Tensor]:
    """What stays in a module of the user's: buffers and frozen parameters."""
    if not isinstance(layer, ModuleLayer):
        return {}
    names = layer.param_names
    return {name: t for name, t in layer.module.state_dict().items() if name not in names}


def _assign(net: Network, name: str, value: Tensor) -> None:
    param = net.params[name]
    if param.value is None:
        param.value = empty_map(value.shape, value).copy_(value)
    else:
        param.value.copy_(value.reshape(param.value.shape))
