"""What a machine can do at best; how much that is, is asserted nowhere."""

import math

import pytest

from matconvnet.fast import peaks as measuring
from matconvnet.fast.peaks import Peaks, measure_peaks


def test_peaks_are_measured(monkeypatch):
    monkeypatch.setattr(measuring, "SECONDS", 0.01)
    found = measure_peaks("cpu")
    assert all(math.isfinite(peak) and peak > 0 for peak in found)


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
