"""Our convolution kernels against the explicit block in float64."""

import pytest
import torch

from matconvnet.blocks.conv import conv, conv_backward
from matconvnet.fast import conv as fast
from matconvnet.fast.native import kernels
from tests.tolerances import REFERENCE

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

# map H W C N, filters FH FW FC K, stride, pad, dilate
CASES = [
    ((7, 6, 3, 2), (3, 2, 3, 17), 1, 0, 1),
    ((9, 8, 16, 3), (3, 3, 16, 32), 1, 1, 1),
    ((9, 8, 20, 5), (5, 3, 20, 50), (2, 1), (2, 1, 0, 3), 1),
    ((11, 13, 1, 1), (5, 5, 1, 20), 1, 0, 1),
    ((11, 13, 1, 4), (5, 5, 1, 1), 2, 2, 1),
    ((31, 29, 3, 2), (11, 11, 3, 50), 4, (0, 0, 2, 1), 1),
    ((12, 10, 17, 2), (3, 3, 17, 3), (3, 2), (4, 0, 0, 5), (2, 3)),
    ((12, 10, 32, 2), (3, 3, 32, 16), 1, (0, 2, 4, 1), (1, 2)),
    ((9, 9, 12, 2), (3, 3, 4, 51), 1, 1, 1),
    ((10, 8, 32, 3), (3, 2, 16, 40), 2, (1, 0, 1, 2), (2, 1)),
    ((8, 7, 6, 2), (3, 3, 1, 6), 1, 1, 1),
    ((7, 7, 64, 3), (1, 1, 64, 33), 1, 0, 1),
    ((7, 6, 64, 2), (1, 1, 64, 16), 2, 0, 1),
    ((7, 6, 5, 2), (1, 1, 5, 18), 3, (2, 1, 1, 2), 1),
    ((6, 5, 512, 2), (3, 3, 512, 20), 1, 1, 1),
    ((8, 8, 256, 1), (2, 2, 256, 16), 2, 0, 1),
    ((40, 41, 64, 2), (3, 3, 64, 16), 1, 1, 1),
    ((60, 90, 48, 1), (3, 3, 48, 17), 1, (1, 1, 0, 2), 1),
    ((3, 2, 16, 1), (3, 2, 16, 13), 1, 0, 1),
    ((3, 3, 5, 9), (3, 3, 5, 23), 1, 0, 1),
    ((6, 6, 64, 30), (6, 6, 64, 41), 1, 0, 1),
    ((1, 1, 200, 5), (1, 1, 200, 3), 1, 0, 1),
    ((6, 5, 80, 13), (6, 5, 80, 40), 1, 0, 1),
    ((2, 2, 2052, 5), (2, 2, 2052, 16), 1, 0, 1),
    ((1, 1, 67, 70), (1, 1, 67, 36), 1, 0, 1),
    ((2, 3, 4, 2), (3, 4, 4, 5), 1, (1, 0, 1, 0), 1),
    ((9, 8, 8, 3), (3, 3, 8, 20), 1, (0, 2, 1, 0), 1),
    ((6, 7, 40, 2), (4, 5, 40, 9), 1, 0, 1),
]


AROUND = 64
"""Numbers before and behind a map, all nan."""


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def maps(request):
    """Type of the maps; filters and biases are of float32."""
    return request.param


@pytest.fixture(params=CASES, ids=str)
def case(request, generator, maps):
    """Shape, options, and random x, f, b, y, dzdy, of numbers that `maps` can represent."""
    x_shape, f_shape, stride, pad, dilate = request.param
    options = {"stride": stride, "pad": pad, "dilate": dilate}

    def random(shape):
        return _channels_last(torch.randn(shape, generator=generator).to(maps))

    x, f, b = random(x_shape), random(f_shape).float(), torch.randn(f_shape[3], generator=generator)
    y = conv(x.float(), f, b, **options)
    h, w, c, n = x_shape
    two = [v if isinstance(v, tuple) else (v, v) for v in (stride, dilate)]
    four = pad if isinstance(pad, tuple) else (pad,) * 4
    shape = fast.ConvShape(
        n, h, w, c, f_shape[3], f_shape[:2], c // f_shape[2], two[0], (four[0], four[2]), two[1],
        (y.shape[0], y.shape[1]), maps,
    )  # fmt: skip
    return shape, options, x, f, b, random(y.shape), random(y.shape)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_forward(case):
    shape, options, x, f, b, y, _ = case
    _run(fast.forward(shape, x, f, b, y, _scratch))
    _check(y, conv(x.double(), f.double(), b.double(), **options))


