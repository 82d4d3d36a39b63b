"""Axis order and memory order: the only file that permutes tensors.

Maps are H x W x C x N and filter banks H x W x C x K to everybody. Torch kernels want N C H W
(K C H W); both are the same permutation, a view without a copy. In memory we prefer N H W C
("channels-last"), the order in which the CPU and GPU kernels are fastest.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])

PART = 1 << 18  # elements of a tensor that are rearranged at a time


def nchw(t: Tensor) -> Tensor:
    """View an H x W x C x N map (or H x W x C x K filters) as N x C x H x W."""
    return t.permute(3, 2, 0, 1)


def hwcn(t: Tensor) -> Tensor:
    """View an N x C x H x W tensor as H x W x C x N; undoes `nchw`."""
    return t.permute(2, 3, 1, 0)


def pixels(t: Tensor) -> Tensor:
    """View (or copy, if its memory is not channels-last) a map as rows of channels, N*H*W x C."""
    return t.permute(3, 0, 1, 2).reshape(-1, t.shape[2])


def from_pixels(rows: Tensor, height: int, width: int, number: int) -> Tensor:
    """View N*H*W x C rows as an H x W x C x N map; undoes `pixels`."""
    return rows.reshape(number, height, width, rows.shape[1]).permute(1, 2, 3, 0)


def channels_last(t: Tensor) -> Tensor:
    """The same H x W x C x N tensor with memory in the order N, H, W, C; a copy only if needed."""
    memory = nchw(t)
    if memory.is_contiguous(memory_format=torch.channels_last):
        return t
    return hwcn(memory.contiguous(memory_format=torch.channels_last))


def channels_last_(t: Tensor) -> Tensor:
    """`channels_last` of a tensor in column-major order, rearranged in the memory that it has."""
    h, w, c, k = t.shape
    if t.stride() != (1, h, h * w, h * w * c):
        return channels_last(t)
    memory = t.permute(3, 2, 1, 0)  # K C W H, contiguous
    for part in memory.split(max(1, PART // max(1, h * w * c))):
        part.copy_(part.permute(0, 3, 2, 1).contiguous().view(part.shape))
    return memory.view(k, h, w, c).permute(1, 2, 3, 0)


def channel_sums(t: Tensor) -> Tensor:
    """Sum over the pixels and images of an H x W x C x N map: C numbers.

    Torch sums rows of channels-last memory slowly where they do not fill its vectors of 16 (six
    times so for 20 channels); there the images are summed first, whose rows are long.
    """
    rows_are_odd = t.shape[2] % 16 and t.element_size() > 2  # half types want one long sum
    return t.sum(3).sum((0, 1)) if rows_are_odd else t.sum((0, 1, 3))


def empty_map(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An unwritten tensor on the device of `like`; of four axes, in channels-last memory."""
    if len(shape) != 4:
        return like.new_empty(tuple(shape), dtype=dtype)
    h, w, c, n = shape
    return like.new_empty((n, h, w, c), dtype=dtype).permute(1, 2, 3, 0)


def as4d(t: Tensor, name: str) -> Tensor:
    """Read a tensor of 1 to 4 axes as H x W x C x N, with axes of size 1 added on the right.

    Raises: ValueError, if it has no axis or more than four.
    """
    if t.dim() == 4:
        return t
    if not 1 <= t.dim() < 4:
        raise ValueError(f"{name} has shape {tuple(t.shape)}; wanted 1 to 4 axes, H x W x C x N")
    return t.reshape(t.shape + (1,) * (4 - t.dim()))


def to_tensor(a: Any) -> Any:
    """A tensor that shares the memory of the array `a` where NumPy's strides allow it."""
    if isinstance(a, np.generic):
        a = np.asarray(a)
    if not isinstance(a, np.ndarray):
        return a
    if not a.flags.writeable or any(s < 0 for s in a.strides) or not a.dtype.isnative:
        a = a.astype(a.dtype.newbyteorder("="), order="K", copy=True)
    return torch.from_numpy(a)


def to_numpy(t: Any) -> Any:
    """The NumPy array of a tensor (bfloat16, which NumPy lacks, becomes float32)."""
    if not isinstance(t, Tensor):
        return t
    t = t.detach().cpu()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy()


def map_arrays(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Apply `convert` to every array in nested lists and tuples."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(map_arrays(v, convert) for v in value)
    if isinstance(value, list):
        return [map_arrays(v, convert) for v in value]
    return convert(value)


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    """The tensors and arrays among the values, in order."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        elif isinstance(value, (Tensor, np.ndarray)):
            yield value


def has_array(values: Iterable[Any]) -> bool:
    """True, if there is a NumPy array among the values, or in lists and tuples among them."""
    for value in values:
        kind = type(value)
        if kind is not Tensor and kind is not int:  # the usual ones, told quickly
            if isinstance(value, np.ndarray):
                return True
            if isinstance(value, (list, tuple)) and has_array(value):
                return True
    return False


def array_api(function: F) -> F:
    """Let a function of tensors take NumPy arrays; its first argument tells the kind of answer."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not (has_array(args) or has_array(kwargs.values())):
            return function(*args, **kwargs)
        in_torch = isinstance(next(_leaves([*args, *kwargs.values()]), None), Tensor)
        args = tuple(map_arrays(a, to_tensor) for a in args)
        kwargs = {k: map_arrays(v, to_tensor) for k, v in kwargs.items()}
        answer = function(*args, **kwargs)
        return answer if in_torch else map_arrays(answer, to_numpy)

    return cast(F, wrapper)
