"""Caffe's layers that pool: Pooling, ROIPooling."""

import math

import torch

from matconvnet.blocks import Conv, Pooling, RoiPool
from matconvnet.blocks.pool import Method
from matconvnet.errors import FormatError
from matconvnet.interop.caffe.checks import inputs_of
from matconvnet.interop.caffe.filters import spatial
from matconvnet.interop.caffe.importer import LARGEST, Importer
from matconvnet.interop.caffe.wiring import Step

METHODS: dict[str, Method] = {"MAX": "max", "AVE": "avg"}


def pooling(net: Importer, step: Step) -> None:
    """Pooling. In Caffe, with pad p, kernel k, stride s and n pixels,

        windows = ceil((n + 2p - k) / s) + 1,  without one that begins beyond the map

    which is what the pad min(p + s - 1, k - 1) after the last pixel gives here. A mean there counts
    the zeros of the pad; here it does not, so that the map is padded by a layer of its own.
    """
    p, (x,) = step.options.pooling_param, inputs_of(step, 1)
    if p.pool not in METHODS:
        raise FormatError(f"it is {p.pool}; wanted MAX or AVE")
    method = METHODS[p.pool]
    h, w, _, _ = net.size(x)
    if p.global_pooling:
        if math.isnan(h) or math.isnan(w):
            raise FormatError(f"it pools all of {x!r}, whose size is not known")
        net.add(step, Pooling((int(h), int(w)), method=method), [x], step.outputs)
        return
    kernel = net.hw(spatial(p, "kernel_size", "kernel", 0, 1))
    stride = net.hw(spatial(p, "stride", "stride", 1, 1))
    pad = net.hw(spatial(p, "pad", "pad", 0, 0))
    if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
        raise FormatError(f"its pad {pad} reaches its kernel {kernel}")
    rounds_up = p.ceil_mode and p.round_mode == "CEIL"
    ends = _ends(kernel, stride, pad) if rounds_up else pad
    if rounds_up and not any(pad):
        _check_last((h, w), kernel, stride, ends)
    if method == "avg" and any(pad):
        x = _zero_padded(net, step, x, pad)
        pad, ends = (0, 0), (ends[0] - pad[0], ends[1] - pad[1])
    layer = Pooling(kernel, stride=stride, pad=(pad[0], ends[0], pad[1], ends[1]), method=method)
    net.add(step, layer, [x], step.outputs)


def roi_pooling(net: Importer, step: Step) -> None:
    """ROIPooling; its output is a map for each region, not flattened."""
    p, (x, rois) = step.options.roi_pooling_param, inputs_of(step, 2)
    tiles = net.hw((p.pooled_h, p.pooled_w))
    if not all(1 <= t <= LARGEST for t in tiles):
        raise FormatError(f"it has {tiles} tiles; wanted 1 or more")
    rois = net.resolve(rois)
    if rois in net.inputs:  # R x 5 in Caffe, 5 x R here
        count = net.sizes[rois][3]
        net.inputs[rois] = net.sizes[rois] = (5, count, 1, 1)
    layer = RoiPool("max", tiles, p.spatial_scale)
    net.add(step, layer, [x, rois], step.outputs)


def _ends(kernel, stride, pad) -> tuple[int, int]:
    """Padding after the last row and column, so that the last window may reach beyond the map."""
    y, x = (min(p + s - 1, k - 1) for k, s, p in zip(kernel, stride, pad, strict=True))
    return y, x


def _check_last(size, kernel, stride, ends) -> None:
    """Raise FormatError, if a window lies beyond the map: without padding Caffe keeps it.

    That happens only where the stride exceeds the kernel; the window has no pixel, and no value.
    """
    for n, k, s, end in zip(size, kernel, stride, ends, strict=True):
        if s > k and not math.isnan(n) and math.ceil((n - k) / s) != (n + end - k) // s:
            raise FormatError(f"its last window lies beyond the {n} pixels of the map")


def _zero_padded(net: Importer, step: Step, x: str, pad: tuple[int, int]) -> str:
    """Add a layer that surrounds a map with zeros; the variable that it writes."""
    channels = net.size(x)[2]
    if math.isnan(channels):
        raise FormatError(f"it pads a mean, and the channels of {x!r} are not known")
    size = (1, 1, 1, int(channels))
    ones = net.frozen(f"{step.name}_pad_filter", torch.ones(size), size)
    layer = Conv(size=size, has_bias=False, pad=(pad[0], pad[0], pad[1], pad[1]))
    padded = net.fresh(f"{step.name}_pad")
    net.add(step, layer, [x], [padded], [ones], suffix="_pad")
    return padded
