"""The update of all parameters at once against the solvers in float64."""

import itertools

import numpy as np
import pytest
import torch

from matconvnet.fast import update
from matconvnet.fast.native import kernels
from matconvnet.train.solvers.sgd import sgd
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

TOLERANCE = REFERENCE[torch.float32]
SIZES = [(3, 3, 1, 5), (1,), (0,), (17,), (40000,), (2, 3, 100, 101), (0,), (16384,), (5,)]
RATES = [0.1 * (i + 1) for i in range(len(SIZES))]
DECAYS = [0.01 * i for i in range(len(SIZES))]
BATCH = 7
SCALARS = np.array([0.9, 0, BATCH, *np.stack((RATES, DECAYS), 1).ravel()])


def tensors(seed):
    """One tensor of each size; those of four axes are permuted in memory."""
    found = [randn(size, seed + i, torch.float32) for i, size in enumerate(SIZES)]
    return [t.permute(3, 0, 1, 2) if t.dim() == 4 else t for t in found]


def doubles(values):
    return [t.double() for t in values]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd(nesterov, momentum):
    values, velocities, ders = tensors(0), tensors(100), tensors(200)
    wanted, options = (doubles(values), doubles(velocities)), {"nesterov_update": nesterov}
    scalars = np.zeros(update.SGD_HEAD + 2 * len(SIZES))
    (call,) = update.sgd(values, velocities, ders, scalars)
    scalars[:] = momentum, nesterov, BATCH, *np.stack((RATES, DECAYS), 1).ravel()
    for step in range(3):
        for i, der in enumerate(ders):
            der.mul_(1 + step)
            g = der.double() / BATCH + DECAYS[i] * wanted[0][i]
            wanted[0][i], wanted[1][i] = sgd(
                wanted[0][i], wanted[1][i], g, {"momentum": momentum, **options}, RATES[i]
            )
        call()
    for got, want in zip(
        itertools.chain(values, velocities), itertools.chain(*wanted), strict=True
    ):
        assert_close(got, want, TOLERANCE)


def test_average():
    values, ders = tensors(0), tensors(100)
    users = [1 + i % 2 for i in range(len(SIZES))]
    wanted = [
        torch.lerp(value.double(), der.double() / (BATCH * number), rate)
        for value, der, rate, number in zip(values, ders, RATES, users, strict=True)
    ]
    rows = [x for rate, number in zip(RATES, users, strict=True) for x in (1 - rate, rate / number)]
    (call,) = update.average(values, ders, np.array([BATCH, *rows]))
    call()
    for got, want in zip(values, wanted, strict=True):
        assert_close(got, want, TOLERANCE)


def test_derivatives_are_not_altered():
    values, velocities, ders = tensors(0), tensors(100), tensors(200)
    kept = [der.clone() for der in ders]
    (call,) = update.sgd(values, velocities, ders, SCALARS)
    call()
    assert all(map(torch.equal, ders, kept))


def test_a_flag_forbids_steps():
    values, velocities, ders = tensors(0), tensors(100), tensors(200)
    kept = [t.clone() for t in (*values, *velocities)]
    allowed = torch.zeros(1, dtype=torch.int64)
    calls = update.sgd(values, velocities, ders, SCALARS, allowed)
    calls += update.average(values, ders, np.array([BATCH, *[0.5, 0.5] * len(SIZES)]), allowed)
    for call in calls:
        call()
    assert all(map(torch.equal, (*values, *velocities), kept))
    allowed[0] = 1
    for call in calls:
        call()
    assert not any(torch.equal(t, k) for t, k in zip(values, kept, strict=False) if t.numel())


def test_a_parameter_without_rate_and_decay_stays():
    values, velocities, ders = tensors(0), tensors(100), tensors(200)
    kept = [t.clone() for t in (*values, *velocities)]
    scalars = SCALARS.copy()
    scalars[update.SGD_HEAD :] = 0
    (call,) = update.sgd(values, velocities, ders, scalars)
    call()
    assert all(map(torch.equal, (*values, *velocities), kept))


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("tensor", "place"), [(0, 0), (1, 0), (4, 39999), (7, 16383), (8, 4)])
def test_what_is_not_finite_is_found(strange, tensor, place):
    ders, flag = tensors(0), torch.ones(1, dtype=torch.int64)
    (call,) = update.finite(ders, flag)
    call()
    assert flag == 1
    kept, memory = ders[tensor].clone(), ders[tensor].as_strided((ders[tensor].numel(),), (1,))
    memory[place] = strange
    call()
    assert flag == 0
    ders[tensor].copy_(kept)
    call()
    assert flag == 0, "the flag is cleared only"


def test_the_largest_numbers_are_finite():
    flag = torch.ones(1, dtype=torch.int64)
    largest = torch.finfo(torch.float32).max
    (call,) = update.finite([torch.tensor([largest, -largest, 1e-45, -0.0])], flag)
    call()
    assert flag == 1


def test_nothing_to_update():
    flag = torch.ones(1, dtype=torch.int64)
    calls = [
        *update.sgd([], [], [], SCALARS[: update.SGD_HEAD]),
        *update.finite([], flag),
    ]
    for call in calls:
        call()
    assert flag == 1
