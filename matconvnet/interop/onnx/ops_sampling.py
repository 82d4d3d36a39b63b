"""How layers that read a map at given places are written in ONNX: samplers, grids, regions."""

import numpy as np
import torch

from matconvnet.blocks.affine_grid import AffineGrid
from matconvnet.blocks.roipool import transform_matrix
from matconvnet.interop.onnx.writer import Place, Writer
from matconvnet.layer import Context
from matconvnet.layout import nchw
from matconvnet.window import pair

FAR = 5.0
"""A coordinate outside of every map, where points go that are not finite."""
FLOAT, INT64, DOUBLE = 1, 7, 11
"""Numbers of types in ONNX."""
ONE = np.ones(1)
"""One, in double precision."""


def bilinear_sampler(g: Writer, at: Place) -> str:
    """GridSample at points (horizontal, vertical), all grids of an image in one tall grid."""
    x, grids = at.inputs
    grids = g.op("Transpose", grids, perm=[0, 3, 1, 2])  # M X 2 Y -> M Y X 2
    both = g.op("ReduceSum", g.op("Abs", grids), g.constant([3]), keepdims=1)
    lost = g.op("Or", g.op("IsNaN", both), g.op("IsInf", both))  # M Y X 1
    points = g.op("Where", lost, g.constant(FAR), grids)
    points = g.op("Clip", points, g.constant(-FAR), g.constant(FAR))
    points = g.op("Gather", points, g.constant([1, 0]), axis=3)
    images, channels = (g.op("Shape", x, start=k, end=k + 1) for k in range(2))
    height, width = (g.op("Shape", grids, start=k, end=k + 1) for k in (1, 2))
    any_number = g.constant([-1])
    tall = g.op("Concat", images, any_number, width, g.constant([2]), axis=0)
    points = g.op("Reshape", points, tall)  # N (M/N)*Y X 2
    mode = "linear" if g.opset >= 20 else "bilinear"
    y = g.op("GridSample", x, points, mode=mode, padding_mode="zeros", align_corners=1)
    split = g.op("Concat", images, channels, any_number, height, width, axis=0)
    y = g.op("Transpose", g.op("Reshape", y, split), perm=[0, 2, 1, 3, 4])  # N M/N C Y X
    y = g.op("Reshape", y, g.op("Concat", any_number, channels, height, width, axis=0))
    lost = g.op("Transpose", lost, perm=[0, 3, 1, 2])  # on a map of one pixel nothing is outside
    return g.op("Where", lost, g.constant(0.0), y)


def grid(g: Writer, at: Place) -> str:
    """A grid is linear in its numbers: their row times the grids of the unit vectors."""
    layer = at.layer
    count = 6 if isinstance(layer, AffineGrid) else 3
    (units,), _ = layer.forward((torch.eye(count).reshape(1, 1, count, count),), (), Context())
    basis = g.constant(nchw(units).reshape(count, -1).numpy())
    rows = g.op("Reshape", at.inputs[0], g.constant([-1, count]))
    shape = g.constant([-1, layer.width, 2, layer.height])
    return g.op("Reshape", g.op("MatMul", rows, basis), shape)


def roi_pool(g: Writer, at: Place) -> str:
    """MaxRoiPool of regions with whole corners, or products with masks of the tiles."""
    layer, (x, rois) = at.layer, at.inputs
    tiles = pair(layer.subdivisions, "subdivisions")
    regions = _regions(g, x, rois, transform_matrix(layer.transform))
    if str(layer.method).lower() == "max":
        y = g.op("MaxRoiPool", x, regions, pooled_shape=tiles, spatial_scale=1.0)
    else:
        y = _mean_of_tiles(g, x, regions, tiles)
    if layer.flatten:
        y = g.op("Transpose", y, perm=[0, 1, 3, 2])  # rows vary fastest
        y = g.op("Reshape", y, g.constant([0, -1, 1, 1]))
    return y


