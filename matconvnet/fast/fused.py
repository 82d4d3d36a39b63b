"""Fused layers: layers that follow each other as one, which hides the value between them.

They keep the contract of a layer and serve every device. Where oneDNN is at hand (CPU, float32 and
bfloat16) what follows a convolution is done while its output is still in the registers; elsewhere
it is done in place, in the memory that the convolution wrote.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_map
from matconvnet.blocks.conv import Conv, conv, geometry
from matconvnet.blocks.relu import ReLU, relu_backward
from matconvnet.graph import Node
from matconvnet.layer import Field, Layer
from matconvnet.layout import from_pixels, hwcn, nchw
from matconvnet.window import Pad4, Size2

onednn: Any = torch.ops.mkldnn
Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]
"""(vertical, horizontal) padding, stride and dilation, in pixels; groups of channels."""


def conv_post(
    x: Tensor,
    f: Tensor | None,
    b: Tensor | None = None,
    other: Tensor | None = None,
    *,
    leak: float | None = None,
    stride: Size2 = 1,
    pad: Pad4 = 0,
    dilate: Size2 = 1,
) -> Tensor:
    """Convolve a map, add another one to the result, and rectify the sum.

        y = relu(conv(x, f, b) + other)

    Args:
        x, f, b, stride, pad, dilate: as in `conv`.
        other: a map of the size of the output; None: nothing is added.
        leak: of `relu`; None: nothing is rectified.

    Returns: the shape of the output of `conv`.
    Raises: as `conv`; ValueError, if `other` has another size than the output.
    """
    x4 = check_map(x)
    g = geometry(x4, f, b, stride, pad, dilate)
    if other is not None and check_map(other, "other").shape != g.output:
        raise ValueError(f"other has shape {tuple(other.shape)}; wanted {g.output}, as the output")
    is_padded_by_kernel = any(g.kernel_pad) or not any(g.pad)
    can_fuse = other is None and is_padded_by_kernel and x4.numel() > 0
    if f is not None and can_fuse and has_onednn(x4.device, x4.dtype):
        bias = None if b is None else b.reshape(-1)
        if not g.is_full:
            return convolve(x4, nchw(f), bias, leak, (g.kernel_pad, g.stride, g.dilate, g.groups))
        # Of one image, and in bfloat16, torch's own product takes no longer.
        if x4.shape[3] > 1 and x4.dtype == torch.float32:
            return multiply(x4, rows_of(f), bias, leak)
    y = conv(x4, f, b, stride=stride, pad=pad, dilate=dilate)
    return rectify_(y if other is None else y.add_(other), leak)


@functools.cache
def has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    """True, if there are kernels of oneDNN that do more than one layer on such tensors."""
    backend: Any = torch.backends.mkldnn
    if device.type != "cpu" or not backend.is_available() or not backend.enabled:
        return False
    if not hasattr(onednn, "_convolution_pointwise") or not hasattr(onednn, "_linear_pointwise"):
        return False
    half = dtype == torch.bfloat16 and onednn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or half


def convolve(x: Tensor, f: Tensor, b: Tensor | None, leak: float | None, window: Window) -> Tensor:
    """Rectified convolution of an H x W x C x N map; K x C x FH x FW filters, plain or packed."""
    return hwcn(onednn._convolution_pointwise(nchw(x), f, b, *window, *_rectifier(leak), ""))


def multiply(x: Tensor, rows: Tensor, b: Tensor | None, leak: float | None) -> Tensor:
    """Rectified product of an H x W x C x N map and filters that cover it: `rows` of them."""
    columns = x.permute(3, 0, 1, 2).reshape(x.shape[3], -1)
    y = onednn._linear_pointwise(columns, rows, b, *_rectifier(leak), "")
    return from_pixels(y, 1, 1, x.shape[3])


def rows_of(f: Tensor) -> Tensor:
    """H x W x C x K filters as K rows of H*W*C numbers; a view of channels-last memory."""
    return f.permute(3, 0, 1, 2).reshape(f.shape[3], -1)


def _rectifier(leak: float | None) -> tuple[str, list[float]]:
    """`relu` in the words of oneDNN."""
    if leak is None:
        return "none", []
    return ("relu", []) if leak == 0 else ("leaky_relu", [leak])


def rectify_(y: Tensor, leak: float | None) -> Tensor:
    """`relu` in place; None: nothing."""
    if leak is None:
        return y
    return y.relu_() if leak == 0 else torch.nn.functional.leaky_relu_(y, leak)


@dataclass(frozen=True)
class Fused(Layer):
    """Nodes that follow each other as one layer; the values between them are hidden.

    Its inputs are what the parts read and do not write, in order; its parameters those of the
    parts; its output is that of the last part.

    parts: the nodes, as they were in the graph.
    """

    needs = frozenset({"inputs", "outputs"})
    parts: tuple[Node, ...]

    def node(self) -> Node:
        """The layer in place, under the name of its last part."""
        made = {v for part in self.parts for v in part.outputs}
        inputs = tuple(v for part in self.parts for v in part.inputs if v not in made)
        params = tuple(p for part in self.parts for p in part.params)
        return Node(self.parts[-1].name, self, inputs, self.parts[-1].outputs, params)

    @functools.cached_property
    def leak(self) -> float | None:
        """Of the ReLU at the end; None, if there is none."""
        last = self.parts[-1].layer
        return last.leak if isinstance(last, ReLU) else None

    @functools.cached_property
    def first(self) -> Layer:
        """The layer of the first part, the one with parameters."""
        return self.parts[0].layer

    def unrectified(self, call, der_outputs) -> Tensor:
        """The derivative of the value before the ReLU, if there is one."""
        (dzdy,) = der_outputs
        if self.leak is None:
            return dzdy
        return relu_backward(call.outputs[0], dzdy, leak=self.leak)

    def output_sizes(self, sizes, param_shapes):
        """Sizes through all parts."""
        return (self._walk(sizes, param_shapes)[0],)

    def multiply_adds(self, sizes, param_shapes):
        """The sum over the parts."""
        return self._walk(sizes, param_shapes)[1]

    def _walk(self, sizes, param_shapes):
        """Size of the output, and multiply-adds, part by part."""
        node = self.node()
        known = dict(zip(node.inputs, sizes, strict=True))
        shapes = dict(zip(node.params, param_shapes, strict=True))
        work = 0
        for part in self.parts:
            read = [known[v] for v in part.inputs], [shapes[p] for p in part.params]
            known.update(zip(part.outputs, part.layer.output_sizes(*read), strict=True))
            work += part.layer.multiply_adds(*read)
        return known[node.outputs[0]], work

    def receptive_field(self, param_shapes):
        """That of the first part; the others look at single pixels."""
        return self.first.receptive_field(param_shapes)


@dataclass(frozen=True)
class FusedConv(Fused):
    """A convolution, and the sum with another map and the ReLU that follow it, if they do."""

    num_inputs = None

    def forward(self, inputs, params, ctx):
        """See `conv_post`."""
        f, b = (*params, None, None)[:2]
        y = conv_post(inputs[0], f, b, *inputs[1:], leak=self.leak, **window_of(self.first))
        return (y,), None

    def backward(self, call, der_outputs):
        """The derivative, masked once, is that of the other map, and of the convolution."""
        dzdy = self.unrectified(call, der_outputs)
        own = call._replace(inputs=call.inputs[:1], wanted=call.wanted[:1])
        der_inputs, der_params = self.first.backward(own, (dzdy,))
        return (*der_inputs, *(dzdy for _ in call.inputs[1:])), der_params

    def receptive_fields(self, count, param_shapes):
        """That of the convolution; of the other map, one pixel."""
        return (self.receptive_field(param_shapes), *(Field() for _ in range(1, count)))


def window_of(layer: Layer) -> dict[str, Any]:
    """Stride, padding and dilation of a convolution, by name."""
    assert isinstance(layer, Conv)
    return {"stride": layer.stride, "pad": layer.pad, "dilate": layer.dilate}


@dataclass(frozen=True)
class BatchNormReLU(Fused):
    """A batch normalisation and the ReLU that follows it, which is done in place."""

    param_names = ("multipliers", "biases", "moments")
    averaged_params = ("moments",)

    def forward(self, inputs, params, ctx):
        """See `bnorm` and `relu`."""
        (y,), moments = self.first.forward(inputs, params, ctx)
        return (rectify_(y, self.leak),), moments

    def backward(self, call, der_outputs):
        """See `relu_backward` and `bnorm_backward`."""
        return self.first.backward(call, (self.unrectified(call, der_outputs),))


@dataclass(frozen=True)
class SumReLU(Fused):
    """A sum and the ReLU that follows it, which is done in place."""

    needs = frozenset({"outputs"})
    num_inputs = None

    def forward(self, inputs, params, ctx):
        """See `add` and `relu`."""
        (y,), shapes = self.first.forward(inputs, params, ctx)
        return (rectify_(y, self.leak),), shapes

    def backward(self, call, der_outputs):
        """See `relu_backward` and `add_backward`."""
        return self.first.backward(call, (self.unrectified(call, der_outputs),))

    def receptive_fields(self, count, param_shapes):
        """One pixel of each input."""
        return self.first.receptive_fields(count, param_shapes)
