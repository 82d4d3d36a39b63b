"""The executor: what is added, freed, limited and reported, on graphs that are not chains."""

import gc
import itertools
from dataclasses import dataclass

import pytest
import torch

from matconvnet import executor
from matconvnet.blocks.conv import Conv, conv, conv_backward
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.errors import RecordError
from matconvnet.graph import Node, build
from matconvnet.layer import Elementwise
from matconvnet.nets.simplenn import SimpleNN


@dataclass(frozen=True)
class Add(Elementwise):
    """y = sum of the inputs; hands the very same derivative to all of them."""

    type_name, needs, num_inputs = "add", frozenset(), None

    def forward(self, inputs, params, ctx):
        return (sum(inputs),), None

    def backward(self, call, der_outputs):
        return tuple(der_outputs[0] for _ in call.inputs), ()


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def diamond():
    """x -> a -> (b, c) -> y, where b and c share the parameter f, and a is read twice."""
    return build([
        Node("first", Sigmoid(), ("x",), ("a",)),
        Node("left", Conv(pad=1), ("a",), ("b",), ("f", "none")),
        Node("right", Conv(pad=1), ("a",), ("c",), ("f", "none")),
        Node("join", Add(), ("b", "c", "a"), ("y",)),
    ])  # fmt: skip


def evaluate(graph, params, x, p, **options):
    record = executor.forward(graph, params, {"x": x}, derivative=True)
    return executor.backward(graph, params, record, {"y": p}, **options)


def test_derivatives_of_shared_values_and_parameters_are_sums():
    x, f, p = randn(5, 4, 2, 3), randn(3, 3, 2, 2, seed=1), randn(5, 4, 2, 3, seed=2)
    record = evaluate(diamond(), {"f": f, "none": None}, x, p)
    a = torch.sigmoid(x)
    da, df, _ = conv_backward(a, f, None, p, pad=1)
    torch.testing.assert_close(record.param_ders["f"], 2 * df)
    torch.testing.assert_close(record.ders["a"], 2 * da + p)
    torch.testing.assert_close(record.ders["x"], (2 * da + p) * a * (1 - a))
    torch.testing.assert_close(record.values["y"], 2 * conv(a, f, pad=1) + a)


def test_a_derivative_that_a_layer_passes_on_is_not_modified():
    x, f, p = randn(5, 4, 2, 3), randn(3, 3, 2, 2, seed=1), randn(5, 4, 2, 3, seed=2)
    before = p.clone()
    evaluate(diamond(), {"f": f, "none": None}, x, p)
    assert torch.equal(p, before)


def test_on_param_fires_once_when_the_last_user_has_contributed():
    calls = []
    x, f, p = randn(5, 4, 2, 3), randn(3, 3, 2, 2, seed=1), randn(5, 4, 2, 3, seed=2)
    params = {"f": f, "none": None}
    record = evaluate(diamond(), params, x, p, on_param=lambda *call: calls.append(call))
    whole = evaluate(diamond(), params, x, p).param_ders["f"]
    assert [name for name, _ in calls] == ["f"]
    torch.testing.assert_close(calls[0][1], whole)
    assert record.param_ders == {}


def test_accumulate_adds_and_its_absence_replaces():
    x, f, p = randn(5, 4, 2, 3), randn(3, 3, 2, 2, seed=1), randn(5, 4, 2, 3, seed=2)
    params, graph = {"f": f, "none": None}, diamond()
    once = evaluate(graph, params, x, p).param_ders["f"]
    record = executor.forward(graph, params, {"x": x}, derivative=True)
    executor.backward(graph, params, record, {"y": p})
    executor.backward(graph, params, record, {"y": p}, accumulate=True)
    torch.testing.assert_close(record.param_ders["f"], 2 * once)
    executor.backward(graph, params, record, {"y": p})
    torch.testing.assert_close(record.param_ders["f"], once)


