"""Ranges of weights, values and derivatives, and the figure that shows them."""

import math
import sys

import numpy as np
import pytest
import torch

from matconvnet.blocks import BatchNorm, Conv, ConvTranspose, ReLU, SoftmaxLoss
from matconvnet.compat.display import vl_simplenn_diagnose
from matconvnet.nets.custom import Entry
from matconvnet.nets.diagnose import diagnose, plot_diagnosis
from matconvnet.nets.simplenn import SimpleNN

NAN = math.nan
QUANTITIES = ["filters", "biases", "x", "dzdx", "dfilters", "dbiases"]


def network():
    weights = torch.tensor([-2.0, 1.0, 4.0]).reshape(1, 1, 1, 3), torch.tensor([5.0, 6.0, 10.0])
    return SimpleNN(
        [(Conv(), weights), ReLU(), (Conv(), (torch.ones(1, 1, 3, 2), None)), SoftmaxLoss()]
    )


def evaluated(net, derivative=True):
    x = torch.tensor([1.0, -3.0, 5.0]).reshape(3, 1, 1, 1)
    labels = torch.zeros(3, 1, 1, 1, dtype=torch.int64)
    ders = {net.output: 1.0} if derivative else None
    return net.eval({"x0": x, "label": labels}, ders)


def entries(net, record):
    """The record as `vl_simplenn` would lay it out."""
    out = [Entry(record.values.get(f"x{i}"), record.ders.get(f"x{i}")) for i in range(5)]
    for entry, link in zip(out, net.layers, strict=False):
        entry.dzdw = [record.param_ders.get(param.name) for param in link.params] or None
    return out


def same(numbers, mean, low, high):
    for got, want in zip(numbers, (mean, low, high), strict=True):
        np.testing.assert_array_equal(got, want)


def test_weights():
    numbers = diagnose(network())
    assert list(numbers) == ["filters", "biases"]
    same(numbers["filters"], [NAN, 1, NAN, 1, NAN], [NAN, -2, NAN, 1, NAN], [NAN, 4, NAN, 1, NAN])
    same(numbers["biases"], [NAN, 7] + [NAN] * 3, [NAN, 5] + [NAN] * 3, [NAN, 10] + [NAN] * 3)


def test_an_evaluation():
    net = network()
    record = evaluated(net)
    numbers = diagnose(net, record)
    assert list(numbers) == QUANTITIES
    # 1, -3, 5 times -2, 1, 4, plus 5, 6, 10; then what of it is positive.
    x1 = [3, 7, 14, 11, 3, -2, -5, 11, 30]
    x2 = [max(number, 0) for number in x1]
    same(
        [values[:3] for values in numbers["x"]],
        [1, sum(x1) / 9, sum(x2) / 9],
        [-3, -5, 0],
        [5, 30, 30],
    )
    assert [np.isnan(values[4]) for values in numbers["x"]] == [True] * 3  # the loss is one number
    for name, values in [("dzdx", record.ders["x2"]), ("dfilters", record.param_ders["l3_1"])]:
        i = {"dzdx": 2, "dfilters": 3}[name]
        want = [values.double().mean(), values.min(), values.max()]
        assert [numbers[name][k][i] for k in range(3)] == [float(number) for number in want]
    assert np.isnan(numbers["dfilters"].mean).tolist() == [True, False, True, False, True]
    assert np.isnan(numbers["dbiases"].mean).tolist() == [True, False, True, True, True]
    assert np.isnan(numbers["dzdx"].mean).tolist() == [False] * 4 + [True]


def test_entries_say_the_same_as_their_record():
    net = network()
    record = evaluated(net)
    for name, ranges in diagnose(net, entries(net, record)).items():
        same(ranges, *diagnose(net, record)[name])
    arrays = entries(net, record)
    for entry in arrays:
        entry.x, entry.dzdx = np.asarray(entry.x), np.asarray(entry.dzdx)
    same(diagnose(net, arrays)["x"], *diagnose(net, record)["x"])


def test_a_forward_pass_alone():
    net = network()
    numbers = diagnose(net, entries(net, evaluated(net, derivative=False)))
    assert list(numbers) == QUANTITIES
    assert not np.isnan(numbers["x"].mean[:4]).any()
    for name in ("dzdx", "dfilters", "dbiases"):
        assert np.isnan(numbers[name]).all()


