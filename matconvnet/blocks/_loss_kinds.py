"""The ten kinds of `loss`: the value of each label's term, and its slope.

Everything works on rows: x is R x D, one row of scores per pixel. Labels c are R x 1 int64, the
class from 0 (negative: ignored, whatever comes out); or, for attributes, R x D of the type of x.
A value has the shape of c, a slope (the derivative of the value) the shape of x.

Some kinds take mixtures, labels of R x M classes: their value has that shape; the slope is that of
the sum of the values times weights w, R x M, and one class may occur several times in a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def _class_error(x: Tensor, c: Tensor) -> Tensor:
    return x.argmax(1, keepdim=True) != c


def _top_k_error(x: Tensor, c: Tensor, top_k: int) -> Tensor:
    score = _labelled(x, c)
    if c.shape[1] > 1:
        order = x.argsort(dim=1, descending=True, stable=True)
        places = torch.arange(x.shape[1], device=x.device).expand(x.shape)
        ranks = torch.empty_like(order).scatter_(1, order, places)
        return (_labelled(ranks, c) >= top_k) | score.isnan()
    not_before = torch.arange(x.shape[1], device=x.device) >= c
    behind = (x < score) | ((x == score) & not_before)  # c itself and all that rank after it
    return behind.sum(1, keepdim=True) <= x.shape[1] - top_k


def _log(x: Tensor, c: Tensor) -> Tensor:
    return -_labelled(x, c).log()


def _log_slope(x: Tensor, c: Tensor) -> Tensor:
    return _at_label(x, c, -1 / _labelled(x, c).clamp(min=1e-8))


def _log_mixed_slope(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
    return _add_at_labels(torch.zeros_like(x), c, -w / _labelled(x, c).clamp(min=1e-8))


def _softmax_log(x: Tensor, c: Tensor) -> Tensor:
    if c.shape[1] > 1:
        return x.logsumexp(1, keepdim=True) - _labelled(x, c)
    return F.cross_entropy(x, c[:, 0], ignore_index=-1, reduction="none")[:, None]


def _softmax_log_slope(x: Tensor, c: Tensor) -> Tensor:
    y = torch.softmax(x, 1)
    return y.scatter_add_(1, c.clamp(min=0), y.new_full((), -1).expand(c.shape))


def _softmax_log_mixed_slope(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
    return _add_at_labels(torch.softmax(x, 1).mul_(w.sum(1, keepdim=True)), c, -w)


def _hinge_of_class(x: Tensor, c: Tensor) -> Tensor:
    return (1 - _labelled(x, c)).clamp(min=0)


def _hinge_of_class_slope(x: Tensor, c: Tensor) -> Tensor:
    return _at_label(x, c, -(_labelled(x, c) < 1).to(x.dtype))


def _structured_hinge(x: Tensor, c: Tensor) -> Tensor:
    best, _ = _best_other(x, c)
    return (1 - _labelled(x, c) + best).clamp(min=0)


def _structured_hinge_slope(x: Tensor, c: Tensor) -> Tensor:
    best, q = _best_other(x, c)
    active = (_labelled(x, c) - best < 1).to(x.dtype)
    return _at_label(x, c, -active).scatter_add_(1, q, active)


def _binary_error(x: Tensor, c: Tensor, threshold: float) -> Tensor:
    return torch.sign(x - threshold) != c


def _binary_log(x: Tensor, c: Tensor) -> Tensor:
    return -(c * (x - 0.5) + 0.5).log()


def _binary_log_slope(x: Tensor, c: Tensor) -> Tensor:
    return -1 / (x + (c - 1) / 2)


def _logistic(x: Tensor, c: Tensor) -> Tensor:
    return -F.logsigmoid(c * x)


def _logistic_slope(x: Tensor, c: Tensor) -> Tensor:
    return -c * torch.sigmoid(-c * x)


def _hinge(x: Tensor, c: Tensor) -> Tensor:
    return (1 - c * x).clamp(min=0)


def _hinge_slope(x: Tensor, c: Tensor) -> Tensor:
    return -c * (c * x < 1)


def _labelled(x: Tensor, c: Tensor) -> Tensor:
    """Scores of the labelled classes, in the shape of c."""
    return x.gather(1, c.clamp(min=0))


def _at_label(x: Tensor, c: Tensor, value: Tensor) -> Tensor:
    """`value` (R x 1) at the labelled class, 0 at the others."""
    return torch.zeros_like(x).scatter_(1, c.clamp(min=0), value)


def _add_at_labels(y: Tensor, c: Tensor, value: Tensor) -> Tensor:
    """Add `value` (R x M) to `y` at the labelled classes, in place."""
    return y.scatter_add_(1, c.clamp(min=0), value)


def _best_other(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Best score among the classes but c, and the first class that has it; -inf if D = 1."""
    others = x.scatter(1, c.clamp(min=0), float("-inf"))
    q = others.argmax(1, keepdim=True)
    return others.gather(1, q), q


class Kind(NamedTuple):
    """One kind of loss; no slope: constant almost everywhere.

    option: name of the option that `value` wants as third argument.
    """

    value: Callable[..., Tensor]
    slope: Callable[[Tensor, Tensor], Tensor] | None
    is_attribute: bool = False
    option: str | None = None
    takes_mixtures: bool = False
    mixed_slope: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None


KINDS = {
    "classerror": Kind(_class_error, None, takes_mixtures=True),
    "topkerror": Kind(_top_k_error, None, option="top_k", takes_mixtures=True),
    "log": Kind(_log, _log_slope, takes_mixtures=True, mixed_slope=_log_mixed_slope),
    "softmaxlog": Kind(
        _softmax_log,
        _softmax_log_slope,
        takes_mixtures=True,
        mixed_slope=_softmax_log_mixed_slope,
    ),
    "mhinge": Kind(_hinge_of_class, _hinge_of_class_slope),
    "mshinge": Kind(_structured_hinge, _structured_hinge_slope),
    "binaryerror": Kind(_binary_error, None, is_attribute=True, option="threshold"),
    "binarylog": Kind(_binary_log, _binary_log_slope, is_attribute=True),
    "logistic": Kind(_logistic, _logistic_slope, is_attribute=True),
    "hinge": Kind(_hinge, _hinge_slope, is_attribute=True),
}
