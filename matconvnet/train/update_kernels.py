"""The step of SGD by kernels: over all parameters at once, or within the backward pass."""

from collections.abc import Mapping, Sequence
from operator import is_not

import numpy as np
import torch
from torch import Tensor

from matconvnet.fast import update
from matconvnet.fast.native import Call, kernels
from matconvnet.fast.update import SGD_HEAD
from matconvnet.train.solvers._steps import flat


class KernelSgd:
    """`solvers.sgd` of many parameters with one kernel, where it serves.

    It serves float32 on the CPU, if derivatives lie in memory as their parameters do.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._call: Call | None = None

    def __call__(
        self,
        values: Sequence[Tensor],
        velocities: Sequence[Tensor],
        ders: Sequence[Tensor],
        rates: Sequence[float],
        decays: Sequence[float],
        size: float,
        options: Mapping[str, float],
    ) -> None:
        """Step along `ders` / `size` + decay * value, in place; see `fast.update.sgd`."""
        key = _addresses(values, velocities, ders)
        if key != self._key or self._call is None:
            self._key = key
            scalars = np.empty(SGD_HEAD + 2 * len(values))
            (self._call,) = update.sgd(values, velocities, ders, scalars)
        scalars = self._call.scalars
        scalars[:SGD_HEAD] = options["momentum"], options["nesterov_update"], size
        scalars[SGD_HEAD:] = np.stack((rates, decays), 1).ravel()
        self._call()


class SgdWithin:
    """`solvers.sgd`, and averages of moments, within the backward pass; see `fast.writer.Stepping`.

    A parameter steps as soon as its derivative is there, which lies in memory that others take
    next. From a number that is not finite on, no parameter changes any more.

    values, velocities: by parameter that follows its gradient; averages: values of the others.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        velocities: Mapping[str, Tensor],
        averages: Mapping[str, Tensor],
    ):
        self.values, self.velocities, self.averages = values, velocities, averages
        self._flag = torch.ones(1, dtype=torch.int64)
        self._steps = np.zeros((len(values), SGD_HEAD + 2))
        self._means = np.zeros((len(averages), 3))
        self._rows = dict(zip(values, self._steps, strict=True))
        self._rows.update(zip(averages, self._means, strict=True))

    def prepare(
        self,
        size: float,
        steps: Sequence[tuple[float, float]],
        averages: Sequence[tuple[float, int]],
        options: Mapping[str, float],
    ) -> None:
        """Set (rate, decay) and (rate, users) of every parameter, for a batch of so many images."""
        self._flag[0] = 1
        self._steps[:, :SGD_HEAD] = options["momentum"], options["nesterov_update"], size
        self._steps[:, SGD_HEAD:] = np.reshape(steps, (-1, 2))
        rates, users = np.reshape(averages, (-1, 2)).T
        self._means[:, 0] = size
        self._means[:, 1:] = np.stack((1 - rates, rates / users), 1)

    @property
    def is_finite(self) -> bool:
        """Whether all derivatives were, since `prepare`."""
        return bool(self._flag[0])

    def serves(self, p: str) -> bool:
        """See `Stepping`."""
        return p in self._rows

    def calls(self, p: str, der: Tensor, first: int) -> list[Call]:
        """See `Stepping`."""
        der, row, flag = flat(der), self._rows[p], self._flag

        def part(x: Tensor) -> Tensor:
            return flat(x)[first : first + der.numel()]

        if p in self.averages:
            steps = update.average([part(self.averages[p])], [der], row, flag)
        else:
            value, velocity = part(self.values[p]), part(self.velocities[p])
            steps = update.sgd([value], [velocity], [der], row, flag)
        return update.finite([der], flag) + steps


class KernelFinite:
    """Whether all of some derivatives are finite, in one reading of each."""

    def __init__(self) -> None:
        self._key: object = None
        self._call: Call | None = None
        self._flag = torch.ones(1, dtype=torch.int64)

    def __call__(self, ders: Sequence[Tensor]) -> bool:
        """True, if every number is finite."""
        key = _addresses(ders)
        if key != self._key or self._call is None:
            self._key = key
            (self._call,) = update.finite(ders, self._flag)
        self._flag[0] = 1
        self._call()
        return bool(self._flag[0])


class Served:
    """Whether there are kernels for given derivatives of given parameters; asked every batch."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._answer = False

    def __call__(self, ders: Sequence[Tensor], values: Sequence[Tensor]) -> bool:
        """True, if all are float32 on the CPU, and lie in memory alike."""
        tensors = [*ders, *values]
        if len(tensors) != len(self._tensors) or any(map(is_not, tensors, self._tensors)):
            self._tensors = tensors
            self._answer = kernels() is not None and all(
                t.dtype == v.dtype == torch.float32
                and t.device.type == v.device.type == "cpu"
                and t.stride() == v.stride()
                for t, v in zip(ders, values, strict=True)
            )
        return self._answer


def _addresses(*lists: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(t.data_ptr() for tensors in lists for t in tensors)
