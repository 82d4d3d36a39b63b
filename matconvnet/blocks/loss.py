"""Losses: one number that compares the scores of all pixels with their labels; ten kinds."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matconvnet.blocks._checks import acc_dtype, check_map
from matconvnet.blocks._loss_kinds import KINDS, Kind
from matconvnet.blocks._math import (
    check_labels,
    check_scalar_projection,
    check_weights,
    number,
)
from matconvnet.layer import Layer, Tensors
from matconvnet.layout import array_api, as4d, from_pixels, pixels
from matconvnet.window import integers


@array_api
def loss(
    x: Tensor,
    c: Tensor,
    *,
    loss: str = "softmaxlog",
    instance_weights: Tensor | float | None = None,
    threshold: float = 0.0,
    top_k: int = 5,
) -> Tensor:
    """Compare the scores `x` with the labels `c`; the sum over all labels, never a mean.

        y = sum over labels of w * t,  w = instance_weights (or 1), no term for ignored labels

    With x_c the score of the labelled class, [condition] = 1 or 0, per pixel and image,

        classerror   t = [argmax_d x_d != c], the first class among equal maxima
        topkerror    t = [c is not among the top_k best], equal scores ranked by class
        log          t = -log x_c
        softmaxlog   t = log(sum_d exp x_d) - x_c
        mhinge       t = max(0, 1 - x_c)
        mshinge      t = max(0, 1 - x_c + max_{d != c} x_d)

    and for attributes, where every score x has a label c = +1 or -1 of its own,

        binaryerror  t = [sign(x - threshold) != c]
        binarylog    t = -log(c * (x - 0.5) + 0.5)
        logistic     t = log(1 + exp(-c * x))
        hinge        t = max(0, 1 - c * x)

    Args:
        x: H x W x D x N map of floats.
        c: labels of any numeric type. Classes 0..D-1, -1 = ignore: H x W x 1 x N, or N elements
            in any shape, one per image; or mixtures, H x W x 2M x N (or 1 x 1 x 2M x N, one per
            image), whose channels alternate a class and its weight: each pair is a label of its
            own. M = 1, a weighted label, serves all kinds of classes; M > 1 those from classerror
            to softmaxlog. Attributes +1 and -1, 0 = ignore: H x W x D x N, or N elements if D = 1.
        loss: kind, one of the above in lower or upper case.
        instance_weights: one weight per label: a number, or a tensor that broadcasts to
            H x W x 1 x N (classes) or H x W x D x N (attributes).
        threshold: score above which "binaryerror" predicts +1.
        top_k: number of guesses that "topkerror" allows, 1..D.

    Returns: one number (no axes), of the type of `x`.

    Raises:
        TypeError: types or devices differ.
        ValueError: an unknown kind; labels or weights of another shape; labels out of range or
            fractional; `top_k` out of range.

    Source: vl_nnloss; MatConvNet manual, "Losses and comparisons".
    """
    return total(pose(x, c, loss, instance_weights, threshold, top_k), x)


@array_api
def loss_backward(
    x: Tensor,
    c: Tensor,
    dzdy: Tensor | float,
    *,
    loss: str = "softmaxlog",
    instance_weights: Tensor | float | None = None,
    threshold: float = 0.0,
    top_k: int = 5,
) -> Tensor:
    """Derivative of `loss` projected on `dzdy` (one number); returns the shape of `x`.

    dzdx is 0 but for, with w = dzdy * instance_weights and only where the label is not ignored,

        log          dzdx_c = -w / max(x_c, 1e-8)
        softmaxlog   dzdx_d = w * (softmax(x)_d - [d = c])
        mhinge       dzdx_c = -w                  if x_c < 1
        mshinge      dzdx_c = -w, dzdx_q = w      if x_c - x_q < 1, q the first best class but c
        binarylog    dzdx = -w / (x + (c - 1) / 2)
        logistic     dzdx = -w * c / (1 + exp(c * x))
        hinge        dzdx = -w * c                if c * x < 1

    The errors are constant almost everywhere: their derivative is 0. That of a mixture is the sum
    over its pairs.

    Raises: as `loss`; ValueError, if `dzdy` is not one number.
    Source: vl_nnloss.
    """
    return slope(pose(x, c, loss, instance_weights, threshold, top_k), x, dzdy)


def total(p: "Problem", x: Tensor) -> Tensor:
    """The value of `loss`."""
    t = p.kind.value(p.rows, p.labels, *p.options).to(p.rows.dtype)
    if p.weights is not None:
        t = t * p.weights
    if p.ignored is not None:
        t = t.masked_fill(p.ignored, 0)
    return t.sum().to(x.dtype)


def slope(p: "Problem", x: Tensor, dzdy: Tensor | float) -> Tensor:
    """The derivative of `loss`."""
    w = check_scalar_projection(dzdy, x)
    if p.kind.slope is None or x.numel() == 0:
        return torch.zeros_like(x)
    if p.labels.shape[1] > 1 and p.kind.mixed_slope is not None:
        assert p.weights is not None
        assert p.ignored is not None
        d = p.kind.mixed_slope(p.rows, p.labels, w * p.weights.masked_fill(p.ignored, 0))
        d.masked_fill_(p.ignored.all(1, keepdim=True), 0)
    else:
        d = p.kind.slope(p.rows, p.labels)
        d.mul_(w if p.weights is None else w * p.weights)
        if p.ignored is not None:
            d.masked_fill_(p.ignored, 0)
    h, width, _, n = p.shape
    return from_pixels(d, h, width, n).to(x.dtype).reshape(x.shape)


class Problem(NamedTuple):
    """The arguments of a loss, checked, as the rows that `_loss_kinds` works on.

    labels: R x 1, R x D (attributes) or R x M (mixtures). ignored: where labels are to be ignored;
    None: nowhere.
    """

    kind: Kind
    options: tuple[float, ...]
    shape: torch.Size
    rows: Tensor
    labels: Tensor
    ignored: Tensor | None
    weights: Tensor | None


def pose(
    x: Tensor,
    c: Tensor,
    loss: str = "softmaxlog",
    instance_weights: Tensor | float | None = None,
    threshold: float = 0.0,
    top_k: int = 5,
    all_negative_ignored: bool = False,
) -> Problem:
    """Check the arguments of `loss`; classes below -1 are errors unless `all_negative_ignored`."""
    name = loss.lower() if isinstance(loss, str) else loss
    if name not in KINDS:
        raise ValueError(f"loss is {loss!r}; wanted one of {', '.join(KINDS)}")
    kind, x4 = KINDS[name], check_map(x)
    h, w, d, n = x4.shape
    options = {
        "threshold": number(threshold, "threshold"),
        "top_k": integers(top_k, "top_k", (1,), 1)[0],
    }
    if name == "topkerror" and options["top_k"] > d:
        raise ValueError(f"top_k is {top_k}, x has {d} classes; wanted at most {d}")
    rows = pixels(x4).to(acc_dtype(x))
    pair_weights = None
    if kind.is_attribute:
        channels, (labels, _) = d, check_labels(c, x, -1, 1, "0 = ignore")
        labels = _rows_of(labels.to(rows.dtype), x4, channels)
        ignored = labels == 0
    else:
        least, hint = (
            (-math.inf, "below 0 = ignore") if all_negative_ignored else (-1, "-1 = ignore")
        )
        c, pair_weights = _split(c, x4, name)
        channels = 1 if pair_weights is None else pair_weights.shape[2]
        labels, lowest = check_labels(c, x, least, d - 1, hint)
        if all_negative_ignored:
            labels = labels.clamp(min=-1)
        labels = _rows_of(labels, x4, channels)
        ignored = None if lowest is not None and lowest >= 0 else labels < 0
    weights = check_weights(instance_weights, (h, w, channels if kind.is_attribute else 1, n), x)
    if pair_weights is not None:
        pair_weights = pair_weights.to(acc_dtype(x))
        weights = pair_weights if weights is None else weights * pair_weights
    if weights is not None:
        weights = pixels(weights.expand(h, w, weights.shape[2], n))
    if channels > 1 and not kind.is_attribute:
        ignored = (labels < 0) | (weights == 0)  # no 0 * inf where a class has no weight
    wanted = () if kind.option is None else (options[kind.option],)
    return Problem(kind, wanted, x4.shape, rows, labels, ignored, weights)


def _split(c: Tensor, x: Tensor, kind: str) -> tuple[Tensor, Tensor | None]:
    """Classes and weights of labels that are pairs of channels; other labels, and None."""
    if not isinstance(c, Tensor) or c.is_complex() or c.numel() == x.shape[3] or c.dim() == 0:
        return c, None
    c4 = as4d(c, "c")
    pairs, odd = divmod(c4.shape[2], 2)
    if odd or c4.shape[3] != x.shape[3] or c4.shape[:2] not in (x.shape[:2], (1, 1)):
        return c, None
    if pairs > 1 and not KINDS[kind].takes_mixtures:
        names = ", ".join(name for name, k in KINDS.items() if k.takes_mixtures)
        raise ValueError(
            f"c has {c4.shape[2]} channels, mixtures of classes and weights, and loss is {kind!r}; "
            f"wanted one of {names}"
        )
    return c4[:, :, ::2], c4[:, :, 1::2].to(x.dtype)


def _rows_of(c: Tensor, x: Tensor, channels: int) -> Tensor:
    """Labels as N*H*W rows of `channels`, whether they are given per image or per score."""
    h, w, _, n = x.shape
    if channels > 1 and c.shape == (1, 1, channels, n):
        c = c.expand(h, w, channels, n)
    if c.numel() == n and channels == 1:
        per_image = c if c.dim() == 1 else c.permute(tuple(reversed(range(c.dim())))).reshape(n)
        return per_image[:, None].expand(n, h * w).reshape(-1, 1)
    wanted = (h, w, channels, n)
    if c.dim() == 0 or as4d(c, "c").shape != wanted:
        each = f", or {n} elements, one per image, or pairs of channels" if channels == 1 else ""
        raise ValueError(f"c has shape {tuple(c.shape)}; wanted {wanted}{each}")
    return pixels(as4d(c, "c"))


@dataclass(frozen=True)
class Objective(Layer):
    """A layer that compares its first input with targets: no receptive field, often one number."""

    label_inputs, is_loss = 1, True

    def arguments(self, inputs: Tensors) -> tuple[Any, Any, Any]:
        """Two or three inputs as x, its labels or targets, and instance weights or None."""
        if len(inputs) not in (2, 3):
            raise ValueError(
                f"{type(self).__name__} has {len(inputs)} inputs; wanted x, its labels or targets, "
                "and instance weights if there are any"
            )
        x, c, weights = (*inputs, None)[:3]
        return x, c, weights

    def output_sizes(self, sizes, param_shapes):
        """One number."""
        return ((1, 1, 1, 1),)

    def receptive_field(self, param_shapes):
        """None: the value depends on everything."""


@dataclass(frozen=True)
class Regression(Objective):
    """An objective whose targets are a map of floats, with a derivative of their own."""


@dataclass(frozen=True)
class Loss(Objective):
    """Layer form of `loss`. Inputs: scores, labels, and instance weights if there are any."""

    type_name = "loss"
    struct_names = {"loss": None, "threshold": None, "top_k": None}  # noqa: RUF012
    dag_names = {"threshold": None, "top_k": None}  # noqa: RUF012
    loss: str = "softmaxlog"
    threshold: float = 0.0
    top_k: int = 5

    @property
    def is_error(self) -> bool:
        """True for losses that count mistakes: they have no derivative."""
        kind = KINDS.get(str(self.loss).lower())
        return kind is not None and kind.slope is None

    def forward(self, inputs, params, ctx):
        """See `loss`."""
        problem = self._pose(inputs)
        return (total(problem, inputs[0]),), problem

    def backward(self, call, der_outputs):
        """See `loss_backward`; labels and weights have no derivative."""
        problem = call.saved or self._pose(call.inputs)
        dzdx = slope(problem, call.inputs[0], der_outputs[0])
        return (dzdx, *(None for _ in call.inputs[1:])), ()

    def _pose(self, inputs) -> Problem:
        x, c, weights = self.arguments(inputs)
        return pose(x, c, self.loss, weights, self.threshold, self.top_k)
