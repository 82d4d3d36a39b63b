"""Rewritten graphs compute what the explicit ones do; what is left alone, and why."""

import random

import pytest
import torch

from matconvnet import executor
from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv, conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmax import Softmax
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.blocks.sum import Sum
from matconvnet.fast import fused
from matconvnet.fast.fused import BatchNormReLU, FusedConv, SumReLU
from matconvnet.fast.joined import Joined
from matconvnet.fast.precision import with_precision
from matconvnet.fast.rewrite import fuse, in_test_mode
from matconvnet.geometry import receptive_fields, variable_sizes
from matconvnet.graph import Node, build
from matconvnet.layer import Context
from matconvnet.nets.simplenn import SimpleNN
from tests.dagnets import batch, residual
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE, REORDERED, REWRITTEN

CHANNELS = 4


def random_graph(seed):
    """Convolutions (of shared filters, too), normalisations, sums, ReLUs and others, at random.

    Variables are read by any number of layers; the last ones are read by a loss.
    """
    rng = random.Random(seed)
    nodes, variables = [], ["x"]
    for i in range(rng.randint(6, 12)):
        last = variables[-1] if rng.random() < 0.75 else rng.choice(variables)
        inputs, params = (last,), ()
        kind = rng.choice(["conv", "conv", "bnorm", "sum", "relu", "relu", "relu", "else"])
        if kind == "conv":
            size = rng.choice([1, 3])
            pad = rng.choice([1, (0, 2, 2, 0)]) if size == 3 else 0
            shared = rng.choice([i, "shared"])
            layer, params = Conv(pad=pad), (f"f{size}{shared}", rng.choice([f"b{i}", "none"]))
        elif kind == "bnorm":
            layer, params = BatchNorm(), (f"g{i}", f"o{i}", f"m{i}")
        elif kind == "sum":
            layer, inputs = Sum(), (last, *rng.choices(variables, k=rng.choice([1, 1, 2])))
        elif kind == "relu":
            layer = ReLU(rng.choice([0.0, 0.0, 0.25]))
        else:
            layer = rng.choice([Sigmoid(), Dropout(0.25)])
        nodes.append(Node(f"l{i}", layer, inputs, (f"v{i}",), params))
        variables.append(f"v{i}")
    nodes += [
        Node("scores", Conv(), (variables[-1],), ("s",), ("whole", "wb")),
        Node("last", ReLU(), ("s",), ("y",)),
        Node("prob", Softmax(), ("y",), ("p",)),
        Node("loss", Loss("log"), ("p", "label"), ("objective",)),
    ]
    return build(nodes)


def values_of(graph, dtype, seed=0):
    shapes = {"f1": (1, 1, CHANNELS, CHANNELS), "f3": (3, 3, CHANNELS, CHANNELS),
              "wh": (6, 5, CHANNELS, 3), "wb": (3,), "m": (CHANNELS, 2)}  # fmt: skip
    values = {}
    for i, p in enumerate(sorted(graph.users)):
        shape = shapes.get(p[:2]) or shapes.get(p[:1]) or (CHANNELS,)
        value = randn(shape, seed + i)
        value = value / 3 if len(shape) == 4 else value
        if p[0] == "m":
            value[:, 1] = value[:, 1].abs() + 0.5
        values[p] = None if p == "none" else value.to(dtype)
    return values


def evaluate(graph, values, dtype, *, training=True, derivative=True, keep=()):
    inputs = {"x": randn((6, 5, CHANNELS, 3), 99).to(dtype), "label": torch.tensor([0, 2, 1])}
    ctx = Context(training, torch.Generator().manual_seed(5))
    record = executor.forward(
        graph, values, inputs, ctx=ctx, derivative=derivative, conserve_memory=True,
        precious={*keep, "p"},
    )  # fmt: skip
    if derivative:
        one = {"objective": torch.ones((), dtype=dtype)}
        executor.backward(graph, values, record, one, conserve_memory=True, precious=keep)
    return record


def assert_same(record, wanted, tolerance):
    assert record.values.keys() == wanted.values.keys()
    assert record.param_ders.keys() == wanted.param_ders.keys()
    assert record.ders.keys() == wanted.ders.keys()
    for kind in ("values", "ders", "param_ders"):
        for name, value in getattr(wanted, kind).items():
            assert_close(getattr(record, kind)[name], value, tolerance, f"{kind} {name}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_random_graphs(seed, training, dtype):
    graph = random_graph(seed)
    values = values_of(graph, dtype)
    keep = {f"v{seed % 5}"}
    new = fuse(graph, keep=keep, training=training).graph
    assert any(isinstance(node.layer, fused.Fused) for node in new.nodes)
    got = evaluate(new, values, dtype, training=training, keep=keep)
    wanted = evaluate(graph, values, dtype, training=training, keep=keep)
    assert_same(got, wanted, REWRITTEN[dtype])
    assert got.forward_time.keys() <= wanted.forward_time.keys()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(15))
