"""The pooling kernels against the block in float64; ties and NaN against the block in float32."""

import pytest
import torch

from matconvnet.blocks.pool import pool, pool_backward
from matconvnet.fast import pooling
from matconvnet.fast.native import kernels
from matconvnet.layout import channels_last, empty_map
from matconvnet.window import pair, quad
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

TOLERANCE = REFERENCE[torch.float32]

# map H W C N, size, stride, pad
CASES = [
    ((4, 6, 20, 3), 2, 2, 0),
    ((7, 6, 17, 2), 2, 2, 0),
    ((8, 7, 1, 3), 3, 2, 0),
    ((9, 8, 3, 2), 3, 2, (0, 1, 0, 1)),
    ((9, 10, 64, 2), 3, 2, (1, 0, 1, 1)),
    ((13, 11, 96, 1), 3, 2, 0),
    ((6, 5, 33, 2), 3, 1, 1),
    ((7, 9, 16, 2), (2, 3), (3, 1), (1, 0, 2, 1)),
    ((11, 8, 40, 1), 2, (4, 3), (0, 1, 1, 0)),
    ((8, 8, 20, 2), 8, 1, 0),
    ((7, 7, 96, 3), 7, 7, 0),
    ((5, 4, 18, 2), 4, 1, (2, 3, 3, 2)),
    ((32, 32, 24, 3), 3, 2, (0, 1, 0, 1)),
    ((7, 6, 777, 2), (7, 6), 1, 0),
    ((6, 5, 530, 3), 2, 2, (0, 0, 0, 1)),
]


def maps(case, seed):
    """A map and a projection of float32, and the options of the block."""
    size, window, stride, pad = case
    options = {"size": window, "stride": stride, "pad": pad}
    x = channels_last(randn(size, seed, torch.float32))
    return x, channels_last(randn(pool(x, **options).shape, seed + 1, torch.float32)), options


def shape_of(x, dzdy, options, method):
    height, width, channels, batch = x.shape
    size, stride = pair(options["size"], "size"), pair(options["stride"], "stride")
    top, _, left, _ = quad(options["pad"], "pad")
    output = tuple(dzdy.shape[:2])
    return pooling.PoolShape(
        batch, height, width, channels, size, stride, (top, left), output, method
    )


def run(x, dzdy, options, method, *, winners=torch.uint8, start=None, mask=None, mask_dzdy=None):
    """Output of the kernels and their derivative; winners: their type, None for the mean.

    start: what the derivative is added to.
    """
    shape = shape_of(x, dzdy, options, method)
    y, dzdx = empty_map(dzdy.shape, x).fill_(-7), empty_map(x.shape, x).fill_(-7)
    kept = None if winners is None else empty_map(dzdy.shape, x, winners)
    if start is not None:
        dzdx.copy_(start)
    calls = pooling.forward(shape, x, y, kept)
    calls += pooling.backward(
        shape, dzdy, kept, dzdx, mask=mask, mask_dzdy=mask_dzdy, add=start is not None
    )
    for call in calls:
        call()
    return y, dzdx


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    ("method", "winners"), [("max", torch.uint8), ("max", torch.int32), ("avg", None)]
)
def test_like_the_block(case, method, winners):
    x, dzdy, options = maps(case, 0)
    y, dzdx = run(x, dzdy, options, method, winners=winners)
    assert_close(y, pool(x.double(), **options, method=method), TOLERANCE)
    want = pool_backward(x.double(), dzdy.double(), **options, method=method)
    assert_close(dzdx, want, TOLERANCE)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("method", "winners"), [("max", torch.uint8), ("avg", None)])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("added", [True, False])
def test_mask_and_addition(case, method, winners, masked, added):
    x, dzdy, options = maps(case, 2)
    x.relu_()
    start = channels_last(randn(x.shape, 4, torch.float32)) if added else None
    got = run(x, dzdy, options, method, winners=winners, start=start, mask=x if masked else None)[1]
    want = run(x, dzdy, options, method, winners=winners)[1].double()
    want = want + start if added else want
    assert_close(got, want * (x > 0) if masked else want, TOLERANCE)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("method", "winners"), [("max", torch.uint8), ("avg", None)])
@pytest.mark.parametrize("added", [True, False])
def test_mask_of_the_projection(case, method, winners, added):
    x, dzdy, options = maps(case, 10)
    mask = channels_last(randn(dzdy.shape, 12, torch.float32))
    start = channels_last(randn(x.shape, 13, torch.float32)) if added else None
    got = run(x, dzdy, options, method, winners=winners, start=start, mask_dzdy=mask)[1]
    want = run(x, dzdy * (mask > 0), options, method, winners=winners, start=start)[1]
    assert torch.equal(got, want)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_maxima_mask_as_a_rectified_map_does(case):
    x, dzdy, options = maps(case, 14)
    x.relu_()
    y, want = run(x, dzdy, options, "max", mask=x)
    assert torch.equal(run(x, dzdy, options, "max", mask_dzdy=y)[1], want)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_winners_need_not_be_kept(case):
    x, dzdy, options = maps(case, 5)
    y = empty_map(dzdy.shape, x)
    shape = shape_of(x, dzdy, options, "max")
    (call,) = pooling.forward(shape, x, y, None)
    call()
    assert torch.equal(y, pool(x, **options))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("share_of_nan", [0, 0.2])
def test_ties_and_nan_as_in_torch(case, share_of_nan):
    x, dzdy, options = maps(case, 6)
    x.mul_(2).round_()
    x[randn(x.shape, 8).erf() > 1 - 2 * share_of_nan] = torch.nan
    dzdy.mul_(10).round_()  # whole numbers: exact in any order of the sums
    y, dzdx = run(x, dzdy, options, "max")
    torch.testing.assert_close(y, pool(x, **options), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(dzdx, pool_backward(x, dzdy, **options))


def test_windows_of_more_than_256_pixels():
    x, dzdy, options = maps(((20, 19, 5, 2), (20, 18), 1, (3, 2, 0, 1)), 9)
    dzdx = run(x, dzdy, options, "max", winners=torch.int32)[1]
    assert_close(dzdx, pool_backward(x.double(), dzdy.double(), **options), TOLERANCE)
    with pytest.raises(ValueError, match=r"uint8 for a window of \(20, 18\) pixels; wanted int32"):
        run(x, dzdy, options, "max", winners=torch.uint8)


def test_a_maximum_needs_its_winners():
    x, dzdy, options = maps(CASES[0], 0)
    with pytest.raises(ValueError, match="winners is None"):
        run(x, dzdy, options, "max", winners=None)
