"""The rules by which parameters follow their derivatives."""

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.parallel.server import LocalServer
from matconvnet.train.solvers import SOLVERS, find_solver
from matconvnet.train.solvers.sgd import FUSED_TYPES, sgd, sgd_fused
from matconvnet.train.update import Updater
from tests.helpers import MEMORY_ORDERS, assert_close, in_memory, randn
from tests.tolerances import PRINTED, REFERENCE
from tests.train.common import options


def updater_of(values, **changes):
    """An Updater of parameters l1_1, l2_1, ... with these values."""
    net = mcn.SimpleNN([(mcn.Conv(), [value, None]) for value in values])
    return net, Updater(net, options(**changes), LocalServer())


def steps(updater, ders, size=1, lr=0.01):
    for der in ders:
        with_names = dict(zip(updater.params, der, strict=True))
        updater.update(with_names, size, lr)


@pytest.mark.parametrize(
    ("nesterov", "first", "second"),
    [
        (False, [0.9989950, -0.9799950], [0.995085505, -0.9669856]),
        (True, [0.9980905, -0.9619905], [0.9915669681, -0.9552773111]),
    ],
)
def test_numbers_of_the_original(nesterov, first, second):
    w = torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(1, 1, 1, 2)
    net, updater = updater_of([w], nesterov_update=nesterov)
    for der, want in (([0.1, -2], first), ([0.3, 0.5], second)):
        steps(updater, [[torch.tensor(der, dtype=torch.float64).reshape(1, 1, 1, 2)]])
        assert_close(net.values()["l1_1"].flatten(), torch.tensor(want), PRINTED)


