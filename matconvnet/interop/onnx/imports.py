"""How each ONNX operator is read: one function an operator, and the table of them, `IMPORTS`.

Each is given the network so far and the operator, and returns what the operator makes. It raises
`OperatorError` where no layer of ours computes the same.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.concat import NCHW_AXIS, Concat
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.scale import Scale
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmax import Softmax
from matconvnet.blocks.sum import Sum
from matconvnet.interop.onnx.builder import Builder, Map, Op, OperatorError, Value
from matconvnet.interop.onnx.imports_shape import (
    cast,
    flatten,
    identity,
    pad,
    reshape,
    shape,
    squeeze,
    unsqueeze,
)
from matconvnet.interop.onnx.imports_windows import (
    average_pool,
    conv,
    conv_transpose,
    gemm,
    global_average,
    global_max,
    mat_mul,
    max_pool,
    reduce_mean,
)
from matconvnet.layout import hwcn

Read = Callable[[Builder, Op], Value]
UNBOUNDED = 3e38
"""From here on an upper bound is none: exporters write the largest float for infinity."""


def shortest(value: float) -> float:
    """The shortest decimal number that is this one in single precision: 0.3, not 0.300000012."""
    return float(str(np.float32(value)))


def only_map(b: Builder, op: Op, index: int = 0) -> Map:
    """An input that is a map, with its padding added."""
    x = op.inputs[index]
    if not isinstance(x, Map):
        raise OperatorError("its input is a constant; wanted a map")
    return b.settled(op, x)


def as_factors(value: np.ndarray, x: Map) -> Tensor:
    """A constant that meets `x` as N x C x H x W, or as rows of numbers, as H x W x C x N."""
    h, w, c, n = x.size
    value = np.asarray(value, np.float32)
    if value.ndim > (2 if x.flat else 4):
        raise OperatorError(f"a constant of shape {value.shape} meets a map; wanted no more axes")
    if x.flat:
        value = value.reshape((1,) * (2 - value.ndim) + value.shape)
        if value.shape[1] == 1 or x.is_vector:
            value = value[:, :, None, None]
        elif value.shape[1] == c * h * w:
            value = value.reshape(value.shape[0], int(c), int(h), int(w))
    value = value.reshape((1,) * (4 - value.ndim) + value.shape)
    for found, wanted in zip(value.shape, (n, c, h, w), strict=True):
        if found not in (1, wanted) and not math.isnan(wanted):
            raise OperatorError(f"a constant of shape {value.shape} meets a map {(n, c, h, w)}")
    return hwcn(torch.from_numpy(np.ascontiguousarray(value)))


def affine(b: Builder, op: Op, x: Map, factors: Tensor, biases: Tensor | None) -> Map:
    """Multiply by factors and add biases; one factor for everything is not trained."""
    name = op.name or op.outputs[0]
    a, params = f"{name}/a", {f"{name}/a": factors}
    if biases is not None:
        params[f"{name}/b"] = biases
    frozen = {a} if biases is not None and factors.numel() == 1 else ()
    layer = Scale(has_bias=biases is not None, size=tuple(factors.shape))
    return b.add(op, layer, [x], params, flat=x.flat, frozen=frozen)


def one(sign: int) -> Tensor:
    """The factor 1 or -1."""
    return torch.full((1, 1, 1, 1), float(sign))


def plus(b: Builder, op: Op) -> Map:
    """Add and Sum: of maps of one size; or of a map and a constant, which is a Scale."""
    maps = [only_map(b, op, i) for i, x in enumerate(op.inputs) if isinstance(x, Map)]
    constants = [x for x in op.inputs if isinstance(x, np.ndarray)]
    if not maps or (constants and len(op.inputs) != 2):
        raise OperatorError("it adds constants to several maps; wanted one of them, or maps alone")
    if constants:
        return affine(b, op, maps[0], one(1), as_factors(constants[0], maps[0]))
    return add_maps(b, op, maps)


def add_maps(b: Builder, op: Op, maps: list[Map]) -> Map:
    """Sum, of maps of one size."""
    first = maps[0]
    for x in maps[1:]:
        differs = any(
            p != q and not math.isnan(p + q) for p, q in zip(x.size, first.size, strict=True)
        )
        if differs or x.flat != first.flat:
            raise OperatorError(
                f"it adds maps of sizes {first.size} and {x.size}; wanted equal ones"
            )
    return b.add(op, Sum(), maps, flat=first.flat)


def minus(b: Builder, op: Op) -> Map:
    """Sub: a Scale with a constant, a Sum with the negative of a map."""
    x, y = op.inputs[:2]
    if isinstance(y, np.ndarray):
        kept = only_map(b, op)
        return affine(b, op, kept, one(1), -as_factors(y, kept))
    kept = only_map(b, op, 1)
    if isinstance(x, np.ndarray):
        return affine(b, op, kept, one(-1), as_factors(x, kept))
    output = b.fresh(f"{op.outputs[0]}/negative")
    a = f"{output}/a"
    negative = b.add(op, Scale(has_bias=False), [kept], {a: one(-1)}, flat=kept.flat,
                     output=output, frozen={a})  # fmt: skip
    return add_maps(b, op, [only_map(b, op), negative])


def times(b: Builder, op: Op) -> Map:
    """Mul: a Scale, with a constant or with a second map."""
    if isinstance(op.inputs[0], np.ndarray):
        op = op._replace(inputs=op.inputs[::-1])
    x, a = only_map(b, op), op.inputs[1]
    if isinstance(a, np.ndarray):
        return affine(b, op, x, as_factors(a, x), None)
    a = only_map(b, op, 1)
    if x.flat != a.flat:
        raise OperatorError("it multiplies a map and rows of numbers; wanted two of a kind")
    if any(p == 1 and q > 1 for p, q in zip(x.size, a.size, strict=True)):
        x, a = a, x
    if any(p == 1 and q > 1 for p, q in zip(x.size, a.size, strict=True)):
        raise OperatorError(f"it multiplies sizes {x.size} and {a.size}; wanted one to broadcast")
    return b.add(op, Scale(has_bias=False), [x, a], flat=x.flat)


def divided(b: Builder, op: Op) -> Map:
    """Div, by a constant."""
    x = only_map(b, op)
    return affine(b, op, x, 1 / as_factors(op.weight(1, "the divisors"), x), None)


def relu(b: Builder, op: Op) -> Map:
    """Relu and LeakyRelu."""
    leak = op.attributes.get("alpha", 0.01) if op.kind == "LeakyRelu" else 0.0
    if leak < 0:
        raise OperatorError(f"its alpha is {leak}; wanted none below 0")
    x = only_map(b, op)
    return b.add(op, ReLU(leak=shortest(leak)), [x], flat=x.flat)


def clip(b: Builder, op: Op) -> Map:
    """Clip from 0 to infinity, which is a rectifier."""
    bounds = [op.attributes.get(name) for name in ("min", "max")]
    for i, value in enumerate((op.constant(1, "its bounds"), op.constant(2, "its bounds"))):
        bounds[i] = bounds[i] if value is None else float(value)
    low, high = bounds
    if low != 0 or (high is not None and high < UNBOUNDED):
        raise OperatorError(f"it clips to {low} .. {high}; wanted 0 .. infinity, a ReLU")
    x = only_map(b, op)
    return b.add(op, ReLU(), [x], flat=x.flat)


def sigmoid(b: Builder, op: Op) -> Map:
    """Sigmoid."""
    x = only_map(b, op)
    return b.add(op, Sigmoid(), [x], flat=x.flat)


def softmax(b: Builder, op: Op) -> Map:
    """Softmax over the channels; before version 13 over all axes from `axis` on."""
    x = only_map(b, op)
    rank = 2 if x.flat else 4
    axis = op.attributes.get("axis", -1 if op.opset >= 13 else 1) % rank
    is_over_pixels = (x.flat or op.opset < 13) and not x.is_vector
    if axis != 1 or is_over_pixels:
        raise OperatorError(f"it runs along axis {axis} of {rank}; wanted the channels alone")
    return b.add(op, Softmax(), [x], flat=x.flat)


def dropout(b: Builder, op: Op) -> Map:
    """Dropout."""
    training = op.constant(2, "its modes")
    if training is not None and bool(training.any()):
        raise OperatorError("it is in training mode; wanted a network for use")
    rate = op.constant(1, "its rates")
    rate = op.attributes.get("ratio", 0.5) if rate is None else float(rate)
    x = only_map(b, op)
    return b.add(op, Dropout(rate=shortest(rate)), [x], flat=x.flat)


def lrn(b: Builder, op: Op) -> Map:
    """LRN, whose alpha is ours times the size of the window."""
    at, x = op.attributes, only_map(b, op)
    if x.flat:
        raise OperatorError("it normalises rows of numbers; wanted a map")
    size = int(at["size"])
    alpha, beta, kappa = (
        shortest(at.get(name, default))
        for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    return b.add(op, LRN((size, kappa, alpha / size, beta)), [x])


def batch_norm(b: Builder, op: Op) -> Map:
    """BatchNormalization; our sigma is sqrt(variance + epsilon)."""
    x, at = only_map(b, op), op.attributes
    if at.get("training_mode") or at.get("spatial", 1) != 1:
        raise OperatorError(
            "it uses the statistics of the batch, or of every pixel; wanted stored ones"
        )
    if x.flat and not x.is_vector:
        raise OperatorError("it normalises flattened pixels; wanted channels")
    gain, bias, mean, variance = (
        op.weight(i, "its parameters").astype(float).ravel() for i in range(1, 5)
    )
    sizes = {len(gain), len(bias), len(mean), len(variance)}
    if len(sizes) > 1 or (not math.isnan(x.size[2]) and sizes != {x.size[2]}):
        raise OperatorError(f"its parameters have {sizes} numbers, the map {x.size[2]} channels")
    epsilon = float(at.get("epsilon", 1e-5))
    if (variance + epsilon <= 0).any():
        raise OperatorError("a variance is negative; wanted one above 0")
    moments = np.stack((mean, np.sqrt(variance + epsilon)), 1).astype(np.float32)
    names = op.input_names
    stem = names[3].removesuffix("/mean")
    stem = stem if stem != names[3] else f"{op.name or op.outputs[0]}/moments"
    layer = BatchNorm(epsilon=shortest(epsilon), num_channels=len(gain))
    params = {names[1]: gain, names[2]: bias, stem: moments}
    return b.add(op, layer, [x], params, flat=x.flat)


def concat(b: Builder, op: Op) -> Map:
    """Concat, along the axis that ours is there."""
    maps = [only_map(b, op, i) for i in range(len(op.inputs))]
    flat = maps[0].flat
    rank = 2 if flat else 4
    axis = op.attributes["axis"] % rank
    if any(x.flat != flat for x in maps):
        raise OperatorError("it joins maps and rows of numbers; wanted one kind")
    if flat and axis == 1 and not all(x.is_vector for x in maps):
        raise OperatorError("it joins flattened pixels; wanted channels")
    return b.add(op, Concat(NCHW_AXIS.index(axis)), maps, flat=flat)


IMPORTS: dict[str, Read] = {
    "Add": plus,
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Div": divided,
    "Dropout": dropout,
    "Flatten": flatten,
    "Gemm": gemm,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_max,
    "Identity": identity,
    "LRN": lrn,
    "LeakyRelu": relu,
    "MatMul": mat_mul,
    "MaxPool": max_pool,
    "Mul": times,
    "Pad": pad,
    "ReduceMean": reduce_mean,
    "Relu": relu,
    "Reshape": reshape,
    "Shape": shape,
    "Sigmoid": sigmoid,
    "Softmax": softmax,
    "Squeeze": squeeze,
    "Sub": minus,
    "Sum": plus,
    "Unsqueeze": unsqueeze,
}
"""The function that reads an operator, by its name."""
