"""Local response normalisation by kernels: one pass over memory, forward and backward.

All maps are of one type, float32 or bfloat16, on the CPU, H W C N views of channels-last memory,
and stay where they are.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from matconvnet.blocks.lrn import parse
from matconvnet.fast.native import Call, lanes, of_maps

Scratch = Callable[[int], Tensor]

STRIP = 2048  # floats of a workspace that stays in the nearest cache
PARALLEL_WORTH = 1 << 14  # as in kernels/kernel.h


def forward(x: Tensor, y: Tensor, param: Sequence[float], scratch: Scratch) -> list[Call]:
    """Divide every element by a power of the energy around it, as the block `lrn` does.

        L[d] = kappa + alpha * sum over q in Q(d) of x[q]^2
        y[d] = x[d] * L[d]^(-beta),  0 where L[d] = 0

    Args:
        x: H x W x C x N map.
        y: shape of `x`, written; may be `x`.
        param: (n, kappa, alpha, beta).
        scratch: hands out workspace.

    Returns: one call.
    Raises: ValueError, if `param` is not four finite numbers or n is no whole number >= 1.
    Source: matconvnet.blocks.lrn.
    """
    numbers, scalars, floats = _plan(x, param)
    return [Call(of_maps("lrn_forward", x), (x, y, scratch(floats)), numbers, scalars)]


def backward(
    x: Tensor,
    dzdy: Tensor,
    dzdx: Tensor,
    param: Sequence[float],
    scratch: Scratch,
    *,
    mask: Tensor | None = None,
    add: bool = False,
) -> list[Call]:
    """Derivative of `forward` projected on `dzdy`; everything is computed again from `x`.

        dzdx[d] = dzdy[d] * L[d]^(-beta)
                  - 2*alpha*beta * x[d] * sum over k with d in Q(k) of
                    dzdy[k] * x[k] * L[k]^(-beta-1)

    Args:
        x: H x W x C x N map.
        dzdy: shape of `x`.
        dzdx: shape of `x`, written; may be `dzdy`, if `add` is false.
        param: (n, kappa, alpha, beta).
        scratch: hands out workspace.
        mask: shape of `x`; where it is <= 0 the derivative becomes 0.
        add: add to what `dzdx` holds, before the mask.

    Returns: one call.
    Raises: ValueError, as `forward`.
    Source: matconvnet.blocks.lrn.
    """
    numbers, scalars, floats = _plan(x, param)
    addresses = (x, dzdy, dzdx, mask, scratch(3 * floats))
    return [Call(of_maps("lrn_backward", x), addresses, (*numbers, int(add)), scalars)]


def _plan(x: Tensor, param: Sequence[float]) -> tuple[tuple[int, ...], tuple[float, ...], int]:
    """Numbers and scalars of the kernels, and the floats of one workspace for all parts."""
    p = parse(param)
    height, width, channels, batch = x.shape
    pixels = height * width * batch
    below, above = min(p.below, channels - 1), min(p.above, channels - 1)
    step, room = _whole(channels + max(below, above)), _whole(below)
    rows = min(max(STRIP // step, 1), pixels)
    size = room + rows * step + _whole(above)
    parts = min(torch.get_num_threads(), pixels) if x.numel() > PARALLEL_WORTH else 1
    numbers = (pixels, channels, below, above, parts, rows, step, room, size)
    return numbers, (p.kappa, p.alpha, p.beta), parts * size


def _whole(floats: int) -> int:
    """So many floats, in whole vectors."""
    return -(-floats // lanes()) * lanes()
