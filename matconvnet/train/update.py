"""From summed derivatives to new parameters: one rule per train method."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from matconvnet.nets.network import Network, Param
from matconvnet.parallel.server import ParameterServer
from matconvnet.train.options import TrainOptions
from matconvnet.train.solvers import DECOUPLED, find_solver
from matconvnet.train.solvers.sgd import FUSED_TYPES, sgd_fused

TRAIN_METHODS = ("gradient", "average", "none")


class Updater:
    """The parameters of a network in training, with the state of their solver.

    state: by parameter, what the solver keeps: a tensor (momentum), or a dict.
    spare: derivatives of the last batch, whose memory those of the next may take. scaled: memory
    for derivatives divided by the batch, in the strides of the parameters. (A layer of the user's
    may hand out a derivative that is its own weight or input, so none is divided in place.)
    """

    def __init__(self, net: Network, options: TrainOptions, server: ParameterServer):
        self.params = {name: p for name, p in net.params.items() if p.value is not None}
        for name, param in self.params.items():
            if param.train_method not in TRAIN_METHODS:
                raise ValueError(
                    f"train_method of {name!r} is {param.train_method!r}; "
                    f"wanted one of {', '.join(TRAIN_METHODS)}"
                )
        self.users = net.graph.users
        self.options = options
        solver_opts = options.solver_opts
        if options.solver is None:
            solver_opts = {
                "momentum": options.momentum, "nesterov_update": options.nesterov_update
            }  # fmt: skip
        self.solver, self.solver_opts = find_solver(options.solver, solver_opts)
        self.server = server
        self.state: dict[str, Any] = {}
        self.pushed: dict[str, None] = {}
        self.spare: dict[str, Tensor] = {}
        self.scaled: dict[str, Tensor] = {}

    def __enter__(self) -> "Updater":
        """Register the parameters with the server, and start it."""
        for name, param in self.params.items():
            value = _value(param)
            self.server.register(name, value.shape, value.dtype, value.device)
        self.server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the server."""
        self.server.stop()

    def push(self, name: str, der: Tensor) -> None:
        """Hand the derivative of a parameter to the server, as soon as it is complete."""
        self.pushed[name] = None
        self.server.push(name, der)

    def pull(self) -> dict[str, Tensor]:
        """Derivatives that were pushed, summed over all workers; others have none."""
        self.server.sync()
        ders = {name: self.server.pull(name) for name in self.pushed if name in self.params}
        self.pushed.clear()
        return ders

    def update(self, ders: dict[str, Tensor], size: int, learning_rate: float) -> None:
        """Update every parameter that has a derivative.

            gradient:  g = der / size + weight_decay * w, and a step of the solver along g, unless
                       both the rate and the decay of the parameter are 0
            average:   w = (1 - rate) * w + rate / size * der, whatever the learning rate

        Args:
            ders: derivatives by parameter, summed over the batch.
            size: images in the batch.
            learning_rate: of this epoch; `Param.learning_rate` multiplies it.
        """
        groups = defaultdict[tuple[float, float], list[str]](list)
        for name, der in ders.items():
            param = self.params[name]
            if param.train_method == "average":
                share = param.learning_rate / (size * self.users[name])
                _value(param).mul_(1 - param.learning_rate).add_(der, alpha=share)
            elif param.train_method == "gradient":
                rate = learning_rate * param.learning_rate
                decay = self.options.weight_decay * param.weight_decay
                if rate > 0 or decay > 0:
                    groups[rate, decay].append(name)
        for (rate, decay), names in groups.items():
            fused = [n for n in names if self._is_fused(_value(self.params[n]))]
            if fused:
                self._step_fused(fused, ders, size, rate, decay)
            for name in names:
                if name not in fused:
                    self._step(name, ders[name], size, rate, decay)
        self.spare = ders

    def _is_fused(self, value: Tensor) -> bool:
        is_default = self.options.solver is None and self.options.momentum > 0
        return is_default and value.dtype in FUSED_TYPES

    def _step_fused(
        self, names: list[str], ders: dict[str, Tensor], size: int, rate: float, decay: float
    ) -> None:
        """Step several parameters of the same rate and decay by the default solver."""
        values = [_value(self.params[name]) for name in names]
        for name, value in zip(names, values, strict=True):
            if name not in self.state:
                self.state[name] = torch.zeros_like(value)
            if name not in self.scaled:
                self.scaled[name] = torch.empty_like(value)
            torch.div(ders[name], size, out=self.scaled[name])
        sgd_fused(
            values, [self.state[name] for name in names], [self.scaled[name] for name in names],
            lr=rate, weight_decay=decay, momentum=self.options.momentum,
            nesterov_update=self.options.nesterov_update,
        )  # fmt: skip

    def _step(self, name: str, der: Tensor, size: int, rate: float, decay: float) -> None:
        value = _value(self.params[name])
        g = der / size
        if self.solver in DECOUPLED:
            value.mul_(1 - rate * decay)
        else:
            g = g + decay * value
        state = self.state.get(name, 0)
        new, self.state[name] = self.solver(value, state, g, self.solver_opts, rate)
        value.copy_(new)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state that was stored: on the device and in the strides of the parameters."""
        self.state = {
            name: _restored(kept, _value(self.params[name]))
            for name, kept in state.items()
            if name in self.params
        }


def _restored(kept: Any, value: Tensor) -> Any:
    if isinstance(kept, Mapping):
        return {key: _restored(item, value) for key, item in kept.items()}
    if not isinstance(kept, Tensor):
        return kept
    if kept.shape != value.shape:
        return kept.to(value.device)
    return torch.empty_like(value, dtype=kept.dtype).copy_(kept)


def _value(param: Param) -> Tensor:
    assert param.value is not None
    return param.value
