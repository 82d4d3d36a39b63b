"""Solvers: the original's trajectories, numbers worked out by hand, PyTorch's AdamW."""

import inspect
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.cli.train import train as cli_train
from matconvnet.parallel.server import LocalServer
from matconvnet.train.solvers import SOLVERS, SOLVERS_MANY, _steps, find_solver
from matconvnet.train.update import Updater
from tests.golden_data import arrays, assert_close, cases
from tests.helpers import MEMORY_ORDERS, in_memory, randn
from tests.tolerances import REFERENCE
from tests.train.common import Data, assert_identical, options, small_net, train, values

NAMES = ("adam", "adagrad", "adadelta", "rmsprop")
GOLDEN = cases(*(f"solver.{name}" for name in NAMES))

# w0 = (1, -1), learning rate 0.01, g1 = (0.1, -2), g2 = (0.3, 0.5): w after each step.
BY_HAND = {
    "adagrad": ((0.99, -0.99), (0.9805131670, -0.9924253563)),
    "adadelta": ((0.9968393023, -0.9968377263), (0.9925765683, -0.9979773299)),
    "rmsprop": ((0.9000001, -0.900000005), (0.8050843305, -0.9243685128)),
    "adam": ((0.9900000316, -0.9900000016), (0.9808222296, -0.9853053206)),
}


def one_at_a_time(solver):
    """A solver, as it is."""
    return solver


def many_at_a_time(solver):
    """The step of many in the form of that of one: in place, on copies."""

    def step(value, state, der, options, lr):
        value = value.clone()
        (state,) = SOLVERS_MANY[solver]([value], [state], [der.clone()], options, lr, 0.0)
        return value, state

    return step


@pytest.mark.parametrize("form", [one_at_a_time, many_at_a_time])
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"])
def test_golden_trajectories(case, form):
    given = arrays(case)
    solver, opts = find_solver(case["block"].removeprefix("solver."), case["options"])
    if case["default_options"]:
        assert opts == solver()
    solver = form(solver)
    w, state = torch.from_numpy(given["inputs"]["w"]), 0
    points = {point["step"]: point for point in given["trajectory"]}
    for step, g in enumerate(given["inputs"]["grad"], 1):
        w, state = solver(w, state, torch.from_numpy(g), opts, case["args"]["lr"])
        if step in points:
            assert_close(w, points[step]["w"], case["tol"], f"w after step {step}")
            want = points[step]["state"]
            pairs = want.items() if isinstance(want, dict) else [(None, want)]
            for key, value in pairs:
                assert_close(state[key] if key else state, value, case["tol"], f"{key}, {step}")
    assert points