def test_freed_values_are_missing():
    net = network()
    x, labels = torch.ones(3, 1, 1, 1), torch.zeros(3, 1, 1, 1, dtype=torch.int64)
    record = net.eval({"x0": x, "label": labels}, {net.output: 1}, conserve_memory=True)
    numbers = diagnose(net, record)
    assert np.isnan(numbers["x"].mean[1:]).all()
    assert np.isfinite(numbers["dfilters"].mean[[1, 3]]).all()


def test_which_layers_have_weights():
    custom = {"type": "custom", "weights": [np.ones(3), np.ones(3)]}
    moments = [np.array([2.0, 4.0]), np.array([1.0, 3.0]), np.full((2, 2), 9.0)]
    net = SimpleNN([(BatchNorm(), moments), ConvTranspose(size=(2, 2, 3, 2)), custom])
    numbers = diagnose(net)
    assert np.isnan(numbers["filters"].mean).tolist() == [True, False, False, True]
    assert [values[1] for values in numbers["filters"]] == [3, 2, 4]
    assert [values[1] for values in numbers["biases"]] == [2, 1, 3]
    res = [Entry(dzdw=[np.ones(3), np.ones(3)]) for _ in range(3)] + [Entry()]
    assert np.isnan(diagnose(net, res)["dfilters"].mean).tolist() == [True, False, False, True]


def test_numbers_that_are_not_finite_show():
    net = SimpleNN([(Conv(), (torch.tensor([1.0, NAN]).reshape(1, 1, 1, 2), torch.ones(2)))])
    assert np.isnan(diagnose(net)["filters"].max[1])
    net.layers[0].params[0].value = torch.tensor([1.0, math.inf]).reshape(1, 1, 1, 2)
    assert diagnose(net)["filters"].max[1] == math.inf
    plot_diagnosis(diagnose(net))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types(dtype):
    net = network().to(dtype)
    assert [values[1] for values in diagnose(net)["biases"]] == [7, 5, 10]


def test_a_wrong_number_of_entries():
    with pytest.raises(ValueError, match="evaluated has 4 entries; wanted 5"):
        diagnose(network(), [Entry()] * 4)


def bars(panel):
    """Layer, lower and upper end of every bar in a panel."""
    segments = panel.collections[0].get_segments()
    drawn = [line for line in segments if len(line) and not np.isnan(line).any()]
    return [(line[0][0], line[0][1], line[1][1]) for line in drawn]


def test_the_figure():
    net = network()
    numbers = diagnose(net, evaluated(net))
    figure = plot_diagnosis(numbers)
    panels = figure.axes
    assert [panel.get_ylabel() for panel in panels] == QUANTITIES
    assert [panel.get_title() for panel in panels] == ["coefficient ranges"] + [""] * 5
    assert [panel.get_xlabel() for panel in panels] == [""] * 4 + ["layer"] * 2
    assert bars(panels[0]) == [(1, -2, 4), (3, 1, 1)]
    assert bars(panels[1]) == [(1, 5, 10)]
    means = panels[0].containers[0].lines[0]
    np.testing.assert_array_equal(means.get_xydata()[[1, 3]], [[1, 1], [3, 1]])


def test_the_figure_of_weights_alone():
    assert [panel.get_ylabel() for panel in plot_diagnosis(diagnose(network())).axes] == QUANTITIES[
        :2
    ]


def test_equal_numbers_can_be_drawn():
    """The mean of equal numbers, rounded, may lie outside of them."""
    filters = torch.full((1, 1, 1, 3), 0.1, dtype=torch.float64)
    numbers = diagnose(SimpleNN([(Conv(), (filters, None))]))
    assert numbers["filters"].mean[1] > numbers["filters"].max[1]
    assert bars(plot_diagnosis(numbers).axes[0])[0][0] == 1


def test_panels_without_numbers_say_so(tmp_path):
    net = network()
    figure = plot_diagnosis(diagnose(net, evaluated(net, derivative=False)))
    texts = [[text.get_text() for text in panel.texts] for panel in figure.axes]
    assert texts == [[]] * 3 + [["no finite numbers"]] * 3
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_vl_simplenn_diagnose():
    net = network()
    res = entries(net, evaluated(net))
    for given in (net, net.to_struct()):
        numbers, figure = vl_simplenn_diagnose(given, res)
        assert list(numbers) == QUANTITIES
        assert len(figure.axes) == 6
    numbers, figure = vl_simplenn_diagnose(net)
    assert len(figure.axes) == len(numbers) == 2


def test_no_figure_is_left_behind():
    plot_diagnosis(diagnose(network()))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
