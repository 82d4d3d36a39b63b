"""Recomputation: the same bits with fewer values kept; what is chosen, kept, and made again."""

from dataclasses import dataclass

import pytest
import torch

from matconvnet import executor
from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.scale import Scale
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.blocks.sum import Sum
from matconvnet.errors import RecordError
from matconvnet.graph import Node, build
from matconvnet.layer import Context, Elementwise
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.simplenn import SimpleNN


@dataclass(frozen=True)
class Noise(Elementwise):
    """y = x * u with u uniform; keeps u only in `saved`, which may be dropped."""

    type_name, needs = "noise", frozenset()

    def forward(self, inputs, params, ctx):
        u = torch.rand(inputs[0].shape, generator=ctx.generator, dtype=inputs[0].dtype)
        return (inputs[0] * u,), u

    def backward(self, call, der_outputs):
        return (call.saved * der_outputs[0],), ()


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def residual():
    """Convolutions with batch normalisation, a branch that is summed, pooling, dropout, a loss."""
    return build([
        Node("conv1", Conv(pad=1), ("x",), ("c1",), ("f", "b")),
        Node("bnorm1", BatchNorm(), ("c1",), ("n1",), ("m", "s", "mom")),
        Node("relu1", ReLU(), ("n1",), ("r1",)),
        Node("noise", Noise(), ("r1",), ("u1",)),
        Node("conv2", Conv(pad=1), ("u1",), ("c2",), ("f", "b")),
        Node("lrn", LRN(), ("c2",), ("l2",)),
        Node("sum", Sum(), ("l2", "r1"), ("s2",)),
        Node("relu2", ReLU(), ("s2",), ("r2",)),
        Node("pool", Pooling(2, stride=2), ("r2",), ("p2",)),
        Node("drop", Dropout(), ("p2",), ("d2",)),
        Node("score", Conv(), ("d2",), ("y",), ("g", "none")),
        Node("loss", SoftmaxLoss(), ("y", "label"), ("z",)),
    ])  # fmt: skip


ALL = [node.name for node in residual().nodes if node.name != "loss"]
LISTS = {
    "none": [],
    "true": True,
    "all": ALL,
    "chain": ["bnorm1", "relu1", "noise"],
    "sum": ["sum", "relu2", "pool", "drop"],
    "conv": ["conv2", "lrn"],
}


def parameters():
    return {
        "f": randn(3, 3, 4, 4, seed=1), "b": randn(4, seed=2), "m": randn(4, seed=3),
        "s": randn(4, seed=4), "mom": torch.zeros(4, 2, dtype=torch.float64),
        "g": randn(3, 3, 4, 3, seed=5), "none": None,
    }  # fmt: skip


def images(seed=0):
    return {"x": randn(6, 6, 4, 2, seed=seed), "label": torch.tensor([0, 2])}


def evaluate(recompute, graph=None, *, generator=True, seed=0, record=None, **options):
    """One step: the record, the order in which parameters were complete, and the state after."""
    graph = residual() if graph is None else graph
    source = torch.Generator().manual_seed(7) if generator else None
    torch.manual_seed(8)
    calls = []
    depth, conserve = options.pop("depth", None), options.pop("conserve_memory", True)
    made = executor.forward(
        graph, parameters(), images(seed), ctx=Context(True, source), derivative=True, depth=depth,
        conserve_memory=conserve, recompute=recompute, precious=options.get("precious", ()),
    )  # fmt: skip
    if record is not None:
        made.param_ders = dict(record.param_ders)
    if options.pop("push", False):
        options["on_param"] = lambda name, der: calls.append((name, der))
    executor.backward(
        graph, parameters(), made, {"z": torch.ones((), dtype=torch.float64)}, depth=depth,
        conserve_memory=conserve, **options,
    )  # fmt: skip
    return made, calls, torch.rand(3), source.get_state() if source else None


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("conserve_memory", [True, False], ids=["conserving", "keeping"])
@pytest.mark.parametrize("generator", [True, False], ids=["own", "global"])
@pytest.mark.parametrize("recompute", LISTS.values(), ids=LISTS)
def test_derivatives_are_the_same_bit_for_bit(recompute, generator, conserve_memory):
    options = {"generator": generator, "conserve_memory": conserve_memory}
    want, _, later, state = evaluate(False, **options)
    got, _, after, new_state = evaluate(recompute, **options)
    assert_same(got.param_ders, want.param_ders)
    assert_same({"x": got.ders["x"], "z": got.values["z"]},
                {"x": want.ders["x"], "z": want.values["z"]})  # fmt: skip
    assert torch.equal(after, later)  # torch's own random numbers go on as if nothing had been
    assert new_state is None or torch.equal(new_state, state)


