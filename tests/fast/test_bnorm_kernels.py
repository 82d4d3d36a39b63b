"""Our kernels of batch normalisation against the explicit block in float64."""

import itertools

import pytest
import torch

from matconvnet.blocks.bnorm import bnorm, bnorm_backward
from matconvnet.fast import bnorm as fast
from matconvnet.fast.native import kernels
from tests.helpers import assert_close, in_memory, randn
from tests.tolerances import REFERENCE

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

TOLERANCE = REFERENCE[torch.float32]
EPSILON = 1e-3

# rows shorter than a tile, whole and broken ones; rows longer than a strip; many parts and blocks
SHAPES = [
    (1, 1, 5, 3), (3, 4, 1, 70), (5, 7, 3, 11), (9, 5, 16, 7), (17, 23, 20, 9), (8, 8, 64, 2),
    (7, 7, 100, 5), (3, 2, 1040, 3), (1, 1, 2048, 9), (1, 3, 1001, 70), (31, 33, 64, 40),
]  # fmt: skip


def scratch(count):
    """Memory with numbers that would show."""
    return torch.full((count,), float("nan"))


def run(calls):
    for call in calls:
        call()


class Case:
    """Random float32 arguments, and places for what is computed."""

    def __init__(self, shape, offset=0.0):
        channels = shape[2]
        self.x, self.dzdy, self.residual, self.old = (
            in_memory(randn(shape, seed, torch.float32), "channels last") for seed in range(4)
        )
        self.x += offset
        self.g, self.b = (randn((channels,), seed, torch.float32) for seed in (5, 6))
        self.moments = torch.full((channels, 2), 7.0)
        self.y = torch.full_like(self.x, 7)

    def wanted(self, **options):
        return bnorm(self.x.double(), self.g.double(), self.b.double(), **options)

    def forward(self, **options):
        run(
            fast.forward(
                self.x, self.g, self.b, self.y, self.moments, EPSILON, scratch, **options
            )
        )  # fmt: skip

    def backward(self, y, dzdy, dzdx, moments, **options):
        """dg, db and the new moments."""
        dg, db = torch.full_like(self.g, 7), torch.full_like(self.g, 7)
        new = torch.full_like(self.moments, 7)
        run(
            fast.backward(
                self.x, y, self.g, dzdy, dzdx, dg, db, moments, new, scratch, **options
            )
        )  # fmt: skip
        return dg, db, new

    def wanted_backward(self, dzdy, moments=None, frozen=False):
        return bnorm_backward(
            self.x.double(), self.g.double(), self.b.double(), dzdy.double(), epsilon=EPSILON,
            moments=moments, frozen=frozen,
        )  # fmt: skip


@pytest.fixture(params=SHAPES, ids=str)
def case(request):
    return Case(request.param)


def test_forward(case):
    y, moments = case.wanted(epsilon=EPSILON)
    case.forward()
    assert_close(case.moments, moments, TOLERANCE)
    assert_close(case.y, y, TOLERANCE)


def test_forward_with_all_that_follows(case):
    y, _ = case.wanted(epsilon=EPSILON)
    case.forward(relu=True, residual=case.residual)
    assert_close(case.y, (y + case.residual).relu(), TOLERANCE)


def test_forward_with_given_moments(case):
    moments = randn(case.moments.shape, 9, torch.float32).abs() + 0.5
    y, _ = case.wanted(moments=moments.double())
    run(fast.forward_given(case.x, case.g, case.b, case.y, moments, relu=True))
    assert_close(case.y, y.relu(), TOLERANCE)


def test_infinite_and_missing_numbers_are_not_hidden_by_the_relu(case):
    case.x[0, 0, 0, 0] = float("nan")
    case.forward(relu=True)
    assert case.y[:, :, 0].isnan().all()
    assert case.y[:, :, 1:].isfinite().all()


