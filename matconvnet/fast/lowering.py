"""From a unit of a network to calls of kernels, forward and backward: one family for each block."""

from collections.abc import Callable, Container, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.concat import Concat
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmax import Softmax
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.blocks.sum import Sum
from matconvnet.fast import bnorm, conv, elementwise, loss, lrn, pooling, winograd
from matconvnet.fast.native import Call
from matconvnet.fast.section import Run, Work
from matconvnet.fast.units import Unit
from matconvnet.graph import Node
from matconvnet.layer import Layer
from matconvnet.window import integers, output_size, pair, quad

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
Pack = Callable[[Tensor], list[Call]]

CHEAP_TAPS = 32
"""Numbers that an output of a convolution is the sum of, up to which making it again is cheap."""


SLICE = 1 << 19
"""Numbers of filters whose derivative is computed, and used, at a time, so that it stays in the
cache."""


class Target(NamedTuple):
    """Where the derivative of a variable goes: added to what is there, or not, and then masked."""

    der: Tensor
    add: bool
    mask: Tensor | None


class Writer(Protocol):
    """What a family asks for: tensors by name, whose places in memory are fixed.

    training: the mode. derivative: a backward pass will follow. shapes: of variables, parameters.
    maps: the type of maps that kernels make.
    """

    training: bool
    derivative: bool
    shapes: Shapes
    maps: torch.dtype

    def value(self, v: str) -> Tensor:
        """The value of a variable."""
        ...

    def der(self, v: str) -> Tensor:
        """The derivative of a variable, complete."""
        ...

    def target(self, v: str, masked: bool = False) -> Target | None:
        """Where the next share of a variable's derivative goes; None, if nobody wants it.

        masked: the share is 0 anyway where the variable is not positive.
        """
        ...

    def is_rectified(self, v: str) -> bool:
        """Whether a variable is what a ReLU gives, whose derivative is part of the variable's."""
        ...

    def hand_on(self, source: str, v: str, alone: bool) -> list[Call]:
        """Let a derivative be a share of that of `v`; alone: nobody but `v` reads it from now."""
        ...

    def param(self, p: str) -> Tensor:
        """The value of a parameter that is there: `p` in `shapes`."""
        ...

    def param_der(self, p: str) -> Tensor | None:
        """Where the derivative of a parameter goes; None, if nobody wants it."""
        ...

    def steps(self, p: str) -> bool:
        """Whether a parameter is updated within the backward pass, by whoever has a derivative."""
        ...

    def step(self, p: str, der: Tensor, first: int) -> list[Call]:
        """Update the numbers of a parameter from `first` on by their derivative."""
        ...

    def saved(self, unit: Unit, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """What the forward pass of a unit keeps for its backward pass."""
        ...

    def packed(self, unit: Unit, count: int, pack: Pack) -> Tensor | None:
        """Filters packed once and for all; None, if they change from one run to the next."""
        ...

    def scratch(self, count: int) -> Tensor:
        """So many float32s that only the calls of one function need."""
        ...


class Family(NamedTuple):
    """How a block is computed by kernels.

    hindrance: why a layer cannot be, empty if it can; of (node, shapes of all variables and
    parameters). forward, backward: the calls of a unit, and steps in Python between them.
    """

    hindrance: Callable[[Node, Shapes], str]
    forward: Callable[[Unit, Writer], Sequence[Work]]
    backward: Callable[[Unit, Writer], Sequence[Work]]


def _always(_node: Node, _shapes: Shapes) -> str:
    return ""


def hindrance(node: Node, shapes: Shapes) -> str:
    """Why there are no kernels for a layer; empty, if there are."""
    family = FAMILIES.get(type(node.layer))
    if family is None:
        return f"no kernels for {type(node.layer).__name__}"
    if any(0 in shapes[v] for v in (*node.inputs, *node.outputs)):
        return "a map is empty"
    return family.hindrance(node, shapes)


def is_cheap(unit: Unit, shapes: Shapes, given: Container[str]) -> bool:
    """What a unit computes is made again quickly, from what is kept anyway.

    given: variables from outside, which are always there.
    """
    layer, (v, *_) = unit.node.layer, unit.node.inputs
    if isinstance(layer, Conv):
        shape = conv_shape(unit, shapes)
        taps = shape.size[0] * shape.size[1] * shape.channels // shape.groups
        return v in given and taps <= CHEAP_TAPS and unit.residual is None
    return isinstance(layer, BatchNorm | LRN)


def again(unit: Unit, w: Writer) -> Sequence[Work]:
    """The forward pass of a cheap unit, a second time."""
    if isinstance(unit.node.layer, BatchNorm):
        return _bnorm_given(unit, w, _moments(unit, w))
    return FAMILIES[type(unit.node.layer)].forward(unit, w)


# Convolution


def _conv_hindrance(node: Node, shapes: Shapes) -> str:
    return "" if node.params and node.params[0] in shapes else "it has no filters"


def conv_shape(unit: Unit, shapes: Shapes, maps: torch.dtype = torch.float32) -> conv.ConvShape:
    """The geometry of a convolution. maps: their type."""
    layer: Any = unit.node.layer
    h, w, c, n = shapes[unit.node.inputs[0]]
    fh, fw, fc, k = (*shapes[unit.node.params[0]], 1, 1, 1)[:4]
    stride, taps = pair(layer.stride, "stride"), pair(layer.dilate, "dilate")
    top, bottom, left, right = quad(layer.pad, "pad")
    y = output_size(h + top + bottom, (fh - 1) * taps[0] + 1, stride[0])
    x = output_size(w + left + right, (fw - 1) * taps[1] + 1, stride[1])
    return conv.ConvShape(
        n, h, w, c, k, (fh, fw), c // fc, stride, (top, left), taps, (y, x), maps
    )  # fmt: skip


def _conv_kernels(shape: conv.ConvShape, direction: str) -> Any:
    """The module whose kernels are faster for a convolution."""
    return winograd if winograd.faster(shape, direction) else conv


def _conv_forward(unit: Unit, w: Writer) -> list[Call]:
    shape = conv_shape(unit, w.shapes, w.maps)
    kernels: Any = _conv_kernels(shape, "forward")
    filters, biases = unit.node.params[0], unit.node.params[1:]
    f, b = w.param(filters), w.param(biases[0]) if w.shapes.keys() & biases else None
    packed = w.packed(unit, kernels.packed_size(shape), lambda to: kernels.pack(shape, f, to))
    residual = None if unit.residual is None else w.value(unit.residual)
    return kernels.forward(
        shape, w.value(unit.node.inputs[0]), f, b, w.value(unit.output), w.scratch,
        relu=unit.relu, residual=residual, packed=packed,
    )  # fmt: skip


def _conv_backward(unit: Unit, w: Writer) -> list[Call]:
    shape, (v,), calls = conv_shape(unit, w.shapes, w.maps), unit.node.inputs, list[Call]()
    f, dzdy, target = w.param(unit.node.params[0]), w.der(unit.output), w.target(v)
    if target is not None:  # before a step changes the filters
        kernels = _conv_kernels(shape, "backward_data")
        calls += kernels.backward_data(
            shape, f, dzdy, target.der, w.scratch, mask=target.mask, add=target.add
        )
    calls += _filters_backward(unit, w, shape)
    return calls + _residual_backward(unit, w)


def _filters_backward(unit: Unit, w: Writer, shape: conv.ConvShape) -> list[Call]:
    x, dzdy, (filters, *biases) = w.value(unit.node.inputs[0]), w.der(unit.output), unit.node.params
    db = w.param_der(biases[0]) if biases else None
    if shape.is_full and w.steps(filters):
        count = max(1, SLICE // shape.depth)
        df = w.scratch(count * shape.depth)
        slices = conv.filter_slices(shape, x, dzdy, df, db, w.scratch, count)
        return [
            call
            for first, last, calls in slices
            for call in (
                *calls,
                *w.step(filters, df[: (last - first) * shape.depth], first * shape.depth),
            )
        ]
    df = w.param_der(filters)
    if df is not None:
        kernels = _conv_kernels(shape, "backward_filters")
        return kernels.backward_filters(shape, x, dzdy, df, db, w.scratch)
    return [] if db is None else elementwise.channel_sums(dzdy, db)


def _residual_backward(unit: Unit, w: Writer) -> list[Call]:
    """The derivative of what was added is that of the sum, which nobody else reads any more."""
    return [] if unit.residual is None else w.hand_on(unit.output, unit.residual, True)


# Batch normalisation


def _moments(unit: Unit, w: Writer) -> Tensor:
    """The moments that a unit normalises by: of the batch, or stored."""
    if not w.training:
        return w.param(unit.node.params[2])
    return w.saved(unit, (w.shapes[unit.output][2], 2), torch.float32)


def _bnorm_given(unit: Unit, w: Writer, moments: Tensor) -> list[Call]:
    x, y = w.value(unit.node.inputs[0]), w.value(unit.output)
    g, b, _ = map(w.param, unit.node.params)
    residual = None if unit.residual is None else w.value(unit.residual)
    return bnorm.forward_given(x, g, b, y, moments, relu=unit.relu, residual=residual)


def _bnorm_forward(unit: Unit, w: Writer) -> list[Call]:
    if not w.training:
        return _bnorm_given(unit, w, _moments(unit, w))
    layer: Any = unit.node.layer
    x, y = w.value(unit.node.inputs[0]), w.value(unit.output)
    g, b, _ = map(w.param, unit.node.params)
    residual = None if unit.residual is None else w.value(unit.residual)
    return bnorm.forward(
        x, g, b, y, _moments(unit, w), layer.epsilon, w.scratch, relu=unit.relu, residual=residual
    )


def _bnorm_backward(unit: Unit, w: Writer) -> list[Call]:
    (v,), dzdy = unit.node.inputs, w.der(unit.output)
    dg, db, new = map(w.param_der, unit.node.params)
    target = w.target(v)
    calls = bnorm.backward(
        w.value(v), None, w.param(unit.node.params[0]), dzdy,
        None if target is None else target.der, dg, db, _moments(unit, w), new, w.scratch,
        mask=None if target is None else target.mask, add=target is not None and target.add,
        frozen=not w.training,
    )  # fmt: skip
    return calls + _residual_backward(unit, w)


def _bnorm_hindrance(node: Node, _shapes: Shapes) -> str:
    return "" if len(node.params) == 3 else "it has no moments"


# Pooling


def _pool_shape(unit: Unit, shapes: Shapes) -> pooling.PoolShape:
    layer: Any = unit.node.layer
    h, w, c, n = shapes[unit.node.inputs[0]]
    y, x, _, _ = shapes[unit.output]
    top, _, left, _ = quad(layer.pad, "pad")
    return pooling.PoolShape(
        n, h, w, c, pair(layer.size, "size"), pair(layer.stride, "stride"), (top, left), (y, x),
        str(layer.method).lower(),
    )  # fmt: skip


def _winners(unit: Unit, shape: pooling.PoolShape, w: Writer) -> Tensor | None:
    if shape.method != "max" or not w.derivative:
        return None
    is_small = shape.size[0] * shape.size[1] <= 255
    return w.saved(unit, w.shapes[unit.output], torch.uint8 if is_small else torch.int32)


def _pool_forward(unit: Unit, w: Writer) -> list[Call]:
    shape = _pool_shape(unit, w.shapes)
    x, y = w.value(unit.node.inputs[0]), w.value(unit.output)
    return pooling.forward(shape, x, y, _winners(unit, shape, w))


def _pool_backward(unit: Unit, w: Writer) -> list[Call]:
    shape, (v,) = _pool_shape(unit, w.shapes), unit.node.inputs
    is_masked = shape.method == "max" and w.is_rectified(v)  # by y, which is the winner of x
    target = w.target(v, masked=is_masked)
    if target is None:
        return []
    return pooling.backward(
        shape, w.der(unit.output), _winners(unit, shape, w), target.der,
        mask=target.mask, mask_dzdy=w.value(unit.output) if is_masked else None, add=target.add,
    )  # fmt: skip


# Element by element


def _lrn_forward(unit: Unit, w: Writer) -> list[Call]:
    layer: Any = unit.node.layer
    return lrn.forward(w.value(unit.node.inputs[0]), w.value(unit.output), layer.param, w.scratch)


def _lrn_backward(unit: Unit, w: Writer) -> list[Call]:
    layer: Any = unit.node.layer
    (v,), target = unit.node.inputs, w.target(unit.node.inputs[0])
    if target is None:
        return []
    return lrn.backward(
        w.value(v), w.der(unit.output), target.der, layer.param, w.scratch,
        mask=target.mask, add=target.add,
    )  # fmt: skip


def _relu_forward(unit: Unit, w: Writer) -> list[Call]:
    layer: Any = unit.node.layer
    return elementwise.relu(w.value(unit.node.inputs[0]), w.value(unit.output), layer.leak)


def _relu_backward(unit: Unit, w: Writer) -> list[Call]:
    layer: Any = unit.node.layer
    (v,) = unit.node.inputs
    if unit.relu:  # whoever wrote the derivative has masked it
        return w.hand_on(unit.output, v, True)
    target = w.target(v)
    if target is None:
        return []
    y, dzdy = w.value(unit.output), w.der(unit.output)
    calls = elementwise.relu_backward(y, dzdy, target.der, layer.leak, target.add)
    return calls + _masked(target)


def _masked(target: Target) -> list[Call]:
    """The mask, where a kernel has none of its own."""
    if target.mask is None:
        return []
    return elementwise.relu_backward(target.mask, target.der, target.der, 0.0, False)


def _sigmoid_forward(unit: Unit, w: Writer) -> list[Call]:
    return elementwise.sigmoid(w.value(unit.node.inputs[0]), w.value(unit.output))


def _sigmoid_backward(unit: Unit, w: Writer) -> list[Call]:
    target = w.target(unit.node.inputs[0])
    if target is None:
        return []
    y, dzdy = w.value(unit.output), w.der(unit.output)
    return elementwise.sigmoid_backward(y, dzdy, target.der, target.add) + _masked(target)


def _softmax_forward(unit: Unit, w: Writer) -> list[Call]:
    return loss.softmax_forward(w.value(unit.node.inputs[0]), w.value(unit.output))


def _softmax_backward(unit: Unit, w: Writer) -> list[Call]:
    y, dzdy, target = w.value(unit.output), w.der(unit.output), w.target(unit.node.inputs[0])
    if target is None:
        return []
    if not target.add:
        return loss.softmax_backward(y, dzdy, target.der) + _masked(target)
    share = w.scratch(y.numel()).view(y.dtype).as_strided(y.shape, y.stride())
    calls = loss.softmax_backward(y, dzdy, share)
    return calls + elementwise.copy(share, target.der, mask=target.mask, add=True)


def _sum_hindrance(node: Node, shapes: Shapes) -> str:
    return "" if len({shapes[v] for v in node.inputs}) == 1 else "its inputs differ in size"


def _sum_forward(unit: Unit, w: Writer) -> list[Call]:
    inputs = [w.value(v) for v in unit.node.inputs]
    return elementwise.add(inputs, w.value(unit.output), relu=unit.relu)


def _sum_backward(unit: Unit, w: Writer) -> list[Call]:
    return [call for v in unit.node.inputs for call in w.hand_on(unit.output, v, False)]


def _concat_hindrance(node: Node, _shapes: Shapes) -> str:
    layer: Any = node.layer
    return "" if integers(layer.dim, "dim", (1,), 0)[0] == 2 else "it does not join channels"


def _concat_forward(unit: Unit, w: Writer) -> list[Call]:
    return elementwise.concat([w.value(v) for v in unit.node.inputs], w.value(unit.output))


def _concat_backward(unit: Unit, w: Writer) -> list[Call]:
    calls, start, dzdy = list[Call](), 0, w.der(unit.output)
    for v in unit.node.inputs:
        target, channels = w.target(v), w.shapes[v][2]
        if target is not None:
            calls += elementwise.split(dzdy, start, target.der, mask=target.mask, add=target.add)
        start += channels
    return calls


# Dropout


def _dropout_hindrance(node: Node, _shapes: Shapes) -> str:
    layer: Any = node.layer
    if layer.frozen or layer.mask is not None:
        return "its mask outlives the evaluation"
    return "" if 0 <= layer.rate < 1 else f"its rate is {layer.rate}"


def _mask(unit: Unit, w: Writer) -> Tensor:
    count = elementwise.mask_bytes(prod(w.shapes[unit.output]))
    return w.saved(unit, (count,), torch.uint8)


def _dropout_forward(unit: Unit, w: Writer) -> Sequence[Work]:
    layer: Any = unit.node.layer
    x, y = w.value(unit.node.inputs[0]), w.value(unit.output)
    if not w.training:
        return elementwise.copy(x, y)
    draws = w.scratch(x.numel())

    def draw(run: Run) -> None:
        draws.uniform_(generator=run.ctx.generator)

    return [draw, *elementwise.dropout_forward(x, draws, _mask(unit, w), y, layer.rate)]


def _dropout_backward(unit: Unit, w: Writer) -> list[Call]:
    layer: Any = unit.node.layer
    (v,) = unit.node.inputs
    if not w.training:
        return w.hand_on(unit.output, v, True)
    target = w.target(v)
    if target is None:
        return []
    return elementwise.dropout_backward(
        _mask(unit, w), w.der(unit.output), target.der, layer.rate,
        mask=target.mask, add=target.add,
    )  # fmt: skip


# Losses

LOSSES = ("softmaxlog", "classerror", "topkerror")


def _loss_hindrance(node: Node, shapes: Shapes) -> str:
    layer = node.layer
    if isinstance(layer, Loss) and str(layer.loss).lower() not in LOSSES:
        return f"no kernel for a loss of kind {layer.loss!r}"
    if len(node.inputs) != 2:
        return "it has instance weights"
    h, w, _, n = shapes[node.inputs[0]]
    labels = shapes[node.inputs[1]]
    count = 1
    for size in labels:
        count *= size
    if count == n or (labels == (h, w, 1, n) and h * w > 1):
        return ""
    return f"labels of shape {labels}"


def _loss_forward(unit: Unit, w: Writer) -> list[Call]:
    layer: Any = unit.node.layer
    x, labels = map(w.value, unit.node.inputs)
    y, kind = w.value(unit.output), str(getattr(layer, "loss", "softmaxlog")).lower()
    if kind == "classerror":
        return loss.classerror(x, labels, y)
    if kind == "topkerror":
        return loss.topkerror(x, labels, layer.top_k, y)
    return loss.softmaxlog_forward(x, labels, y)


def _loss_backward(unit: Unit, w: Writer) -> list[Call]:
    layer: Any = unit.node.layer
    x, labels = map(w.value, unit.node.inputs)
    if str(getattr(layer, "loss", "softmaxlog")).lower() != "softmaxlog":
        return []
    target = w.target(unit.node.inputs[0])
    if target is None:
        return []
    if not target.add:
        calls = loss.softmaxlog_backward(x, labels, w.der(unit.output), target.der)
        return calls + _masked(target)
    share = w.scratch(x.numel()).view(x.dtype).as_strided(x.shape, x.stride())
    calls = loss.softmaxlog_backward(x, labels, w.der(unit.output), share)
    return calls + elementwise.copy(share, target.der, mask=target.mask, add=True)


FAMILIES: dict[type[Layer], Family] = {
    Conv: Family(_conv_hindrance, _conv_forward, _conv_backward),
    BatchNorm: Family(_bnorm_hindrance, _bnorm_forward, _bnorm_backward),
    Pooling: Family(_always, _pool_forward, _pool_backward),
    LRN: Family(_always, _lrn_forward, _lrn_backward),
    ReLU: Family(_always, _relu_forward, _relu_backward),
    Dropout: Family(_dropout_hindrance, _dropout_forward, _dropout_backward),
    Softmax: Family(_always, _softmax_forward, _softmax_backward),
    Sigmoid: Family(_always, _sigmoid_forward, _sigmoid_backward),
    Sum: Family(_sum_hindrance, _sum_forward, _sum_backward),
    Concat: Family(_concat_hindrance, _concat_forward, _concat_backward),
    Loss: Family(_loss_hindrance, _loss_forward, _loss_backward),
    SoftmaxLoss: Family(_loss_hindrance, _loss_forward, _loss_backward),
}
