"""Winograd's algorithm against the explicit convolution in float64."""

import pytest
import torch

from matconvnet.blocks.conv import conv, conv_backward
from matconvnet.fast import winograd
from matconvnet.fast.conv import ConvShape
from matconvnet.fast.native import kernels
from tests.tolerances import REFERENCE

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

# size of the filters, map H W C N, filters K, groups, padding at the top, bottom, left and right
CASES = [
    (3, 1, 1, 3, 1, 1, 1, (1, 1, 1, 1)),
    (3, 2, 3, 1, 2, 20, 1, (2, 1, 0, 2)),
    (3, 3, 3, 16, 3, 3, 1, (0, 0, 0, 0)),
    (3, 4, 4, 16, 1, 16, 1, (1, 1, 1, 1)),
    (3, 5, 9, 20, 2, 33, 1, (0, 2, 1, 0)),
    (3, 6, 6, 33, 2, 20, 1, (2, 2, 2, 2)),
    (3, 7, 7, 64, 3, 64, 1, (1, 1, 1, 1)),
    (3, 8, 5, 3, 1, 64, 1, (1, 0, 2, 1)),
    (3, 12, 12, 160, 1, 144, 1, (1, 1, 1, 1)),
    (3, 13, 10, 33, 3, 16, 1, (1, 1, 1, 1)),
    (3, 14, 14, 64, 2, 48, 1, (1, 2, 0, 1)),
    (3, 40, 38, 16, 3, 64, 1, (1, 1, 1, 1)),
    (3, 9, 7, 6, 2, 10, 2, (1, 2, 0, 1)),
    (3, 30, 31, 66, 2, 102, 2, (1, 1, 1, 1)),
    (3, 5, 9, 17, 4, 20, 1, (1, 1, 1, 1)),
    (3, 13, 13, 16, 8, 33, 1, (0, 2, 1, 0)),
    (3, 1, 2, 4, 36, 6, 2, (1, 1, 2, 1)),
    (5, 1, 1, 3, 1, 1, 1, (2, 2, 2, 2)),
    (5, 2, 3, 1, 2, 20, 1, (4, 3, 1, 4)),
    (5, 5, 5, 20, 3, 33, 1, (0, 0, 0, 0)),
    (5, 8, 7, 33, 2, 20, 1, (2, 2, 2, 2)),
    (5, 13, 10, 144, 1, 160, 1, (4, 0, 0, 3)),
    (5, 21, 22, 16, 3, 64, 1, (2, 2, 2, 2)),
    (5, 9, 7, 6, 2, 10, 2, (2, 1, 0, 2)),
    (5, 20, 18, 51, 2, 120, 3, (2, 2, 2, 2)),
    (5, 5, 5, 9, 16, 20, 1, (2, 1, 2, 2)),
]


def channels_last(t):
    return t.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)


