"""Softmax, and the losses of classes.

All maps are of one type, float32 or bfloat16; losses, and derivatives with respect to them, are
float32.
"""

from torch import Tensor

from matconvnet.fast.native import Call, of_maps


def softmaxlog_forward(x: Tensor, labels: Tensor, y: Tensor) -> list[Call]:
    """Write the sum over all labels c >= 0 of log(sum over d of exp x_d) - x_c.

    Args:
        x: H x W x D x N.
        labels: int64, dense: classes from 0, negative = ignored. N elements, one per image, or
            H x W x 1 x N in memory like a map. One beyond D - 1 makes y NaN.
        y: one number, written.

    Source: matconvnet.blocks.loss, kind "softmaxlog".
    """
    return [Call(of_maps("loss_softmaxlog", x), [x, labels, y], _rows(x, labels))]


def softmaxlog_backward(x: Tensor, labels: Tensor, dzdy: Tensor, dzdx: Tensor) -> list[Call]:
    """Write dzdy * (softmax(x)_d - [d = c]), 0 where the label c is ignored.

    Args: as `softmaxlog_forward`; dzdy is one number, dzdx has the shape of `x`, but not its
        memory.
    """
    return [Call(of_maps("loss_softmaxlog_backward", x), [x, labels, dzdy, dzdx], _rows(x, labels))]


def classerror(x: Tensor, labels: Tensor, y: Tensor) -> list[Call]:
    """Write how many labels are not the first class of the largest score.

    Args: as `softmaxlog_forward`.
    Source: matconvnet.blocks.loss, kind "classerror".
    """
    return [Call(of_maps("loss_classerror", x), [x, labels, y], _rows(x, labels))]


def topkerror(x: Tensor, labels: Tensor, k: int, y: Tensor) -> list[Call]:
    """Write how many labels are not among the `k` best classes, equal scores ranked by class.

    Args: as `softmaxlog_forward`.
    Source: matconvnet.blocks.loss, kind "topkerror".
    """
    return [Call(of_maps("loss_topkerror", x), [x, labels, y], [*_rows(x, labels), k])]


def softmax_forward(x: Tensor, y: Tensor) -> list[Call]:
    """Write the softmax over the channels of every pixel of `x` to `y`.

    Source: matconvnet.blocks.softmax.
    """
    h, w, classes, n = x.shape
    return [Call(of_maps("softmax", x), [x, y], [h * w * n, classes])]


def softmax_backward(y: Tensor, dzdy: Tensor, dzdx: Tensor) -> list[Call]:
    """Write y * (dzdy - sum over d of dzdy_d * y_d), y the softmax; dzdx may be `dzdy`."""
    h, w, classes, n = y.shape
    return [Call(of_maps("softmax_backward", y), [y, dzdy, dzdx], [h * w * n, classes])]


def _rows(x: Tensor, labels: Tensor) -> tuple[int, int, int]:
    """Rows, classes, and rows that a label is for."""
    h, w, classes, n = x.shape
    rows = h * w * n
    return rows, classes, rows // max(1, labels.numel())
