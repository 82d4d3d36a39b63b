"""The kernels that go through maps element by element, against the blocks."""

import pytest
import torch

from matconvnet.blocks.concat import concat
from matconvnet.blocks.dropout import dropout, dropout_backward
from matconvnet.blocks.relu import relu, relu_backward
from matconvnet.blocks.sigmoid import sigmoid, sigmoid_backward
from matconvnet.fast import elementwise as fast
from matconvnet.fast.native import kernels
from matconvnet.layout import channels_last, empty_map
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

TOLERANCE = REFERENCE[torch.float32]
SIZES = [(3, 2, 1, 2), (5, 3, 3, 1), (4, 4, 20, 2), (3, 5, 17, 3), (2, 3, 64, 2), (32, 30, 24, 2)]

sizes = pytest.mark.parametrize("size", SIZES, ids=str)
both = pytest.mark.parametrize("added", [True, False])
masks = pytest.mark.parametrize("masked", [True, False])


def maps(size, count, seed=0):
    return [channels_last(randn(size, seed + i, torch.float32)) for i in range(count)]


def run(calls):
    for call in calls:
        call()


def combined(start, share, mask, added, masked):
    """What a kernel leaves that adds to `start` and masks."""
    want = start.double() + share if added else share.double()
    return want * (mask > 0) if masked else want


@sizes
@both
@pytest.mark.parametrize("leak", [0, 0.1])
def test_relu(size, added, leak):
    x, dzdy, start = maps(size, 3)
    want, y = relu(x, leak=leak), empty_map(size, x)
    der = combined(start, relu_backward(x, dzdy, leak=leak), None, added, False)
    run(fast.relu(x, y, leak))
    run(fast.relu_backward(y, dzdy, start, leak, added))
    assert torch.equal(y, want)
    assert_close(start, der, TOLERANCE)
    run(fast.relu(x, x, leak))
    assert torch.equal(x, want)


def test_relu_backward_in_place():
    y, dzdy = maps((5, 4, 3, 2), 2)
    want = relu_backward(y, dzdy)
    run(fast.relu_backward(y, dzdy, dzdy))
    assert torch.equal(dzdy, want)


@pytest.mark.parametrize("leak", [0.0, 0.5])
def test_relu_of_what_is_not_finite(leak):
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    y, dzdx = torch.empty(4), torch.empty(4)
    run(fast.relu(x, y, leak))
    run(fast.relu_backward(x, torch.full((4,), torch.inf), dzdx, leak))
    torch.testing.assert_close(y, relu(x, leak=leak), rtol=0, atol=0, equal_nan=True)
    assert dzdx.tolist() == [torch.inf, torch.inf] + ([0, 0] if leak == 0 else [torch.inf] * 2)


@sizes
@both
def test_sigmoid(size, added):
    x, dzdy, start = maps(size, 3)
    x *= 5
    y = empty_map(size, x)
    der = combined(start, sigmoid_backward(x.double(), dzdy.double()), None, added, False)
    run(fast.sigmoid(x, y))
    run(fast.sigmoid_backward(y, dzdy, start, added))
    assert_close(y, sigmoid(x.double()), 2e-7)
    assert_close(start, der, TOLERANCE)


def test_sigmoid_of_large_numbers():
    x = torch.tensor([-torch.inf, -1e30, -104, -89, -80, -1e-30, 0, 40, 1e30, torch.inf, torch.nan])
    want = 1 / (1 + torch.exp(-x.double()))
    run(fast.sigmoid(x, x))
    torch.testing.assert_close(x.double(), want, rtol=5e-7, atol=1e-38, equal_nan=True)


@sizes
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_add(size, rectified, count):
    inputs = maps(size, count)
    want = torch.stack(inputs).double().sum(0)
    y = empty_map(size, want, torch.float32)
    run(fast.add(inputs, y, rectified))
    assert_close(y, want.relu() if rectified else want, TOLERANCE)
    run(fast.add(inputs, inputs[-1], rectified))
    assert torch.equal(inputs[-1], y)


@sizes
@both
@masks
def test_copy(size, added, masked):
    x, y, mask = maps(size, 3)
    want = combined(y, x, mask, added, masked)
    run(fast.copy(x, y, mask=mask if masked else None, add=added))
    assert_close(y, want, TOLERANCE)


@pytest.mark.parametrize("channels", [(1, 3), (20, 17, 1), (64, 96, 16)], ids=str)
@both
@masks
def test_concat_and_split(channels, added, masked):
    inputs = [maps((9, 11, c, 3), 1, seed)[0] for seed, c in enumerate(channels)]
    want = concat(inputs, dim=2)
    y, start = empty_map(want.shape, want), 0
    run(fast.concat(inputs, y))
    assert torch.equal(y, want)
    for c, x in zip(channels, inputs, strict=True):
        der, mask = maps(x.shape, 2, 10)
        want_der = combined(der, x, mask, added, masked)
        run(fast.split(y, start, der, mask=mask if masked else None, add=added))
        assert_close(der, want_der, TOLERANCE)
        start += c


@sizes
@both
@masks
@pytest.mark.parametrize("rate", [0, 0.3, 0.5, 1])
def test_dropout(size, added, masked, rate):
    x, dzdy, start, mask = maps(size, 4)
    u = channels_last(torch.rand(size, generator=torch.Generator().manual_seed(0)))
    u[0, 0, 0, 0] = rate  # which is kept
    drops = (u >= rate).float().mul_(0 if rate == 1 else 1 / (1 - rate))
    want, _ = dropout(x, mask=drops)
    want_der = combined(start, dropout_backward(dzdy, drops), mask, added, masked)
    y = empty_map(size, x)
    bits = torch.full((fast.mask_bytes(x.numel()),), 255, dtype=torch.uint8)
    run(fast.dropout_forward(x, u, bits, y, rate))
    run(fast.dropout_backward(bits, dzdy, start, rate, mask=mask if masked else None, add=added))
    assert torch.equal(y, want)
    assert_close(start, want_der, TOLERANCE)


def test_dropout_is_that_of_the_block_for_the_same_draws():
    (x,) = maps((3, 5, 17, 3), 1)
    want, _ = dropout(x, rate=0.4, generator=torch.Generator().manual_seed(3))
    u = empty_map(x.shape, x).uniform_(generator=torch.Generator().manual_seed(3))
    bits = torch.empty(fast.mask_bytes(x.numel()), dtype=torch.uint8)
    run(fast.dropout_forward(x, u, bits, x, 0.4))
    assert torch.equal(x, want)


@sizes
def test_channel_sums(size):
    (x,) = maps(size, 1)
    sums = torch.empty(size[2])
    run(fast.channel_sums(x, sums))
    assert_close(sums, x.double().sum((0, 1, 3)), TOLERANCE)


def test_long_sums_stay_precise():
    x = empty_map((500, 400, 16, 3), torch.empty(())).uniform_()
    sums = torch.empty(16)
    run(fast.channel_sums(x, sums))
    assert_close(sums, x.double().sum((0, 1, 3)), 2e-7)
