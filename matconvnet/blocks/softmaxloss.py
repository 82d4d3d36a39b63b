"""Softmax and log loss in one, the form of old models: labels may carry their weights."""

from dataclasses import dataclass

from torch import Tensor

from matconvnet.blocks.loss import Objective, pose, slope, total
from matconvnet.layout import array_api


@array_api
def softmaxloss(x: Tensor, c: Tensor) -> Tensor:
    """Sum of the log losses of softmax(x): `loss` of kind "softmaxlog", but for the labels.

        y = sum over i,j,n of w * (log(sum_d exp x_d) - x_c)

    Args:
        x: H x W x D x N map of floats.
        c: classes 0..D-1, of any numeric type; all negative ones are ignored. N elements in any
            shape, or 1 x 1 x 1 x N (one per image), or H x W x 1 x N. A second channel,
            1 x 1 x 2 x N or H x W x 2 x N, holds the weights w; 2M channels are mixtures, as in
            `loss`.

    Returns: one number (no axes), of the type of `x`.
    Raises: as `loss`.
    Source: vl_nnsoftmaxloss (deprecated there).
    """
    return total(pose(x, c, all_negative_ignored=True), x)


@array_api
def softmaxloss_backward(x: Tensor, c: Tensor, dzdy: Tensor | float) -> Tensor:
    """Derivative of `softmaxloss` projected on `dzdy` (one number); returns the shape of `x`.

        dzdx_d = dzdy * w * (softmax(x)_d - [d = c])

    Raises: as `loss_backward`.
    Source: vl_nnsoftmaxloss.
    """
    return slope(pose(x, c, all_negative_ignored=True), x, dzdy)


@dataclass(frozen=True)
class SoftmaxLoss(Objective):
    """Layer form of `softmaxloss`. Inputs: scores and labels."""

    type_name = "softmaxloss"

    def forward(self, inputs, params, ctx):
        """See `softmaxloss`."""
        problem = pose(*inputs, all_negative_ignored=True)
        return (total(problem, inputs[0]),), problem

    def backward(self, call, der_outputs):
        """See `softmaxloss_backward`; labels have no derivative."""
        problem = call.saved or pose(*call.inputs, all_negative_ignored=True)
        return (slope(problem, call.inputs[0], der_outputs[0]), None), ()
