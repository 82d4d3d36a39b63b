"""What solvers share: memory for their states, and a step of one parameter by that of many."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten
kernels: Any = torch  # whose _foreach functions are not known to type checkers

Many = Callable[
    [Sequence[Tensor], Sequence[Any], Sequence[Tensor], Mapping[str, Any], float, float], list[Any]
]
"""A step of many parameters in place, `many(values, states, ders, options, lr, decay) -> states`.

values: parameters of one type, on one device, dense; written to. states: as many, of which 0 is
the first; their tensors are written to. ders: derivatives divided by the size of the batch, in the
strides of `values`; without decay, overwritten. decay: weight decay. What it returns are the new
states, in the memory of the old ones.
"""

FUSED_TYPES = (torch.float32, torch.float64)
"""What fused kernels take; torch's CPU kernels are wrong for half types (seen in torch 2.13)."""

PIECE = 1 << 16  # elements, of which a CPU works on some arrays at a time


def memory(kept: Any, value: Tensor) -> Tensor:
    """A part of a state as a tensor like `value`: `kept` itself, or what a number stands for."""
    if isinstance(kept, Tensor) and (kept.stride(), kept.dtype) == (value.stride(), value.dtype):
        return kept
    return torch.empty_like(value).copy_(torch.as_tensor(kept))


def add_decay(values: Sequence[Tensor], ders: Sequence[Tensor], decay: float) -> None:
    """Add decay * w to the derivatives, in place."""
    if decay:
        kernels._foreach_add_(list(ders), list(values), alpha=decay)


def pieces(*lists: Sequence[Tensor]) -> Iterator[list[list[Tensor]]]:
    """Dense tensors in pieces that stay in the cache of a CPU, or all at once on a GPU.

    What solvers compute in between then takes little memory. Each of `lists` has tensors of the
    same strides; each of those yielded, in turn, a list of flat views for each of them.
    """
    flats = [[flat(t) for t in tensors] for tensors in lists]
    if flats[0][0].device.type != "cpu":
        yield flats
        return
    for tensors in zip(*flats, strict=True):
        for parts in zip(*(t.split(PIECE) for t in tensors), strict=True):
            yield [[part] for part in parts]


def step_one(
    many: Many, value: Tensor, state: Any, der: Tensor, options: Mapping[str, Any], lr: float
) -> tuple[Tensor, Any]:
    """A step of one parameter that leaves its arguments alone."""
    new = value.clone()
    (state,) = many([new], [_copy(state)], [torch.empty_like(new).copy_(der)], options, lr, 0.0)
    return new, state


def flat(t: Tensor) -> Tensor:
    """The memory of a dense tensor in its own order."""
    reach = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    assert t.numel() in (0, reach + 1), f"strides {t.stride()} of {tuple(t.shape)} leave gaps"
    return t.as_strided((t.numel(),), (1,))


def _copy(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {key: _copy(part) for key, part in state.items()}
    return state.clone() if isinstance(state, Tensor) else state
