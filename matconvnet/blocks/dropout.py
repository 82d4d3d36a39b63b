"""Dropout: zero a random share of the elements, scale the others so that the mean stays."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_float, check_projection, check_same
from matconvnet.blocks._math import number
from matconvnet.layer import Elementwise
from matconvnet.layout import array_api, empty_map


@array_api
def dropout(
    x: Tensor,
    *,
    rate: float = 0.5,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Multiply `x` by a random mask of zeros and 1 / (1 - rate).

        y = mask * x,  mask = 0 with probability `rate`, else 1 / (1 - rate)

    Args:
        x: floats, any shape.
        rate: share of the elements to drop, 0..1; 1 drops everything.
        mask: a mask to use again, shape of `x`; `rate` has then no effect.
        generator: where the random numbers come from; None: the global generator of torch.

    Returns: (y, mask), both with the shape and type of `x`.
    Raises: ValueError, if `rate` is not in 0..1 or `mask` has not the shape of `x`.
    Source: vl_nndropout.
    """
    check_float(x, "x")
    if mask is None:
        mask = Kept.draw(x, rate, generator).mask()
    check_same(x, mask=mask)
    if mask.shape != x.shape:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; wanted the shape of x, {tuple(x.shape)}"
        )
    return mask * x, mask


@array_api
def dropout_backward(dzdy: Tensor, mask: Tensor) -> Tensor:
    """Derivative of `dropout` projected on `dzdy`, with the mask that the forward pass returned.

        dzdx = mask * dzdy

    Raises: ValueError, if there is no mask or it has not the shape of `dzdy`.
    Source: vl_nndropout.
    """
    if mask is None:
        raise ValueError("mask is None; wanted the mask that dropout returned")
    check_float(dzdy, "dzdy")
    check_float(mask, "mask")
    return mask * check_projection(dzdy, mask.shape, mask)


def _check_rate(rate: float) -> float:
    rate = number(rate, "rate")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}; wanted a number from 0 to 1")
    return rate


class Kept(NamedTuple):
    """A mask in one byte an element: which elements are kept; they are multiplied by `scale`."""

    elements: Tensor
    scale: float
    dtype: torch.dtype

    @classmethod
    def draw(cls, x: Tensor, rate: float, generator: torch.Generator | None) -> Self:
        """A new mask for `x`; the same for every memory order of it."""
        rate = _check_rate(rate)
        if rate == 1:
            return cls(torch.zeros_like(x, dtype=torch.bool), 0.0, x.dtype)
        # On the CPU uniform_ and a comparison take a third of the time of bernoulli_.
        u = empty_map(x.shape, x, torch.float32).uniform_(generator=generator)
        return cls(u >= rate, 1 / (1 - rate), x.dtype)

    def mask(self) -> Tensor:
        """The mask as `dropout` returns it."""
        return self.elements.to(self.dtype).mul_(self.scale)


@dataclass(frozen=True)
class Dropout(Elementwise):
    """Layer form of `dropout`; in test mode the identity, both ways.

    It saves the mask in a byte an element (`Kept`), or the mask that it was given.

    mask: what every evaluation uses in place of a new mask. frozen: a DagNN that has evaluated the
    layer once goes on with the mask of that time; here it changes nothing.
    """

    type_name, dag_type = "dropout", "DropOut"
    needs, keeps_saved = frozenset(), True
    struct_names = {"frozen": None, "mask": None}  # noqa: RUF012
    dag_names = {"mask": None}  # noqa: RUF012
    rate: float = 0.5
    frozen: bool = False
    mask: Tensor | None = field(default=None, compare=False, repr=False)

    def forward(self, inputs, params, ctx):
        """See `dropout`; what makes the mask is saved."""
        if not ctx.training:
            return inputs[:1], None
        (x,) = inputs
        if self.mask is not None:
            y, mask = dropout(x, mask=self.mask)
            return (y,), mask
        check_float(x, "x")
        kept = Kept.draw(x, self.rate, ctx.generator)
        return (kept.mask().mul_(x),), kept

    def backward(self, call, der_outputs):
        """See `dropout_backward`."""
        if not call.ctx.training:
            return der_outputs[:1], ()
        return (dropout_backward(der_outputs[0], self.mask_of(call.saved)),), ()

    @staticmethod
    def mask_of(saved: Any) -> Any:
        """The mask of an evaluation, from what it saved."""
        return saved.mask() if isinstance(saved, Kept) else saved
