"""Caffe's layers that join maps, or say that one is another: Concat, Eltwise, Crop, Reshape, ..."""

import math

import torch

from matconvnet.blocks import Concat, Crop, Scale, Sum
from matconvnet.errors import FormatError
from matconvnet.geometry import receptive_fields
from matconvnet.graph import build
from matconvnet.interop.caffe.checks import check_colours, check_sizes, inputs_of
from matconvnet.interop.caffe.importer import Importer
from matconvnet.interop.caffe.wiring import Step

MOST_ALIGNED = 1000
"""Layers of a network in which receptive fields are looked for, again for every Crop."""


def concat(net: Importer, step: Step) -> None:
    """Concat, along any of the axes N, C, H, W."""
    p, inputs = step.options.concat_param, inputs_of(step, None)
    axis = p.concat_dim if p.has("concat_dim") else p.axis
    if not 0 <= axis < 4:
        raise FormatError(f"it has axis {axis}; wanted 0 to 3")
    check_colours(net, inputs, may_have=axis != 1)
    dim = (3, 2, *net.hw((0, 1)))[axis]
    check_sizes(net, inputs, but=dim)
    net.add(step, Concat(dim), inputs, step.outputs)


def eltwise(net: Importer, step: Step) -> None:
    """Eltwise: a sum, of scaled maps where there are coefficients, or a product."""
    p, inputs = step.options.eltwise_param, inputs_of(step, None)
    check_colours(net, inputs)
    check_sizes(net, inputs)
    if p.operation == "PROD":
        _product(net, step, inputs)
    elif p.operation == "SUM":
        net.add(step, Sum(), _terms(net, step, inputs), step.outputs)
    else:
        raise FormatError("it takes the maximum, as no layer here does; wanted SUM or PROD")


def _terms(net: Importer, step: Step, inputs: tuple[str, ...]) -> list[str]:
    """The inputs of a sum, each scaled if its coefficient is not 1."""
    factors = step.options.eltwise_param.coeff or [1.0] * len(inputs)
    if len(factors) != len(inputs):
        raise FormatError(f"it has {len(factors)} coefficients for {len(inputs)} bottoms")
    terms = list(inputs)
    for i, factor in enumerate(factors):
        if factor != 1:
            terms[i], size = net.fresh(f"{step.name}_term{i + 1}"), (1, 1, 1, 1)
            value = torch.full(size, factor)
            param = net.frozen(f"{step.name}_coeff{i + 1}", value, size)
            layer = Scale(size=size, has_bias=False)
            net.add(step, layer, [inputs[i]], [terms[i]], [param], suffix=f"_term{i + 1}")
    return terms


def _product(net: Importer, step: Step, inputs: tuple[str, ...]) -> None:
    """A product, of two maps at a time."""
    product, *others = inputs
    for i, other in enumerate(others, 1):
        is_last = i == len(others)
        out = step.outputs[0] if is_last else net.fresh(f"{step.name}_product{i}")
        suffix = "" if is_last else f"_product{i}"
        net.add(step, Scale(has_bias=False), [product, other], [out], suffix=suffix)
        product = out


def crop(net: Importer, step: Step) -> None:
    """Crop, to the height and width of its second input.

    Where the file gives no offset it is 0; but in the fork of the fully convolutional networks it
    puts the centres of receptive fields above each other.
    """
    p, (x, reference) = step.options, inputs_of(step, 2)
    is_given = p.has("crop_param")
    aligned = None if is_given else _aligned(net, net.resolve(x), net.resolve(reference))
    offsets = (0, 0)
    if is_given:
        given = list(p.crop_param.offset) or [0]
        if p.crop_param.axis != 2 or len(given) > 2:
            raise FormatError(f"it has axis {p.crop_param.axis}, offset {given}; wanted axis 2")
        offsets = net.hw((given[0], given[-1]))
    elif net.options.align_crops or step.entry.is_old:
        if aligned is None:
            raise FormatError("it has no offset, and receptive fields do not tell one")
        offsets = aligned
    elif aligned not in (None, (0, 0)):
        net.notes.append(
            f"layer {step.entry.name!r} crops from 0, as Caffe does where there is no offset; "
            f"preproc='fcn' takes the one at which receptive fields agree, {aligned}"
        )
    net.add(step, Crop(offsets), [x, reference], step.outputs)


def _aligned(net: Importer, x: str, reference: str) -> tuple[int, int] | None:
    """(vertical, horizontal) offset at which pixels of two maps have the same centre."""
    if len(net.nodes) > MOST_ALIGNED:
        return None
    common = _ancestors(net, x) & _ancestors(net, reference)
    ancestor = next((v for v in reversed(net.sizes) if v in common), None)
    if ancestor is None:
        return None
    shapes = {name: param.shape for name, param in net.params.items()}
    fields = receptive_fields(build(net.nodes.values()), ancestor, shapes)
    a, b = fields.get(x), fields.get(reference)
    if a is None or b is None or a.stride != b.stride:
        return None
    found = [(b.offset[i] - a.offset[i]) / a.stride[i] for i in range(2)]
    if any(n < 0 or n != int(n) for n in found):
        return None
    return int(found[0]), int(found[1])


def _ancestors(net: Importer, variable: str) -> set[str]:
    """A variable, and those that it is computed from."""
    found = {variable}
    for node in reversed(net.nodes.values()):
        if found.intersection(node.outputs):
            found.update(node.inputs)
    return found


def flatten(net: Importer, step: Step) -> None:
    """Flatten, to a vector: the map stays what it is, and InnerProduct covers it."""
    p, (x,) = step.options.flatten_param, inputs_of(step, 1)
    if (p.axis, p.end_axis) != (1, -1):
        raise FormatError("it keeps some axes; wanted axis 1, end_axis -1")
    _flatten(net, step, x)


def reshape(net: Importer, step: Step) -> None:
    """Reshape, if it changes nothing, or flattens."""
    p, (x,) = step.options.reshape_param, inputs_of(step, 1)
    h, w, c, n = net.size(x)
    old, dims = (n, c, *net.hw((h, w))), list(p.shape.dim)
    if p.axis or p.num_axes != -1 or len(dims) > 4:
        raise FormatError("it reshapes some of the axes; wanted axis 0, num_axes -1, up to 4 dim")
    shape = [old[i] if d == 0 else d for i, d in enumerate(dims)]
    if shape.count(-1) == 1:
        i = shape.index(-1)
        shape[i] = math.prod(old) / math.prod(shape[:i] + shape[i + 1 :])
    shape += [1] * (4 - len(shape))
    # The number of images is what is evaluated, not what the file says.
    if shape[1:] == list(old[1:]):
        net.skip(step)
    elif shape[1:] == [c * h * w, 1, 1]:
        _flatten(net, step, x)
    else:
        raise FormatError(f"it turns {old} (N, C, H, W) into {shape}; wanted a vector per image")


def _flatten(net: Importer, step: Step, x: str) -> None:
    net.skip(step)
    if net.size(x)[:2] != (1, 1):
        net.flat.update(step.outputs)