def test_random_graphs_in_test_mode(seed, dtype):
    graph = random_graph(seed)
    values, keep = values_of(graph, dtype), {f"v{seed % 5}", "p"}
    before = {p: v.clone() for p, v in values.items() if v is not None}
    short = in_test_mode(graph, values, keep=keep)
    new = fuse(short.graph, keep=keep, training=False).graph
    options = {"training": False, "derivative": False, "keep": keep}
    got = evaluate(new, short.values, dtype, **options)
    wanted = evaluate(graph, values, dtype, **options)
    for name in keep:
        assert_close(got.values[name], wanted.values[name], REWRITTEN[dtype])
    assert all(torch.equal(values[p], v) for p, v in before.items())


def chain(*layers, params=()):
    """x -> v1 -> v2 ..., and the parameters of each layer that has some."""
    params = dict(params)
    return build(
        Node(f"l{i}", layer, (f"v{i - 1}" if i > 1 else "x",), (f"v{i}",), params.get(i, ()))
        for i, layer in enumerate(layers, 1)
    )


def kinds(graph):
    return [type(node.layer) for node in graph.nodes]


def test_each_kind_and_its_names():
    graph = chain(Conv(), ReLU(), BatchNorm(), ReLU(0.1), Sum(), ReLU(), params={1: ("f", "b"),
                  3: ("g", "o", "m")})  # fmt: skip
    new = fuse(graph)
    assert kinds(new.graph) == [FusedConv, BatchNormReLU, SumReLU]
    assert [node.name for node in new.graph.nodes] == ["l2", "l4", "l6"]
    assert [node.outputs for node in new.graph.nodes] == [("v2",), ("v4",), ("v6",)]
    assert [node.params for node in new.graph.nodes] == [("f", "b"), ("g", "o", "m"), ()]
    assert [part.name for part in new.graph.nodes[0].layer.parts] == ["l1", "l2"]
    assert str(new).splitlines()[0] == "l2: one layer with 'l1'"
    assert [step.layer for step in new.report] == ["l2", "l4", "l6"]
    assert kinds(graph) == [Conv, ReLU, BatchNorm, ReLU, Sum, ReLU]


def test_what_is_left_alone_and_why():
    graph = build([
        Node("c", Conv(), ("x",), ("a",), ("f", "b")),
        Node("r1", ReLU(), ("a",), ("b",)),
        Node("side", Sigmoid(), ("a",), ("side",)),
        Node("c2", Conv(), ("b",), ("c",), ("f2", "b2")),
        Node("r2", ReLU(), ("c",), ("d",)),
        Node("r3", ReLU(), ("d",), ("e",)),
        Node("r0", ReLU(), ("x",), ("z",)),
    ])  # fmt: skip
    new = fuse(graph, keep={"c"})
    assert new.graph.nodes == graph.nodes
    said = dict(new.report)
    assert "'a' is read 2 times" in said["r1"]
    assert "'c' is kept" in said["r2"]
    assert "nothing fuses it with 'r2' (ReLU)" in said["r3"]
    assert "no layer writes 'x'" in said["r0"]


def test_a_residual_sum_is_part_of_the_convolution_in_test_mode_only():
    graph = build([
        Node("c1", Conv(pad=1), ("x",), ("a",), ("f", "b")),
        Node("c2", Conv(pad=1), ("x",), ("c",), ("f", "b")),
        Node("sum", Sum(), ("a", "c"), ("s",)),
        Node("relu", ReLU(), ("s",), ("y",)),
    ])  # fmt: skip
    assert kinds(fuse(graph).graph) == [Conv, Conv, SumReLU]
    new = fuse(graph, training=False).graph
    assert kinds(new) == [Conv, FusedConv]
    assert [part.name for part in new.nodes[1].layer.parts] == ["c2", "sum", "relu"]
    assert new.nodes[1].inputs == ("x", "a")


