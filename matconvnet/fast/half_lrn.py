"""Local response normalisation of half types on the CPU, by the kernels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_map, check_projection
from matconvnet.blocks.lrn import LRN
from matconvnet.fast import lrn as kernels
from matconvnet.fast.native import Call
from matconvnet.layout import from_pixels, pixels

STRIP = 1 << 16
"""Elements that are converted at a time: their float32 stays in the cache."""


@dataclass(frozen=True)
class HalfLRN(LRN):
    """`LRN` in one pass over memory. Other types, and other devices, are left to the block."""

    def forward(self, inputs, params, ctx):
        """See `lrn`."""
        x = check_map(inputs[0])
        if not _serves(x):
            return super().forward(inputs, params, ctx)
        out = _run(lambda a, y: kernels.forward(a, y, self.param, torch.empty), [x])
        return (out,), None

    def backward(self, call, der_outputs):
        """See `lrn_backward`."""
        x = check_map(call.inputs[0])
        if not _serves(x):
            return super().backward(call, der_outputs)
        dzdy = check_projection(der_outputs[0], x.shape, x)
        dzdx = _run(
            lambda a, g, out: kernels.backward(a, g, out, self.param, torch.empty), [x, dzdy]
        )
        return (dzdx.reshape(call.inputs[0].shape),), ()


def _serves(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16) and x.numel() > 0


def _run(calls_for: Callable[..., Sequence[Call]], maps: Sequence[Tensor]) -> Tensor:
    """Run the calls for some maps and a map like them, which is returned.

    There are kernels for bfloat16. Rows of float16 are converted to float32, and back, some at a
    time; the result may take the place of the last map.
    """
    height, width, _, number = maps[0].shape
    sources = [pixels(x).contiguous() for x in maps]
    out = torch.empty_like(sources[0])
    if out.dtype == torch.bfloat16:
        for call in calls_for(*map(_map, (*sources, out))):
            call()
    else:
        count, channels = out.shape
        step = min(max(STRIP // channels, 1), count)
        strips = [out.new_empty((step, channels), dtype=torch.float32) for _ in sources]
        calls = calls_for(*map(_map, (*strips, strips[-1])))
        for first in range(0, count, step):
            rows = slice(first, min(first + step, count))
            size = rows.stop - first
            for source, strip in zip(sources, strips, strict=True):
                strip[:size].copy_(source[rows])
            for call in calls:
                call.numbers[0] = size  # of pixels
                call()
            out[rows].copy_(strips[-1][:size])
    return from_pixels(out, height, width, number)


def _map(rows: Tensor) -> Tensor:
    return from_pixels(rows, 1, len(rows), 1)