def _regions(g: Writer, x: str, rois: str, matrix: list[list[float]]) -> str:
    """K x 5: image, left, top, right, bottom, transformed and rounded as `roipool` does."""
    table = g.op("Reshape", g.op("Cast", rois, to=DOUBLE), g.constant([5, -1]))
    number, *corners = (g.op("Gather", table, g.constant([k]), axis=0) for k in range(5))  # 1 K
    one = g.constant(ONE)
    whole = _toward_zero(g, g.op("Add", number, one))
    images = g.op("Cast", g.op("Shape", x, start=0, end=1), to=DOUBLE)
    image = g.op("Sub", g.op("Max", g.op("Min", whole, images), one), one)
    ends = [_nearest(g, row, *corners[k : k + 2]) for k in (0, 2) for row in matrix]
    regions = g.op("Concat", image, *ends, axis=0)
    return g.op("Transpose", g.op("Cast", regions, to=FLOAT), perm=[1, 0])


def _toward_zero(g: Writer, t: str) -> str:
    return g.op("Mul", g.op("Sign", t), g.op("Floor", g.op("Abs", t)))


def _nearest(g: Writer, row: list[float], u: str, v: str) -> str:
    """row[0] * u + row[1] * v + row[2], rounded: halves away from zero, counted from one."""
    a, b, c = (g.constant(np.array([factor], float)) for factor in row)
    t = g.op("Add", g.op("Add", g.op("Mul", u, a), g.op("Mul", v, b)), c)
    t = g.op("Cast", g.op("Add", t, g.constant(ONE)), to=FLOAT)
    t = g.op("Cast", t, to=DOUBLE)
    away = g.op("Floor", g.op("Add", g.op("Abs", t), g.constant(ONE / 2)))
    return g.op("Sub", g.op("Mul", g.op("Sign", t), away), g.constant(ONE))


def _mean_of_tiles(g: Writer, x: str, regions: str, tiles: tuple[int, int]) -> str:
    """Rows of every tile @ map of its region @ columns of every tile: K x C x SH x SW."""
    number, *corners = (g.op("Gather", regions, g.constant([k]), axis=1) for k in range(5))  # K 1
    left, top, right, bottom = corners
    rows = _shares(g, top, bottom, tiles[0], g.op("Shape", x, start=2, end=3))
    columns = _shares(g, left, right, tiles[1], g.op("Shape", x, start=3, end=4))
    image = g.op("Squeeze", g.op("Cast", number, to=INT64), g.constant([1]))
    maps = g.op("Gather", x, image, axis=0)  # K C H W
    one = g.constant([1])
    y = g.op("MatMul", g.op("Unsqueeze", rows, one), maps)
    columns = g.op("Transpose", columns, perm=[0, 2, 1])
    return g.op("MatMul", y, g.op("Unsqueeze", columns, one))


def _shares(g: Writer, first: str, last: str, parts: int, limit: str) -> str:
    """K x parts x limit: 1 / (pixels of the part) on the pixels of a part of first .. last."""
    one = g.constant(1.0)
    length = g.op("Max", g.op("Add", g.op("Sub", last, first), one), one)
    step = g.op("Div", length, g.constant(float(parts)))  # K 1
    numbers = np.arange(parts, dtype=np.float32)
    begin = g.op("Add", first, g.op("Floor", g.op("Mul", step, g.constant(numbers))))
    end = g.op("Add", first, g.op("Ceil", g.op("Mul", step, g.constant(numbers + 1))))
    begin, end = (g.op("Unsqueeze", v, g.constant([2])) for v in (begin, end))  # K parts 1
    count = g.op("Squeeze", limit, g.constant([0]))
    pixels = g.op("Cast", g.op("Range", g.constant(0), count, g.constant(1)), to=FLOAT)
    inside = g.op("And", g.op("GreaterOrEqual", pixels, begin), g.op("Less", pixels, end))
    mask = g.op("Cast", inside, to=FLOAT)
    total = g.op("ReduceSum", mask, g.constant([2]), keepdims=1)
    return g.op("Div", mask, g.op("Max", total, one))
