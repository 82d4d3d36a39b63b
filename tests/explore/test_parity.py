"""Comparison with recorded values: it must see every departure, and no other."""

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.explore.parity import TOLERANCE, parity
from tests import models
from tests.helpers import randn

FLOAT = torch.float32


def chain():
    return mcn.SimpleNN(
        [
            {"type": "conv", "weights": [randn((3, 3, 2, 4), dtype=FLOAT), []]},
            {"type": "relu", "name": "rectify"},
            {"type": "pool", "pool": [2, 2], "stride": 2},
            {"type": "softmaxloss"},
        ]
    )


def graph():
    net = mcn.DagNN()
    net.add_layer("conv", mcn.Conv(size=(3, 3, 2, 4)), "image", "a", ("f", "b"))
    net.add_layer("relu", mcn.ReLU(), "a", "c")
    net.add_layer("sum", mcn.Sum(), ("a", "c"), "prediction")
    net.init_params()
    return net


def recorded(net, **names):
    """What a network computes, as NumPy arrays by the names to record them under."""
    x = randn((6, 8, 2, 3), 1, FLOAT)
    values = net.eval({net.input: x}, mode="test", precious=names.values()).values
    return {name: values[v].numpy().copy() for name, v in names.items()}


def test_a_chain_agrees_with_itself():
    reference = recorded(chain(), x="x0", L1="x1", x2="x2", L3="x3")
    found = parity(chain(), reference)
    assert found.ok
    assert found.first is None
    assert [(row.layer, row.variable, row.shape) for row in found.rows] == [
        ("layer1", "x1", (4, 6, 4, 3)),
        ("rectify", "x2", (4, 6, 4, 3)),
        ("layer3", "x3", (2, 3, 4, 3)),
    ]
    assert all(row.deviation == 0 for row in found.rows)
    assert found.left_out == ()


def test_a_graph_agrees_with_itself():
    reference = recorded(graph(), image="image", prediction="prediction", a="a")
    found = parity(graph(), {**reference, "der_f": np.zeros((3, 3))})
    assert [row.variable for row in found.rows] == ["a", "prediction"]
    assert found.left_out == ("der_f",)
    assert parity(graph(), {"x": reference.pop("image"), **reference}).ok


@pytest.mark.parametrize(("variable", "place"), [("L1", 0), ("L2", 1), ("L3", 2)])
def test_the_first_that_departs_is_named(variable, place):
    reference = recorded(chain(), x="x0", L1="x1", L2="x2", L3="x3")
    largest = np.abs(reference[variable]).max()
    reference[variable].flat[5] += 3 * TOLERANCE * largest
    found = parity(chain(), reference)
    assert not found.ok
    assert found.first == found.rows[place]
    assert found.first.variable == f"x{place + 1}"
    assert found.first.deviation == pytest.approx(3 * TOLERANCE, rel=0.01)
    assert [row.ok for row in found.rows] == [i != place for i in range(3)]
    assert parity(chain(), reference, tolerance=1e-4).ok


def test_shapes_must_agree():
    reference = recorded(chain(), x="x0", L3="x3")
    reference["L3"] = reference["L3"][:1]
    (row,) = parity(chain(), reference).rows
    assert (row.ok, row.shape, row.wanted) == (False, (2, 3, 4, 3), (1, 3, 4, 3))
    assert np.isnan(row.deviation)


def test_numbers_that_are_not_finite_depart():
    reference = recorded(chain(), x="x0", L1="x1")
    reference["L1"].flat[0] = np.nan
    assert not parity(chain(), reference).ok


def test_ones_at_the_end_may_be_missing():
    net = mcn.SimpleNN([mcn.ReLU()])
    x = np.float32([[1, -2], [3, 4]])
    assert parity(net, {"x": x, "L1": x.clip(0)}).ok


def test_the_exact_value_counts():
    reference = recorded(chain(), x="x0", L1_exact="x1")
    assert parity(chain(), {**reference, "L1": reference["L1_exact"] * 1.01}).ok
    assert parity(chain(), {"L1_exact": reference["L1_exact"], **reference}).ok


def test_a_network_in_double_precision():
    reference = recorded(chain(), x="x0", L1="x1")
    assert parity(chain().to(torch.float64), reference).ok


def test_a_reference_must_tell_the_input_and_something_that_follows():
    reference = recorded(chain(), x="x0", L1="x1")
    with pytest.raises(ValueError, match=r"wanted the input too, 'x0' or 'x'"):
        parity(chain(), {"L1": reference["L1"]})
    for names in ({}, {"L9": reference["L1"]}, {"L4": reference["L1"]}):
        with pytest.raises(ValueError, match=r"wanted variables that follow from the input"):
            parity(chain(), {"x": reference["x"], **names})
    with pytest.raises(ValueError, match="wanted the input too"):
        parity(chain(), {"x": np.array(["text"]), "L1": reference["L1"]})


def test_unknown_layers_write_what_was_recorded():
    reference = recorded(chain(), x="x0", L1="x1", L2="x2", L3="x3")
    struct = chain().to_struct()
    struct["layers"][1] = {"type": "Odd", "name": "odd"}
    net = mcn.SimpleNN.from_struct(struct, keep_unknown=True)
    found = parity(net, reference)
    assert found.ok
    assert [row.variable for row in found.rows] == ["x1", "x3"]
    assert (found.taken, found.left_out) == (("x2",), ())
    without = parity(net, {key: value for key, value in reference.items() if key != "L2"})
    assert [row.variable for row in without.rows] == ["x1"]
    assert (without.taken, without.left_out) == ((), ("L3",))


COMPARED = {
    "charscnn_oldformat": 9,
    "cifar_lenet_epoch20": 7,
    "dcfnet_net7": 3,
    "dncnn_dagnn_epoch50": 6,
    "dncnn_s25_bnorm": 4,
    "ffdnet_gray_retrained": 4,
    "landcover_now_epoch100": 7,
    "lapsrn_x2": 8,
    "mscnn_dehaze_coarse": 11,
    "plate_epoch50": 7,
}


@pytest.mark.parametrize("name", models.NETWORKS)
def test_real_networks(name):
    found = parity(mcn.load(models.path(name)), models.reference(name))
    assert found.ok, found.first
    assert len(found.rows) == COMPARED[name]