@pytest.mark.parametrize("shape", [(9, 5, 16, 7), (17, 23, 20, 9), (31, 33, 64, 40)], ids=str)
@pytest.mark.parametrize("offset", [1000.0, -1000.0])
def test_a_mean_much_larger_than_the_deviation(shape, offset):
    case = Case(shape, offset)
    _, wanted = case.wanted(epsilon=EPSILON)
    case.forward()
    assert_close(case.moments[:, 0] - offset, wanted[:, 0] - offset, 2 * 6e-8 * abs(offset) / 0.01)
    assert_close(case.moments[:, 1], wanted[:, 1], TOLERANCE)


def test_the_first_rows_may_differ_from_all_others():
    case = Case((31, 33, 64, 40))
    case.x[:, :, :, 1:] += 1000
    _, wanted = case.wanted(epsilon=EPSILON)
    case.forward()
    assert_close(case.moments, wanted, TOLERANCE)


def test_backward(case):
    _, moments = case.wanted(epsilon=EPSILON)
    dzdx, dzdg, dzdb, _ = case.wanted_backward(case.dzdy)
    got = torch.full_like(case.x, 7)
    dg, db, new = case.backward(None, case.dzdy, got, moments.float())
    assert_close(got, dzdx, TOLERANCE)
    assert_close(dg, dzdg, TOLERANCE)
    assert_close(db, dzdb, TOLERANCE)
    assert_close(new, moments * case.x.shape[3], TOLERANCE)


@pytest.mark.parametrize(
    ("add", "masked", "add_residual"), list(itertools.product([False, True], repeat=3))
)
def test_backward_with_all_that_follows(case, add, masked, add_residual):
    case.forward(relu=True, residual=case.residual)
    passed = case.dzdy * (case.y > 0)
    wanted, dzdg, dzdb, _ = case.wanted_backward(passed, case.moments.double())
    got, residual, mask = case.old.clone(), case.residual.clone(), case.residual
    dg, db, _ = case.backward(
        case.y, case.dzdy, got, case.moments, relu=True, add=add, mask=mask if masked else None,
        der_residual=residual, add_residual=add_residual,
    )  # fmt: skip
    wanted = (wanted + case.old if add else wanted) * (mask > 0 if masked else 1)
    assert_close(got, wanted, TOLERANCE)
    assert_close(dg, dzdg, TOLERANCE)
    assert_close(db, dzdb, TOLERANCE)
    assert_close(residual, passed + case.residual if add_residual else passed, TOLERANCE)


def test_backward_in_place(case):
    case.forward(relu=True)
    wanted = case.wanted_backward(case.dzdy * (case.y > 0), case.moments.double())
    got = case.dzdy.clone()
    case.backward(case.y, got, got, case.moments, relu=True)
    assert_close(got, wanted[0], TOLERANCE)


def test_backward_with_constant_moments(case):
    moments = randn(case.moments.shape, 9, torch.float32).abs() + 0.5
    dzdx, dzdg, dzdb, _ = case.wanted_backward(case.dzdy, moments.double(), frozen=True)
    got = torch.full_like(case.x, 7)
    dg, db, new = case.backward(None, case.dzdy, got, moments, frozen=True)
    assert_close(got, dzdx, TOLERANCE)
    assert_close(dg, dzdg, TOLERANCE)
    assert_close(db, dzdb, TOLERANCE)
    assert torch.equal(new, moments)


def test_only_some_derivatives():
    case = Case((9, 5, 16, 7))
    case.forward()
    dzdx, dzdg, _, _ = case.wanted_backward(case.dzdy)
    got, dg = torch.empty_like(case.x), torch.empty_like(case.g)
    for x, g in ((got, None), (None, dg)):
        run(
            fast.backward(
                case.x, None, case.g, case.dzdy, x, g, None, case.moments, None, scratch
            )
        )  # fmt: skip
    assert_close(got, dzdx, TOLERANCE)
    assert_close(dg, dzdg, TOLERANCE)


def test_the_number_of_threads_does_not_matter():
    case, threads, found = Case((31, 33, 64, 40)), torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            case.forward()
            got = torch.empty_like(case.x)
            dg, _, _ = case.backward(None, case.dzdy, got, case.moments)
            found.append((case.moments.clone(), case.y.clone(), got, dg))
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))
