"""Local response normalisation of half types on the CPU, by the kernels of float32."""

from collections.abc import Sequence
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
        rows = pixels(x)
        a, out = _strip(rows), torch.empty_like(rows)
        calls = kernels.forward(_map(a), _map(a), self.param, torch.empty)
        _run(calls, (rows,), (a,), a, out)
        return (from_pixels(out, x.shape[0], x.shape[1], x.shape[3]),), None

    def backward(self, call, der_outputs):
        """See `lrn_backward`."""
        x = check_map(call.inputs[0])
        if not _serves(x):
            return super().backward(call, der_outputs)
        dzdy = check_projection(der_outputs[0], x.shape, x)
        rows, ders = pixels(x), pixels(dzdy)
        a, g, out = _strip(rows), _strip(rows), torch.empty_like(rows)
        calls = kernels.backward(_map(a), _map(g), _map(g), self.param, torch.empty)
        _run(calls, (rows, ders), (a, g), g, out)
        dzdx = from_pixels(out, x.shape[0], x.shape[1], x.shape[3])
        return (dzdx.reshape(call.inputs[0].shape),), ()


def _serves(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16) and x.numel() > 0


def _strip(rows: Tensor) -> Tensor:
    """Room in float32 for some rows."""
    count, channels = rows.shape
    return rows.new_empty((min(max(STRIP // channels, 1), count), channels), dtype=torch.float32)


def _map(rows: Tensor) -> Tensor:
    return from_pixels(rows, 1, len(rows), 1)


def _run(
    calls: Sequence[Call],
    sources: Sequence[Tensor],
    strips: Sequence[Tensor],
    result: Tensor,
    out: Tensor,
) -> None:
    """Convert rows of `sources` to `strips`, run the calls, convert `result` to `out`; and on."""
    step = len(result)
    for first in range(0, len(out), step):
        count = min(step, len(out) - first)
        for source, strip in zip(sources, strips, strict=True):
            strip[:count].copy_(source[first : first + count])
        for call in calls:
            call.numbers[0] = count  # of pixels
            call()
        out[first : first + count].copy_(result[:count])
