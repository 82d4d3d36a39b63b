"""What the machine can do: the fastest convolution and matrix product, and the speed of copying."""

import time
from collections.abc import Callable

import torch
from torch import nn

REPEATS = 7
CONVOLUTIONS = ((64, 64, 3, 56), (256, 384, 3, 13), (96, 256, 5, 27), (256, 256, 3, 28),
                (512, 512, 3, 14))  # fmt: skip
"""Channels, filters, their height and width, that of the maps."""
MATRIX = 2048
COPY_BYTES = 256 << 20


def roofline(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Measure the peaks of a device.

    Returns: by name: convolution and product, multiply-adds a second; copy, bytes a second, those
        read and those written, between tensors that have their memory.
    """
    with torch.inference_mode():
        return {
            "convolution": max(_convolution(*sizes, device, dtype) for sizes in CONVOLUTIONS),
            "product": _product(device, dtype),
            "copy": _copy(device),
        }


def _convolution(c: int, k: int, size: int, h: int, device: str, dtype: torch.dtype) -> float:
    images = 32 if device == "cpu" else 256
    conv = nn.Conv2d(c, k, size, padding=size // 2, device=device, dtype=dtype)
    conv = conv.to(memory_format=torch.channels_last)
    x = torch.randn(images, c, h, h, device=device, dtype=dtype)
    x = x.to(memory_format=torch.channels_last)
    return images * h * h * c * k * size**2 / _fastest(lambda: conv(x), device)


def _product(device: str, dtype: torch.dtype) -> float:
    """By the BLAS of torch, and by oneDNN where it is there."""
    n = MATRIX if device == "cpu" else 4 * MATRIX
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    steps: list[Callable[[], object]] = [lambda: a @ b]
    if device == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        linear = torch.ops.mkldnn._linear_pointwise
        steps.append(lambda: linear(a, b, None, "none", [], ""))
    return n**3 / min(_fastest(step, device) for step in steps)


def _copy(device: str) -> float:
    a = torch.ones(COPY_BYTES // 4, device=device)
    b = torch.zeros_like(a)
    return 2 * COPY_BYTES / _fastest(lambda: b.copy_(a), device)


def _fastest(step: Callable[[], object], device: str) -> float:
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[2:])