@pytest.mark.parametrize("dtype", FUSED_TYPES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("order", MEMORY_ORDERS)
def test_the_fused_step_is_the_formula_whatever_the_memory_order(dtype, nesterov, order):
    sizes = [(3, 2, 4, 5), (1, 1, 5, 7), (1, 3, 1, 2)]
    start = [randn(size, i, dtype) for i, size in enumerate(sizes)]
    net, updater = updater_of(start, nesterov_update=nesterov, momentum=0.8, weight_decay=0.3)
    net.convert(lambda value: value.clone())
    net.params["l2_1"].learning_rate, net.params["l3_1"].weight_decay = 2.5, 0.0
    want, velocity = list(start), [0, 0, 0]
    for step in range(4):
        ders = [in_memory(randn(size, 10 * step + i, dtype), order) for i, size in enumerate(sizes)]
        kept = [der.clone() for der in ders]
        steps(updater, [ders], size=6, lr=0.1)
        for i, der in enumerate(ders):
            assert torch.equal(der, kept[i])
            g = der / 6 + 0.3 * (i != 2) * want[i]
            velocity[i] = 0.8 * velocity[i] - g
            direction = 0.8 * velocity[i] - g if nesterov else velocity[i]
            want[i] = want[i] + 0.1 * (2.5 if i == 1 else 1) * direction
    for name, w, v in zip(updater.params, want, velocity, strict=True):
        assert_close(net.values()[name], w, REFERENCE[dtype], name)
        assert_close(updater.state[name], v, REFERENCE[dtype], name)


def test_parameters_of_one_rate_and_decay_step_together(monkeypatch):
    import matconvnet.train.update as module

    calls, sgd_many = [], module.SOLVERS_MANY[sgd]

    def spy(values, *rest):
        calls.append(len(values))
        return sgd_many(values, *rest)

    monkeypatch.setitem(module.SOLVERS_MANY, sgd, spy)
    _, updater = updater_of([randn((1, 1, 2, 3), dtype=torch.float32)] * 3)
    updater.params["l2_1"].learning_rate = 2
    steps(updater, [[randn((1, 1, 2, 3), dtype=torch.float32)] * 3])
    assert calls == [2, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_take_the_plain_step(dtype):
    w, g = randn((2, 2, 3, 40), 1, dtype), randn((2, 2, 3, 40), 2, dtype)
    net, updater = updater_of([w])
    steps(updater, [[g], [g]], size=2, lr=0.1)
    want, v = w.double(), 0
    for _ in range(2):
        v = 0.9 * v - (g.double() / 2 + 0.0005 * want)
        want = want + 0.1 * v
    assert_close(net.values()["l1_1"].double(), want, REFERENCE[dtype])


def test_without_momentum():
    w, g = randn((2, 2, 1, 3), 1), randn((2, 2, 1, 3), 2)
    net, updater = updater_of([w], momentum=0.0, weight_decay=0.0)
    steps(updater, [[g], [g]], size=4, lr=0.1)
    assert_close(net.values()["l1_1"], w - 2 * 0.1 * g / 4, REFERENCE[torch.float64])
    assert_close(updater.state["l1_1"], -g / 4, REFERENCE[torch.float64])


def test_rate_zero_with_decay_moves_the_momentum_alone():
    w, g = randn((2, 2, 1, 3), 1), randn((2, 2, 1, 3), 2)
    net, updater = updater_of([w, w], weight_decay=0.5)
    for param in updater.params.values():
        param.learning_rate = 0
    updater.params["l2_1"].weight_decay = 0
    steps(updater, [[g, g]])
    assert torch.equal(net.values()["l1_1"], w)
    assert_close(updater.state["l1_1"], -(g + 0.5 * w), REFERENCE[torch.float64])
    assert "l2_1" not in updater.state


def test_averages_ignore_the_learning_rate_and_the_decay():
    net, updater = updater_of([torch.ones(1, 1, 2, 1)], weight_decay=9.0)
    updater.params["l1_1"].train_method = "average"
    updater.params["l1_1"].learning_rate = 0.25
    steps(updater, [[torch.full((1, 1, 2, 1), 12.0)]], size=4, lr=0.0)
    assert net.values()["l1_1"].flatten().tolist() == [1.5, 1.5]  # 3/4 * 1 + 1/4 * 12 / 4


def test_a_state_is_restored_in_the_strides_of_its_parameter():
    _, updater = updater_of([randn((3, 2, 4, 5), dtype=torch.float32)])
    kept = randn((3, 2, 4, 5), 1, torch.float32)
    updater.restore({"l1_1": {"m": kept, "t": 3}, "gone": kept})
    state = updater.state["l1_1"]
    assert torch.equal(state["m"], kept)
    assert state["m"].stride() == updater.params["l1_1"].value.stride() != kept.stride()
    assert (state["t"], list(updater.state)) == (3, ["l1_1"])


def test_the_solver_returns_its_defaults():
    assert SOLVERS["sgd"]() == {"momentum": 0.9, "nesterov_update": False}
    w, v = sgd(torch.ones(1), 0, torch.full((1,), 2.0), None, 0.5)
    assert (w.tolist(), v.tolist()) == ([0], [-2])


def test_solver_by_name_steps_as_the_default_one():
    w, g = randn((2, 2, 1, 3), 1), randn((2, 2, 1, 3), 2)
    nets = [
        updater_of([w], solver="sgd", solver_opts={"momentum": 0.5}), updater_of([w], momentum=0.5)
    ]  # fmt: skip
    for _, updater in nets:
        steps(updater, [[g], [g]])
    (one, _), (two, _) = nets
    assert_close(one.values()["l1_1"], two.values()["l1_1"], REFERENCE[torch.float64])


def test_errors_of_solvers():
    with pytest.raises(ValueError, match="solver is 'magic'; wanted one of sgd"):
        find_solver("magic", None)
    with pytest.raises(ValueError, match="solver_opts has 'rho'; wanted names among"):
        find_solver("sgd", {"rho": 1})
    with pytest.raises(TypeError, match=r"solver\(\) returned int; wanted a dict"):
        find_solver(lambda: 3, None)


def test_the_comparison_of_the_kernel_sees_a_wrong_sign():
    w, v, g = np.ones(3), np.zeros(3), np.ones(3)
    tensors = [torch.tensor(a) for a in (w, v, g)]
    rest = {"momentum": 0.9, "nesterov_update": False, "lr": 0.1, "weight_decay": -0.5}
    sgd_fused(*([t] for t in tensors), **rest)
    with pytest.raises(AssertionError):
        assert_close(tensors[0], torch.tensor(w + 0.1 * (-g - 0.5 * w)), REFERENCE[torch.float64])


def test_parameters_that_share_a_derivative_are_both_right():
    g = randn((1, 1, 2, 3), dtype=torch.float32)
    net, updater = updater_of([torch.zeros(1, 1, 2, 3)] * 2, momentum=0.5, weight_decay=0)
    ders = dict.fromkeys(net.params, g.clone())
    updater.update({name: ders[name] for name in updater.params}, 4, 0.1)
    for value in net.values().values():
        if value is not None:
            assert_close(value, -0.1 * g / 4, REFERENCE[torch.float32])


def test_a_derivative_that_is_the_parameter_itself():
    """dz/dw of |w|^2 / 2 is w: the very tensor, which the update must not divide in place."""
    w = randn((1, 1, 2, 3), dtype=torch.float32)
    net, updater = updater_of([w], momentum=0.5, weight_decay=0)
    (param,) = (p for p in net.params.values() if p.value is not None)
    before = param.value.clone()
    updater.update({param.name: param.value}, 4, 0.1)
    assert_close(param.value, before - 0.1 * before / 4, REFERENCE[torch.float32])