@pytest.mark.parametrize("depth", [1, 3, 6, 9, 11])
@pytest.mark.parametrize("recompute", LISTS.values(), ids=LISTS)
def test_with_a_limited_depth(recompute, depth):
    want, got = evaluate(False, depth=depth)[0], evaluate(recompute, depth=depth)[0]
    assert_same(got.param_ders, want.param_ders)
    assert_same(got.ders, want.ders)


@pytest.mark.parametrize("recompute", LISTS.values(), ids=LISTS)
def test_parameters_are_complete_in_the_same_order(recompute):
    want, got = evaluate(False, push=True)[1], evaluate(recompute, push=True)[1]
    assert [name for name, _ in got] == [name for name, _ in want]
    assert_same(dict(got), dict(want))


@pytest.mark.parametrize("recompute", LISTS.values(), ids=LISTS)
def test_derivatives_accumulate(recompute):
    def total(how):
        first = evaluate(how)[0]
        return evaluate(how, seed=9, record=first, accumulate=True)[0].param_ders

    assert_same(total(recompute), total(False))


def kept(recompute, graph=None, **options):
    """Variables and saved tensors that a forward pass leaves."""
    graph = residual() if graph is None else graph
    record = executor.forward(
        graph, parameters(), images(), derivative=True, recompute=recompute, **options
    )
    return set(record.values), {n for n, s in record.saved.items() if s is not None}


def test_what_little_work_makes_again_is_not_kept():
    """Kept are maps that a derivative reads and a convolution or sum made; `r2` stands for `s2`."""
    values, saved = kept(True, conserve_memory=True)
    assert values == {"x", "label", "c1", "c2", "r2", "y", "z"}
    assert "pool" not in saved
    assert "noise" not in saved
    assert {"bnorm1", "drop", "loss"} <= saved  # small, or promised by the layer
    plain, all_saved = kept(False, conserve_memory=True)
    assert plain == values - {"r2"} | {"u1", "d2"}
    assert all_saved == saved | {"pool", "noise", "relu1", "relu2"}  # what they need of r1, r2


def test_a_layer_of_several_inputs_is_not_chosen():
    """`a` scales the map, and is not kept: Scale keeps what it reads, so both are."""
    graph = build([
        Node("map", Conv(pad=1), ("x",), ("c",), ("f", "b")),
        Node("factors", Sigmoid(), ("x",), ("a",)),
        Node("scale", Scale(has_bias=False), ("c", "a"), ("y",)),
        Node("relu", ReLU(), ("y",), ("r",)),
        Node("score", Conv(), ("r",), ("z",), ("f", "b")),
    ])  # fmt: skip
    record = executor.forward(graph, parameters(), images(), derivative=True,
                              conserve_memory=True, recompute=True)  # fmt: skip
    assert set(record.again) == {"factors"}


def test_all_is_made_again_from_the_input():
    assert kept(ALL, conserve_memory=True)[0] == {"x", "label", "z"}


def test_without_conserving_only_the_chosen_layers_are_not_kept():
    plain, values = kept(False)[0], kept(["relu1", "conv2"])[0]
    assert plain - values == {"r1", "c2"}


def test_precious_values_are_kept():
    options = {"conserve_memory": True, "precious": ["r1", "n1"]}
    assert {"r1", "n1"} <= kept(ALL, **options)[0]
    record = evaluate(ALL, **options)[0]
    want = evaluate(False, **options)[0]
    assert_same(record.values, want.values)
    assert_same(record.param_ders, want.param_ders)


def test_a_record_that_was_kept_serves_twice():
    graph, one = residual(), torch.ones((), dtype=torch.float64)
    record = executor.forward(
        graph, parameters(), images(), ctx=Context(True, torch.Generator().manual_seed(7)),
        derivative=True, recompute=ALL,
    )  # fmt: skip
    before = set(record.values), set(record.saved)
    first = dict(executor.backward(graph, parameters(), record, {"z": one}).param_ders)
    assert (set(record.values), set(record.saved)) == before
    again = executor.backward(graph, parameters(), record, {"z": 2 * one}).param_ders
    assert_same(again, {name: 2 * der if name != "mom" else der for name, der in first.items()})


def test_values_from_outside_are_not_lost():
    """`n1` is given, and nothing is there to make it again from."""
    graph = residual()
    inputs = {"n1": randn(6, 6, 4, 2, seed=3), "label": torch.tensor([0, 2])}

    def derivative(recompute):
        record = executor.forward(
            graph, parameters(), inputs, ctx=Context(True, torch.Generator().manual_seed(7)),
            derivative=True, recompute=recompute, conserve_memory=True,
        )  # fmt: skip
        one = torch.ones((), dtype=torch.float64)
        return executor.backward(graph, parameters(), record, {"z": one}).param_ders

    assert_same(derivative(ALL), derivative(False))