@pytest.mark.parametrize("order", [o for o in MEMORY_ORDERS if o != "with gaps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_steps_of_many_are_those_of_one(name, dtype, order):
    """With decay, whatever the order of memory, the second parameter a step behind the first."""
    solver, opts = find_solver(name, {"nesterov_update": True} if name == "sgd" else None)
    sizes = [(3, 2, 4, 5), (1, 1, 5, 7)]
    values = [in_memory(randn(size, i, dtype), order) for i, size in enumerate(sizes)]
    want, states, wanted_states = [v.clone() for v in values], [0, 0], [0, 0]
    lr, decay = 0.05, 0.3
    for step in range(4):
        ders = [randn(size, 10 + 2 * step + i, dtype) for i, size in enumerate(sizes)]
        active = [0] if step == 0 else [0, 1]
        scratch = [torch.empty_like(values[i]).copy_(ders[i]) for i in active]
        new = SOLVERS_MANY[solver](
            [values[i] for i in active], [states[i] for i in active], scratch, opts, lr, decay
        )
        for i, state in zip(active, new, strict=True):
            states[i] = state
            shrunk = want[i] * (1 - lr * decay) if name == "adamw" else want[i]
            g = ders[i] if name == "adamw" else ders[i] + decay * want[i]
            want[i], wanted_states[i] = solver(shrunk, wanted_states[i], g, opts, lr)
    for got, wanted in zip(values, want, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=REFERENCE[dtype] * 4)
    for got, wanted in zip(parts(states), parts(wanted_states), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=REFERENCE[dtype] * 10)


def parts(states):
    """The tensors and numbers of some states."""
    return [v for s in states for v in (s.values() if isinstance(s, dict) else [s])]


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_momentum_a_step_goes_along_the_derivative(nesterov):
    w, g = torch.ones(3).double(), torch.tensor([1.0, -2.0, 0.5]).double()
    opts = {"momentum": 0.0, "nesterov_update": nesterov}
    (state,) = SOLVERS_MANY[SOLVERS["sgd"]]([w], [5 * g], [g.clone()], opts, 0.1, 0.5)
    torch.testing.assert_close(w, 1 - 0.1 * (g + 0.5))
    torch.testing.assert_close(state, -(g + 0.5))


@pytest.mark.parametrize("name", ["adadelta", "adagrad", "rmsprop"])
def test_parameters_in_pieces(name, monkeypatch):
    solver, opts = find_solver(name, None)

    def run():
        w, states = [in_memory(randn((3, 2, 4, 5)), "channels last"), randn((7,), 1)], [0, 0]
        for step in range(3):
            ders = [torch.empty_like(v).copy_(randn(tuple(v.shape), 2 + step)) for v in w]
            states = SOLVERS_MANY[solver](w, states, ders, opts, 0.1, 0.2)
        return w + parts(states)

    whole = run()
    monkeypatch.setattr(_steps, "PIECE", 11)
    for got, want in zip(run(), whole, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=REFERENCE[torch.float64])


@pytest.mark.parametrize("name", SOLVERS)
def test_gaps_in_memory_are_refused_by_the_kernels(name):
    solver, opts = find_solver(name, None)
    w = in_memory(randn((3, 2, 4, 5)), "with gaps")
    with pytest.raises(AssertionError, match="leave gaps"):
        SOLVERS_MANY[solver]([w], [0], [torch.ones_like(w)], opts, 0.1, 0.0)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_steps_of_many_keep_their_memory(name):
    solver, opts = find_solver(name, None)
    w, g = randn((2, 3, 4, 5), dtype=torch.float32), randn((2, 3, 4, 5), 1, torch.float32)
    place, states = w.data_ptr(), [0]
    states = SOLVERS_MANY[solver]([w], states, [g.clone()], opts, 0.1, 0.1)
    places = [p.data_ptr() for p in parts(states) if isinstance(p, torch.Tensor)]
    states = SOLVERS_MANY[solver]([w], states, [g.clone()], opts, 0.1, 0.1)
    assert w.data_ptr() == place
    assert [p.data_ptr() for p in parts(states) if isinstance(p, torch.Tensor)] == places


@pytest.mark.parametrize("name", SOLVERS)
def test_a_state_of_plain_numbers_in_other_strides_or_types_is_taken(name):
    """As a file of the original may hold it: zeros as numbers, doubles, MATLAB's order."""
    solver, opts = find_solver(name, None)
    w, g = randn((2, 3, 4, 5), dtype=torch.float32), randn((2, 3, 4, 5), 1, torch.float32)

    def step(state):
        new = w.clone()
        (state,) = SOLVERS_MANY[solver]([new], [state], [torch.empty_like(w).copy_(g)], opts, 1, 0)
        return new, state

    def foreign(part):
        return part.double().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)

    first, state = step(0)
    zeros = dict.fromkeys(state, 0) if isinstance(state, dict) else 0.0
    assert torch.equal(step(zeros)[0], first)
    given = (
        {k: foreign(v) if isinstance(v, torch.Tensor) else v for k, v in state.items()}
        if isinstance(state, dict)
        else foreign(state)
    )
    assert torch.equal(step(given)[0], step(state)[0])


class Gaussians:
    """Two classes of 100 images each, with standard deviation 2 around -1/2 and 1/2."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.labels = np.arange(200) % 2
        self.images = 2 * rng.standard_normal((15, 10, 5, 200)) + self.labels - 0.5
        self.set = np.ones(200)

    def get_batch(self, imdb, indices):
        assert imdb is self
        return self.images[..., indices], self.labels[indices]


@pytest.mark.parametrize("name", SOLVERS)
def test_logistic_regression_in_one_epoch(name):
    """The acceptance test of the original's solvers, in double precision."""
    weights = 1e-3 * randn((15, 10, 5, 2))
    net = mcn.SimpleNN([(mcn.Conv(), [weights, torch.zeros(2).double()]), mcn.SoftmaxLoss()])
    trainer = train(
        net, Gaussians(), num_epochs=1, batch_size=10, learning_rate=0.001, solver=name
    )  # fmt: skip
    stats = trainer.history.stats["train"][0]
    assert stats["top1err"] < 0.35
    assert stats["objective"] < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_by_hand(name):
    solver, opts = find_solver(name, None)
    w, state = torch.tensor([1.0, -1.0], dtype=torch.float64), 0
    for g, wanted in zip(((0.1, -2.0), (0.3, 0.5)), BY_HAND[name], strict=True):
        w, state = solver(w, state, torch.tensor(g, dtype=torch.float64), opts, 0.01)
        torch.testing.assert_close(w, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=5e-11)


@pytest.mark.parametrize("name", SOLVERS)
def test_neither_parameter_nor_state_is_written_to(name):
    solver, opts = find_solver(name, None)
    w, g = torch.ones(3), torch.tensor([0.5, -1.0, 2.0])
    _, state = solver(w, 0, g, opts, 0.1)
    kept = [w, g, *(state.values() if isinstance(state, dict) else [state])]
    copies = [k.clone() if isinstance(k, torch.Tensor) else k for k in kept]
    solver(w, state, g, opts, 0.1)
    for now, before in zip(kept, copies, strict=True):
        assert torch.equal(now, before) if isinstance(now, torch.Tensor) else now == before


RATES = {
    "sgd": 0.02,
    "adadelta": 1.0,
    "adagrad": 0.02,
    "adam": 0.02,
    "adamw": 0.02,
    "rmsprop": 0.01,
}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_learns_by_name(name):
    trainer = train(small_net(), Data(), num_epochs=40, solver=name, learning_rate=0.02)
    objectives = [epoch["objective"] for epoch in trainer.history.stats["train"]]
    assert objectives[-1] < 0.5 * objectives[0]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_resumed_run_equals_one_that_was_not_interrupted(name, tmp_path):
    whole = train(small_net(), Data(), num_epochs=4, solver=name).net
    train(small_net(), Data(), tmp_path, num_epochs=2, solver=name)
    resumed = train(small_net(), Data(), tmp_path, num_epochs=4, solver=name).net
    assert_identical(values(resumed), values(whole))


def test_adamw_is_that_of_pytorch():
    """Decay beside the step, not in the derivative: four steps of one parameter."""
    ders = [torch.tensor([[0.3, -2.0, 0.1]]), torch.tensor([[1.0, 1.0, -0.2]])] * 2
    theirs = torch.nn.Parameter(torch.tensor([[1.0, -1.0, 0.5]]))
    optimizer = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.2, eps=1e-12)
    net = mcn.DagNN()
    net.add_layer("s", mcn.Scale(size=(1, 3), has_bias=False), "x", "y", ["w"])
    net.params["w"].value = theirs.detach().clone()
    opts = options(solver="adamw", solver_opts={"eps": 1e-12}, weight_decay=0.2)
    with Updater(net, opts, LocalServer()) as updater:
        for der in ders:
            theirs.grad = der / 4
            optimizer.step()
            updater.update({"w": der.clone()}, 4, 0.1)
            torch.testing.assert_close(net.params["w"].value, theirs.detach(), rtol=1e-5, atol=0)
    assert not torch.allclose(theirs.detach(), torch.tensor([[1.0, -1.0, 0.5]]))


def test_the_command_line_names_them_all():
    hint = inspect.get_annotations(cli_train, eval_str=True)["solver"]
    choices = [a for a in get_args(get_args(hint)[0]) if get_origin(a) is Literal]
    assert set(get_args(choices[0])) == set(SOLVERS)
