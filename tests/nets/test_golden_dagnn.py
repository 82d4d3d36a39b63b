"""DagNN against what the original recorded."""

import pytest

from matconvnet.layout import to_tensor
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.dagstruct import read_layer
from tests.golden_data import arrays, assert_close, cases

CASES = {case["id"]: case for case in cases("dagnn.DagNN")}


def network(given):
    """The network of a case, with its parameters."""
    net = DagNN()
    for entry in given["layers"]:
        placed = read_layer({**entry, "block": entry["properties"]})
        net.add_layer(placed.name, placed.layer, placed.inputs, placed.outputs, placed.params)
    for name, value in given["params"].items():
        net.params[name].value = to_tensor(value)
    return net


def from_zero(name, value):
    """Labels, images and pixels counted from 0, as ours are."""
    return value - 1 if name in ("label", "rois") else value


def evaluate(case):
    """The network of a case, evaluated as it says."""
    given, options = arrays(case)["inputs"], case["options"]
    net = network(given)
    net.mode, net.conserve_memory = options["mode"], options["conserveMemory"]
    for name in options["precious"]:
        net.vars[name].precious = True
    inputs = {name: from_zero(name, value) for name, value in given["vars"].items()}
    net.eval(inputs, given["derOutputs"])
    if options["accumulate"]:
        net.accumulate_param_ders = True
        net.eval(inputs, given["derOutputs"])
    return net


@pytest.mark.parametrize("name", CASES)
def test_every_value_and_derivative_is_the_original(name):
    case = CASES[name]
    net, wanted = evaluate(case), arrays(case)["outputs"]
    assert set(net.vars) == set(wanted["vars"])
    assert set(net.params) == set(wanted["params"])
    outputs = net.get_outputs()
    given = case["inputs"]["vars"]
    for v, want in wanted["vars"].items():
        for key in ("value", "der"):
            got, name = getattr(net.vars[v], key), f"{v}.{key}"
            if want[key] is None:
                # The original drops the outputs of the network too; we keep what was asked for.
                assert got is None or v in outputs, f"{name} is still there"
            else:
                assert got is not None, f"{name} was dropped"
                shift = from_zero(v, 0 * want[key]) if key == "value" and v in given else 0
                assert_close(got, want[key] + shift, case["tol"], name)
    for p, want in wanted["params"].items():
        got = net.params[p].der
        if want["der"] is None:
            assert got is None
        else:
            assert_close(got, want["der"], case["tol"], f"{p}.der")
