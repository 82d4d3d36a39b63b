"""Sizes and receptive fields along graphs; the original counts offsets from 1, one more than we."""

import math
from dataclasses import dataclass

import pytest
import torch

from matconvnet import executor
from matconvnet.blocks import Concat, Conv, ConvTranspose, Crop, Loss, Pooling, ReLU
from matconvnet.geometry import compose, merge, receptive_fields, variable_sizes
from matconvnet.graph import Node, build
from matconvnet.layer import Elementwise, Field
from matconvnet.nets.custom import Custom

NAN = math.nan


@dataclass(frozen=True)
class Add(Elementwise):
    type_name, needs, num_inputs = "add", frozenset(), None

    def forward(self, inputs, params, ctx):
        return (sum(inputs),), None

    def backward(self, call, der_outputs):
        return tuple(der_outputs[0] for _ in call.inputs), ()


def node(layer, inputs, output, params=()):
    return Node(f"to {output}", layer, tuple(inputs.split()), (output,), tuple(params))


def summed():
    """The original's example: two convolutions summed, pooled, and upsampled again."""
    graph = build([
        node(Conv(pad=1), "x", "c3", ["f3", "b"]),
        node(Conv(pad=2), "x", "c5", ["f5", "b"]),
        node(Add(), "c3 c5", "sum"),
        node(Pooling(2, stride=2), "sum", "pooled"),
        node(ConvTranspose(upsample=2, crop=1), "pooled", "up", ["ft", "b"]),
    ])  # fmt: skip
    return graph, {"f3": (3, 3, 2, 7), "f5": (5, 5, 2, 7), "ft": (4, 4, 3, 7), "b": None}


def single(layer, shape):
    graph = build([node(layer, "x", "y", ["f", "b"])])
    return graph, {"f": shape, "b": (3,)}


def test_fields_of_the_original_example():
    graph, shapes = summed()
    fields = receptive_fields(graph, "x", shapes)
    assert fields == {
        "x": Field(),
        "c3": Field((3, 3), (1, 1), (0, 0)),
        "c5": Field((5, 5), (1, 1), (0, 0)),
        "sum": Field((5, 5), (1, 1), (0, 0)),
        "pooled": Field((6, 6), (2, 2), (0.5, 0.5)),
        "up": Field((9, 9), (1, 1), (0, 0)),
    }
    assert next(iter(fields)) == "x"


def test_sizes_of_the_original_example():
    graph, shapes = summed()
    assert variable_sizes(graph, {"x": (10, 12, 2, 5)}, shapes) == {
        "x": (10, 12, 2, 5),
        "c3": (10, 12, 7, 5),
        "c5": (10, 12, 7, 5),
        "sum": (10, 12, 7, 5),
        "pooled": (5, 6, 7, 5),
        "up": (10, 12, 3, 5),
    }


def test_a_single_convolution():
    layer = Conv(pad=(1, 1, 2, 2), stride=2, dilate=(2, 1))
    graph, shapes = single(layer, (3, 5, 2, 3))
    assert variable_sizes(graph, {"x": (10, 11, 2)}, shapes)["y"] == (4, 6, 3, 1)
    assert receptive_fields(graph, "x", shapes)["y"] == Field((5, 5), (2, 2), (1, 0))


def test_a_single_convolution_transpose():
    layer = ConvTranspose(upsample=2, crop=(1, 1, 0, 2))
    graph, shapes = single(layer, (4, 4, 3, 2))
    assert variable_sizes(graph, {"x": (5, 6, 2)}, shapes)["y"] == (10, 12, 3, 1)
    assert receptive_fields(graph, "x", shapes)["y"] == Field(
        (2.5, 2.5), (0.5, 0.5), (-0.25, -0.75)
    )


def test_a_field_covers_exactly_what_an_output_pixel_sees():
    """Against derivatives: the pixels that move one output pixel of a branching network."""
    graph = build([
        node(Conv(pad=(1, 0, 2, 0), stride=(2, 1), dilate=(1, 2)), "x", "a", ["f", "b"]),
        node(Pooling((2, 3), stride=(2, 1), pad=(0, 1, 1, 1), method="avg"), "x", "p"),
        node(Concat(), "a p", "both"),
        node(Pooling(2, stride=(1, 3), method="avg"), "both", "y"),
    ])  # fmt: skip
    params = {"f": torch.ones(3, 2, 1, 1, dtype=torch.float64), "b": None}
    x = torch.ones(12, 14, 1, 1, dtype=torch.float64)
    shapes = {"f": (3, 2, 1, 1), "b": None}
    field = receptive_fields(graph, "x", shapes)["y"]
    assert field is not None
    record = executor.forward(graph, params, {"x": x}, derivative=True)
    at = (3, 2)
    der = torch.zeros_like(record.values["y"])
    der[at] = 1
    seen = executor.backward(graph, params, record, {"y": der}).ders["x"].nonzero()
    for axis in range(2):
        centre = field.offset[axis] + field.stride[axis] * at[axis]
        reach = (field.size[axis] - 1) / 2
        assert seen[:, axis].min() == centre - reach
        assert seen[:, axis].max() == centre + reach