def test_forward_with_all_that_follows(case):
    shape, options, x, f, _, y, residual = case
    packed = _scratch(fast.packed_size(shape))
    _run(fast.pack(shape, f, packed))
    _run(fast.forward(shape, x, f, None, y, _scratch, relu=True, residual=residual, packed=packed))
    _check(y, (conv(x.double(), f.double(), **options) + residual.double()).relu())


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_backward_data(case, add, masked):
    shape, options, x, f, b, _, dzdy = case
    wanted = conv_backward(x.double(), f.double(), b.double(), dzdy.double(), **options)[0]
    assert wanted is not None
    dzdx = _channels_last(torch.linspace(-1, 1, x.numel()).reshape(x.shape).to(x.dtype))
    wanted = (wanted + dzdx if add else wanted) * (x > 0 if masked else 1)
    _run(fast.backward_data(shape, f, dzdy, dzdx, _scratch, mask=x if masked else None, add=add))
    _check(dzdx, wanted)


@pytest.mark.parametrize("biases", [False, True])
def test_backward_filters(case, biases):
    shape, options, x, f, b, _, dzdy = case
    _, df, db = conv_backward(x.double(), f.double(), b.double(), dzdy.double(), **options)
    got, got_b = torch.full_like(f, 7), torch.full_like(b, 7) if biases else None
    _run(fast.backward_filters(shape, x, dzdy, got, got_b, _scratch))
    _check(got, df)
    if got_b is not None:
        _check(got_b, db)


def test_results_do_not_depend_on_the_run(case):
    shape, _, x, f, b, _, dzdy = case
    runs = []
    for _ in range(2):
        df, db = torch.empty_like(f), torch.empty_like(b)
        _run(fast.backward_filters(shape, x, dzdy, df, db, _scratch))
        runs.append((df, db))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("count", [5, 14, 41])
def test_slices_are_the_whole(count, generator):
    shape, x, f, dzdy = _full(generator)
    whole, part = torch.empty_like(f), torch.empty_like(f[..., :count])
    db, got_b = torch.empty(f.shape[3]), torch.empty(f.shape[3])
    _run(fast.backward_filters(shape, x, dzdy, whole, db, _scratch))
    ends = 0
    for first, last, calls in fast.filter_slices(shape, x, dzdy, part, got_b, _scratch, count):
        assert first == ends
        _run(calls)
        assert torch.equal(part[..., : last - first], whole[..., first:last])
        part.fill_(7)
        ends = last
    assert ends == f.shape[3]
    assert torch.equal(db, got_b)


@pytest.mark.parametrize("batch", [3, 30])
def test_full_filters_with_bfloat16_maps(batch, generator):
    """They are what float32 maps of the same numbers give, rounded."""
    shape, x, f, dzdy = _full(generator, batch)
    residual, b = dzdy.flip(2), torch.randn(f.shape[3], generator=generator)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        u, v, w = (_channels_last(t.to(dtype)) for t in (x, dzdy, residual))
        y, dzdx, df, db = (torch.empty_like(t) for t in (v, u, f, b))
        calls = fast.forward(shape, u, f, b, y, _scratch, relu=True, residual=w)
        calls += fast.backward_data(shape, f, v, dzdx, _scratch, mask=u)
        _run(calls + fast.backward_filters(shape, u, v, df, db, _scratch))
        results.append([y, dzdx, df, db])
    for wanted, got in zip(*results, strict=True):
        assert torch.equal(wanted.to(got.dtype), got)


def _full(generator, batch=30):
    """Filters that cover the map: the shape, and x, f, dzdy of numbers that bfloat16 has."""

    def random(*shape):
        return _channels_last(torch.randn(shape, generator=generator).bfloat16().float())

    shape = fast.ConvShape(
        batch, 6, 6, 64, 41, (6, 6), 1, (1, 1), (0, 0), (1, 1), (1, 1)
    )  # fmt: skip
    return shape, random(6, 6, 64, batch), random(6, 6, 64, 41), random(1, 1, 41, batch)


def _channels_last(t):
    """A copy in the memory of maps, between numbers that nobody may read."""
    room = t.new_full((t.numel() + 2 * AROUND,), float("nan"))
    h, w, c, n = t.shape
    place = room[AROUND:-AROUND].view(n, h, w, c).permute(1, 2, 3, 0)
    return place.copy_(t)


def _scratch(count):
    return torch.full((count,), float("nan"))


def _run(calls):
    for call in calls:
        call()


def _check(got, wanted):
    """Sums are of float32; those that are numbers of maps are then rounded once to their type."""
    error, rounding = (got.double() - wanted).abs(), torch.finfo(got.dtype).eps / 2
    assert (error <= rounding * wanted.abs() + REFERENCE[torch.float32] * wanted.abs().max()).all()
