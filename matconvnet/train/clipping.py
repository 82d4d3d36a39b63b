"""Limits on derivatives, against the rare batch whose step would spoil the parameters."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

kernels: Any = torch  # whose _foreach functions are not known to type checkers


def clip_norm(ders: Sequence[Tensor], max_norm: float) -> float:
    """Shorten all derivatives together, in place, to a length of at most `max_norm`.

        norm = sqrt(sum over all numbers g of all `ders` of g^2)
        g = g * max_norm / norm,  if norm > max_norm

    For the length not to depend on the batch size, `ders` are sums over the batch divided by its
    size; weight decay is added later. Moments of batch normalisation, whose "derivatives" are
    averages, do not belong to them. The order of the sums is fixed: equal derivatives have
    the same norm on every rank (of the same kind, with as many threads).

    Args:
        ders: tensors of any shapes, on one device; written to.
        max_norm: > 0.

    Returns: the norm before clipping; if it is not finite, `ders` are left alone.
    Raises: ValueError, if `max_norm` is not above 0.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_norm is {max_norm!r}; wanted a number above 0")
    if not ders:
        return 0.0
    norm = _norm(kernels._foreach_norm(list(ders), 2))
    if math.isinf(norm):  # squares beyond float32, perhaps
        norm = _norm([torch.linalg.vector_norm(der, dtype=torch.float64) for der in ders])
    if max_norm < norm < math.inf:
        kernels._foreach_mul_(list(ders), max_norm / norm)
    return norm


def clip_value(ders: Sequence[Tensor], limit: float) -> None:
    """Limit every number of the derivatives, in place; what is not a number stays so.

        g = min(max(g, -limit), limit)

    Args:
        ders: as in `clip_norm`; where both are wanted, the values are clipped first.
        limit: > 0.

    Raises: ValueError, if `limit` is not above 0.
    """
    if not limit > 0:
        raise ValueError(f"clip_value is {limit!r}; wanted a number above 0")
    if ders:
        kernels._foreach_clamp_min_(list(ders), -limit)
        kernels._foreach_clamp_max_(list(ders), limit)


def _norm(norms: Sequence[Tensor]) -> float:
    """The norm of all tensors together, from their norms."""
    return float(torch.linalg.vector_norm(torch.stack([n.double() for n in norms])))
