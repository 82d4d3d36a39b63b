"""The step of SGD over all parameters as one call of a kernel, prepared once."""

from collections.abc import Mapping, Sequence
from operator import is_not

import numpy as np
import torch
from torch import Tensor

from matconvnet.fast import update
from matconvnet.fast.native import Call, kernels

HEAD = 3
"""Scalars of the call before the rates and decays: momentum, nesterov_update, size."""


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
            (self._call,) = update.sgd(
                values, velocities, ders, rates=rates, decays=decays, size=size,
                momentum=options["momentum"], nesterov_update=bool(options["nesterov_update"]),
            )  # fmt: skip
        scalars = self._call.scalars
        scalars[:HEAD] = options["momentum"], options["nesterov_update"], size
        scalars[HEAD:] = np.stack((rates, decays), 1).ravel()
        self._call()


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
