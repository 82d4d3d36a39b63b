"""An exponential moving average of the parameters: often a better network than the last one."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from matconvnet.nets.network import Network

kernels: Any = torch  # whose _foreach functions are not known to type checkers

HALF_TYPES = (torch.float16, torch.bfloat16)


class WeightAverage:
    """The average of all parameters of a network over its last updates.

        a = d_t * a + (1 - d_t) * w,  d_t = min(decay, (1 + t) / (10 + t)),  t = 0, 1, ...

    after update t; the first w starts it. The small d_t of the first updates let it forget the
    initial weights quickly. Moments of batch normalisation are averaged as well: the mean of a
    layer's output is linear in its weights, so the average of the means is that of the averaged
    layer, while the newest moments belong to the newest weights alone.

    Averages of half types are held in float32, whose digits a decay near 1 needs.

    Args:
        decay: 0..1, such as 0.999: the average looks back about 1 / (1 - decay) updates.

    Raises: ValueError, if the decay is out of range.
    """

    def __init__(self, decay: float):
        if not 0 <= decay < 1:
            raise ValueError(f"average is {decay!r}; wanted a decay from 0 to below 1")
        self.decay = decay
        self.count = 0
        self.values: dict[str, Tensor] = {}

    def update(self, net: Network) -> None:
        """Add the parameters of `net`, after an update of them."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self.count += 1
        ours: list[Tensor] = []
        theirs: list[Tensor] = []
        for name, value in _values(net).items():
            if name not in self.values:
                self.values[name] = value.to(_wide(value), copy=True)
            else:
                ours.append(self.values[name])
                theirs.append(value.to(_wide(value)))
        if ours:
            kernels._foreach_lerp_(ours, theirs, 1 - decay)

    @contextmanager
    def swapped(self, net: Network) -> Iterator[None]:
        """Give `net` the averages, and its own parameters back at the end.

        The tensors change places, none is copied (but for half types); not to be trained meanwhile.
        """
        own = {name: value for name, value in _values(net).items() if name in self.values}
        try:
            for name, value in own.items():
                net.params[name].value = self.values[name].to(value.dtype)
            yield
        finally:
            for name, value in own.items():
                net.params[name].value = value

    def give(self, net: Network) -> None:
        """Give `net` the averages for good."""
        for name, value in _values(net).items():
            if name in self.values:
                net.params[name].value = self.values[name].to(value.dtype, copy=True)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: `count`, updates so far, and `values`, averages by parameter."""
        return {"count": self.count, "values": dict(self.values)}

    def restore(self, state: Mapping[str, Any], net: Network) -> None:
        """Take up a state, on the device and in the strides of the parameters of `net`.

        Raises: ValueError, if an average has another shape than its parameter.
        """
        self.count, self.values = int(state["count"]), {}
        values = _values(net)
        for name, kept in state["values"].items():
            if name not in values:
                continue
            value = values[name]
            if kept.shape != value.shape:
                found, wanted = tuple(kept.shape), tuple(value.shape)
                raise ValueError(f"average of {name!r} has shape {found}; wanted {wanted}")
            self.values[name] = torch.empty_like(value, dtype=_wide(value)).copy_(kept)


def _values(net: Network) -> dict[str, Tensor]:
    return {name: value for name, value in net.values().items() if value is not None}


def _wide(value: Tensor) -> torch.dtype:
    return torch.float32 if value.dtype in HALF_TYPES else value.dtype
