"""A network as a torch.nn.Module: autograd, `torch.func`, torch's optimisers on our derivatives."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from matconvnet.graph import Graph
from matconvnet.interop.autograd import Evaluate, Run
from matconvnet.layer import Context
from matconvnet.layout import hwcn, nchw
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network, Param

Layout = Literal["nchw", "hwcn"]


def to_module(
    net: Network, *, layout: Layout = "nchw", objective: str | None = None
) -> "NetModule":
    """Make a torch.nn.Module of a network; see `NetModule`.

    Args:
        net: the network, wired as it is now.
        layout: of the maps that the module takes and returns: "nchw", N x C x H x W as torch has
            it, or "hwcn", H x W x C x N.
        objective: the variable to return when labels are given; None: "objective" if there is
            such a variable, else what the only loss writes.

    Raises: ValueError, if a parameter has no value, for an unknown layout or objective.
    """
    missing = [name for name, param in net.params.items() if param.value is None]
    if missing and isinstance(net, DagNN):
        raise ValueError(f"the parameters {missing} have no value; call init_params first")
    if layout not in ("nchw", "hwcn"):
        raise ValueError(f"layout is {layout!r}; wanted 'nchw' or 'hwcn'")
    if objective is not None and objective not in net.graph.producer:
        known = list(net.graph.producer)
        raise ValueError(f"objective is {objective!r}; wanted a variable among {known}")
    return NetModule(net, layout, objective or _objective(net.graph))


def _objective(graph: Graph) -> str | None:
    written = [v for node in graph.nodes if node.layer.is_loss for v in node.outputs]
    if "objective" in graph.producer:
        return "objective"
    return written[0] if len(written) == 1 else None


class NetModule(nn.Module):
    """A network that autograd, `torch.func` and torch's optimisers accept.

        prediction = module(x)              x: N x C x H x W
        objective  = module(x, labels)      labels as the network wants them, or N x H x W

    Further arguments are the other inputs of the network, in the order of its graph; with all of
    them there the answer is the objective. Gradients are those of the network's own backward, bit
    for bit, and once only: there are no second derivatives. `torch.func.vmap` loops over samples.

    Parameters have the names, shapes and memory of the network's: to train the module is to train
    the network, and to move or convert the module (`.to`) moves the network too. (A copy of the
    module, and a network that is moved itself, have memory of their own.) They are H x W x C x K,
    not torch's K x C x H x W; `torch_state.state_dict` writes those. What the network does not
    train by derivatives (`train_method` "none") requires no gradient.

    A new module is in test mode; `train()` is the network's normal mode. Running averages, the
    moments of batch normalisation, are buffers; in training mode each backward pass updates them
    as the trainer would, w = (1 - rate) * w + rate * moments of the batch, but not under `vmap`.
    """

    def __init__(self, net: Network, layout: Layout, objective: str | None):
        super().__init__()
        self.graph, self.layout, self.objective = net.graph, layout, objective
        self.prediction = net.prediction
        others = (v for v in net.graph.inputs if v != net.input)
        self.inputs = (net.input, *others)
        self.keys: dict[str, str | None] = {}
        self.rates: dict[str, float] = {}
        self._shared: dict[str, Param] = {}
        for name in net.graph.users:
            self._register(name, net.params[name])
        self.eval()

    def _register(self, name: str, param: Param) -> None:
        """Take a parameter of the network, under a name that a module may use."""
        value, key = param.value, name.replace(".", "_") or "_"
        if value is None:
            self.keys[name] = None
            return
        while hasattr(self, key):
            key += "_"
        if param.train_method == "average":
            self.register_buffer(key, value)
            self.rates[name] = param.learning_rate
        else:
            is_trained = param.train_method == "gradient"
            self.register_parameter(key, nn.Parameter(value, requires_grad=is_trained))
        self.keys[name], self._shared[key] = key, param

    def forward(self, *inputs: Tensor) -> Tensor:
        """The prediction; the objective, if all inputs of the network are given."""
        if not 1 <= len(inputs) <= len(self.inputs):
            raise TypeError(f"the module got {len(inputs)} tensors; wanted {self.inputs}")
        is_whole = len(inputs) == len(self.inputs) > 1
        if is_whole and self.objective is None:
            raise ValueError("the network has not one loss; wanted the objective of `to_module`")
        absent = {name: None for name, key in self.keys.items() if key is None}
        present = {name: getattr(self, key) for name, key in self.keys.items() if key is not None}
        run = Run(
            self.graph, self.inputs[: len(inputs)], tuple(present), absent,
            self.objective if is_whole and self.objective else self.prediction,
            Context(self.training), self.rates, torch.is_grad_enabled(), updates=self.training,
        )  # fmt: skip
        given = [self._enter(name, t) for name, t in zip(self.inputs, inputs, strict=False)]
        y = Evaluate.apply(run, *given, *present.values())
        return nchw(y) if self.layout == "nchw" and y.dim() == 4 else y

    def _enter(self, name: str, t: Tensor) -> Tensor:
        """A tensor from outside as the network wants it."""
        if self.layout == "hwcn":
            return t
        if name == self.inputs[0] and t.dim() != 4:
            raise ValueError(f"{name} has shape {tuple(t.shape)}; wanted N x C x H x W")
        if t.dim() == 3:  # a label for every pixel
            t = t.unsqueeze(1)
        return hwcn(t) if t.dim() == 4 else t

    def groups(self, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Parameter groups for a torch optimiser, with the multipliers of the network."""
        return [
            {
                "params": [tensor],
                "lr": lr * self._shared[key].learning_rate,
                "weight_decay": weight_decay * self._shared[key].weight_decay,
            }
            for key, tensor in self.named_parameters()
            if tensor.requires_grad
        ]

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy: it shares nothing with the network."""
        shared = {
            key: Param(p.name, None, p.learning_rate, p.weight_decay, p.train_method)
            for key, p in self._shared.items()
        }
        return {**self.__dict__, "_shared": shared}

    def _apply(self, fn, recurse=True):  # what `.to`, `.cuda`, `.half` call
        super()._apply(fn, recurse)
        for key, param in self._shared.items():
            param.value = getattr(self, key).detach()
        return self
