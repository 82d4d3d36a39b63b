"""Structure of graphs: order of evaluation, wiring errors, counts."""

import random
import time
from itertools import pairwise

import pytest

from matconvnet.blocks.relu import ReLU
from matconvnet.errors import GraphError
from matconvnet.graph import Node, build


def node(name, inputs, outputs, params=""):
    return Node(name, ReLU(), tuple(inputs), tuple(outputs), tuple(params))


def order(*nodes):
    return "".join(n.name for n in build(nodes).nodes)


def test_nodes_run_by_decreasing_height_and_ties_as_given():
    a, b, c = node("A", "x", "a"), node("B", "c", "b"), node("C", "a", "c")
    d, e = node("D", "x", "d"), node("E", "y", "e")
    assert order(a, b, c, d, e) == "ACBDE"
    assert order(e, d, c, b, a) == "ACEDB"


def test_a_height_counts_the_longest_way_to_a_sink():
    # P is read by the sink T at once and, through Q and R, again.
    nodes = node("T", "pr", "t"), node("R", "q", "r"), node("Q", "p", "q"), node("P", "x", "p")
    side = node("S", "y", "s"), node("U", "s", "u")
    assert order(*nodes, *side) == "PQRSTU"


def test_every_node_runs_after_those_whose_outputs_it_reads():
    draw = random.Random(0)
    nodes = [
        Node(
            f"n{i}",
            ReLU(),
            tuple(f"v{j}" for j in draw.sample(range(i), min(i, 3))),
            (f"v{i}",),
        )
        for i in range(200)
    ]
    draw.shuffle(nodes)
    seen = set()
    for current in build(nodes).nodes:
        assert seen.issuperset(current.inputs)
        seen.update(current.outputs)
    assert len(seen) == 200


@pytest.mark.parametrize(
    "nodes",
    [
        [node("A", "x", "x")],
        [node("A", "b", "a"), node("B", "a", "b")],
        [node("I", "x", "i"), node("A", "ic", "a"), node("B", "a", "b"), node("C", "b", "c")],
    ],
    ids=["itself", "two", "three after an input"],
)
def test_a_cycle_is_refused(nodes):
    with pytest.raises(GraphError, match="cycle") as caught:
        build(nodes)
    assert "'A'" in str(caught.value)


def test_a_variable_has_one_writer():
    with pytest.raises(GraphError, match="'y' is written by layers 'A' and 'B'"):
        build([node("A", "x", "y"), node("B", "x", "y")])
    with pytest.raises(GraphError, match="'y' is written by layers 'A' and 'A'"):
        build([node("A", "x", "yy")])


def test_names_are_unique():
    with pytest.raises(GraphError, match="2 layers are named 'A'"):
        build([node("A", "x", "y"), node("A", "y", "z")])


def test_reads_are_counted_with_multiplicity():
    graph = build([node("A", "xx", "a", "ww"), node("B", "ax", "b", "w")])
    assert graph.readers == {"x": 3, "a": 1}
    assert graph.users == {"w": 3}
    assert {v: n.name for v, n in graph.producer.items()} == {"a": "A", "b": "B"}


def test_inputs_and_outputs():
    graph = build([node("B", "ac", "b"), node("A", "x", "ad"), node("C", "yx", "e")])
    assert graph.inputs == ("x", "c", "y")
    assert graph.outputs == ("d", "b", "e")


def test_an_empty_graph():
    graph = build([])
    assert graph.nodes == graph.inputs == graph.outputs == ()


def test_long_chains():
    names = [f"v{i}" for i in range(5001)]
    nodes = [
        Node(f"n{i}", ReLU(), (before,), (after,))
        for i, (before, after) in enumerate(pairwise(names))
    ]
    start = time.perf_counter()
    graph = build(reversed(nodes))
    assert list(graph.nodes) == nodes
    assert (graph.inputs, graph.outputs) == (("v0",), ("v5000",))
    assert time.perf_counter() - start < 5


def test_the_part_that_leads_to_a_variable():
    nodes = [
        Node("a", ReLU(), ("x",), ("y",)),
        Node("b", ReLU(), ("y",), ("z",)),
        Node("c", ReLU(), ("y",), ("w",)),
    ]
    part = build(nodes).leading_to(["z"])
    assert [node.name for node in part.nodes] == ["a", "b"]
    assert part.inputs == ("x",)
    with pytest.raises(KeyError, match=r"outputs name \['x'\]"):
        build(nodes).leading_to(["x"])
