"""Solvers: the original's trajectories, numbers worked out by hand, PyTorch's AdamW."""

import inspect
from typing import get_args

import pytest
import torch

import matconvnet as mcn
from matconvnet.cli.train import train as cli_train
from matconvnet.parallel.server import LocalServer
from matconvnet.train.solvers import SOLVERS, find_solver
from matconvnet.train.update import Updater
from tests.golden_data import arrays, assert_close, cases
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


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"])
def test_golden_trajectories(case):
    given = arrays(case)
    solver, opts = find_solver(case["block"].removeprefix("solver."), case["options"])
    if case["default_options"]:
        assert opts == solver()
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
    hints = inspect.get_annotations(cli_train, eval_str=True)["solver"]
    assert set(get_args(get_args(hints)[0])) == set(SOLVERS)
