"""`roipool`: rounding, clipping, overshoot, transforms, ties, regions off the map."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matconvnet.blocks.roipool import RoiPool, roipool, roipool_backward
from matconvnet.layer import Call, Context
from tests.helpers import (
    assert_close,
    central_difference,
    in_memory,
    memory_orders,
    randn,
    seeds,
    sizes,
)
from tests.reference import roipool as reference
from tests.tolerances import CENTRAL_DIFFERENCE, REFERENCE

TRANSFORMS = (1, 0.5, 1 / 16, (0.5, 2), [[0.5, 0.1, -0.2], [0.1, 0.4, 0.1]], [[0, 1, 0], [1, 0, 0]])


def counting(height, width):
    """A map with 1, 2, 3, ... column by column."""
    x = torch.arange(1, height * width + 1, dtype=torch.float64)
    return x.reshape(width, height).t()[..., None, None]


def regions(*columns):
    """Regions, one column (image, left, top, right, bottom) each."""
    return torch.tensor(columns, dtype=torch.float64).t()


def values(y):
    """The tiles of one region and one channel."""
    return y[..., 0, 0].tolist()


@settings(deadline=None, max_examples=80)
@given(
    sizes(7, 7, 3, 3), st.integers(0, 4), seeds, memory_orders, st.sampled_from(["max", "avg"]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)), st.sampled_from(TRANSFORMS),
    st.sampled_from([torch.float64, torch.float32]),
)  # fmt: skip
def test_like_the_loops(size, number, seed, order, method, subdivisions, transform, dtype):
    generator = torch.Generator().manual_seed(seed)
    rois = torch.randint(-6, 30, (5, number), generator=generator).to(dtype) / 2  # halves
    rois[0] = rois[0] / 6
    x = torch.randperm(math.prod(size), generator=generator).reshape(size).to(dtype)  # no ties
    p = randn((*subdivisions, size[2], number), seed, dtype)
    options = {"method": method, "subdivisions": subdivisions, "transform": transform}
    want = reference.roipool(x.numpy(), rois.numpy(), **options)
    der = reference.roipool_backward(x.numpy(), rois.numpy(), p.numpy(), **options)
    x, p = in_memory(x, order), in_memory(p, order)
    assert_close(roipool(x, rois, **options), want, REFERENCE[dtype])
    assert_close(roipool_backward(x, rois, p, **options), der, REFERENCE[dtype])


def test_recorded():
    x, rois = counting(6, 8), regions((0, 1, 0, 5, 4))
    assert values(roipool(x, rois, subdivisions=2)) == [[21, 33], [23, 35]]
    assert values(roipool(x, rois, subdivisions=2, method="avg")) == [[14, 26], [16, 28]]
    x = counting(8, 8)
    y = roipool(x, regions((0, 0, 0, 7, 7)), transform=0.5, method="avg")
    assert values(y) == [[19]]
    assert values(roipool(x, regions((0, 1, 4, 1, 4)))) == [[13]]
    y = roipool(x, regions((0, 1, 4, 2, 5)), subdivisions=(3, 3))
    assert values(y) == [[13, 21, 21], [14, 22, 22], [14, 22, 22]]


def test_halves_are_rounded_away_from_one_before_the_first_pixel():
    x = counting(6, 1)
    for corner, pixel in ((0.5, 1), (1.5, 2), (-0.5, 0), (2.49, 2)):
        assert values(roipool(x, regions((0, 0, corner, 0, corner)))) == [[pixel + 1]]
    assert values(roipool(x, regions((0, 0, -1.5, 0, -1.5)))) == [[0]]  # off the map
    assert values(roipool(x, regions((0, 0, -1.5, 0, 1)), subdivisions=(4, 1))) == [
        [0],
        [0],
        [1],
        [2],
    ]


@pytest.mark.parametrize(("dtype", "pixel"), [(torch.float32, 1), (torch.float64, 0)])
def test_coordinates_take_the_type_of_x_before_they_are_rounded(dtype, pixel):
    x, rois = counting(1, 3).to(dtype), regions((0, 1, 0, 1, 0)).to(dtype)
    assert values(roipool(x, rois, transform=0.5 - 2.5e-8)) == [[pixel + 1]]  # 1.5 in float32


@pytest.mark.parametrize(
    ("dtype", "length", "tiles", "last"),
    [(torch.float32, 7, 13, 8), (torch.float64, 7, 13, 7), (torch.float64, 25, 11, 26)],
)
def test_last_tile_overshoots_as_the_type_rounds(dtype, length, tiles, last):
    x, rois = counting(40, 1).to(dtype), regions((0, 0, 0, 0, length - 1)).to(dtype)
    y = roipool(x, rois, subdivisions=(tiles, 1))
    assert y[-1, 0, 0, 0] == last


@pytest.mark.parametrize(
    ("number", "image"), [(-8, 0), (-1, 0), (0.9, 0), (1, 1), (1.9, 1), (7, 2)]
)
def test_image_number_is_truncated_and_clamped(number, image):
    x = torch.arange(3.0).reshape(1, 1, 1, 3)
    rois = regions((number, 0, 0, 0, 0)).float()
    assert roipool(x, rois) == image
    der = roipool_backward(x, rois, torch.ones(1, 1, 1, 1))
    assert der.flatten().nonzero().tolist() == [[image]]


def test_reversed_corners_are_one_pixel():
    assert values(roipool(counting(4, 4), regions((0, 2, 3, 0, 0)))) == [[12]]


def test_region_off_the_map_is_zero_and_gives_nothing():
    x = -counting(4, 4)
    for method in ("max", "avg"):
        rois = regions((0, 9, 9, 12, 12))
        assert not roipool(x, rois, method=method, subdivisions=2).any()
        p = torch.ones(2, 2, 1, 1).double()
        assert not roipool_backward(x, rois, p, method=method, subdivisions=2).any()


def test_all_of_the_derivative_goes_to_one_of_equal_maxima():
    x = torch.tensor([[1.0, 5], [5, 1]])[..., None, None]
    der = roipool_backward(x, regions((0, 0, 0, 1, 1)).float(), torch.ones(1, 1, 1, 1))
    assert der[..., 0, 0].tolist() == [[0, 0], [1, 0]]


def test_regions_and_tiles_add_up():
    x, rois = counting(3, 1), regions((0, 0, 0, 0, 0), (0, 0, 0, 0, 1))
    p = torch.ones(2, 1, 1, 2).double()
    der = roipool_backward(x, rois, p, subdivisions=(2, 1))
    assert der.flatten().tolist() == [3, 1, 0]


def test_transform_that_swaps_the_axes():
    x, rois = randn((9, 10, 2, 1)), regions((0, 0, 0, 8, 9))
    options = {"subdivisions": (9, 10), "transform": [[0, 1, 0], [1, 0, 0]]}
    assert torch.equal(roipool(x, rois, **options), x)
    assert torch.equal(roipool_backward(x, rois, x, **options), x)


def test_pair_of_factors_is_horizontal_then_vertical():
    x, rois = counting(6, 6), regions((0, 4, 2, 4, 2))
    assert values(roipool(x, rois, transform=(0.5, 2))) == [[12 + 4 + 1]]


@pytest.mark.parametrize("method", ["max", "avg"])
def test_numerical_derivative(method):
    x = torch.randperm(6 * 5 * 2 * 2, generator=torch.Generator().manual_seed(0))
    x = x.reshape(6, 5, 2, 2).double()
    rois = regions((0, 0, 0, 4, 5), (1, 1, 2, 3, 3), (1, -2, 3, 8, 9))
    options = {"method": method, "subdivisions": (2, 3)}
    p = randn((2, 3, 2, 3))
    want = central_difference(lambda x: roipool(x, rois, **options), x, p, step=1e-3)
    assert_close(roipool_backward(x, rois, p, **options), want, CENTRAL_DIFFERENCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["max", "avg"])
def test_type(dtype, method):
    x, rois = randn((6, 5, 2, 2), dtype=dtype), regions((0, 0, 0, 4, 5), (1, 1, 2, 3, 3)).to(dtype)
    p, options = randn((2, 3, 2, 2), 1, dtype), {"method": method, "subdivisions": (2, 3)}
    y, der = roipool(x, rois, **options), roipool_backward(x, rois, p, **options)
    assert y.dtype == der.dtype == dtype
    wide = [t.double() for t in (x, rois, p)]
    assert_close(y, roipool(*wide[:2], **options), REFERENCE[dtype])
    assert_close(der, roipool_backward(*wide, **options), REFERENCE[dtype])


def test_huge_coordinates_are_clipped():
    rois = regions((0, -1e30, -1e30, 1e30, 1e30))
    assert values(roipool(counting(3, 4), rois)) == [[12]]


def test_no_regions():
    x = counting(3, 4)
    assert roipool(x, torch.zeros(5, 0).double(), subdivisions=(2, 3)).shape == (2, 3, 1, 0)
    p = torch.zeros(2, 3, 1, 0).double()
    assert not roipool_backward(x, torch.zeros(5, 0).double(), p, subdivisions=(2, 3)).any()


def test_fewer_axes():
    x = counting(3, 4)[..., 0, 0]
    assert roipool(x, regions((0, 0, 0, 3, 2))[:, 0]).shape == (1, 1, 1, 1)
    assert roipool_backward(x, regions((0, 0, 0, 3, 2)), torch.ones(1).double()).shape == (3, 4)


def test_arrays():
    x, rois = np.ones((3, 4, 1, 1)), np.zeros((5, 1))
    y = roipool(x, rois, transform=np.eye(2, 3), subdivisions=np.array([2, 2]), method="AVG")
    assert isinstance(y, np.ndarray)


X, ROIS = torch.zeros(3, 4, 2, 2), torch.zeros(5, 3)


@pytest.mark.parametrize(
    ("x", "rois", "options", "error", "message"),
    [
        (X, ROIS.t(), {}, ValueError, r"rois has shape \(3, 5\); wanted 5 x K"),
        (X, torch.zeros(15), {}, ValueError, r"rois has shape \(15,\)"),
        (X, torch.zeros(5, 3, 2), {}, ValueError, r"rois has shape \(5, 3, 2\)"),
        (X, torch.tensor(1.0), {}, ValueError, r"rois has shape \(\)"),
        (X, ROIS / 0, {}, ValueError, "rois holds NaN or infinity"),
        (X, ROIS.double(), {}, TypeError, "rois holds torch.float64"),
        (X, ROIS.long(), {}, TypeError, "rois holds torch.int64"),
        (X[..., :0], ROIS, {}, ValueError, "wanted at least one image and pixel"),
        (X, ROIS, {"method": "sum"}, ValueError, "method is 'sum'; wanted 'max' or 'avg'"),
        (X, ROIS, {"method": None}, ValueError, "method is None"),
        (X, ROIS, {"subdivisions": 0}, ValueError, "subdivisions is 0"),
        (X, ROIS, {"subdivisions": (1, 2, 3)}, ValueError, "subdivisions is"),
        (X, ROIS, {"subdivisions": 1.5}, ValueError, "subdivisions is 1.5"),
        (X, ROIS, {"transform": (1, 2, 3)}, ValueError, r"transform has shape \(3,\)"),
        (X, ROIS, {"transform": np.ones((3, 2))}, ValueError, r"transform has shape \(3, 2\)"),
        (X, ROIS, {"transform": math.nan}, ValueError, "transform is nan"),
    ],
)
def test_errors(x, rois, options, error, message):
    with pytest.raises(error, match=message):
        roipool(x, rois, **options)
    with pytest.raises(error, match=message):
        roipool_backward(x, rois, torch.zeros(1, 1, 2, 3), **options)


def test_projection_errors():
    with pytest.raises(ValueError, match=r"dzdy has shape .*, \(1, 1, 2, 3\)"):
        roipool_backward(X, ROIS, torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("flatten", [False, True])
def test_layer(flatten):
    x, rois = randn((7, 8, 3, 2)), regions((0, 0, 0, 7, 6), (1, 2, 1, 5, 4))
    layer = RoiPool(subdivisions=(2, 4), method="avg", flatten=flatten)
    (y,), saved = layer.forward((x, rois), (), Context())
    want = roipool(x, rois, subdivisions=(2, 4), method="avg")
    if flatten:
        assert y.shape == (1, 1, 24, 2)
        for i, j, c, k in ((0, 0, 0, 0), (1, 2, 2, 1), (0, 3, 1, 0)):
            assert y[0, 0, i + 2 * (j + 4 * c), k] == want[i, j, c, k]
    else:
        assert torch.equal(y, want)
    assert layer.output_sizes([(7, 8, 3, 2), (5, 2, 1, 1)], []) == (tuple(y.shape),)
    call = Call((x, rois), (), (None,), saved, Context(), (True, False))
    (dzdx, dzdrois), _ = layer.backward(call, (y,))
    der = roipool_backward(x, rois, want, subdivisions=(2, 4), method="avg")
    assert torch.equal(dzdx, der)
    assert dzdrois is None
    assert layer.receptive_fields(2, []) == (None, None)
    assert RoiPool().subdivisions == (6, 6)
