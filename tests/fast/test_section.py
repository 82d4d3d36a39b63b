"""A section runs calls and steps in order, and knows what took how long."""

import pytest
import torch

from matconvnet.blocks.relu import ReLU
from matconvnet.fast import elementwise, section
from matconvnet.fast.native import missing
from matconvnet.fast.section import Item, Run, Section
from matconvnet.fast.units import Unit
from matconvnet.graph import Node
from matconvnet.layer import Context

pytestmark = pytest.mark.skipif(bool(missing()), reason="no kernels")


def unit(name, *more):
    nodes = [Node(n, ReLU(), (f"{n}_in",), (f"{n}_out",), ()) for n in (name, *more)]
    return Unit(nodes, nodes[-1].outputs, True)


@pytest.fixture
def work(monkeypatch):
    """a copies x to y; b, in Python, takes 2 s to double y; then a copies y to z. And y and z."""
    clock = [0.0]
    monkeypatch.setattr(section, "perf_counter", lambda: clock[0])
    x, y, z = (torch.full((16,), float(i)) for i in (3, 0, 0))
    a, b = unit("a", "within"), unit("b")

    def step(run):
        clock[0] += 2
        y.mul_(2)

    items = [
        Item(a, elementwise.copy(x, y), ("p",)),
        Item(b, [step], ("q",)),
        Item(a, [*elementwise.copy(y, z), *elementwise.copy(x, y)], ("r",)),
    ]
    return Section(items), y, z


def test_order(work):
    made, y, z = work
    told = []
    made.run(Run({}, {}, Context()), lambda _, p: told.append((p, y[0].item(), z[0].item())))
    assert told == [("p", 3, 0), ("q", 6, 0), ("r", 3, 6)]


def test_times_are_those_of_the_last_timed_run(work):
    made, *_ = work
    for _ in range(2):  # the second is not added to the first
        made.run(Run({}, {}, Context()), lambda *_: None)
    times = made.times()
    assert times.keys() == {"a", "b", "within"}
    assert times["b"] == 2
    assert 0 < times["a"] < 2
    assert times["within"] == 0
    made.run(Run({}, {}, Context()), lambda *_: None, timed=False)
    assert made.times() == times
    made._seconds.fill(100)
    made.run(Run({}, {}, Context()), lambda *_: None)
    assert max(made.times().values()) == 2


def test_nothing_to_do():
    made = Section([])
    made.run(Run({}, {}, Context()), lambda *_: None)
    assert made.times() == {}
