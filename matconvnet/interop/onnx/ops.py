"""How each layer is written in ONNX: one function a layer, and the table of them, `OPS`.

Each is given the writer and the place of the layer, and returns the name of the value it made. It
uses the ONNX operator that computes the same, and elementary operators where there is none.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.blocks.affine_grid import AffineGrid
from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.concat import NCHW_AXIS, Concat
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.crop import Crop
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.lpnorm import LpNorm
from matconvnet.blocks.lrn import LRN, parse
from matconvnet.blocks.noffset import SMALLEST, NormOffset
from matconvnet.blocks.pdist import PDist
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.roipool import RoiPool
from matconvnet.blocks.sampler import BilinearSampler
from matconvnet.blocks.scale import Scale
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmax import Softmax
from matconvnet.blocks.spnorm import SpNorm
from matconvnet.blocks.sum import Sum
from matconvnet.blocks.uniform_grid import UniformGrid
from matconvnet.interop.onnx.ops_sampling import bilinear_sampler, grid, roi_pool
from matconvnet.interop.onnx.writer import Place, Writer
from matconvnet.layer import Layer
from matconvnet.layout import as4d, nchw
from matconvnet.window import Pad4, numbers, pair, quad

Emit = Callable[[Writer, Place], str | tuple[str, ...]]
LAST = np.iinfo(np.int64).max
"""The end of a slice that goes to the end."""


def begins_ends(borders: Pad4, name: str = "pad") -> list[int]:
    """(top, bottom, left, right) in the order of ONNX: top, left, bottom, right."""
    top, bottom, left, right = quad(borders, name)
    return [top, left, bottom, right]


def vector(value: Tensor) -> Tensor:
    """The elements of a parameter that is a vector, whatever its shape."""
    return value.reshape(-1)


def per_channel(value: Tensor) -> Tensor:
    """C numbers as 1 x C x 1 x 1, to meet an N x C x H x W map."""
    return value.reshape(1, -1, 1, 1)


def conv(g: Writer, at: Place) -> str:
    """Conv; its groups follow from the channels of the input, one if those are not known."""
    layer, (f, b) = at.layer, (*at.params, None)[:2]
    if f is None:
        return _subsample(g, at, b)
    f = as4d(f, "filters")
    groups = (at.channels[0] or f.shape[2]) // f.shape[2]
    inputs = [at.inputs[0], g.weight(at.names[0], nchw(f))]
    if b is not None:
        inputs.append(g.weight(at.names[1], vector(b)))
    return g.op(
        "Conv", *inputs, kernel_shape=list(f.shape[:2]), group=groups,
        pads=begins_ends(layer.pad), strides=pair(layer.stride, "stride"),
        dilations=pair(layer.dilate, "dilate"),
    )  # fmt: skip


def _subsample(g: Writer, at: Place, b: Tensor | None) -> str:
    """A convolution without filters: zeros around the map, and every `stride`-th pixel of it."""
    top, left, bottom, right = begins_ends(at.layer.pad)
    y = g.op("Pad", at.inputs[0], g.constant([0, 0, top, left, 0, 0, bottom, right]))
    steps = g.constant(pair(at.layer.stride, "stride"))
    y = g.op("Slice", y, g.constant([0, 0]), g.constant([LAST, LAST]), g.constant([2, 3]), steps)
    return y if b is None else g.op("Add", y, g.weight(at.names[1], per_channel(b)))


def conv_transpose(g: Writer, at: Place) -> str:
    """ConvTranspose, which calls cropping padding."""
    layer, (f, b) = at.layer, (*at.params, None)[:2]
    if f is None:
        raise ValueError("filters are empty; wanted FH x FW x K x D")
    f = as4d(f, "filters")
    inputs = [at.inputs[0], g.weight(at.names[0], nchw(f))]
    if b is not None:
        inputs.append(g.weight(at.names[1], vector(b)))
    return g.op(
        "ConvTranspose", *inputs, kernel_shape=list(f.shape[:2]), group=int(layer.num_groups),
        pads=begins_ends(layer.crop, "crop"), strides=pair(layer.upsample, "upsample"),
    )  # fmt: skip


def pooling(g: Writer, at: Place) -> str:
    """MaxPool, or AveragePool that does not count the padding; output sizes are rounded down."""
    layer = at.layer
    options: dict[str, Any] = {
        "kernel_shape": pair(layer.size, "size"),
        "strides": pair(layer.stride, "stride"),
        "pads": begins_ends(layer.pad),
    }
    if str(layer.method).lower() == "max":
        return g.op("MaxPool", at.inputs[0], **options)
    return g.op("AveragePool", at.inputs[0], count_include_pad=0, **options)


def relu(g: Writer, at: Place) -> str:
    """Relu or LeakyRelu."""
    if at.layer.leak == 0:
        return g.op("Relu", at.inputs[0])
    return g.op("LeakyRelu", at.inputs[0], alpha=float(at.layer.leak))


def sigmoid(g: Writer, at: Place) -> str:
    """Sigmoid."""
    return g.op("Sigmoid", at.inputs[0])


def softmax(g: Writer, at: Place) -> str:
    """Softmax over the channels."""
    return g.op("Softmax", at.inputs[0], axis=1)


def dropout(g: Writer, at: Place) -> str:
    """In test mode the identity."""
    return g.op("Identity", at.inputs[0])


def batch_norm(g: Writer, at: Place) -> str:
    """BatchNormalization with the stored moments; its variance is sigma^2 - epsilon.

    Where that is negative: g / sigma * (x - mu) + b.
    """
    gain, bias, moments = (*at.params, None)[:3]
    if gain is None or bias is None or moments is None:
        raise ValueError("a batch normalisation without stored moments depends on the batch")
    names, epsilon = at.names, float(np.float32(at.layer.epsilon))
    mu, sigma = moments.double().unbind(1)
    variance = sigma.square() - epsilon
    if bool((variance >= 0).all()) and bool((sigma > 0).all()):
        return g.op(
            "BatchNormalization", at.inputs[0],
            g.weight(names[0], vector(gain)), g.weight(names[1], vector(bias)),
            g.weight(f"{names[2]}/mean", mu), g.weight(f"{names[2]}/variance", variance),
            epsilon=epsilon,
        )  # fmt: skip
    scale = vector(gain).double() / sigma
    y = g.op("Sub", at.inputs[0], g.weight(f"{names[2]}/mean", per_channel(mu)))
    y = g.op("Mul", y, g.weight(f"{names[0]}/scale", per_channel(scale)))
    return g.op("Add", y, g.weight(f"{names[1]}/bias", per_channel(bias)))


def lrn(g: Writer, at: Place) -> str:
    """LRN, whose alpha is divided by the size of the window.

    Runtimes refuse windows of even size, and know nothing of an L that may be 0: those are written
    in elementary operators. The sum over a window of n channels is n times a mean in which zeros
    count.
    """
    (x,), p = at.inputs, parse(at.layer.param)
    n = p.below + 1 + p.above
    if p.below == p.above and p.kappa > 0:
        return g.op("LRN", x, size=n, alpha=n * p.alpha, beta=p.beta, bias=p.kappa)
    energy = g.op("Unsqueeze", g.op("Mul", x, x), g.constant([1]))  # N 1 C H W
    energy = g.op(
        "AveragePool", energy, kernel_shape=[n, 1, 1], pads=[p.below, 0, 0, p.above, 0, 0],
        count_include_pad=1,
    )  # fmt: skip
    energy = g.op("Squeeze", energy, g.constant([1]))
    energy = g.op("Add", g.op("Mul", energy, g.constant(n * p.alpha)), g.constant(p.kappa))
    power = g.op("Pow", energy, g.constant(-p.beta))
    zero = g.constant(0.0)
    return g.op("Mul", x, g.op("Where", g.op("Equal", energy, zero), zero, power))


def lp_norm(g: Writer, at: Place) -> str:
    """Divide x by (sum of x^p + epsilon)^(1/p)."""
    (x,), layer = at.inputs, at.layer
    axes = sorted({NCHW_AXIS[int(axis)] for axis in numbers(layer.dims, "dims")})
    powers = g.op("Pow", x, g.constant(float(layer.exponent)))
    total = g.op("ReduceSum", powers, g.constant(axes), keepdims=1)
    total = g.op("Add", total, g.constant(float(layer.epsilon)))
    return g.op("Div", x, g.op("Pow", total, g.constant(1 / layer.exponent)))


def spatial_norm(g: Writer, at: Place) -> str:
    """Divide x by (1 + alpha * mean of x^2 around it)^beta; the mean leaves padding out."""
    (x,), (height, width, alpha, beta) = at.inputs, numbers(at.layer.param, "param")
    size = [int(height), int(width)]
    begins = [(k - 1) // 2 for k in size]
    ends = [k - 1 - begin for k, begin in zip(size, begins, strict=True)]
    mean = g.op(
        "AveragePool", g.op("Mul", x, x), kernel_shape=size, pads=[*begins, *ends],
        count_include_pad=0,
    )  # fmt: skip
    f = g.op("Add", g.op("Mul", mean, g.constant(float(alpha))), g.constant(1.0))
    return g.op("Mul", x, g.op("Pow", f, g.constant(-float(beta))))


def norm_offset(g: Writer, at: Place) -> str:
    """Subtract alpha * max(sum over channels of x^2, 1e-8)^beta."""
    (x,), (alpha, beta) = at.inputs, numbers(at.layer.param, "param")
    energy = g.op("ReduceSum", g.op("Mul", x, x), g.constant([1]), keepdims=1)
    power = g.op("Pow", g.op("Max", energy, g.constant(SMALLEST)), g.constant(float(beta)))
    return g.op("Sub", x, g.op("Mul", power, g.constant(float(alpha))))


def concat(g: Writer, at: Place) -> str:
    """Concat, along the axis that ours is there."""
    return g.op("Concat", *at.inputs, axis=NCHW_AXIS[int(at.layer.dim)])


def add(g: Writer, at: Place) -> str:
    """Sum."""
    return g.op("Sum", *at.inputs)


def scale(g: Writer, at: Place) -> str:
    """Mul and Add; the factors and biases are inputs, then parameters."""
    weights = [
        g.weight(name, nchw(as4d(value, name)))
        for name, value in zip(at.names, at.params, strict=True)
        if value is not None
    ]
    x, a, *b = (*at.inputs, *weights)
    y = g.op("Mul", x, a)
    return g.op("Add", y, *b) if b else y


def crop(g: Writer, at: Place) -> str:
    """Slice to the size of the reference, from `crop` on, as far as there is so much to cut."""
    x, reference = at.inputs
    size, wanted = (g.op("Shape", v, start=2, end=4) for v in (x, reference))
    begin = g.op("Min", g.op("Sub", size, wanted), g.constant(numbers(at.layer.crop, "crop")))
    return g.op("Slice", x, begin, g.op("Add", begin, wanted), g.constant([2, 3]))


def p_distance(g: Writer, at: Place) -> str:
    """(sum over channels of |x - x0|^p)^(1/p), times weights, summed if so wished."""
    layer, (x, x0, *weights) = at.layer, at.inputs
    difference = g.op("Abs", g.op("Sub", x, x0))
    powers = g.op("Pow", difference, g.constant(float(layer.p)))
    y = g.op("ReduceSum", powers, g.constant([1]), keepdims=1)
    if not layer.no_root:
        y = g.op("Pow", y, g.constant(1 / layer.p))
    if layer.instance_weights is not None and not weights:
        given = torch.as_tensor(layer.instance_weights, dtype=torch.float32)
        given = given if given.dim() == 0 else nchw(as4d(given, "instance_weights"))
        weights = [g.constant(given.numpy())]
    for weight in weights:
        y = g.op("Mul", y, weight)
    return g.op("ReduceSum", y, keepdims=0) if layer.aggregate else y


OPS: dict[Any, Emit] = {
    AffineGrid: grid,
    BatchNorm: batch_norm,
    BilinearSampler: bilinear_sampler,
    Concat: concat,
    Conv: conv,
    ConvTranspose: conv_transpose,
    Crop: crop,
    Dropout: dropout,
    LpNorm: lp_norm,
    LRN: lrn,
    NormOffset: norm_offset,
    PDist: p_distance,
    Pooling: pooling,
    ReLU: relu,
    RoiPool: roi_pool,
    Scale: scale,
    Sigmoid: sigmoid,
    Softmax: softmax,
    SpNorm: spatial_norm,
    Sum: add,
    UniformGrid: grid,
}
"""The function that writes a layer, by its class. Losses have none: they are left out."""


def emitter(layer: Layer) -> Emit | None:
    """What writes a layer: found by its class, or by the function or module that it calls."""
    module = getattr(layer, "module", None)
    keys = (type(layer), getattr(layer, "function", None), module and type(module))
    return next((OPS[key] for key in keys if key in OPS), None)


def register_onnx(layer: Any, emit: Emit) -> None:
    """Let `save_onnx` write a layer of yours.

        matconvnet.register_onnx(Softplus, lambda g, at: g.op("Softplus", at.inputs[0]))

    Args:
        layer: the class of the layer; or the function, or the class of the torch.nn.Module, that
            takes the place of one.
        emit: called with the writer `g` and the place `at` of a layer: `at.layer`, the names
            `at.inputs` of the values it reads (N x C x H x W), its parameters `at.params` and their
            `at.names`. It appends operators by `g.op(kind, *inputs, **attributes)` and constants by
            `g.constant(value)` and `g.weight(name, tensor)`, each of which returns a name, and
            returns the name of the output, or a tuple of names.
    """
    OPS[layer] = emit
