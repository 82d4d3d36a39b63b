"""Our kernels of losses and softmax against the explicit blocks in float64."""

import pytest
import torch

from matconvnet.blocks.loss import loss, loss_backward
from matconvnet.blocks.softmax import softmax, softmax_backward
from matconvnet.fast import loss as fast
from matconvnet.fast.native import kernels
from tests.helpers import assert_close, in_memory, randn
from tests.tolerances import REFERENCE

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

TOLERANCE = REFERENCE[torch.float32]
SHAPES = [(1, 1, 10, 100), (1, 1, 1000, 32), (1, 1, 1, 3), (5, 7, 21, 4), (40, 30, 16, 3)]


def map_of(shape, seed=0, scale=3.0):
    return in_memory(randn(shape, seed, torch.float32) * scale, "channels last")


def labels_of(shape, per_pixel):
    """Labels, a few of them ignored: N, or H x W x 1 x N in memory like a map."""
    h, w, d, n = shape
    labels = torch.randint(-1, d, (n, h, w, 1) if per_pixel else (n,))
    return labels.permute(1, 2, 3, 0) if per_pixel else labels


@pytest.fixture(params=[(s, p) for s in SHAPES for p in (False, True)], ids=str)
def problem(request):
    """Scores and labels; whole numbers among the scores tie."""
    torch.manual_seed(0)
    shape, per_pixel = request.param
    x = map_of(shape)
    x[..., ::2] = x[..., ::2].round()
    return x, labels_of(shape, per_pixel)


def value(calls, y):
    for call in calls:
        call()
    return y


def test_softmaxlog(problem):
    x, c = problem
    y = torch.full((), 7.0)
    assert_close(value(fast.softmaxlog_forward(x, c, y), y), loss(x.double(), c), TOLERANCE)


def test_softmaxlog_backward(problem):
    x, c = problem
    dzdx, dzdy = torch.full_like(x, 7), torch.tensor(-1.5)
    value(fast.softmaxlog_backward(x, c, dzdy, dzdx), dzdx)
    assert_close(dzdx, loss_backward(x.double(), c, -1.5), TOLERANCE)


def test_large_scores():
    x, c = map_of((1, 1, 21, 9), scale=3e4), labels_of((1, 1, 21, 9), False)
    y, dzdx = torch.full((), 7.0), torch.full_like(x, 7)
    assert_close(value(fast.softmaxlog_forward(x, c, y), y), loss(x.double(), c), TOLERANCE)
    value(fast.softmaxlog_backward(x, c, torch.tensor(2.0), dzdx), dzdx)
    assert_close(dzdx, loss_backward(x.double(), c, 2.0), TOLERANCE)


@pytest.mark.parametrize("strange", [float("nan"), float("inf")])
def test_strange_scores_are_not_hidden(strange):
    for place in (0, 18):
        x, c = map_of((1, 1, 21, 4)), torch.tensor([0, 3, 2, 1])
        x[0, 0, place, 2] = strange
        y = torch.zeros(())
        assert value(fast.softmaxlog_forward(x, c, y), y).isnan()
        dzdx = torch.zeros_like(x)
        value(fast.softmaxlog_backward(x, c, torch.ones(()), dzdx), dzdx)
        assert torch.equal(dzdx.isnan().any(2).flatten(), torch.arange(4) == 2)


def test_a_label_beyond_the_classes_is_seen():
    x, c = map_of((1, 1, 5, 2)), torch.tensor([4, 5])
    y, dzdx = torch.zeros(()), torch.zeros_like(x)
    for function in (fast.softmaxlog_forward, fast.classerror):
        assert value(function(x, c, y), y).isnan()
    value(fast.softmaxlog_backward(x, c, torch.ones(()), dzdx), dzdx)
    assert dzdx[..., 1].isnan().any()
    assert dzdx[..., 0].isfinite().all()


def test_classerror(problem):
    x, c = problem
    y = torch.full((), 7.0)
    assert value(fast.classerror(x, c, y), y) == loss(x, c, loss="classerror")


@pytest.mark.parametrize("k", [1, 2, 5])
def test_topkerror(problem, k):
    x, c = problem
    y, k = torch.full((), 7.0), min(k, x.shape[2])
    assert value(fast.topkerror(x, c, k, y), y) == loss(x, c, loss="topkerror", top_k=k)


@pytest.mark.parametrize("kind", ["classerror", "topkerror"])
def test_errors_rank_what_is_not_a_number_as_the_block_does(kind):
    nan, inf = float("nan"), float("inf")
    rows = [
        [nan, 1, 2],
        [2, nan, 1],
        [1, nan, 2],
        [nan, nan, 0],
        [inf, 1, inf],
        [-inf, -inf, -inf],
        [2, 2, 1],
    ]
    for row in rows:
        for label in range(3):
            x, c = (
                torch.tensor(row, dtype=torch.float32)[None, None, :, None],
                torch.tensor([label]),
            )
            y = torch.full((), 7.0)
            calls = fast.classerror(x, c, y) if kind == "classerror" else fast.topkerror(x, c, 2, y)
            assert value(calls, y) == loss(x, c, loss=kind, top_k=2), (row, label)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_softmax(shape):
    x, dzdy = map_of(shape), map_of(shape, 1)
    y, dzdx = torch.full_like(x, 7), torch.full_like(x, 7)
    value(fast.softmax_forward(x, y), y)
    assert_close(y, softmax(x.double()), TOLERANCE)
    value(fast.softmax_backward(y, dzdy, dzdx), dzdx)
    assert_close(dzdx, softmax_backward(x.double(), dzdy.double()), TOLERANCE)


def test_long_sums_are_exact():
    x, c = map_of((64, 64, 3, 16)), labels_of((64, 64, 3, 16), True)
    y = torch.zeros(())
    assert_close(value(fast.softmaxlog_forward(x, c, y), y), loss(x.double(), c), 3e-7)
