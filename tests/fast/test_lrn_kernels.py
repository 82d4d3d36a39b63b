"""The LRN kernels against the block in float64."""

import pytest
import torch

from matconvnet.blocks.lrn import lrn, lrn_backward
from matconvnet.fast import lrn as fast
from matconvnet.fast.native import kernels
from matconvnet.layout import channels_last, empty_map
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

TOLERANCE = REFERENCE[torch.float32]
PARAMS = [
    (5, 1, 0.9, 0.75),
    (4, 2, 0.5, 0.75),
    (1, 0.1, 1.1, 0.5),
    (3, 0.5, 2, 1.3),
    (41, 1, 1.1, 0.75),
    (2, 0, 1, 0.6),
]
CHANNELS = [1, 3, 20, 17, 64, 96, 256]


def maps(channels, seed, height=5):
    size = (height, 4, channels, 3)
    return [channels_last(randn(size, seed + i, torch.float32)) for i in range(3)]


def scratch(count):
    return torch.full((count,), torch.nan)


def run(x, dzdy, param, *, start=None, mask=None):
    """Output of the kernels and their derivative; start: what this is added to."""
    y, dzdx = empty_map(x.shape, x).fill_(-7), empty_map(x.shape, x).fill_(-7)
    if start is not None:
        dzdx.copy_(start)
    calls = fast.forward(x, y, param, scratch)
    calls += fast.backward(x, dzdy, dzdx, param, scratch, mask=mask, add=start is not None)
    for call in calls:
        call()
    return y, dzdx


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("param", PARAMS, ids=str)
def test_like_the_block(channels, param):
    x, dzdy, _ = maps(channels, 0)
    y, dzdx = run(x, dzdy, param)
    assert_close(y, lrn(x.double(), param), TOLERANCE)
    assert_close(dzdx, lrn_backward(x.double(), dzdy.double(), param), TOLERANCE)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("added", [True, False])
def test_mask_and_addition(channels, masked, added):
    (x, dzdy, start), param = maps(channels, 3), PARAMS[0]
    x.relu_()
    got = run(x, dzdy, param, start=start if added else None, mask=x if masked else None)[1]
    want = lrn_backward(x.double(), dzdy.double(), param) + start * added
    assert_close(got, want * (x > 0) if masked else want, TOLERANCE)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pixels_are_shared_by_threads(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    (x, dzdy, _), param = maps(64, 6, height=25), PARAMS[0]
    y, dzdx = run(x, dzdy, param)
    assert_close(y, lrn(x.double(), param), TOLERANCE)
    assert_close(dzdx, lrn_backward(x.double(), dzdy.double(), param), TOLERANCE)


@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_no_energy_gives_zero(beta):
    x, dzdy, _ = maps(20, 7)
    x[:, :, 4:15] = 0
    y, dzdx = run(x, dzdy, (3, 0, 1, beta))
    want = lrn_backward(x.double(), dzdy.double(), (3, 0, 1, beta))
    assert (y[:, :, 4:15] == 0).all()
    assert_close(dzdx, want, TOLERANCE)


def test_in_place():
    (x, dzdy, _), param = maps(17, 8), PARAMS[0]
    y, dzdx = run(x, dzdy, param)
    (call,) = fast.backward(x, dzdy, dzdy, param, scratch)
    call()
    assert torch.equal(dzdy, dzdx)
    (call,) = fast.forward(x, x, param, scratch)
    call()
    assert torch.equal(x, y)


def test_wrong_parameters_are_refused():
    x = maps(3, 0)[0]
    with pytest.raises(ValueError, match="wanted four numbers"):
        fast.forward(x, x, (5, 1, 1), scratch)
