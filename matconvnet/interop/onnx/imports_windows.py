"""How ONNX operators with filters and windows are read: convolution, pooling, matrix products."""

import math

import numpy as np
import torch
from torch import Tensor

from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.pool import Method, Pooling
from matconvnet.interop.onnx.builder import Builder, Map, Op, OperatorError, Pads
from matconvnet.layout import hwcn

NO_PADS: Pads = (0, 0, 0, 0)


def _map(op: Op) -> Map:
    """The first input, a map whose padding need not have been added yet."""
    x = op.inputs[0]
    if not isinstance(x, Map) or x.flat:
        raise OperatorError("its input is no map N x C x H x W")
    return x


def _pair(op: Op, name: str, default: int = 1) -> tuple[int, int]:
    found = op.numbers(name, (default, default))
    if len(found) != 2:
        raise OperatorError(f"{name} is {found}; wanted two numbers, for rows and columns")
    return found[0], found[1]


def _pads(op: Op, x: Map, extent: tuple[int, int], stride: tuple[int, int]) -> Pads:
    """The padding that an operator asks for, by numbers or by words."""
    how = op.attributes.get("auto_pad", b"NOTSET")
    how = how.decode() if isinstance(how, bytes) else how
    if how in ("SAME_UPPER", "SAME_LOWER"):
        ends = []
        for size, k, step in zip(x.size[:2], extent, stride, strict=True):
            if math.isnan(size) and step > 1:
                raise OperatorError(f"{how} needs the size of the input; wanted input_sizes")
            total = max(k - 1 if step == 1 else (math.ceil(size / step) - 1) * step + k - size, 0)
            small, large = int(total) // 2, int(total) - int(total) // 2
            ends += [small, large] if how == "SAME_UPPER" else [large, small]
        return ends[0], ends[1], ends[2], ends[3]
    top, left, bottom, right = op.numbers("pads", (0, 0, 0, 0)) if how == "NOTSET" else (0,) * 4
    if min(top, left, bottom, right) < 0:
        raise OperatorError(f"pads are {(top, left, bottom, right)}; wanted none below 0")
    return top, bottom, left, right


def _filters(op: Op) -> Tensor:
    weights = op.weight(1, "its filters")
    if weights.ndim != 4:
        raise OperatorError(f"its filters have shape {weights.shape}; wanted four axes")
    return hwcn(torch.from_numpy(np.ascontiguousarray(weights)))


def _params(op: Op, filters: Tensor) -> dict[str, Tensor | np.ndarray]:
    params: dict[str, Tensor | np.ndarray] = {op.input_names[1]: filters}
    biases = op.constant(2, "its biases")
    if biases is not None:
        params[op.input_names[2]] = biases.ravel()
    return params


def conv(b: Builder, op: Op) -> Map:
    """Conv; our groups follow from the shapes."""
    x, f = _map(op), _filters(op)
    fh, fw, fc, count = f.shape
    groups, channels = op.attributes.get("group", 1), x.size[2]
    if not math.isnan(channels) and channels != fc * groups:
        raise OperatorError(f"its filters read {fc * groups} channels; the map has {channels}")
    stride, dilate = _pair(op, "strides"), _pair(op, "dilations")
    extent = (fh - 1) * dilate[0] + 1, (fw - 1) * dilate[1] + 1
    if any(x.pad) and (x.filling or op.attributes.get("auto_pad", b"NOTSET") != b"NOTSET"):
        x = b.settled(op, x)
    pads = _pads(op, x, extent, stride)
    params = _params(op, f)
    layer = Conv(pad=_sums(pads, x.pad), stride=stride, dilate=dilate, size=(fh, fw, fc, count),
                 has_bias=len(params) > 1)  # fmt: skip
    return b.add(op, layer, [x], params)


def conv_transpose(b: Builder, op: Op) -> Map:
    """ConvTranspose; output padding beyond what is cropped becomes zeros at the filters' ends."""
    x, f = b.settled(op, _map(op)), _filters(op)
    if _pair(op, "dilations") != (1, 1) or "output_shape" in op.attributes:
        raise OperatorError("it is dilated or has an output_shape; wanted strides and pads alone")
    if op.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise OperatorError("its padding is automatic; wanted pads")
    if not math.isnan(x.size[2]) and x.size[2] != f.shape[3]:
        raise OperatorError(f"it has {f.shape[3]} filters; the map has {x.size[2]} channels")
    stride = _pair(op, "strides")
    top, bottom, left, right = _pads(op, x, (1, 1), stride)
    more_y, more_x = _pair(op, "output_padding", 0)
    bottom, right = bottom - more_y, right - more_x
    missing = max(-bottom, 0), max(-right, 0)
    if min(more_y, more_x) < 0 or any(m > k for m, k in zip(missing, f.shape[:2], strict=True)):
        raise OperatorError(f"its output_padding is {(more_y, more_x)}; wanted less")
    f = torch.nn.functional.pad(f, (0, 0, 0, 0, 0, missing[1], 0, missing[0]))
    params = _params(op, f)
    layer = ConvTranspose(
        upsample=stride, crop=(top, max(bottom, 0), left, max(right, 0)), size=tuple(f.shape),
        num_groups=op.attributes.get("group", 1), has_bias=len(params) > 1,
    )  # fmt: skip
    return b.add(op, layer, [x], params)


