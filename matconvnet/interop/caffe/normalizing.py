"""Caffe's layers that normalise: BatchNorm, Scale, LRN."""

import math

import numpy as np
import torch

from matconvnet.blocks import LRN, BatchNorm, Scale
from matconvnet.errors import FormatError
from matconvnet.graph import Node
from matconvnet.interop.caffe.checks import check_colours, inputs_of
from matconvnet.interop.caffe.importer import Importer, Value
from matconvnet.interop.caffe.wiring import Step


def batch_norm(net: Importer, step: Step) -> None:
    """BatchNorm. Its blobs are mean, variance and their common factor t:

        moments = (mean / t, sqrt(variance / t + eps))

    Caffe has no multipliers and biases there: they are 1 and 0, and are not trained.
    """
    p, (x,) = step.options.batch_norm_param, inputs_of(step, 1)
    channels, epsilon = net.size(x)[2], p.eps
    if p.has("use_global_stats") and not p.use_global_stats:
        net.notes.append(
            f"layer {step.entry.name!r} says use_global_stats: false: here that is mode 'normal'"
        )
    mean = net.blob(step, 0, (channels,))
    variance, factor = net.blob(step, 1, (channels,)), net.blob(step, 2, (1,))
    if mean is None or variance is None or factor is None:
        if math.isnan(channels):
            raise FormatError(f"the channels of {x!r} are not known")
        count, moments = int(channels), None
    else:
        count = mean.size
        pairs = _turned(net, x, _moments(mean, variance, float(factor[0]), epsilon), 0)
        moments = torch.from_numpy(pairs)
    layer = BatchNorm(epsilon=epsilon, num_channels=count)
    params = [
        net.frozen(f"{step.name}_mult", torch.ones(count), (count,)),
        net.frozen(f"{step.name}_bias", torch.zeros(count), (count,)),
        net.frozen(f"{step.name}_moments", moments, (count, 2)),
    ]
    net.add(step, layer, [x], step.outputs, params)


def _moments(mean: np.ndarray, variance: np.ndarray, factor: float, epsilon: float) -> np.ndarray:
    """C x 2; a factor of 0 means that nothing was averaged yet."""
    by = 1 / factor if factor else 0.0
    if mean.shape != variance.shape:
        raise FormatError(f"it has {mean.size} means and {variance.size} variances")
    with np.errstate(all="ignore"):
        pairs = np.stack((mean * np.float64(by), np.sqrt(variance * np.float64(by) + epsilon)), 1)
        moments = pairs.astype(np.float32)
    if not np.isfinite(moments).all():
        raise FormatError("its means and variances are negative, or no numbers at all")
    return moments


def scale(net: Importer, step: Step) -> None:
    """Scale, by parameters or by another map; with `simplify` it goes into a BatchNorm."""
    p = step.options.scale_param
    if len(step.inputs) == 2:
        _scale_by_map(net, step)
        return
    (x,) = inputs_of(step, 1)
    axes = range(p.axis, 4 if p.num_axes == -1 else p.axis + p.num_axes)
    if not 1 <= p.axis <= axes.stop <= 4:
        raise FormatError(f"it has axis {p.axis}, num_axes {p.num_axes}; wanted axes 1 to 3")
    factors, size = _map(net, step, 0, axes)
    biases, _ = _map(net, step, 1, axes) if p.bias_term else (None, None)
    node = _norm_before(net, step, size)
    if node is not None:
        _merge(net, step, node, factors, biases)
        return
    params = [net.learnable(step, 0, "mult", factors, size)]
    if p.bias_term:
        params.append(net.learnable(step, 1, "bias", biases, size))
    net.add(step, Scale(size=size, has_bias=p.bias_term), [x], step.outputs, params)


def lrn(net: Importer, step: Step) -> None:
    """LRN across channels; Caffe divides alpha by the size of the window."""
    p, inputs = step.options.lrn_param, inputs_of(step, 1)
    if p.norm_region == "WITHIN_CHANNEL":
        raise FormatError("it normalises WITHIN_CHANNEL, as no layer here does; wanted channels")
    n = p.local_size
    if n % 2 == 0:
        raise FormatError(f"its local_size is {n}; wanted an odd number")
    layer = LRN((n, p.k, p.alpha / n, p.beta))
    net.add(step, layer, inputs, step.outputs)


def _turned(net: Importer, x: str, values: np.ndarray, axis: int) -> np.ndarray:
    """Values for RGB, made of those for BGR, if it is an image that they belong to."""
    if net.is_colour(x) and values.shape[axis] == 3:
        return np.flip(values, axis).copy()
    return values


def _map(
    net: Importer, step: Step, index: int, axes: range
) -> tuple[torch.Tensor | None, tuple[int, ...]]:
    """A blob of a Scale, which covers `axes` of N, C, H, W, as a map that broadcasts; its size."""
    (x,) = step.inputs
    h, w, c, n = net.size(x)
    sizes = (n, c, *net.hw((h, w)))
    blob = net.blob(step, index, tuple(sizes[axis] for axis in axes))
    found = [sizes[axis] for axis in axes] if blob is None else blob.shape
    if any(map(math.isnan, found)):
        raise FormatError(f"the size of {x!r} is not known")
    full = [1, 1, 1, 1]
    for axis, number in zip(axes, found, strict=True):
        full[axis] = int(number)
    size = (*net.hw(full[2:]), full[1], 1)
    return net.maps(None if blob is None else _turned(net, x, blob.reshape(full), 1)), size


def _norm_before(net: Importer, step: Step, size: tuple[int, ...]) -> Node | None:
    """The BatchNorm that a Scale of this size can go into: nothing else reads what it writes."""
    (x,) = step.inputs
    node = net.producer(x)
    if node is None or not isinstance(node.layer, BatchNorm):
        return None
    fits = size == (1, 1, node.layer.num_channels, 1)
    is_alone = net.wired.readers[x] == 1 and not any(net.spec(step, i)[0] for i in range(2))
    return node if net.options.simplify and fits and is_alone else None


def _merge(net: Importer, step: Step, node: Node, factors, biases) -> None:
    """Give a BatchNorm the factors and biases of the Scale after it, and its output."""
    for i, (name, values) in enumerate(zip(node.params, (factors, biases), strict=False)):
        if i and not step.options.scale_param.bias_term:
            break
        old, (_, rate, decay) = net.params[name], net.spec(step, i)
        value = old.value if values is None else values.reshape(-1)
        net.params[name] = Value(value, old.shape, rate, decay)
    net.replace(step, node, step.outputs)


def _scale_by_map(net: Importer, step: Step) -> None:
    """Scale by its second input, as large as the first or, along an axis, of size 1."""
    p, (x, factors) = step.options.scale_param, inputs_of(step, 2)
    if p.axis != 0 or p.bias_term:
        raise FormatError("it scales by another map; wanted axis 0 and no bias_term for that")
    check_colours(net, (x, factors))
    net.add(step, Scale(has_bias=False), [x, factors], step.outputs)
