"""From summed derivatives to new parameters: one rule per train method."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from matconvnet.fast.native import kernels
from matconvnet.nets.network import Network, Param
from matconvnet.parallel.server import LocalServer, ParameterServer
from matconvnet.train.clipping import clip_norm, clip_value
from matconvnet.train.divergence import all_finite
from matconvnet.train.options import TrainOptions
from matconvnet.train.solvers import SOLVERS_MANY, find_solver
from matconvnet.train.solvers._steps import memory
from matconvnet.train.solvers.sgd import sgd
from matconvnet.train.update_kernels import KernelFinite, KernelSgd, Served, SgdWithin

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
        self.spare: dict[str, Tensor] = {}
        self.scaled: dict[str, Tensor] = {}
        self._sgd, self._finite = KernelSgd(), KernelFinite()
        self._serves, self._serves_all = Served(), Served()
        self._within: SgdWithin | None = None

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
        self.server.push(name, der)

    def pull(self) -> dict[str, Tensor]:
        """Derivatives that some worker pushed, summed over all workers; others have none."""
        self.server.sync()
        return {name: self.server.pull(name) for name in self.server.arrived()}

    def within(self, size: int, learning_rate: float) -> SgdWithin | None:
        """What updates parameters within a backward pass on the CPU, if that is all there is to it.

        It does for one worker that steps by SGD without clipping. What it serves is not pushed;
        `update` has to follow for the others. None: nothing can.

        Args: as `update`.
        """
        is_clipped = self.options.clip_value is not None or self.options.clip_norm is not None
        is_alone = isinstance(self.server, LocalServer)
        if self.solver is not sgd or is_clipped or not is_alone or kernels() is None:
            return None
        rates = {p: self._rates(p, learning_rate) for p in self._following("gradient")}
        if not self._is_current(self._within):
            values = {p: _value(self.params[p]) for p, rate in rates.items() if any(rate)}
            self.state.update((p, memory(self.state.get(p, 0), v)) for p, v in values.items())
            means = {p: _value(self.params[p]) for p in self._following("average")}
            velocities = {p: self.state[p] for p in values}
            self._within = SgdWithin(values, velocities, means)
        within = self._within
        assert within is not None
        means = [(self.params[p].learning_rate, self.users[p]) for p in within.averages]
        within.prepare(size, [rates[p] for p in within.values], means, self.solver_opts)
        return within

    def _following(self, method: str) -> list[str]:
        """Parameters of a train method that kernels can update."""
        return [
            p
            for p, param in self.params.items()
            if param.train_method == method and _value(param).dtype == torch.float32
        ]

    def _is_current(self, within: SgdWithin | None) -> bool:
        """Whether it reads and writes the parameters and the state as they are."""
        return (
            within is not None
            and all(
                self.state.get(p) is velocity and self.params[p].value is within.values[p]
                for p, velocity in within.velocities.items()
            )
            and all(self.params[p].value is value for p, value in within.averages.items())
        )

    def _rates(self, name: str, learning_rate: float) -> tuple[float, float]:
        """The rate and the weight decay of a parameter."""
        param = self.params[name]
        return learning_rate * param.learning_rate, self.options.weight_decay * param.weight_decay

    def update(self, ders: dict[str, Tensor], size: int, learning_rate: float) -> None:
        """Update every parameter that has a derivative.

            gradient:  g = der / size, clipped, + weight_decay * w, and a step of the solver along
                       g, unless both the rate and the decay of the parameter are 0
            average:   w = (1 - rate) * w + rate / size * der, whatever the learning rate

        Args:
            ders: derivatives by parameter, summed over the batch.
            size: images in the batch.
            learning_rate: of this update; `Param.learning_rate` multiplies it.
        """
        steps = dict[str, tuple[float, float]]()
        for name, der in ders.items():
            param, value = self.params[name], _value(self.params[name])
            if param.train_method == "average":
                share = param.learning_rate / (size * self.users[name])
                value.mul_(1 - param.learning_rate).add_(der, alpha=share)
            elif param.train_method == "gradient":
                rate, decay = self._rates(name, learning_rate)
                if rate > 0 or decay > 0:
                    steps[name] = rate, decay
        if not self._step_by_kernel(steps, ders, size):
            self._step_by_torch(steps, ders, size)
        # Kernels, also those of torch for many tensors, do not tell that they write to a tensor.
        stepped = [p for p in self.params if self._within is not None and self._within.serves(p)]
        increment_version([_value(self.params[name]) for name in (*ders, *stepped)])
        self.spare = ders

    def are_finite(self, ders: Mapping[str, Tensor]) -> bool:
        """Whether every number of some derivatives is finite."""
        if self._within is not None and not self._within.is_finite:
            return False
        values = [_value(self.params[name]) for name in ders]
        if ders and self._serves_all(list(ders.values()), values):
            return self._finite(list(ders.values()))
        return all_finite(ders.values())

    def copies(self) -> dict[str, Tensor]:
        """What the parameters are now, as far as `ratios` has to compare them."""
        return {
            name: _value(param).clone()
            for name, param in self.params.items()
            if param.train_method == "gradient" and not self._tells_step
        }

    def ratios(self, before: Mapping[str, Tensor], learning_rate: float) -> dict[str, float]:
        """How far the last update moved each parameter: |w - before| / |before|, 2-norms."""
        moved = {}
        for name in self._following("gradient") if self._tells_step else before:
            value = _value(self.params[name])
            if self._tells_step:
                rate, velocity = self._rates(name, learning_rate)[0], self.state.get(name)
                velocity = velocity if isinstance(velocity, Tensor) else torch.zeros_like(value)
                step = rate * float(velocity.norm())
                along = rate * float((value * velocity).sum())
                size = max(0.0, float(value.norm()) ** 2 - 2 * along + step**2) ** 0.5
            else:
                step, size = float((value - before[name]).norm()), float(before[name].norm())
            moved[name] = step / size if size else 0.0
        return moved

    @property
    def _tells_step(self) -> bool:
        """The state tells what the last step was: w - before = rate * velocity."""
        return self.solver is sgd and not self.solver_opts["nesterov_update"]

    def _scaled(self, name: str) -> Tensor:
        if name not in self.scaled:
            self.scaled[name] = torch.empty_like(_value(self.params[name]))
        return self.scaled[name]

    def _step_by_kernel(
        self, steps: Mapping[str, tuple[float, float]], ders: Mapping[str, Tensor], size: int
    ) -> bool:
        """Step parameters, of given rates and decays, in one kernel; False where none serves."""
        is_clipped = self.options.clip_value is not None or self.options.clip_norm is not None
        values, own = [_value(self.params[p]) for p in steps], [ders[p] for p in steps]
        if self.solver is not sgd or is_clipped or not steps or not self._serves(own, values):
            return False
        for p, value in zip(steps, values, strict=True):
            self.state[p] = memory(self.state.get(p, 0), value)
        rates, decays = zip(*steps.values(), strict=True)
        velocities = [self.state[p] for p in steps]
        self._sgd(values, velocities, own, rates, decays, size, self.solver_opts)
        return True

    def _step_by_torch(
        self, steps: Mapping[str, tuple[float, float]], ders: Mapping[str, Tensor], size: int
    ) -> None:
        """Step parameters, of given rates and decays, with the solver."""
        groups = defaultdict[tuple[float, float, torch.dtype], list[str]](list)
        for name, (rate, decay) in steps.items():
            groups[rate, decay, _value(self.params[name]).dtype].append(name)
            torch.div(ders[name], size, out=self._scaled(name))
        self._clip([self.scaled[name] for names in groups.values() for name in names])
        for (rate, decay, _), names in groups.items():
            self._step(names, rate, decay)

    def _clip(self, ders: list[Tensor]) -> None:
        if self.options.clip_value is not None:
            clip_value(ders, self.options.clip_value)
        if self.options.clip_norm is not None:
            clip_norm(ders, self.options.clip_norm)

    def _step(self, names: list[str], rate: float, decay: float) -> None:
        """Step parameters of one type, rate and decay along their scaled derivatives."""
        if self.solver in SOLVERS_MANY:
            states = SOLVERS_MANY[self.solver](
                [_value(self.params[name]) for name in names],
                [self.state.get(name, 0) for name in names],
                [self.scaled[name] for name in names],
                self.solver_opts, rate, decay,
            )  # fmt: skip
            self.state.update(zip(names, states, strict=True))
            return
        for name in names:
            value = _value(self.params[name])
            g = self.scaled[name] + decay * value
            new, self.state[name] = self.solver(
                value, self.state.get(name, 0), g, self.solver_opts, rate
            )
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
