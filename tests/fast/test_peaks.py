"""What a machine can do at best; how much that is, is asserted nowhere."""

import math

import pytest
import torch

from matconvnet.fast import peaks as measuring
from matconvnet.fast.peaks import Peaks, measure_peaks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peaks_are_measured(monkeypatch, dtype):
    monkeypatch.setattr(measuring, "SECONDS", 0.01)
    found = measure_peaks("cpu", dtype)
    assert all(math.isfinite(peak) and peak > 0 for peak in found)


def test_a_copy_counts_as_read_and_written(monkeypatch):
    monkeypatch.setattr(measuring, "_best", lambda run, device: run().numel() * 4e-9)
    assert measure_peaks("cpu").copy == pytest.approx(2)  # bytes a nanosecond


def test_additions_and_multiplications_count(monkeypatch):
    """Every output of a 3 x 3 convolution is the sum of 9 c products; that of a matrix of rows."""
    monkeypatch.setattr(measuring, "_best", lambda run, device: run().numel() * 1e-9)
    found = measure_peaks("cpu")
    assert found.convolution == pytest.approx(2 * 9 * max(c for c, _ in measuring.CONVOLUTIONS))
    assert found.product == pytest.approx(2 * 2048)


@pytest.mark.parametrize(
    ("operations", "traffic", "seconds"),
    [(600e9, 0, 2), (0, 50e9, 5), (600e9, 50e9, 5), (600e9, 10e9, 2)],
    ids=["arithmetic", "memory", "mostly memory", "mostly arithmetic"],
)
def test_the_least_time_is_that_of_the_scarcer(operations, traffic, seconds):
    assert Peaks(300, 200, 10).seconds(operations, traffic) == pytest.approx(seconds)


def test_the_faster_arithmetic_counts():
    assert Peaks(200, 300, 10).arithmetic == Peaks(300, 200, 10).arithmetic == 300


def test_in_words():
    assert str(Peaks(301.4, 200, 9.6)) == (
        "peaks: convolution 301 GFLOP/s, matrix product 200 GFLOP/s, copy 10 GB/s"
    )
