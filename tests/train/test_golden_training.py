"""Trajectories of parameters and statistics against what the original recorded."""

import copy

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.compat.training import cnn_train
from matconvnet.parallel.server import LocalServer
from matconvnet.parallel.world import World
from tests.golden_data import arrays, assert_close, cases
from tests.train.common import options

STEPS = cases("cnn_train/accumulateGradients")
RUNS = cases("cnn_train")


class FirstStep(LocalServer):
    """Keeps what is pushed in the first step."""

    def __init__(self):
        super().__init__()
        self.first = {}

    def push(self, name, value):
        super().push(name, value)
        self.first.setdefault(name, value.clone())


class Watched(World):
    """A worker alone, whose server is watched."""

    def __init__(self, server):
        super().__init__()
        self.watched = server

    def server(self, *_):
        return self.watched


def filled(case):
    return arrays(case)["inputs"]


def get_batch_of(inputs):
    def get_batch(imdb, indices):
        assert imdb is inputs
        return inputs["images"][..., indices], inputs["labels"][0, indices] - 1

    return get_batch


def order_of(batches):
    """A `permute` that gives one batch (numbered from 1) per epoch, and nothing to validate."""
    left = [np.array(batch) - 1 for batch in batches]
    return lambda indices, _generator: left.pop(0) if indices.size else indices


@pytest.mark.parametrize("case", STEPS, ids=lambda case: case["id"])
def test_parameters_state_and_derivatives_step_by_step(case):
    o, inputs = case["options"], filled(case)
    kept, server = {}, FirstStep()

    def keep(net, _options, epoch):
        weights = {name: param.value.clone() for name, param in net.params.items()}
        kept[epoch.epoch] = weights, copy.deepcopy(epoch.solver_state)

    trainer = mcn.Trainer(
        mcn.SimpleNN.from_struct({"layers": inputs["layers"]}), inputs, get_batch_of(inputs),
        options(
            train=range(20), val=(), num_epochs=o["steps"], batch_size=o["batchSize"],
            num_sub_batches=o["numSubBatches"], learning_rate=o["learningRate"],
            momentum=o["momentum"], weight_decay=o["weightDecay"],
            nesterov_update=o["nesterovUpdate"], solver=o.get("solver"),
            solver_opts=o.get("solverOpts"), post_epoch_fn=keep,
        ),
        permute=order_of(case["batches"]), world=Watched(server),
    )  # fmt: skip
    _, stats = trainer.run()

    objective = [s["objective"] * s["num"] for s in stats["train"]]
    assert_close(objective, arrays(case)["outputs"]["objective"], case["tol"], "objective")
    for point in arrays(case)["trajectory"]:
        weights, state = kept[point["step"]]
        for i, layer in enumerate(point["weights"], 1):
            for j, want in enumerate(layer, 1):
                name = f"l{i}_{j}"
                where = f"{name} after step {point['step']}"
                assert_close(weights[name], want, case["tol"], where)
                assert_state(state.get(name, 0), point["state"][i - 1][j - 1], case["tol"], where)
                if "dzdw" in point:
                    got = server.first[name]
                    assert_close(got, point["dzdw"][i - 1][j - 1], case["tol"], f"dzdw of {name}")


def assert_state(got, want, tol, where):
    if isinstance(want, dict):
        for key, item in want.items():
            assert_close(got[key], item, tol, f"state {key} of {where}")
    else:
        assert_close(got, want, tol, f"state of {where}")


@pytest.mark.parametrize("case", RUNS, ids=lambda case: case["id"])
def test_whole_runs(case, tmp_path):
    o, inputs = dict(case["options"]), filled(case)
    if o.get("train") == "NaN":
        o["train"] = float("nan")
    if "solver" in o:
        o["solver"] = o["solver"].removeprefix("solver.")
    asked, left = [], [np.array(batch) for batch in case["batches"]]

    def get_batch(_imdb, numbers):
        """The batches that the original asked for, whatever the order of ours."""
        asked.append(len(numbers))
        numbers = left.pop(0)
        return inputs["images"][..., numbers - 1], inputs["labels"][:, numbers - 1]

    imdb = {"images": {"set": inputs["set"]}}
    net, stats = cnn_train(
        {"layers": inputs["layers"]}, imdb, get_batch, "expDir", tmp_path, o,
        "plotStatistics", False, progress=False,
    )  # fmt: skip
    outputs = arrays(case)["outputs"]
    assert asked == [len(batch) for batch in case["batches"]]
    for i, layer in enumerate(outputs["layers"]):
        for j, want in enumerate(layer["weights"]):
            assert_close(net.layers[i].weights[j], want, case["tol"], f"weight {j} of layer {i}")
    for phase in ("train", "val"):
        assert len(stats[phase]) == len(outputs["stats"][phase])
        for got, want in zip(stats[phase], outputs["stats"][phase], strict=True):
            assert set(got) == {*want, "time"}
            for name, value in want.items():
                assert_close(got[name], value, case["tol"], name)


@pytest.mark.parametrize("name", ["w", "state"])
def test_the_comparison_sees_an_error(name):
    with pytest.raises(AssertionError):
        assert_state(torch.tensor([1.0, 2.001]), np.array([1.0, 2.0]), 1e-8, name)
