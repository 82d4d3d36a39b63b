"""One pass over maps by kernels: rectify, squash, add, copy, join and split channels, drop, scale.

All maps are of one type, float32 or bfloat16, on the CPU, H W C N views of channels-last memory,
and stay where they are. Biases, multipliers and sums are float32.
Every function returns one call. Where a function says so, its output may be one of its inputs.
"""

from collections.abc import Sequence

from torch import Tensor

from matconvnet.fast.native import Call, of_maps

BITS_BLOCK = 128  # elements whose bits of a dropout mask lie together, as in kernels/elementwise.c


def relu(x: Tensor, y: Tensor, leak: float = 0.0) -> list[Call]:
    """Write x where x > 0, leak * x elsewhere, to `y`, which may be `x`.

    Source: matconvnet.blocks.relu.
    """
    return [Call(of_maps("relu", x), (x, y), (x.numel(),), (leak,))]


def relu_backward(
    y: Tensor, dzdy: Tensor, dzdx: Tensor, leak: float = 0.0, add: bool = False
) -> list[Call]:
    """Write dzdy where y > 0, leak * dzdy elsewhere, to `dzdx`, which may be `dzdy`.

    Args:
        y: output (or input) of `relu`.
        dzdy, dzdx: shape of `y`.
        leak: slope where y <= 0.
        add: add to what `dzdx` holds.

    Source: matconvnet.blocks.relu.
    """
    return [Call(of_maps("relu_backward", y), (y, dzdy, dzdx), (y.numel(), int(add)), (leak,))]


def sigmoid(x: Tensor, y: Tensor) -> list[Call]:
    """Write 1 / (1 + exp(-x)) to `y`, which may be `x`.

    Source: matconvnet.blocks.sigmoid.
    """
    return [Call(of_maps("sigmoid", x), (x, y), (x.numel(),))]


def sigmoid_backward(y: Tensor, dzdy: Tensor, dzdx: Tensor, add: bool = False) -> list[Call]:
    """Write dzdy * y * (1 - y) to `dzdx`, which may be `dzdy`.

    Args:
        y: output of `sigmoid`.
        dzdy, dzdx: shape of `y`.
        add: add to what `dzdx` holds.

    Source: matconvnet.blocks.sigmoid.
    """
    return [Call(of_maps("sigmoid_backward", y), (y, dzdy, dzdx), (y.numel(), int(add)))]


def add(inputs: Sequence[Tensor], y: Tensor, relu: bool = False) -> list[Call]:
    """Write the sum of maps to `y`, which may be one of them; relu: 0 where it is negative.

    Source: matconvnet.blocks.sum.
    """
    return [Call(of_maps("add", y), (y, *inputs), (y.numel(), len(inputs), int(relu)))]


def copy(x: Tensor, y: Tensor, *, mask: Tensor | None = None, add: bool = False) -> list[Call]:
    """Write `x` to `y`.

    Args:
        x, y: maps of one shape.
        mask: shape of `y`; where it is <= 0, y becomes 0.
        add: add to what `y` holds, before the mask.
    """
    return [Call(of_maps("copy", x), (x, y, mask), (x.numel(), int(add)))]


def concat(inputs: Sequence[Tensor], y: Tensor) -> list[Call]:
    """Write the channels of several maps one after the other to `y`.

    Source: matconvnet.blocks.concat, dim 2.
    """
    channels = y.shape[2]
    numbers = (_pixels(y), len(inputs), channels, *(x.shape[2] for x in inputs))
    return [Call(of_maps("concat", y), (y, *inputs), numbers)]


def split(
    x: Tensor, start: int, y: Tensor, *, mask: Tensor | None = None, add: bool = False
) -> list[Call]:
    """Write as many channels of `x` as `y` has, from `start` on, to `y`; the reverse of `concat`.

    Args:
        x: H x W x C x N map.
        start: the first channel, counted from 0.
        y: H x W x K x N with start + K <= C.
        mask: shape of `y`; where it is <= 0, y becomes 0.
        add: add to what `y` holds, before the mask.
    """
    numbers = (_pixels(y), y.shape[2], x.shape[2], int(add))
    return [Call(of_maps("copy_rows", y), (x[:, :, start:], y, mask), numbers)]


def mask_bytes(elements: int) -> int:
    """Bytes that the mask of `dropout_forward` takes: one bit an element, in whole blocks."""
    return -(-elements // BITS_BLOCK) * BITS_BLOCK // 8


def dropout_forward(x: Tensor, u: Tensor, bits: Tensor, y: Tensor, rate: float) -> list[Call]:
    """Keep what the numbers `u` tell, scaled so that the mean stays.

        y = mask * x,  mask = 1 / (1 - rate) where u >= rate, else 0

    Args:
        x: map of any shape.
        u: uniform float32 numbers in 0..1, shape and memory order of `x`.
        bits: `mask_bytes(x.numel())` uint8s, written: the mask, in an order of its own.
        y: shape of `x`, written; may be `x`.
        rate: share of the elements to drop, 0..1; 1 drops everything.

    Source: matconvnet.blocks.dropout.
    """
    return [
        Call(of_maps("dropout_forward", x), (x, u, bits, y), (x.numel(),), (rate, _scale(rate)))
    ]


def dropout_backward(
    bits: Tensor,
    dzdy: Tensor,
    dzdx: Tensor,
    rate: float,
    *,
    mask: Tensor | None = None,
    add: bool = False,
) -> list[Call]:
    """Derivative of `dropout_forward` projected on `dzdy`: the same mask times dzdy.

    Args:
        bits: what `dropout_forward` wrote.
        dzdy: map of any shape.
        dzdx: shape of `dzdy`, written; may be `dzdy`, if `add` is false.
        rate: as in `dropout_forward`.
        mask: shape of `dzdx`; where it is <= 0 the derivative becomes 0.
        add: add to what `dzdx` holds, before the mask.

    Source: matconvnet.blocks.dropout.
    """
    numbers = (dzdy.numel(), int(add))
    return [
        Call(of_maps("dropout_backward", dzdy), (bits, dzdy, dzdx, mask), numbers, (_scale(rate),))
    ]


def channel_sums(x: Tensor, sums: Tensor) -> list[Call]:
    """Write the sum of every channel of `x`, over its pixels and images, to `sums`: C numbers.

    Source: matconvnet.layout.channel_sums.
    """
    return [Call(of_maps("channel_sums", x), (x, sums), (_pixels(x), x.shape[2]))]


def widen(x: Tensor, y: Tensor) -> list[Call]:
    """Write `x`, a map of bfloat16, to `y`, one of float32."""
    return [Call("widen", (x, y), (x.numel(),))]


def narrow(x: Tensor, y: Tensor) -> list[Call]:
    """Write `x`, a map of float32, to `y`, one of bfloat16, rounded to the nearest."""
    return [Call("narrow", (x, y), (x.numel(),))]


def _pixels(x: Tensor) -> int:
    height, width, _, batch = x.shape
    return height * width * batch


def _scale(rate: float) -> float:
    """What a kept element is multiplied by."""
    return 0.0 if rate == 1 else 1 / (1 - rate)