@pytest.fixture(params=CASES, ids=str)
def case(request):
    """Shape, pad, and random x, f, b, residual, dzdy in float32."""
    size, h, w, c, n, k, groups, pad = request.param
    generator = torch.Generator().manual_seed(h + c)
    y = (h + pad[0] + pad[1] - size + 1, w + pad[2] + pad[3] - size + 1)
    shapes = ((h, w, c, n), (size, size, c // groups, k), (*y, k, n), (*y, k, n))
    x, f, residual, dzdy = (
        channels_last(torch.randn(s, generator=generator) + 0.2) for s in shapes
    )
    b = torch.randn(k, generator=generator)
    shape = ConvShape(
        n, h, w, c, k, (size, size), groups, (1, 1), (pad[0], pad[2]), (1, 1), y
    )  # fmt: skip
    return shape, pad, x, f, b, residual, dzdy


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    """Number of threads while the calls are made and run."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def scratch(count):
    """64-byte aligned memory with nothing useful in it."""
    memory = torch.full((count + 16,), torch.nan)
    return memory[(start := -memory.data_ptr() // 4 % 16) : start + count]


def run(calls):
    for call in calls:
        call()


def nothing(like):
    return torch.full_like(like, torch.nan)


def close(found, wanted):
    wanted = wanted.reshape(found.shape)
    scale = wanted.abs().max().clamp(min=1)  # a ReLU may leave nothing
    error = (found.double() - wanted).abs().max()
    assert error <= REFERENCE[torch.float32] * scale


def test_forward(case, threads):
    shape, pad, x, f, b, _, _ = case
    y = nothing(case[5])
    run(winograd.forward(shape, x, f, b, y, scratch))
    close(y, conv(x.double(), f.double(), b.double(), pad=pad))


def test_forward_adds_and_rectifies(case):
    shape, pad, x, f, _, residual, _ = case
    y = nothing(residual)
    run(winograd.forward(shape, x, f, None, y, scratch, relu=True, residual=residual))
    close(y, (conv(x.double(), f.double(), pad=pad) + residual).relu())


def test_packed_filters_give_the_same_bits(case):
    shape, _, x, f, b, residual, _ = case
    packed, y, other = scratch(winograd.packed_size(shape)), nothing(residual), nothing(residual)
    run(winograd.pack(shape, f, packed))
    run(winograd.forward(shape, x, f, b, y, scratch))
    run(winograd.forward(shape, x, torch.empty_like(f), b, other, scratch, packed=packed))
    assert torch.equal(y, other)


def test_backward_data(case, threads):
    shape, pad, x, f, _, _, dzdy = case
    dzdx = nothing(x)
    run(winograd.backward_data(shape, f, dzdy, dzdx, scratch))
    close(dzdx, conv_backward(x.double(), f.double(), None, dzdy.double(), pad=pad)[0])


def test_backward_data_adds_before_it_masks(case):
    shape, pad, x, f, _, _, dzdy = case
    dzdx, mask = channels_last(torch.randn_like(x)), channels_last(torch.randn_like(x))
    wanted = conv_backward(x.double(), f.double(), None, dzdy.double(), pad=pad)[0]
    assert wanted is not None
    wanted = wanted + dzdx
    run(winograd.backward_data(shape, f, dzdy, dzdx, scratch, mask=mask, add=True))
    close(dzdx, wanted * (mask > 0))


def test_backward_filters(case, threads):
    shape, pad, x, f, b, _, dzdy = case
    df, db = nothing(f), torch.full_like(b, torch.nan)
    run(winograd.backward_filters(shape, x, dzdy, df, db, scratch))
    arguments = (t.double() for t in (x, f, b, dzdy))
    _, wanted, wanted_b = conv_backward(*arguments, pad=pad)
    close(df, wanted)
    close(db, wanted_b)


def test_backward_filters_without_biases(case):
    shape, pad, x, f, _, _, dzdy = case
    df = nothing(f)
    run(winograd.backward_filters(shape, x, dzdy, df, None, scratch))
    close(df, conv_backward(x.double(), f.double(), None, dzdy.double(), pad=pad)[1])


def all_directions(shape, x, f, b, residual, dzdy):
    """Outputs, and the derivatives with respect to data, filters and biases."""
    y, dzdx, df, db = nothing(residual), x.clone(), nothing(f), nothing(b)
    calls = winograd.forward(shape, x, f, b, y, scratch, relu=True, residual=residual)
    calls += winograd.backward_data(shape, f, dzdy, dzdx, scratch, mask=x, add=True)
    calls += winograd.backward_filters(shape, x, dzdy, df, db, scratch)
    run(calls)
    return y, dzdx, df, db


def test_half_maps_are_rounded_once(case, threads):
    shape, _, x, f, b, residual, dzdy = case
    x, residual, dzdy = (t.bfloat16() for t in (x, residual, dzdy))
    found = all_directions(shape, x, f, b, residual, dzdy)
    wanted = all_directions(shape, x.float(), f, b, residual.float(), dzdy.float())
    assert [t.dtype for t in found] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for half, single in zip(found, wanted, strict=True):
        rounding = torch.finfo(half.dtype).eps / 2
        noise = REFERENCE[torch.float32] * single.abs().max()
        assert ((half.float() - single).abs() <= rounding * single.abs() + noise).all()


def test_calls_give_the_same_bits_again(case):
    shape, _, x, f, _, residual, dzdy = case
    y, df = nothing(residual), nothing(f)
    calls = winograd.forward(shape, x, f, None, y, scratch)
    calls += winograd.backward_filters(shape, x, dzdy, df, None, scratch)
    run(calls)
    first = y.clone(), df.clone()
    run(calls)
    assert torch.equal(first[0], y)
    assert torch.equal(first[1], df)


@pytest.mark.parametrize(
    "change",
    [
        {"size": (3, 5)},
        {"stride": (2, 1)},
        {"dilate": (1, 2)},
        {"size": (4, 4)},
        {"pad": (3, 1)},
        {"output": (9, 8)},  # 3 pixels at the bottom
    ],
    ids=str,
)
def test_what_it_does_not_apply_to(change):
    shape = ConvShape(2, 7, 8, 64, 64, (3, 3), 1, (1, 1), (1, 1), (1, 1), (7, 8))
    assert winograd.applies(shape)
    assert winograd.applies(shape._replace(size=(5, 5), pad=(2, 2)))
    assert not winograd.applies(shape._replace(**change))


@pytest.mark.parametrize("direction", ["forward", "backward_data", "backward_filters"])
@pytest.mark.parametrize("size", [3, 5])
def test_many_channels_are_faster_and_few_are_not(direction, size):
    pad = size // 2
    shape = ConvShape(
        16, 56, 56, 64, 64, (size, size), 1, (1, 1), (pad, pad), (1, 1), (56, 56)
    )  # fmt: skip
    assert winograd.faster(shape, direction)
    assert winograd.faster(shape._replace(groups=2), direction)
    few = {"filters": 3} if direction == "backward_data" else {"channels": 3}  # that are summed
    assert not winograd.faster(shape._replace(**few), direction)
    assert not winograd.faster(shape._replace(stride=(2, 2), output=(28, 28)), direction)


@pytest.mark.parametrize("direction", ["forward", "backward_data", "backward_filters"])
def test_more_is_asked_where_half_maps_are_multiplied(direction, monkeypatch):
    shape = ConvShape(16, 56, 56, 256, 256, (3, 3), 1, (1, 1), (1, 1), (1, 1), (56, 56))
    few = shape._replace(channels=16, filters=16)
    for has_bf16 in (False, True):
        monkeypatch.setattr(winograd, "multiplies_halves", lambda has=has_bf16: has)
        assert winograd.faster(shape._replace(maps=torch.bfloat16), direction)
        assert winograd.faster(few, direction)
        assert winograd.faster(few._replace(maps=torch.bfloat16), direction) is not has_bf16
