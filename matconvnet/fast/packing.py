"""Filters in the order in which the kernels of oneDNN read them, rearranged once for all."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from matconvnet.blocks.conv import Conv
from matconvnet.fast.fused import (
    FusedConv,
    Window,
    conv_post,
    convolve,
    has_onednn,
    multiply,
    onednn,
    rectify_,
    rows_of,
    window_of,
)
from matconvnet.geometry import Size
from matconvnet.graph import Graph, Node, build
from matconvnet.layer import Layer
from matconvnet.layout import nchw
from matconvnet.window import pair, quad

Values = dict[str, Tensor | None]


@dataclass(frozen=True)
class PackedConv(Layer):
    """A convolution, and what follows it, with packed filters; it has no derivative.

    own: the convolution with plain filters. shape: of those, FH x FW x FC x K. leak: of the ReLU;
    None: there is none. window: padding, stride, dilation and groups of the kernel; None: the
    filters cover the map, and are packed for a matrix product.
    """

    num_inputs = None
    own: Conv
    shape: tuple[int, int, int, int]
    leak: float | None
    window: Window | None

    def forward(self, inputs, params, ctx):
        """See `conv_post`."""
        x, *others = inputs
        f, b = params if len(params) == 2 else (params[0], None)
        bias = None if b is None else b.reshape(-1)
        leak = None if others else self.leak
        if self.window is not None:
            y = convolve(x, f, bias, leak, self.window)
        elif x.shape[:3] == self.shape[:3]:
            y = multiply(x, f, bias, leak)
        else:  # a map of another size than was told: the filters slide over it
            h, w, c, k = self.shape
            plain = f.to_dense().reshape(k, h, w, c).permute(1, 2, 3, 0)
            y = conv_post(x, plain, b, leak=leak, **window_of(self.own))
        return (rectify_(y.add_(others[0]), self.leak) if others else y,), None

    def backward(self, call, der_outputs) -> NoReturn:
        """None: the network was compiled for inference."""
        raise TypeError("PackedConv has no derivative; differentiate the network it was made from")


def packed(graph: Graph, values: Values, sizes: Mapping[str, Size]) -> tuple[Graph, Values]:
    """Pack the filters of all convolutions that oneDNN computes.

    Args:
        graph: the structure, of a network in test mode.
        values: of its parameters.
        sizes: of its variables, nan where they are unknown. Filters that cover the map are packed
            where its size, and the number of images, are known.

    Returns: a graph that computes the same with other values.
    """
    values, nodes = dict(values), []
    for node in graph.nodes:
        new = _packed(node, graph, values, sizes.get(node.inputs[0]))
        if new is not None:
            layer, values[node.params[0]] = new
            node = node._replace(layer=layer)
        nodes.append(node)
    return replace(build(nodes), nodes=tuple(nodes)), values


def _packed(
    node: Node, graph: Graph, values: Values, size: Size | None
) -> tuple[Layer, Tensor] | None:
    """A layer with packed filters, and these; None, where plain ones serve as well."""
    layer = node.layer
    conv, leak = (layer.first, layer.leak) if isinstance(layer, FusedConv) else (layer, None)
    f = values[node.params[0]] if node.params else None
    if not isinstance(conv, Conv) or f is None or f.dim() != 4 or graph.users[node.params[0]] > 1:
        return None
    top, bottom, left, right = quad(conv.pad, "pad")
    if not has_onednn(f.device, f.dtype) or (top, left) != (bottom, right):
        return None
    shape = (f.shape[0], f.shape[1], f.shape[2], f.shape[3])
    known = size if size is not None and all(n == n for n in size) else None
    dilate = pair(conv.dilate, "dilate")
    if size is not None and size[:3] == shape[:3] and not any((top, left)):
        # One column, or an unknown number: of one, a product reads plain filters just as fast.
        if known is None or (known[3] == 1 and f.dtype == torch.float32):
            return None
        rows = onednn._reorder_linear_weight(rows_of(f), int(known[3]))
        return PackedConv(conv, shape, leak, None), rows
    if size is None or size[2] != size[2]:
        return None
    window = ((top, left), pair(conv.stride, "stride"), dilate, int(size[2]) // shape[2])
    hint = [int(known[i]) for i in (3, 2, 0, 1)] if known is not None else None
    order = nchw(f).contiguous(memory_format=torch.channels_last)
    filters = onednn._reorder_convolution_weight(order, *window, hint)
    return PackedConv(conv, shape, leak, window), filters