def max_pool(b: Builder, op: Op) -> Map:
    """MaxPool; minus infinity around the map is padding too."""
    x = _map(op)
    if x.filling != -math.inf:
        x = b.settled(op, x)
    size, pads, more = _windows(op, x)
    return _pool(b, op, x, "max", size, _sums(x.pad, pads, more))


def average_pool(b: Builder, op: Op) -> Map:
    """AveragePool; where it counts the padding, that is added before."""
    x = b.settled(op, _map(op))
    size, pads, more = _windows(op, x)
    if op.attributes.get("count_include_pad"):
        return _pool(b, op, b.settled(op, x._replace(pad=pads)), "avg", size, more)
    return _pool(b, op, x, "avg", size, _sums(pads, more))


def _windows(op: Op, x: Map) -> tuple[tuple[int, int], Pads, Pads]:
    """The window, its padding, and what more is needed to round the size of the output up."""
    size, stride = _pair(op, "kernel_shape"), _pair(op, "strides")
    if _pair(op, "dilations") != (1, 1):
        raise OperatorError("its window is dilated; wanted a dense one")
    pads = _pads(op, x, size, stride)
    if not op.attributes.get("ceil_mode"):
        return size, pads, NO_PADS
    top, bottom, left, right = _sums(x.pad, pads)
    more_y = _rounded_up(x.size[0], size[0], stride[0], top, bottom)
    more_x = _rounded_up(x.size[1], size[1], stride[1], left, right)
    return size, pads, (0, more_y, 0, more_x)


def _rounded_up(n: float, size: int, stride: int, begin: int, end: int) -> int:
    """What is to be added to the padding `end`, so that rounding down comes to rounding up.

    Windows that would begin beyond the map and its padding `begin` are left out.
    """
    if end + stride <= size:
        return stride - 1
    if math.isnan(n):
        raise OperatorError("ceil_mode needs the size of the input here; wanted input_sizes")
    last = math.ceil((n + begin + end - size) / stride)
    if last * stride >= n + begin:
        last -= 1
    return max(int(last * stride + size - n - begin - end), 0)


def _sums(*pads: Pads) -> Pads:
    top, bottom, left, right = map(sum, zip(*pads, strict=True))
    return top, bottom, left, right


def _pool(b: Builder, op: Op, x: Map, method: Method, size: tuple[int, int], pads: Pads) -> Map:
    if max(pads[:2]) >= size[0] or max(pads[2:]) >= size[1]:
        raise OperatorError(f"pads {pads} reach the window {size}; wanted less")
    layer = Pooling(size, stride=_pair(op, "strides"), pad=pads, method=method)
    return b.add(op, layer, [x])


def global_average(b: Builder, op: Op) -> Map:
    """GlobalAveragePool."""
    return _global(b, op, "avg")


def global_max(b: Builder, op: Op) -> Map:
    """GlobalMaxPool."""
    return _global(b, op, "max")


def _global(b: Builder, op: Op, method: Method) -> Map:
    x = b.settled(op, _map(op))
    if any(map(math.isnan, x.size[:2])):
        raise OperatorError("the size of its input is not known; wanted input_sizes")
    return b.add(op, Pooling((int(x.size[0]), int(x.size[1])), method=method), [x])


def reduce_mean(b: Builder, op: Op) -> Map:
    """ReduceMean over rows and columns."""
    axes = op.constant(1, "its axes")
    axes = op.numbers("axes", ()) if axes is None else axes.ravel()
    if sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        raise OperatorError(f"it runs along axes {list(axes)}; wanted 2 and 3, rows and columns")
    y = _global(b, op, "avg")
    return y if op.attributes.get("keepdims", 1) else y._replace(flat=True)


def gemm(b: Builder, op: Op) -> Map:
    """Gemm: filters that cover the map."""
    at = op.attributes
    if at.get("transA"):
        raise OperatorError("it transposes the map; wanted rows of numbers")
    matrix = op.weight(1, "its weights") * np.float32(at.get("alpha", 1.0))
    matrix = matrix if at.get("transB") else matrix.T
    biases = op.constant(2, "its biases")
    if biases is not None:
        biases = biases * np.float32(at.get("beta", 1.0)) + np.zeros((1, len(matrix)), np.float32)
    return _product(b, op, matrix, biases)


def mat_mul(b: Builder, op: Op) -> Map:
    """MatMul of rows of numbers and a matrix."""
    return _product(b, op, op.weight(1, "its weights").T, None)


def _product(b: Builder, op: Op, matrix: np.ndarray, biases: np.ndarray | None) -> Map:
    """The rows of `matrix`, K x C*H*W, as filters H x W x C x K."""
    x = op.inputs[0]
    if not isinstance(x, Map) or not x.flat:
        raise OperatorError("it multiplies what is no rows of numbers; wanted Flatten before it")
    x = b.settled(op, x)
    h, w, c, _ = x.size
    if matrix.ndim != 2 or math.isnan(h * w * c):
        raise OperatorError("the size of its input is not known; wanted input_sizes")
    if matrix.shape[1] != h * w * c:
        raise OperatorError(
            f"it reads {matrix.shape[1]} numbers; a map of {x.size} has {h * w * c}"
        )
    filters = matrix.reshape(-1, int(c), int(h), int(w))
    f = hwcn(torch.from_numpy(np.ascontiguousarray(filters)))
    params: dict[str, Tensor | np.ndarray] = {op.input_names[1]: f}
    if biases is not None:
        params[op.input_names[2]] = biases.ravel()
    layer = Conv(size=tuple(f.shape), has_bias=biases is not None)
    return b.add(op, layer, [x], params, flat=True)
