"""How fast a machine can be: what the arithmetic and the memory of a device reach at best."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

SECONDS = 0.25
"""For each peak."""
GIGA = 1e9


class Peaks(NamedTuple):
    """The best that was measured on a device, in float32.

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
def measure_peaks(device: torch.device | str = "cpu") -> Peaks:
    """Measure the peaks of a device with the threads that PyTorch has; takes about a second."""
    device = torch.device(device)
    is_gpu = device.type == "cuda"
    batch, channels, side = (64, 256, 56) if is_gpu else (8, 128, 28)
    rows = 8192 if is_gpu else 1024
    count = 1 << (28 if is_gpu else 24)

    x = torch.ones(batch, channels, side, side, device=device).to(memory_format=torch.channels_last)
    f = torch.ones(channels, channels, 3, 3, device=device).to(memory_format=torch.channels_last)
    operations = 2 * x.numel() * channels * 9
    convolution = operations / _best(lambda: torch.conv2d(x, f, padding=1), device)

    a, b = torch.ones(2, rows, rows, device=device)
    product = torch.empty_like(a)
    multiply = 2 * rows**3 / _best(lambda: torch.mm(a, b, out=product), device)

    source, target = torch.ones(2, count, device=device)
    moved = 2 * source.nbytes / _best(lambda: target.copy_(source), device)
    return Peaks(convolution / GIGA, multiply / GIGA, moved / GIGA)


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
