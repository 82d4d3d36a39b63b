"""How fast a machine can be: what the arithmetic and the memory of a device reach at best."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

SECONDS = 0.25
"""For each way to reach a peak."""
GIGA = 1e9
CONVOLUTIONS = ((64, 56), (128, 28), (320, 14))
"""Channels, as many filters of 3 x 3, height and width of the maps."""


class Peaks(NamedTuple):
    """The best that PyTorch reached on a device.

    convolution, product: of a 3 x 3 convolution and of a matrix product, in GFLOP/s (additions and
    multiplications both count). copy: GB/s, read and written, of memory that no cache holds.
    """

    convolution: float
    product: float
    copy: float

    @property
    def arithmetic(self) -> float:
        """GFLOP/s of the faster of the two."""
        return max(self.convolution, self.product)

    def seconds(self, operations: float, traffic: float) -> float:
        """The least time for arithmetic and memory traffic that go on at once.

        Args:
            operations: additions and multiplications.
            traffic: bytes read and written.
        """
        return max(operations / self.arithmetic, traffic / self.copy) / GIGA

    def __str__(self) -> str:
        """One line."""
        return (
            f"peaks: convolution {self.convolution:.0f} GFLOP/s, matrix product "
            f"{self.product:.0f} GFLOP/s, copy {self.copy:.0f} GB/s"
        )


@torch.no_grad()
def measure_peaks(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Peaks:
    """Measure the peaks of a device with the threads that PyTorch has; takes about two seconds.

    dtype: of what is convolved and multiplied.
    """
    device = torch.device(device)
    is_gpu = device.type == "cuda"
    images, rows, count = (256, 8192, 1 << 28) if is_gpu else (8, 2048, 1 << 25)
    convolutions = (_convolution(images, c, side, device, dtype) for c, side in CONVOLUTIONS)
    source, target = torch.ones(2, count, device=device)
    moved = 2 * source.nbytes / _best(lambda: target.copy_(source), device)
    return Peaks(max(convolutions) / GIGA, _product(rows, device, dtype) / GIGA, moved / GIGA)


def _convolution(
    images: int, channels: int, side: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Operations a second."""
    order: Any = {"device": device, "dtype": dtype, "memory_format": torch.channels_last}
    x = torch.ones(images, channels, side, side).to(**order)
    f = torch.ones(channels, channels, 3, 3).to(**order)
    return 2 * x.numel() * channels * 9 / _best(lambda: torch.conv2d(x, f, padding=1), device)


def _product(rows: int, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second, by the BLAS of PyTorch, or by oneDNN where it is there and faster."""
    a, b, product = torch.ones(3, rows, rows, device=device, dtype=dtype)
    ways: list[Callable[[], Tensor]] = [lambda: torch.mm(a, b, out=product)]
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if device.type == "cpu" and linear is not None:
        ways.append(lambda: linear(a, b, None, "none", [], ""))
    return 2 * rows**3 / min(_best(way, device) for way in ways)


def _best(run: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of the fastest of many runs."""
    wait: Callable[[], Any] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    run()  # the first one prepares kernels and touches fresh memory
    wait()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < end:
        run()
        wait()
        best = min(best, time.perf_counter() - start)
    return best
