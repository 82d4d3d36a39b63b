"""The kernels for maps of bfloat16 against those for maps of float32, on the same numbers.

What both compute in between is the same: results differ by one rounding at most.
"""

import itertools

import pytest
import torch

from matconvnet.fast import bnorm, elementwise, loss, lrn, pooling
from matconvnet.fast.native import kernels
from tests.helpers import randn

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

TOLERANCES = {
    torch.bfloat16: {"rtol": 2**-8, "atol": 1e-7},  # one rounding
    torch.float32: {"rtol": 1e-6, "atol": 1e-6},
}
SHAPES = [
    (5, 3, 3, 2),
    (4, 5, 17, 3),
    (6, 7, 20, 2),
    (7, 6, 64, 3),
    (33, 31, 48, 2),
    (3, 4, 530, 2),
]
GUARD = 64  # numbers around each map that must stay as they are
FLAGS = list(itertools.product([False, True], repeat=2))


class Maps:
    """Hands out maps of one type with random numbers that bfloat16 can hold."""

    def __init__(self, dtype, shape):
        self.dtype, self.shape, self.memory = dtype, shape, []

    def __call__(self, seed, shape=None):
        h, w, c, n = shape or self.shape
        memory = torch.full((h * w * c * n + 2 * GUARD,), 3, dtype=self.dtype)
        self.memory.append(memory)
        x = memory[GUARD:-GUARD].view(n, h, w, c).permute(1, 2, 3, 0)
        return x.copy_(randn((h, w, c, n), seed, torch.float32).bfloat16())

    def numbers(self, seed):
        """One float32 for each channel."""
        return randn((self.shape[2],), seed, torch.float32)

    def check(self):
        """Nothing was written outside."""
        for memory in self.memory:
            assert (memory[:GUARD] == 3).all()
            assert (memory[-GUARD:] == 3).all()


def scratch(count):
    """Workspace of a type that tells it from results."""
    return torch.full((count,), torch.nan, dtype=torch.float64)


