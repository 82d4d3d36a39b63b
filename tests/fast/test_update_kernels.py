"""The update of all parameters at once against the solvers in float64."""

import itertools
from typing import Any

import pytest
import torch

from matconvnet.fast import update
from matconvnet.fast.native import kernels
from matconvnet.train.solvers.adam import adam
from matconvnet.train.solvers.sgd import sgd
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

pytestmark = pytest.mark.skipif(kernels() is None, reason="the kernels are not compiled")

TOLERANCE = REFERENCE[torch.float32]
SIZES = [(3, 3, 1, 5), (1,), (0,), (17,), (40000,), (2, 3, 100, 101), (0,), (16384,), (5,)]
RATES = [0.1 * (i + 1) for i in range(len(SIZES))]
DECAYS = [0.01 * i for i in range(len(SIZES))]
BATCH = 7


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
    (call,) = update.sgd(
        values, velocities, ders, rates=[0.0] * len(SIZES), decays=DECAYS, size=BATCH,
        momentum=momentum, **options,
    )  # fmt: skip
    call.scalars[3::2] = RATES
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


@pytest.mark.parametrize("shrink", [0.0, 0.1])
def test_adam(shrink):
    values, means, squares, ders = tensors(0), tensors(100), tensors(200), tensors(300)
    for moment in (*means, *squares):
        moment.zero_()
    options = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-3}
    wanted, states = doubles(values), list[Any]([0] * len(SIZES))
    (call,) = update.adam(
        values, means, squares, ders, rates=RATES, decays=DECAYS, kept=[1 - shrink] * len(SIZES),
        size=BATCH, **options,
    )  # fmt: skip
    for t in (1, 2, 3):
        call.scalars[4::3] = [r * (1 - 0.99**t) ** 0.5 / (1 - 0.9**t) for r in RATES]
        call()
        for i, der in enumerate(ders):
            g = der.double() / BATCH + DECAYS[i] * wanted[i]
            step, states[i] = adam(wanted[i], states[i], g, options, RATES[i])
            wanted[i] = step - shrink * wanted[i]
    for i, state in enumerate(states):
        assert_close(values[i], wanted[i], TOLERANCE)
        assert_close(means[i], state["m"], TOLERANCE)
        assert_close(squares[i], state["v"], TOLERANCE)


def test_average():
    values, ders = tensors(0), tensors(100)
    users = [1 + i % 2 for i in range(len(SIZES))]
    wanted = [
        torch.lerp(value.double(), der.double() / (BATCH * number), rate)
        for value, der, rate, number in zip(values, ders, RATES, users, strict=True)
    ]
    (call,) = update.average(values, ders, rates=RATES, users=users, size=BATCH)
    call()
    for got, want in zip(values, wanted, strict=True):
        assert_close(got, want, TOLERANCE)


def test_derivatives_are_not_altered():
    values, velocities, ders = tensors(0), tensors(100), tensors(200)
    kept = [der.clone() for der in ders]
    (call,) = update.sgd(
        values, velocities, ders, rates=RATES, decays=DECAYS, size=BATCH, momentum=0.9
    )
    call()
    assert all(map(torch.equal, ders, kept))


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
        *update.sgd([], [], [], rates=[], decays=[], size=1, momentum=0.9),
        *update.finite([], flag),
    ]
    for call in calls:
        call()
    assert flag == 1
