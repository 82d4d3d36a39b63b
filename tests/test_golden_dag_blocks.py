"""Blocks that only DagNN has, as layers, against the numbers recorded from the original toolbox."""

from collections import Counter

import numpy as np
import pytest
import torch

from matconvnet import executor
from matconvnet.graph import Node, build
from matconvnet.nets.fields import read_options
from matconvnet.nets.registry import find
from tests.golden_data import arrays, assert_close, cases

COUNTS = {
    "dagnn.AffineGridGenerator": 4,
    "dagnn.Scale": 12,
    "dagnn.Sum": 3,
    "dagnn.UniformScalingGridGenerator": 3,
}
CASES = cases(*COUNTS)


def evaluate(case, inputs, params=()):
    """Return value and derivatives of the layer in a graph, under the names of the recording.

    params: which of the tensors are parameters of the layer.
    """
    tensors = {k: torch.from_numpy(v) for k, v in inputs.items() if v is not None}
    dzdy = tensors.pop("dzdy")
    layer = find(case["block"], lambda cls: read_options(cls, case["options"], "dag"))
    names = [tuple(k for k in tensors if (k in params) == chosen) for chosen in (False, True)]
    graph = build([Node("layer", layer, names[0], ("y",), names[1])])
    record = executor.forward(graph, tensors, {k: tensors[k] for k in names[0]}, derivative=True)
    executor.backward(graph, tensors, record, {"y": dzdy})
    ders = {**record.ders, **record.param_ders}
    return {"y": record.values["y"], **{f"dzd{k}": ders[k] for k in tensors}}


def check(case, **layout):
    case = arrays(case)
    for order in "CF":
        inputs = {
            k: None if v is None else np.array(v, order=order) for k, v in case["inputs"].items()
        }
        got = evaluate(case, inputs, **layout)
        for name, want in case["outputs"].items():
            if want is None:
                assert name not in got
                continue
            assert got[name].dtype == torch.float64, name
            assert got[name].shape == want.shape, name
            assert_close(got[name], want, case["tol"], name)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_recorded(case):
    check(case)


SCALES = cases("dagnn.Scale")


@pytest.mark.parametrize("params", ["b", "fb"])
@pytest.mark.parametrize("case", SCALES, ids=[case["id"] for case in SCALES])
def test_scale_with_parameters(case, params):
    check(case, params=params)


def test_every_case_is_run():
    recorded = [case for case in cases() if case["file"] == "dag.npz"]
    assert Counter(case["block"] for case in recorded) == COUNTS