def test_no_layer_is_evaluated_more_than_twice():
    """What was made again stays until its own derivative is done."""
    counts = {}

    class Counted:
        def __init__(self, node):
            self._node = node

        def __getattr__(self, name):
            return getattr(self._node.layer, name)

        def forward(self, *args):
            counts[self._node.name] = counts.get(self._node.name, 0) + 1
            return self._node.layer.forward(*args)

    graph = build([node._replace(layer=Counted(node)) for node in residual().nodes])
    evaluate(ALL, graph)
    assert counts == {"loss": 1} | dict.fromkeys(ALL, 2)


def test_layers_between_are_freed_when_they_have_been_used():
    """`a` and `b` only lead to `c`: no derivative reads them."""
    seen = []

    @dataclass(frozen=True)
    class Double(Elementwise):
        needs = frozenset()

        def forward(self, inputs, params, ctx):
            return (inputs[0] * 2,), None

        def backward(self, call, der_outputs):
            return (der_outputs[0] * 2,), ()

    @dataclass(frozen=True)
    class Last(Sigmoid):
        def backward(self, call, der_outputs):
            seen.append(set(record.values))
            return super().backward(call, der_outputs)

    graph = build([
        Node("one", Double(), ("x",), ("a",)),
        Node("two", Double(), ("a",), ("b",)),
        Node("three", Last(), ("b",), ("c",)),
        Node("four", Double(), ("c",), ("y",)),
    ])  # fmt: skip
    names = ["one", "two", "three"]
    record = executor.forward(graph, {}, {"x": randn(2, 2, 1, 1)}, derivative=True,
                              conserve_memory=True, recompute=names)  # fmt: skip
    assert set(record.values) == {"x", "y"}
    executor.backward(graph, {}, record, {"y": randn(2, 2, 1, 1)}, conserve_memory=True)
    assert seen == [{"x", "c", "y"}]


def test_without_derivatives_nothing_changes():
    record = executor.forward(residual(), parameters(), images(), recompute=ALL)
    assert "r1" in record.values
    assert record.again == {}


def test_a_spent_record_says_so():
    graph, one = residual(), torch.ones((), dtype=torch.float64)
    record = evaluate(ALL)[0]
    with pytest.raises(RecordError, match="spent"):
        executor.backward(graph, parameters(), record, {"z": one})


def test_wrong_names_are_named():
    with pytest.raises(KeyError, match=r"recompute names \['relu9'\], which are no layers"):
        evaluate(["relu1", "relu9"])
    with pytest.raises(TypeError, match="recompute is 'relu1'; wanted True, False or a list"):
        evaluate("relu1")


LAYERS = [
    Conv(pad=1, size=(3, 3, 2, 4)), ReLU(), Pooling(2, stride=2), Dropout(frozen=True),
    Conv(size=(4, 4, 4, 3)), SoftmaxLoss(),
]  # fmt: skip


@pytest.mark.parametrize("kind", [SimpleNN, DagNN.from_simplenn])
@pytest.mark.parametrize("names", ["auto", "all"])
def test_networks_hand_it_on(kind, names):
    chain = SimpleNN(LAYERS)
    net = kind(LAYERS) if kind is SimpleNN else kind(chain)
    recompute = True if names == "auto" else [node.name for node in net.graph.nodes[:-1]]
    x, label = (variable for variable in net.graph.inputs)
    inputs = {x: torch.randn(8, 8, 2, 3), label: torch.tensor([0, 1, 2])}
    (z,) = net.graph.outputs

    def step(how):
        if isinstance(net, DagNN):
            net.reset()  # or the frozen mask of the last time would be used again
        torch.manual_seed(3)
        return net.eval(inputs, {z: 1}, recompute=how, conserve_memory=True)

    want, got = step(False), step(recompute)
    assert want.again == {}
    assert got.again != {}
    assert_same(got.param_ders, want.param_ders)
    assert torch.equal(got.ders[x], want.ders[x])


def test_a_frozen_dropout_keeps_the_mask_of_the_first_time():
    """It is read off the record, so it is not dropped."""
    net = DagNN()
    net.add_layer("drop", Dropout(frozen=True), "x", "y")
    net.add_layer("twice", Dropout(rate=0), "y", "z")
    ones = torch.ones(8, 8, 2, 3)
    record = net.eval({"x": ones}, {"z": ones}, recompute=["drop", "twice"])
    again = net.eval({"x": ones}, {"z": ones}, recompute=["drop", "twice"])
    assert torch.equal(record.values["z"], again.values["z"])
    assert 0 in record.values["z"]