def test_fields_in_a_variable_inside_the_graph():
    graph, shapes = summed()
    assert receptive_fields(graph, "sum", shapes) == {
        "sum": Field(),
        "pooled": Field((2, 2), (2, 2), (0.5, 0.5)),
        "up": Field((5, 5), (1, 1), (0, 0)),
    }


def test_paths_that_are_shifted_are_covered_together():
    up, down = Field((3, 3), (1, 1), (-1, 0)), Field((2, 5), (1, 1), (2.5, 1))
    # Rows -2..0 and 2..3, columns -1..1 and -1..3.
    want = Field((6, 5), (1, 1), (0.5, 1))
    assert merge(up, down) == merge(down, up) == want


def test_strides_that_differ_by_rounding_alone_are_the_same():
    up, down = Field(stride=(1 / 49, 1 / 49)), Field(stride=(49, 49))
    there_and_back = compose(up, down)
    assert there_and_back.stride != (1, 1)
    assert merge(Field(), there_and_back) == Field()


def test_paths_of_different_strides_have_no_field_nor_has_what_follows():
    graph = build([
        node(Pooling(2, stride=2), "x", "half"),
        node(Add(), "x half", "sum"),
        node(ReLU(), "sum", "after"),
    ])  # fmt: skip
    fields = receptive_fields(graph, "x", {})
    assert fields["half"] is not None
    assert fields["sum"] is fields["after"] is None


def test_a_loss_has_no_field():
    graph = build([node(Loss(), "x label", "objective")])
    assert receptive_fields(graph, "x", {})["objective"] is None
    assert receptive_fields(graph, "label", {})["objective"] is None


def test_variables_that_do_not_depend_on_it_are_left_out():
    graph = build([node(ReLU(), "x", "a"), node(ReLU(), "z", "b"), node(Add(), "a b", "y")])
    assert receptive_fields(graph, "z", {}) == {"z": Field(), "b": Field(), "y": Field()}


def test_a_crop_looks_at_its_first_input_alone():
    graph = build([node(Crop(crop=(2, 1)), "x reference", "y")])
    assert receptive_fields(graph, "x", {})["y"] == Field((1, 1), (1, 1), (2, 1))
    assert "y" not in receptive_fields(graph, "reference", {})
    sizes = variable_sizes(graph, {"x": (9, 8, 3, 2), "reference": (5, 6, 1, 2)}, {})
    assert sizes["y"] == (5, 6, 3, 2)


def test_an_unknown_variable():
    graph, shapes = summed()
    with pytest.raises(KeyError, match="'nothing'"):
        receptive_fields(graph, "nothing", shapes)
    with pytest.raises(KeyError, match=r"'nothing'.*'pooled'"):
        variable_sizes(graph, {"x": (4, 4), "nothing": (4, 4)}, shapes)


def test_sizes_are_filled_up():
    graph = build([node(ReLU(), "x", "y"), node(ReLU(), "u", "v")])
    sizes = variable_sizes(graph, {"x": (4, 5), "u": ()}, {})
    assert sizes == {"x": (4, 5, 1, 1), "u": (0, 0, 0, 0), "y": (4, 5, 1, 1), "v": (0, 0, 0, 0)}


@pytest.mark.parametrize("size", [(1, 2, 3, 4, 5), (-1, 2)])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match=r"size of 'x' is .*; wanted"):
        variable_sizes(build([node(ReLU(), "x", "y")]), {"x": size}, {})


def test_what_is_unknown_stays_unknown():
    graph, shapes = summed()
    sizes = variable_sizes(graph, {"x": (NAN, 12, NAN, 5)}, shapes)
    assert [str(number) for number in sizes["up"]] == ["nan", "12", "3", "5"]
    sizes = variable_sizes(graph, {}, shapes)
    assert [str(number) for number in sizes["x"]] == ["nan"] * 4
    assert [str(number) for number in sizes["sum"]] == ["nan", "nan", "7", "nan"]


def test_a_size_that_is_given_stands():
    graph, shapes = summed()
    sizes = variable_sizes(graph, {"sum": (8, 6, 7, 2)}, shapes)
    assert sizes["up"] == (8, 6, 3, 2)
    assert math.isnan(sizes["c3"][0])


def test_custom_layers():
    def size(layer, before):
        return [before[0] // layer["factor"], before[1], 7, before[3]]

    graph = build([
        node(Custom({"getForwardSize": size, "factor": 3}), "x", "y"),
        node(Custom({}), "y", "z"),
    ])  # fmt: skip
    sizes = variable_sizes(graph, {"x": (9, 4, 2, 5)}, {})
    assert sizes["y"] == (3, 4, 7, 5)
    assert [str(number) for number in sizes["z"]] == ["3", "4", "nan", "5"]


def test_an_error_names_the_layer():
    graph = build([node(Pooling(2, pad=(1, 2)), "x", "y")])
    with pytest.raises(ValueError, match="pad") as caught:
        variable_sizes(graph, {"x": (4, 4)}, {})
    assert "'to y' (Pooling)" in caught.value.__notes__[0]