def test_folding_is_that_of_deploy_and_says_what_it_leaves():
    graph = build([
        Node("drop", Dropout(), ("x",), ("u",)),
        Node("c", Conv(has_bias=False), ("u",), ("a",), ("f",)),
        Node("n", BatchNorm(), ("a",), ("b",), ("g", "o", "m")),
        Node("t", ConvTranspose(upsample=2), ("b",), ("d",), ("tf", "tb")),
        Node("n2", BatchNorm(), ("d",), ("e",), ("g", "o", "m")),
        Node("r", ReLU(), ("e",), ("h",)),
        Node("n3", BatchNorm(), ("h",), ("y",), ("g", "o", "m")),
        Node("last", Dropout(), ("y",), ("z",)),
    ])  # fmt: skip
    values = values_of(graph, torch.float64)
    values |= {"f": randn((3, 3, 4, 4), 1), "tf": randn((2, 2, 4, 4), 2), "tb": None}
    new = in_test_mode(graph, values, keep={"z"})
    assert kinds(new.graph) == [Conv, ConvTranspose, ReLU, BatchNorm]
    assert "c_b" in new.values
    assert new.graph.outputs == ("z",)
    said = dict(new.report)
    assert said["n"] == "folded into 'c'"
    assert "not the output of a convolution" in said["n3"]
    x, ctx = randn((5, 6, 4, 2), 3), Context(training=False)
    got, wanted = (
        executor.forward(g, v, {"x": x}, ctx=ctx).values["z"]
        for g, v in ((new.graph, new.values), (graph, values))
    )
    assert_close(got, wanted, REORDERED)
    kept = in_test_mode(graph, values, keep={"x", "u", "a", "y", "z"})
    assert dict(kept.report)["n"] == "not folded: 'a' is kept"
    assert dict(kept.report)["last"] == "not removed: 'y' and 'z' are both kept"
    shared = build([*graph.nodes[:3], Node("c2", Conv(), ("x",), ("w",), ("f",))])
    assert "['f'] of 'c' are used elsewhere" in dict(in_test_mode(shared, values).report)["n"]
    nothing = in_test_mode(graph, {**values, "m": None})
    assert "['m'] have no value" in dict(nothing.report)["n"]


def test_layers_keep_their_order_and_so_the_masks_of_dropout():
    """Where layers after d1 are joined, it is nearer to the end than d2, which would run first."""
    graph = build([
        Node("d1", Dropout(), ("x",), ("a",)),
        Node("c", Conv(), ("a",), ("b",), ("f1", "none")),
        Node("r", ReLU(), ("b",), ("c",)),
        Node("n", BatchNorm(), ("c",), ("d",), ("g", "o", "m")),
        Node("r2", ReLU(), ("d",), ("e",)),
        Node("d2", Dropout(), ("x",), ("u",)),
        Node("s1", Sigmoid(), ("u",), ("v",)),
        Node("s2", Sigmoid(), ("v",), ("w",)),
        Node("s3", Sigmoid(), ("w",), ("y",)),
        Node("sum", Sum(), ("e", "y"), ("p",)),
    ])  # fmt: skip
    values = values_of(graph, torch.float64)
    new = fuse(graph).graph
    assert [node.name for node in new.nodes if node.name[0] == "d"] == ["d1", "d2"]
    assert [node.name for node in build(new.nodes).nodes if node.name[0] == "d"] == ["d2", "d1"]
    got, wanted = (evaluate(g, values, torch.float64, derivative=False) for g in (new, graph))
    assert_close(got.values["p"], wanted.values["p"], REORDERED)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [0, 1, 5])
@pytest.mark.parametrize("leak", [0.0, 0.5, None])
@pytest.mark.parametrize("has_other", [False, True])
@pytest.mark.parametrize(
    ("filters", "options"),
    [
        ((3, 2, 4, 6), {"pad": (1, 1, 0, 0), "stride": (2, 1)}),
        ((3, 2, 2, 6), {"pad": (0, 1, 1, 0), "dilate": (1, 2)}),
        ((6, 5, 4, 3), {}),
        ((1, 1, 4, 3), {}),
    ],
)
def test_a_convolution_with_what_follows_it(filters, options, has_other, leak, images, dtype):
    x, f, b = randn((6, 5, 4, images), 1), randn(filters, 2), randn(filters[3:], 3)
    x, f, b = (t.to(dtype) for t in (x, f, b))
    wanted = conv(x.double(), f.double(), b.double(), **options)
    other = randn(wanted.shape, 4).to(dtype) if has_other else None
    wanted = wanted if other is None else wanted + other.double()
    if leak is not None:
        wanted = torch.where(wanted > 0, wanted, leak * wanted)
    copies = [None if t is None else t.clone() for t in (x, f, b, other)]
    got = fused.conv_post(x, f, b, other, leak=leak, **options)
    assert_close(got, wanted, REFERENCE[dtype])
    for t, copy in zip((x, f, b, other), copies, strict=True):
        assert t is None or torch.equal(t, copy)


def test_the_kernels_of_onednn_are_reached(monkeypatch):
    """Where they are: float32 on this CPU. Otherwise every test here would compare with itself."""
    if not fused.has_onednn(torch.device("cpu"), torch.float32):
        pytest.skip("torch was built without oneDNN")
    reached = []
    for name in ("convolve", "multiply"):
        own = getattr(fused, name)
        monkeypatch.setattr(
            fused, name, lambda *a, own=own, name=name: (reached.append(name), own(*a))[1]
        )
    x = randn((6, 5, 4, 3)).float()
    fused.conv_post(x, randn((3, 3, 4, 2)).float(), leak=0.0)
    fused.conv_post(x, randn((6, 5, 4, 2)).float(), leak=0.0)
    fused.conv_post(x.double(), randn((3, 3, 4, 2)), leak=0.0)
    assert reached == ["convolve", "multiply"]
    assert not fused.has_onednn(torch.device("meta"), torch.float32)


