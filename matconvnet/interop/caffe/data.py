"""Caffe's layers that bring data: inputs of the network."""

import math

from matconvnet.errors import FormatError
from matconvnet.interop.caffe.importer import Importer
from matconvnet.interop.caffe.wiring import Step


def input_layer(net: Importer, step: Step) -> None:
    """Input: a variable for each top, of a size that the file tells."""
    _declare(net, step, [tuple(shape.dim) for shape in step.options.input_param.shape])


def dummy_data(net: Importer, step: Step) -> None:
    """DummyData: as Input."""
    p = step.options.dummy_data_param
    shapes = [tuple(shape.dim) for shape in p.shape]
    _declare(net, step, shapes or list(zip(p.num, p.channels, p.height, p.width, strict=False)))


def memory_data(net: Importer, step: Step) -> None:
    """MemoryData: images of a size that the file tells, and labels."""
    p = step.options.memory_data_param
    labels = [(p.batch_size,)] * (len(step.outputs) - 1)
    _declare(net, step, [(p.batch_size, p.channels, p.height, p.width), *labels])


def database(net: Importer, step: Step) -> None:
    """Data, ImageData and others: images, of which the file tells at most a crop, and labels."""
    p = step.options
    sides = [p.transform_param.crop_size, p.data_param.crop_size]
    sides += [p.image_data_param.crop_size, p.window_data_param.crop_size]
    side = max(sides) or math.nan
    for i, output in enumerate(step.outputs):
        net.add_input(output, (1, 1, 1, 1) if i else (side, side, math.nan, 1))
    if p.transform_param.scale != 1:
        factor = p.transform_param.scale
        net.notes.append(f"layer {step.entry.name!r} multiplies images by {factor}")
    if p.transform_param.mean_file or p.transform_param.mean_value:
        net.notes.append(f"layer {step.entry.name!r} subtracts a mean: give it as `mean`")


def _declare(net: Importer, step: Step, shapes: list[tuple[int, ...]]) -> None:
    shapes = shapes * len(step.outputs) if len(shapes) == 1 else shapes
    if len(shapes) != len(step.outputs) or not all(1 <= len(shape) <= 4 for shape in shapes):
        raise FormatError(f"it has shapes {shapes}; wanted one to four numbers for each top")
    for output, shape in zip(step.outputs, shapes, strict=True):
        n, c, h, w = (*shape, 1, 1, 1)[:4]
        net.add_input(output, (*net.hw((h, w)), c, n))