def test_a_second_backward_does_not_see_derivatives_of_the_first():
    graph = build([
        Node("one", Sigmoid(), ("x",), ("a",)),
        Node("u", Sigmoid(), ("a",), ("y",)),
        Node("v", ReLU(), ("a",), ("z",)),
    ])  # fmt: skip
    record = executor.forward(graph, {}, {"x": randn(3, 2, 1, 1)}, derivative=True)
    p = randn(3, 2, 1, 1, seed=5)
    executor.backward(graph, {}, record, {"y": p, "z": p})
    executor.backward(graph, {}, record, {"y": p})
    assert "z" not in record.ders
    y, a = record.values["y"], record.values["a"]
    torch.testing.assert_close(record.ders["x"], p * y * (1 - y) * a * (1 - a))


def test_nodes_without_inputs_or_output_derivatives_are_left_out():
    graph = build([
        Node("use", Sigmoid(), ("x",), ("a",)),
        Node("other", Sigmoid(), ("missing",), ("b",)),
        Node("both", Add(), ("a", "b"), ("c",)),
    ])  # fmt: skip
    record = executor.forward(graph, {}, {"x": randn(2, 2, 1, 1)}, derivative=True)
    assert set(record.values) == {"x", "a"}
    executor.backward(graph, {}, record, {"a": randn(2, 2, 1, 1)})
    assert set(record.ders) == {"a", "x"}


def test_depth_differentiates_the_last_nodes_only():
    x, f, p = randn(5, 4, 2, 3), randn(3, 3, 2, 2, seed=1), randn(5, 4, 2, 3, seed=2)
    record = evaluate(diamond(), {"f": f, "none": None}, x, p, depth=3)
    assert "x" not in record.ders
    assert set(record.backward_time) == {"left", "right", "join"}
    with pytest.raises(ValueError, match="depth is 0; wanted"):
        evaluate(diamond(), {"f": f, "none": None}, x, p, depth=0)


def test_no_derivative_of_the_data_unless_wanted():
    x, f, p = randn(5, 4, 2, 3), randn(3, 3, 2, 2, seed=1), randn(5, 4, 2, 3, seed=2)
    params = {"f": f, "none": None}
    whole = evaluate(diamond(), params, x, p)
    part = evaluate(diamond(), params, x, p, wanted_inputs=())
    assert not {"x", "a"} & set(part.ders)
    torch.testing.assert_close(part.param_ders["f"], whole.param_ders["f"])


def test_conserving_memory_frees_values_and_spends_the_record():
    x, f, p = randn(5, 4, 2, 3), randn(3, 3, 2, 2, seed=1), randn(5, 4, 2, 3, seed=2)
    params, graph = {"f": f, "none": None}, diamond()
    whole = evaluate(graph, params, x, p)
    record = executor.forward(graph, params, {"x": x}, derivative=True, conserve_memory=True)
    assert set(record.values) == {"x", "a", "y"}  # b and c are read by nothing that differentiates
    executor.backward(graph, params, record, {"y": p}, conserve_memory=True)
    assert set(record.values) == {"x", "y"}
    assert set(record.ders) == {"x", "y"}
    torch.testing.assert_close(record.ders["x"], whole.ders["x"])
    with pytest.raises(RecordError, match="spent"):
        executor.backward(graph, params, record, {"y": p})


def test_precious_variables_survive():
    x, f, p = randn(5, 4, 2, 3), randn(3, 3, 2, 2, seed=1), randn(5, 4, 2, 3, seed=2)
    params, graph, keep = {"f": f, "none": None}, diamond(), {"precious": ["b"]}
    record = executor.forward(graph, params, {"x": x}, conserve_memory=True, **keep)
    assert set(record.values) == {"b", "y"}
    record = executor.forward(
        graph, params, {"x": x}, derivative=True, conserve_memory=True, **keep
    )
    executor.backward(graph, params, record, {"y": p}, conserve_memory=True, **keep)
    assert set(record.values) == {"x", "b", "y"}
    assert set(record.ders) == {"x", "b", "y"}


def test_a_freed_value_that_is_needed_is_named():
    graph = diamond()
    params = {"f": randn(3, 3, 2, 2), "none": None}
    record = executor.forward(graph, params, {"x": randn(5, 4, 2, 3)}, conserve_memory=True)
    with pytest.raises(RecordError, match=r"layer 'join' \(Add\) reads \['b', 'c', 'a'\], freed"):
        executor.backward(graph, params, record, {"y": randn(5, 4, 2, 3)})


