"""What each layer of Caffe becomes: a table of functions that add it to an `Importer`."""

from collections.abc import Callable

from matconvnet.blocks import Dropout, Loss, ReLU, Sigmoid, Softmax
from matconvnet.errors import FormatError
from matconvnet.interop.caffe.checks import check_colours, inputs_of
from matconvnet.interop.caffe.data import database, dummy_data, input_layer, memory_data
from matconvnet.interop.caffe.filters import convolution, deconvolution, inner_product
from matconvnet.interop.caffe.importer import Importer
from matconvnet.interop.caffe.joining import concat, crop, eltwise, flatten, reshape
from matconvnet.interop.caffe.normalizing import batch_norm, lrn, scale
from matconvnet.interop.caffe.pooling import pooling, roi_pooling
from matconvnet.interop.caffe.wiring import Step


def relu(net: Importer, step: Step) -> None:
    """ReLU, with its slope below 0."""
    slope = step.options.relu_param.negative_slope
    if not slope >= 0:
        raise FormatError(f"its negative_slope is {slope}; wanted 0 or more")
    net.add(step, ReLU(slope), inputs_of(step, 1), step.outputs)


def sigmoid(net: Importer, step: Step) -> None:
    """Sigmoid."""
    net.add(step, Sigmoid(), inputs_of(step, 1), step.outputs)


def softmax(net: Importer, step: Step) -> None:
    """Softmax over channels."""
    _check_axis(step)
    net.add(step, Softmax(), inputs_of(step, 1), step.outputs)


def softmax_loss(net: Importer, step: Step) -> None:
    """SoftmaxWithLoss: the loss, here a sum; its second output, the scores, is a Softmax."""
    if net.options.remove_loss:
        return
    if len(step.inputs) != 2:
        raise FormatError(
            f"it has {len(step.inputs)} bottoms; wanted scores and labels, or remove_loss=True"
        )
    _check_axis(step)
    check_colours(net, step.inputs[:1], may_have=False)
    p = step.options
    if p.loss_param.has("ignore_label"):
        ignored = p.loss_param.ignore_label
        net.notes.append(f"layer {step.entry.name!r} ignores label {ignored}: here that is -1")
    if any(weight != 1 for weight in p.loss_weight):
        net.notes.append(
            f"layer {step.entry.name!r} has loss_weight {p.loss_weight}: here a derivative"
        )
    net.add(step, Loss(), step.inputs, step.outputs[:1])
    if len(step.outputs) > 1:
        net.add(step, Softmax(), step.inputs[:1], step.outputs[1:2], suffix="_prob")


def dropout(net: Importer, step: Step) -> None:
    """Dropout."""
    inputs = inputs_of(step, 1)
    if net.options.remove_dropout:
        net.skip(step)
    else:
        rate = step.options.dropout_param.dropout_ratio
        if not 0 <= rate < 1:
            raise FormatError(f"its dropout_ratio is {rate}; wanted less than 1")
        net.add(step, Dropout(rate), inputs, step.outputs)


def split(net: Importer, step: Step) -> None:
    """Split: more names of one variable."""
    if len(step.inputs) != 1:
        raise FormatError(f"it has {len(step.inputs)} bottoms; wanted 1")
    net.skip(step)


def nothing(net: Importer, step: Step) -> None:
    """A layer that computes nothing that another one reads."""


def _check_axis(step: Step) -> None:
    axis = step.options.softmax_param.axis
    if axis != 1:
        raise FormatError(f"its softmax is over axis {axis}; wanted 1, the channels")


LAYERS: dict[str, Callable[[Importer, Step], None]] = {
    "Accuracy": nothing,
    "BatchNorm": batch_norm,
    "Concat": concat,
    "Convolution": convolution,
    "Crop": crop,
    "Data": database,
    "Deconvolution": deconvolution,
    "Dropout": dropout,
    "DummyData": dummy_data,
    "Eltwise": eltwise,
    "Flatten": flatten,
    "HDF5Data": database,
    "ImageData": database,
    "InnerProduct": inner_product,
    "Input": input_layer,
    "LRN": lrn,
    "MemoryData": memory_data,
    "Pooling": pooling,
    "ReLU": relu,
    "Reshape": reshape,
    "ROIPooling": roi_pooling,
    "Scale": scale,
    "Sigmoid": sigmoid,
    "Silence": nothing,
    "Softmax": softmax,
    "SoftmaxLoss": softmax_loss,
    "SoftmaxWithLoss": softmax_loss,
    "Split": split,
    "WindowData": database,
    "softmax_loss": softmax_loss,
}
"""By type, in Caffe's current words and some that older files have."""

LOSSES = (
    "ContrastiveLoss",
    "EuclideanLoss",
    "HingeLoss",
    "InfogainLoss",
    "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
    "SmoothL1Loss",
)
"""Layers that `remove_loss` removes, and that cannot be imported."""