def test_errors_name_the_argument():
    x = randn((6, 5, 4, 3))
    with pytest.raises(ValueError, match=r"other has shape \(1, 1, 2, 3\); wanted \(4, 3, 2, 3\)"):
        fused.conv_post(x, randn((3, 3, 4, 2)), None, randn((1, 1, 2, 3)))
    with pytest.raises(ValueError, match="f has 3 input channels"):
        fused.conv_post(x.float(), randn((3, 3, 3, 2)).float())


def test_sizes_work_and_receptive_fields():
    graph = build([
        Node("c1", Conv(pad=1, stride=2), ("x",), ("a",), ("f3", "b")),
        Node("r1", ReLU(), ("a",), ("b",)),
        Node("c2", Conv(pad=1), ("b",), ("c",), ("f3", "b")),
        Node("sum", Sum(), ("c", "b"), ("d",)),
        Node("n", BatchNorm(), ("d",), ("e",), ("g", "o", "m")),
        Node("r2", ReLU(), ("e",), ("h",)),
        Node("sum2", Sum(), ("h", "b"), ("i",)),
        Node("r3", ReLU(), ("i",), ("y",)),
    ])  # fmt: skip
    new = fuse(graph, training=False).graph
    assert kinds(new) == [FusedConv, FusedConv, BatchNormReLU, SumReLU]
    shapes = {p: tuple(v.shape) for p, v in values_of(graph, torch.float64).items()}
    work = []
    for g in (graph, new):
        sizes = variable_sizes(g, {"x": (9, 8, CHANNELS, 2)}, shapes)
        fields = receptive_fields(g, "x", shapes)
        operations = sum(
            n.layer.multiply_adds([sizes[v] for v in n.inputs], [shapes[p] for p in n.params])
            for n in g.nodes
        )
        work.append(({v: sizes[v] for v in "bdhy"}, {v: fields[v] for v in "bdhy"}, operations))
    assert work[0] == work[1]
    assert work[0][2] > 0


CHAIN = [Conv(size=(1, 1, 2, 3)), ReLU(), Dropout(), Conv(size=(1, 1, 3, 3)), ReLU(), SoftmaxLoss()]


@pytest.mark.parametrize("make", [residual, lambda: SimpleNN(CHAIN).to(torch.float64)])
def test_a_network_of_joined_layers(make):
    net = make()
    joined, (end, *_) = Joined(net), net.graph.outputs
    x = batch()["x"]
    inputs = {net.graph.inputs[0]: x, net.graph.inputs[1]: batch()["label"]}
    pushed, wanted_pushed = {}, {}
    for evaluator, to in ((joined, pushed), (net, wanted_pushed)):
        record = evaluator.eval(
            inputs, {end: 1}, conserve_memory=True, generator=torch.Generator().manual_seed(1),
            on_param=to.__setitem__,
        )  # fmt: skip
        assert record.values[end].ndim == 0
    assert list(pushed) == list(wanted_pushed)
    for p, der in wanted_pushed.items():
        assert_close(pushed[p], der, REWRITTEN[torch.float64])
    assert [step.layer for step in joined.report] == [
        node.name for node in net.graph.nodes if isinstance(node.layer, ReLU)
    ]
    assert joined.graph is net.graph


def test_joined_layers_show_what_is_asked_for():
    net = SimpleNN(CHAIN).to(torch.float64)
    joined, inputs = Joined(net), {"x0": batch()["x"], "label": batch()["label"]}
    assert "x1" in joined.eval(inputs, {"x6": 1}).values
    assert joined.report == ()
    values = joined.eval(inputs, {"x6": 1}, conserve_memory=True, precious=["x1"]).values
    assert "x1" in values
    assert [step.what for step in joined.report] == [
        "not fused: 'x1' is kept", f"one layer with {net.graph.nodes[3].name!r}"
    ]  # fmt: skip
    inner = {"x4": randn((1, 1, 3, 4)), "label": inputs["label"]}
    assert_close(
        joined.eval(inner, mode="test", conserve_memory=True).values["x6"],
        net.eval(inner, mode="test").values["x6"], REORDERED,
    )  # fmt: skip
    names = [node.name for node in net.graph.nodes]
    for options in ({"depth": 3}, {"recompute": names[1:2]}):
        record = joined.eval(inputs, {"x6": 1}, conserve_memory=True, **options)
        assert set(record.forward_time) == set(names)
    with pytest.raises(TypeError, match="net is a Narrow; wanted the network"):
        Joined(with_precision(net, "bf16"))