def test_errors_carry_the_layer_and_its_input_shapes():
    with pytest.raises(ValueError, match="b has") as caught:
        executor.forward(diamond(), {"f": randn(3, 3, 2, 2), "none": randn(7)},
                         {"x": randn(5, 4, 2, 3)})  # fmt: skip
    assert caught.value.__notes__ == ["in layer 'left' (Conv), inputs [(5, 4, 2, 3)]"]


def test_times_of_every_layer_are_recorded():
    record = evaluate(diamond(), {"f": randn(3, 3, 2, 2), "none": None}, randn(5, 4, 2, 3),
                      randn(5, 4, 2, 3))  # fmt: skip
    names = {"first", "left", "right", "join"}
    assert set(record.forward_time) == set(record.backward_time) == names
    assert all(t > 0 for t in [*record.forward_time.values(), *record.backward_time.values()])


class Spy:
    """Wraps a layer; notes the bytes of all tensors alive whenever the layer is called."""

    def __init__(self, layer, peak):
        self._layer, self._peak = layer, peak

    def __getattr__(self, name):
        return getattr(self._layer, name)

    def _note(self):
        storages = {}
        for thing in gc.get_objects():
            if type(thing) is torch.Tensor:
                storage = thing.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        self._peak.append(sum(storages.values()))

    def forward(self, *args):
        self._note()
        out = self._layer.forward(*args)
        self._note()
        return out

    def backward(self, *args):
        self._note()
        out = self._layer.backward(*args)
        self._note()
        return out


@pytest.mark.parametrize("activation", [True, False], ids=["relu", "plain"])
def test_peak_memory_is_within_the_original_rule(activation):
    """The original keeps all values in forward, and two derivatives at a time in backward."""
    block = [ReLU()] if activation else []
    layers = [
        Conv(pad=1, size=(3, 3, 2, 8)), *block, Pooling(3, stride=2, pad=(0, 1, 0, 1)),
        Conv(pad=1, size=(3, 3, 8, 8)), *block, Dropout(), Pooling(2, stride=2, method="avg"),
        Conv(size=(8, 8, 8, 10)), SoftmaxLoss(),
    ]  # fmt: skip
    net, n = SimpleNN(layers), 32
    x, label = torch.randn(32, 32, 2, n), torch.zeros(n, dtype=torch.int64)
    values = net.eval({"x0": x, "label": label}).values
    sizes = [4 * values[f"x{i}"].numel() for i in range(len(layers) + 1)]
    params = sum(4 * p.numel() for p in net.values().values())
    mask = next(s for s, layer in zip(sizes, layers, strict=False) if isinstance(layer, Dropout))
    two_derivatives = max(a + b for a, b in itertools.pairwise(sizes))
    allowed = sum(sizes) + mask + params + two_derivatives
    del values
    peak = []
    graph = build([node._replace(layer=Spy(node.layer, peak)) for node in net.graph.nodes])
    gc.collect()
    Spy(None, peak)._note()
    before = peak.pop()
    inputs = {"x0": x.clone(), "label": label}
    record = executor.forward(graph, net.values(), inputs, derivative=True, conserve_memory=True)
    one = torch.tensor(1.0)
    executor.backward(graph, net.values(), record, {net.output: one}, conserve_memory=True)
    assert max(peak) - before <= allowed


def test_spare_memory_takes_new_derivatives():
    """Filters over the whole map write their derivative to `out`; a wrong shape is left alone."""
    graph = build([Node("fc", Conv(), ("x",), ("y",), ("f", "b"))])
    x, p = randn(4, 3, 2, 5), randn(1, 1, 6, 5, seed=2)
    params = {"f": randn(6, 4, 3, 2, seed=1).permute(1, 2, 3, 0), "b": randn(6, seed=3)}

    def derivatives(out):
        record = executor.forward(graph, params, {"x": x}, derivative=True)
        return executor.backward(graph, params, record, {"y": p}, out=out).param_ders

    want = derivatives(None)
    spare = torch.full_like(params["f"], torch.nan)
    got = derivatives({"f": spare})
    assert got["f"].data_ptr() == spare.data_ptr()
    assert torch.equal(got["f"], want["f"])
    assert torch.equal(derivatives({"f": randn(4, 3, 2, 7)})["f"], want["f"])
    assert torch.equal(derivatives({"f": randn(4, 3, 2, 6)})["f"], want["f"])


