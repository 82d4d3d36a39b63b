"""The work of layers, counted by hand."""

import math

import pytest

from matconvnet.blocks import BatchNorm, Conv, ConvTranspose, Loss, ReLU, Sum
from matconvnet.graph import Node, build
from matconvnet.nets.work import Work, layer_work

GRAPH = build(
    [
        Node("conv", Conv(size=(3, 3, 2, 4), pad=1), ("x",), ("a",), ("f", "b")),
        Node("relu", ReLU(), ("a",), ("r",)),
        Node("up", ConvTranspose(size=(2, 2, 3, 4), upsample=2), ("r",), ("u",), ("g", "h")),
        Node("loss", Loss(), ("u", "c"), ("z",)),
    ]
)
SHAPES = {"f": (3, 3, 2, 4), "b": (4,), "g": (2, 2, 3, 4), "h": None}
SIZES = {"x": (5, 6, 2, 7), "c": (10, 12, 1, 7)}
X, A, U, C = 5 * 6 * 2 * 7, 5 * 6 * 4 * 7, 10 * 12 * 3 * 7, 10 * 12 * 7
F, B, G = 3 * 3 * 2 * 4, 4, 2 * 2 * 3 * 4
CONV = 2 * (3 * 3 * 2) * A
"""A multiplication and an addition for each number under the filter, for each output."""
UP = 2 * (2 * 2 * 3) * A
"""Here for each input, and each number that it adds to."""


def test_forward():
    found = layer_work(GRAPH, SIZES, SHAPES)
    assert found["conv"].forward == Work(CONV, X + F + B + A)
    assert found["relu"].forward == Work(0, 2 * A)
    assert found["up"].forward == Work(UP, A + G + U)
    assert found["loss"].forward == Work(0, U + C + 1)
    assert {work.backward for work in found.values()} == {Work()}
    assert found["loss"].sizes == ((10, 12, 3, 7), (10, 12, 1, 7))


def test_backward():
    found = layer_work(GRAPH, SIZES, SHAPES, frozenset(["conv", "relu", "up", "loss"]))
    # The first layer has no derivative by the images.
    assert found["conv"].backward == Work(CONV, A + X + 2 * (F + B))
    assert found["relu"].backward == Work(0, 3 * A)
    assert found["up"].backward == Work(2 * UP, U + A + 2 * G + A)
    assert found["loss"].backward == Work(0, 1 + U + C + U)


def test_layers_that_are_not_differentiated():
    found = layer_work(GRAPH, SIZES, SHAPES, frozenset(["up", "loss"]))
    assert found["relu"].backward == found["conv"].backward == Work()
    assert found["up"].backward.operations == UP


def test_a_value_that_is_read_twice_counts_twice():
    graph = build([Node("double", Sum(), ("x", "x"), ("y",))])
    found = layer_work(graph, {"x": (2, 2, 1, 1)}, {})
    assert found["double"].forward == Work(0, 12)


def test_parameters_alone_lead_to_derivatives():
    graph = build([Node("bnorm", BatchNorm(), ("x",), ("y",), ("m", "b", "s"))])
    shapes = {"m": (3,), "b": (3,), "s": (3, 2)}
    found = layer_work(graph, {"x": (2, 2, 3, 1)}, shapes, frozenset(["bnorm"]))
    assert found["bnorm"].backward == Work(0, 12 + 12 + 2 * 12)


def test_what_is_unknown_is_nan():
    found = layer_work(GRAPH, {}, SHAPES)
    assert math.isnan(found["relu"].forward.numbers)
    assert math.isnan(found["conv"].forward.operations)


@pytest.mark.parametrize("pass_", ["forward", "backward"])
def test_twice_the_images_take_twice_the_operations(pass_):
    once, twice = (
        layer_work(GRAPH, {"x": (5, 6, 2, n), "c": (10, 12, 1, n)}, SHAPES, frozenset(["conv"]))
        for n in (7, 14)
    )
    assert (
        2 * getattr(once["conv"], pass_).operations == getattr(twice["conv"], pass_).operations > 0
    )
