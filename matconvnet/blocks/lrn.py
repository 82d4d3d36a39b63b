"""Local response normalisation (LRN): every pixel is divided by the energy of nearby channels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map, check_projection
from matconvnet.layer import Elementwise
from matconvnet.layout import array_api, from_pixels, pixels
from matconvnet.window import integers, numbers

# On the CPU the pixels are processed in strips that stay in the cache: one pass over memory in
# place of a dozen. On a GPU one strip is best, its bandwidth hides the passes.
STRIP = 1 << 17
"""Elements a strip."""


@array_api
def lrn(x: Tensor, param: Sequence[float] = (5, 1, 0.0001 / 5, 0.75)) -> Tensor:
    """Divide every element by a power of the energy in a window of channels around it.

        L[d] = kappa + alpha * sum over q in Q(d) of x[q]^2
        y[d] = x[d] * L[d]^(-beta)
        Q(d) = channels d - floor((n-1)/2) ... d + ceil((n-1)/2), clipped to the map

    alpha is not divided by n (Caffe and torch divide). Where L = 0 the result is 0.

    Args:
        x: H x W x C x N map of floats.
        param: (n, kappa, alpha, beta); n >= 1 is the number of channels in a window.

    Returns: H x W x C x N.
    Raises: ValueError, if `param` is not four finite numbers or n is no whole number >= 1.
    Source: vl_nnnormalize; Krizhevsky et al. 2012, section 3.3.
    """
    x4, p = check_map(x), parse(param)
    rows = pixels(x4)
    out = torch.empty_like(rows)
    for strip in _strips(rows):
        a = rows[strip].to(acc_dtype(x))
        out[strip] = _power(_energy(a, p), p).mul_(a)
    return from_pixels(out, x4.shape[0], x4.shape[1], x4.shape[3])


@array_api
def lrn_backward(
    x: Tensor, dzdy: Tensor, param: Sequence[float] = (5, 1, 0.0001 / 5, 0.75)
) -> Tensor:
    """Derivative of `lrn` projected on `dzdy`; returns the shape of `x`.

    dzdx[d] = dzdy[d] * L[d]^(-beta)
              - 2*alpha*beta * x[d] * sum over k with d in Q(k) of
                dzdy[k] * x[k] * L[k]^(-beta-1)
    """
    x4, p = check_map(x), parse(param)
    dzdy = check_projection(dzdy, x4.shape, x)
    rows, ders = pixels(x4), pixels(dzdy)
    out = torch.empty_like(rows)
    for strip in _strips(rows):
        a, g = rows[strip].to(acc_dtype(x)), ders[strip].to(acc_dtype(x))
        energy = _energy(a, p)
        scaled = _power(energy, p).mul_(g)
        weight = (scaled * a).div_(energy)
        if p.kappa <= 0:
            weight.masked_fill_(energy == 0, 0)
        spread = _window_sum(weight, p.above, p.below)
        out[strip] = scaled.addcmul_(a, spread, value=-2 * p.alpha * p.beta)
    return from_pixels(out, x4.shape[0], x4.shape[1], x4.shape[3]).reshape(x.shape)


class Param(NamedTuple):
    """The parameters of LRN; a window spans `below` channels before and `above` after its own."""

    below: int
    above: int
    kappa: float
    alpha: float
    beta: float


def parse(param: Sequence[float]) -> Param:
    """Check (n, kappa, alpha, beta)."""
    items = numbers(param, "param")
    if len(items) != 4:
        raise ValueError(f"param is {param!r}; wanted four numbers (n, kappa, alpha, beta)")
    if not all(abs(v) < float("inf") for v in items):
        raise ValueError(f"param is {param!r}; wanted finite numbers")
    (n,) = integers(items[0], "param[0], the window n,", (1,), 1)
    below = (n - 1) // 2
    return Param(below, n - 1 - below, *map(float, items[1:]))


def _strips(rows: Tensor) -> Iterator[slice]:
    count, channels = rows.shape
    if not isinstance(count, int):  # a symbol: torch.export traces
        return iter([slice(None)])
    step = max(STRIP // max(channels, 1), 1) if rows.device.type == "cpu" else max(count, 1)
    return (slice(start, start + step) for start in range(0, count, step))


def _energy(rows: Tensor, p: Param) -> Tensor:
    """L = kappa + alpha * windowed sum of squares; rows x C."""
    return _window_sum(rows * rows, p.below, p.above).mul_(p.alpha).add_(p.kappa)


def _window_sum(rows: Tensor, below: int, above: int) -> Tensor:
    """out[:, d] = sum of rows[:, d - below ... d + above], clipped to the channels."""
    channels = rows.shape[1]
    out = rows.clone()
    for o in range(1, min(below, channels - 1) + 1):
        out[:, o:] += rows[:, :-o]
    for o in range(1, min(above, channels - 1) + 1):
        out[:, :-o] += rows[:, o:]
    return out


def _power(energy: Tensor, p: Param) -> Tensor:
    """L ^ -beta, 0 where L is 0; roots in place of a power for the usual beta = 3/4."""
    if p.beta == 0.75:
        root = energy.rsqrt()
        power = root.sqrt() * root
    else:
        power = energy.pow(-p.beta)
    return power.masked_fill_(energy == 0, 0) if p.kappa <= 0 else power


@dataclass(frozen=True)
class LRN(Elementwise):
    """Layer form of `lrn`."""

    type_name, aliases = "normalize", ("lrn",)
    param: Sequence[float] = (5, 1, 0.0001 / 5, 0.75)

    def forward(self, inputs, params, ctx):
        """See `lrn`."""
        return (lrn(inputs[0], self.param),), None

    def backward(self, call, der_outputs):
        """See `lrn_backward`."""
        return (lrn_backward(call.inputs[0], der_outputs[0], self.param),), ()