def test_spare_memory_is_not_written_twice():
    """Two convolutions share a bank: the second derivative must not overwrite the first."""
    graph = build([
        Node("left", Conv(), ("x",), ("y",), ("f", "none")),
        Node("right", Conv(), ("z",), ("w",), ("f", "none")),
    ])  # fmt: skip
    params = {"f": randn(6, 4, 3, 2, seed=1).permute(1, 2, 3, 0), "none": None}
    inputs = {"x": randn(4, 3, 2, 5), "z": randn(4, 3, 2, 5, seed=7)}
    ders = {"y": randn(1, 1, 6, 5, seed=2), "w": randn(1, 1, 6, 5, seed=3)}

    def derivative(out=None, times=1):
        record = executor.forward(graph, params, inputs, derivative=True)
        for i in range(times):
            executor.backward(graph, params, record, ders, out=out, accumulate=i > 0)
            out = dict(record.param_ders)
        return record.param_ders["f"]

    want = derivative()
    torch.testing.assert_close(derivative({"f": torch.empty_like(params["f"])}), want)
    torch.testing.assert_close(derivative(times=2), 2 * want)


def sparing_graph(between="conv"):
    """conv - relu - pool - relu, the second also read by a convolution, if there is one between."""
    nodes = [
        Node("conv", Conv(pad=1), ("x",), ("a",), ("f", "b")),
        Node("relu", ReLU(), ("a",), ("r",)),
        Node("pool", Pooling(3, stride=2), ("r",), ("p",)),
        Node("relu2", ReLU(), ("p",), ("q",)),
    ]
    if between == "conv":
        nodes.append(Node("conv2", Conv(pad=1), ("q",), ("y",), ("f2", "b")))
    return build(nodes)


def sparing_problem():
    values = {"f": randn(3, 3, 2, 4), "b": randn(4, seed=1), "f2": randn(3, 3, 4, 4, seed=2)}
    return values, {"x": randn(41, 40, 2, 16, seed=3)}


def differentiate(graph, values, inputs, ders=("y",), **options):
    record = executor.forward(graph, values, inputs, derivative=True, precious=ders, **options)
    left = set(record.values), {n: s for n, s in record.saved.items() if s is not None}
    projections = {v: randn(*record.values[v].shape, seed=4) for v in ders}
    return executor.backward(graph, values, record, projections, precious=ders, **options), left


def test_a_relu_that_alone_keeps_its_output_saves_bits():
    graph, (values, inputs) = sparing_graph(), sparing_problem()
    got, (left, saved) = differentiate(graph, values, inputs, conserve_memory=True)
    want, (_, all_saved) = differentiate(graph, values, inputs)
    assert left == {"x", "q", "y"}  # the convolution needs q
    assert set(saved) == {"relu", "pool"}
    assert set(all_saved) == {"pool"}
    count = want.values["r"].numel()
    assert saved["relu"].nbytes <= count // 8 + 1
    assert torch.equal(got.values["y"], want.values["y"])
    assert torch.equal(got.ders["x"], want.ders["x"])
    for name, der in want.param_ders.items():
        assert torch.equal(got.param_ders[name], der), name


@pytest.mark.parametrize("how", ["precious", "output", "given", "recomputed", "not reached"])
def test_an_output_that_others_read_is_kept(how):
    graph, (values, inputs) = sparing_graph("nothing"), sparing_problem()
    options = {
        "precious": {"ders": ("q", "r")}, "recomputed": {"recompute": ["relu"]},
        "not reached": {"depth": 2},
    }.get(how, {"ders": ("q",)})  # fmt: skip
    options.setdefault("ders", ("q",))
    if how == "given":
        inputs = {**inputs, "r": randn(41, 40, 4, 16)}
    ders = options.pop("ders")
    recompute = options.pop("recompute", False)
    record = executor.forward(
        graph, values, inputs, derivative=True, precious=ders, conserve_memory=True,
        recompute=recompute, **options,
    )  # fmt: skip
    assert record.saved.get("relu2") is None
    assert "q" in record.values
    assert (record.saved.get("relu") is None) == (how != "output")
