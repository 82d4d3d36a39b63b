"""Limits on derivatives."""

import math

import pytest
import torch

from matconvnet.train.clipping import clip_norm, clip_value
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

SIZES = [(3, 2, 4, 5), (7,), (1, 1, 5, 2)]


def ders(dtype=torch.float64):
    return [randn(size, i, dtype) for i, size in enumerate(SIZES)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_all_are_shortened_together(dtype):
    given = ders(dtype)
    want = math.sqrt(sum(float(number) ** 2 for der in given for number in der.flatten()))
    clipped = [der.clone() for der in given]
    assert clip_norm(clipped, 2.5) == pytest.approx(want, rel=REFERENCE[dtype])
    for got, before in zip(clipped, given, strict=True):
        assert_close(got, before * (2.5 / want), REFERENCE[dtype])


def test_three_and_four():
    given = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    assert clip_norm(given, 10.0) == 5
    assert [der.item() for der in given] == [3, 4]
    assert clip_norm(given, 1.0) == 5
    assert [der.item() for der in given] == pytest.approx([0.6, 0.8])
    assert clip_norm([], 1.0) == 0


def test_it_is_done_in_place():
    given = ders()
    places = [der.data_ptr() for der in given]
    clip_norm(given, 0.1)
    assert clip_norm(given, 1e9) == pytest.approx(0.1)
    assert [der.data_ptr() for der in given] == places


def test_squares_beyond_the_type():
    given = [torch.tensor([3e30, -4e30])]
    assert clip_norm(given, 1.0) == pytest.approx(5e30)
    assert given[0].tolist() == pytest.approx([0.6, -0.8])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_alone_and_told(bad):
    given = [torch.tensor([1.0, bad]), torch.tensor([100.0])]
    norm = clip_norm(given, 1.0)
    assert norm == math.inf if math.isinf(bad) else math.isnan(norm)
    assert given[1].tolist() == [100]


def test_equal_derivatives_have_equal_norms():
    given = [randn((300, 300), 1, torch.float32), randn((7, 5), 2, torch.float32)]
    norms = {clip_norm([der.clone() for der in given], 1.0) for _ in range(5)}
    assert len(norms) == 1


def test_values():
    given = [torch.tensor([3.0, -3.0, 0.5]), torch.tensor([[math.nan, -math.inf, -0.5]])]
    clip_value(given, 1.0)
    assert given[0].tolist() == [1, -1, 0.5]
    assert math.isnan(given[1][0, 0])
    assert given[1][0, 1:].tolist() == [-1, -0.5]
    clip_value([], 1.0)


@pytest.mark.parametrize("limit", [0, -1.0, math.nan])
def test_limits_that_are_none(limit):
    with pytest.raises(ValueError, match=r"clip_norm is .*; wanted a number above 0"):
        clip_norm(ders(), limit)
    with pytest.raises(ValueError, match=r"clip_value is .*; wanted a number above 0"):
        clip_value(ders(), limit)
