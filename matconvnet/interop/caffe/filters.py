"""Caffe's layers with filters: Convolution, Deconvolution, InnerProduct."""

import math

import torch
from torch import Tensor

from matconvnet.blocks import Conv, ConvTranspose
from matconvnet.errors import FormatError
from matconvnet.interop.caffe.checks import inputs_of
from matconvnet.interop.caffe.importer import LARGEST, Importer
from matconvnet.interop.caffe.schema import Message
from matconvnet.interop.caffe.wiring import Step


def convolution(net: Importer, step: Step) -> None:
    """Convolution; here the depth of the filters tells the groups."""
    p, (x,) = step.options.convolution_param, inputs_of(step, 1)
    kernel, stride, pad, dilate = _geometry(net, p)
    groups, count = p.group, _outputs(p, p.group)
    depth = net.size(x)[2] / groups
    blob = net.blob(step, 0, (count, depth, *net.hw(kernel)))
    filters = _turned(net, x, net.maps(blob), 2, groups)
    depth = depth if blob is None else blob.shape[1]
    size = _whole((*kernel, depth, count))
    layer = Conv(size=size, has_bias=p.bias_term, stride=stride, dilate=dilate, pad=_borders(pad))
    _add(net, step, layer, x, filters, size or (*kernel, 0, count), count)


def deconvolution(net: Importer, step: Step) -> None:
    """Deconvolution; its stride is upsampling, its pad is cropping."""
    p, (x,) = step.options.convolution_param, inputs_of(step, 1)
    kernel, stride, pad, dilate = _geometry(net, p)
    if dilate != (1, 1):
        raise FormatError(f"it has dilation {dilate}; wanted 1")
    groups, count = p.group, _outputs(p, p.group)
    depth, outputs = net.size(x)[2], count // groups
    blob = net.blob(step, 0, (depth, outputs, *net.hw(kernel)))
    filters = _turned(net, x, net.maps(blob), 3, groups)
    depth = depth if blob is None else blob.shape[0]
    size = _whole((*kernel, outputs, depth))
    layer = ConvTranspose(
        size=size, has_bias=p.bias_term, upsample=stride, crop=_borders(pad), num_groups=groups
    )
    _add(net, step, layer, x, filters, size or (*kernel, outputs, 0), count)


def inner_product(net: Importer, step: Step) -> None:
    """InnerProduct: a convolution whose filters cover the map."""
    p, (x,) = step.options.inner_product_param, inputs_of(step, 1)
    if p.axis != 1:
        raise FormatError(f"it has axis {p.axis}; wanted 1")
    count = _outputs(p)
    size = _whole((*net.size(x)[:3], count))
    if size is None:
        raise FormatError(
            f"the size of {x!r} is not known; tell that of the data in the file: "
            '`layer { name: "data" type: "Input" top: "data" '
            "input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }`"
        )
    h, w, c, _ = size
    wanted = (count, h * w * c)
    matrix = net.blob(step, 0, wanted[::-1] if p.transpose else wanted)
    if matrix is not None:
        matrix = (matrix.T if p.transpose else matrix).reshape(count, c, *net.hw((h, w)))
    filters = _turned(net, x, net.maps(matrix), 2, 1)
    layer = Conv(size=size, has_bias=p.bias_term)
    _add(net, step, layer, x, filters, size, count, covers=True)


def spatial(p: Message, name: str, prefix: str, default: int, low: int) -> tuple[int, int]:
    """(vertical, horizontal) of an option that may be one number, two, or two fields `_h` and `_w`.

    Raises: FormatError, if a number is less than `low`, or there are more than two.
    """
    if p.has(f"{prefix}_h") or p.has(f"{prefix}_w"):
        values = [getattr(p, f"{prefix}_h"), getattr(p, f"{prefix}_w")]
    else:
        value = getattr(p, name)
        values = [value] if isinstance(value, int) else list(value) or [default]
    if len(values) > 2 or not all(low <= v <= LARGEST for v in values):
        raise FormatError(f"its {name} is {values}; wanted one number or two, from {low}")
    return values[0], values[-1]


def _geometry(net: Importer, p: Message) -> tuple[tuple[int, int], ...]:
    """Kernel, stride, pad and dilation."""
    if p.axis != 1:
        raise FormatError(f"it has axis {p.axis}; wanted 1")
    return (
        net.hw(spatial(p, "kernel_size", "kernel", 0, 1)),
        net.hw(spatial(p, "stride", "stride", 1, 1)),
        net.hw(spatial(p, "pad", "pad", 0, 0)),
        net.hw(spatial(p, "dilation", "dilation", 1, 1)),
    )


def _outputs(p: Message, groups: int = 1) -> int:
    """The number of outputs."""
    if not 1 <= p.num_output <= LARGEST or groups < 1 or p.num_output % groups:
        raise FormatError(f"it has {p.num_output} outputs; wanted a multiple of {groups} (groups)")
    return p.num_output


def _whole(numbers: tuple[float, ...]) -> tuple[int, int, int, int] | None:
    """A size of four numbers; None, if one is not known.

    Raises: FormatError, if a number is broken: channels that the groups do not divide.
    """
    if any(map(math.isnan, numbers)):
        return None
    if any(n != int(n) for n in numbers):
        raise FormatError("the groups do not divide its channels")
    a, b, c, d = map(int, numbers)
    return a, b, c, d


def _borders(pad: tuple[int, ...]) -> tuple[int, int, int, int]:
    return pad[0], pad[0], pad[1], pad[1]


def _turned(net: Importer, x: str, filters: Tensor | None, axis: int, groups: int) -> Tensor | None:
    """Filters for RGB, made of filters for BGR, if it is an image that they read along `axis`."""
    if filters is None or not net.is_colour(x):
        return filters
    channels = net.size(x)[2]
    if math.isnan(channels):
        channels = filters.shape[axis] * (groups if axis == 2 else 1)
    if channels != 3:
        return filters
    if groups > 1:
        raise FormatError("it has groups of colours; wanted color_format='rgb', which keeps them")
    return filters.flip(axis)


def _add(
    net: Importer, step: Step, layer: Conv | ConvTranspose, x: str,
    filters: Tensor | None, shape: tuple[int, ...], count: int, covers: bool = False,
) -> None:  # fmt: skip
    """Add a layer with its filters and, if it has any, its `count` biases."""
    params = [net.learnable(step, 0, "filter", filters, shape)]
    if layer.has_bias:
        blob = net.blob(step, 1, (count,))
        biases = None if blob is None else torch.from_numpy(blob)
        params.append(net.learnable(step, 1, "bias", biases, (count,)))
    net.add(step, layer, [x], step.outputs, params, keeps_colour=False, covers=covers)