def compare(case, shape, *options, exact=False):
    """Run the calls of a case for both types; everything they hold must agree."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        maps = Maps(dtype, shape)
        calls = case(maps, *options)
        for call in calls:
            call()
        maps.check()
        found.append([t for c in calls for t in c.tensors if t.dtype != torch.float64])
    for wide, narrow in zip(*found, strict=True):
        if exact or not wide.is_floating_point():
            assert torch.equal(narrow.to(wide.dtype), wide)
        else:
            torch.testing.assert_close(narrow.float(), wide, **TOLERANCES[narrow.dtype])


shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
flags = pytest.mark.parametrize(("masked", "add"), FLAGS)


@shapes
@pytest.mark.parametrize("leak", [0, 0.5])
def test_relu(shape, leak):
    compare(lambda m: elementwise.relu(m(0), m(1), leak), shape, exact=True)
    compare(lambda m: elementwise.relu_backward(m(0), m(1), m(2), leak), shape, exact=True)
    compare(lambda m: elementwise.relu_backward(m(0), m(1), m(2), leak, add=True), shape)


def test_relu_of_what_is_not_finite():
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 2], dtype=torch.bfloat16)
    (call,) = elementwise.relu(x, x)
    call()
    want = torch.tensor([torch.nan, torch.inf, 0, 0, 2], dtype=torch.bfloat16)
    torch.testing.assert_close(x, want, rtol=0, atol=0, equal_nan=True)


@shapes
def test_sigmoid(shape):
    compare(lambda m: elementwise.sigmoid(m(0), m(1)), shape)
    for add in (False, True):
        compare(lambda m, add=add: elementwise.sigmoid_backward(m(0), m(1), m(2), add), shape)


@shapes
@pytest.mark.parametrize("rectified", [False, True])
def test_add(shape, rectified):
    compare(lambda m: elementwise.add([m(0), m(1), m(2)], m(3), rectified), shape)


@shapes
@flags
def test_copy_and_split(shape, masked, add):
    h, w, c, n = shape

    def copy(m):
        return elementwise.copy(m(0), m(1), mask=m(2) if masked else None, add=add)

    def split(m):
        joined = m(0, (h, w, 2 * c + 1, n))
        return elementwise.split(joined, c, m(1), mask=m(2) if masked else None, add=add)

    compare(copy, shape, exact=not add)
    compare(split, shape, exact=not add)


@shapes
def test_concat(shape):
    h, w, c, n = shape

    def concat(m):
        return elementwise.concat([m(0), m(1, (h, w, 1, n))], m(2, (h, w, c + 1, n)))

    compare(concat, shape, exact=True)


@shapes
@flags
def test_dropout(shape, masked, add):
    h, w, c, n = shape
    draws = torch.rand((n, h, w, c), generator=torch.Generator().manual_seed(0))

    def dropout(m):
        bits = torch.zeros(elementwise.mask_bytes(draws.numel()), dtype=torch.uint8)
        mask = m(4) if masked else None
        calls = elementwise.dropout_forward(m(0), draws.permute(1, 2, 3, 0), bits, m(1), 0.3)
        return calls + elementwise.dropout_backward(bits, m(2), m(3), 0.3, mask=mask, add=add)

    compare(dropout, shape)


@shapes
def test_channel_sums(shape):
    compare(lambda m: elementwise.channel_sums(m(0), m.numbers(1)), shape)


@shapes
@flags
@pytest.mark.parametrize("kind", ["bytes", "places", "mean"])
def test_pooling(shape, masked, add, kind):
    h, w, c, n = shape
    out = ((h - 2) // 2 + 1, w - 1)
    sizes = pooling.PoolShape(
        n, h, w, c, (3, 2), (2, 1), (1, 0), out, "avg" if kind == "mean" else "max"
    )

    def pool(m):
        x, y, winners = m(0), m(1, (*out, c, n)), None
        if kind != "mean":
            winners = torch.zeros(
                (n, *out, c), dtype=torch.uint8 if kind == "bytes" else torch.int32
            )
            winners = winners.permute(1, 2, 3, 0)
        calls = pooling.forward(sizes, x, y, winners)
        return calls + pooling.backward(
            sizes, m(2, y.shape), winners, m(3), mask=x if masked else None,
            mask_dzdy=m(4, y.shape) if masked else None, add=add,
        )  # fmt: skip

    compare(pool, shape)
    if kind != "mean":
        compare(lambda m: pool(m)[:1], shape, exact=True)


@shapes
@flags
@pytest.mark.parametrize("param", [(5, 1, 0.9, 0.75), (4, 2, 0.5, 0.6)], ids=str)
def test_lrn(shape, masked, add, param):
    def both(m):
        x, mask = m(0), m(4) if masked else None
        calls = lrn.forward(x, m(1), param, scratch)
        return calls + lrn.backward(x, m(2), m(3), param, scratch, mask=mask, add=add)

    compare(both, shape)


@shapes
@flags
@pytest.mark.parametrize("add_residual", [False, True])
def test_bnorm(shape, masked, add, add_residual):
    def both(m):
        g, moments = m.numbers(0), m.numbers(1).repeat(2, 1).T.contiguous()
        x, y, mask = m(2), m(3), m(4) if masked else None
        calls = bnorm.forward(
            x, g, m.numbers(5), y, moments, 1e-3, scratch, relu=masked, residual=m(6)
        )
        for call in calls:
            call()
        return calls + bnorm.backward(
            x, m(7), g, m(8), m(9), m.numbers(10), m.numbers(11), moments,
            torch.zeros_like(moments), scratch, relu=True, mask=mask, add=add, der_residual=m(12),
            add_residual=add_residual,
        )  # fmt: skip

    compare(both, shape)


@shapes
@pytest.mark.parametrize("per_pixel", [False, True])
def test_losses(shape, per_pixel):
    h, w, c, n = shape
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, c, (n, h, w, 1) if per_pixel else (n,), generator=generator)
    if per_pixel:
        labels = labels.permute(1, 2, 3, 0)

    def losses(m):
        x, y = m(0).mul_(8), [torch.zeros(()) for _ in range(3)]
        calls = loss.softmaxlog_forward(x, labels, y[0]) + loss.classerror(x, labels, y[1])
        calls += loss.topkerror(x, labels, min(5, c), y[2])
        calls += loss.softmaxlog_backward(x, labels, torch.tensor(1.5), m(1))
        return calls + loss.softmax_forward(x, m(2)) + loss.softmax_backward(m(3), m(4), m(5))

    compare(losses, shape)


@pytest.mark.parametrize("classes", [10, 100])
def test_a_small_derivative_at_a_label_that_is_likely(classes):
    x = torch.zeros(1, classes)
    x[0, 7], labels = 12, torch.tensor([7])

    def backward(m):
        ders = m(0, (1, 1, classes, 1))
        scores = x.to(m.dtype).view(1, 1, classes, 1)
        return loss.softmaxlog_backward(scores, labels, torch.ones(()), ders)

    compare(backward, (1, 1, classes, 1))


def test_a_label_beyond_the_classes_is_seen():
    x = torch.zeros((1, 1, 70, 2), dtype=torch.bfloat16)
    dzdx = torch.zeros_like(x.permute(3, 0, 1, 2), memory_format=torch.contiguous_format)
    dzdx = dzdx.permute(1, 2, 3, 0)
    (call,) = loss.softmaxlog_backward(x, torch.tensor([70, 1]), torch.ones(()), dzdx)
    call()
    assert dzdx[..., 0].isnan().any()
    assert dzdx[..., 1].isfinite().all()


@pytest.mark.parametrize("count", [1, 7, 16, 1000, 40_000])
def test_conversion_as_in_torch(count):
    exponents = randn((count,), 1, torch.float32) * 5  # instructions may take tiny numbers for 0
    x = randn((count,), 0, torch.float32) * torch.tensor(10.0) ** exponents
    x[::5] = x[::5].bfloat16() * (1 + 2**-8)  # half way between two, for mantissas that are 1
    x[0] = 1 + 2**-8
    special = [torch.nan, torch.inf, -torch.inf, -0.0, 3.4e38, 1 + 3 * 2**-8]
    x[1 : 1 + len(special)] = torch.tensor(special[: max(0, count - 1)])
    guard = torch.full((count + GUARD,), 3.0)
    narrow, wide = guard.bfloat16(), guard.clone()
    for call in elementwise.narrow(x, narrow[:count]) + elementwise.widen(narrow[:count], wide):
        call.numbers[0] = count
        call()
    want = x.bfloat16()
    torch.testing.assert_close(narrow[:count], want, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(wide[:count], want.float(), rtol=0, atol=0, equal_nan=True)
    assert (narrow[count:] == 3).all()
    assert (wide[count:] == 3).all()
