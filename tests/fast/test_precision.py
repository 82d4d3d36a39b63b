"""Evaluation in another precision than that of the parameters."""

import pytest
import torch

import matconvnet as mcn
from matconvnet.fast.casts import FOLLOWING, NARROW, Cast, with_casts
from matconvnet.fast.loss_scale import FIRST, LARGEST, LossScale
from matconvnet.fast.precision import PRECISIONS, tf32, with_precision
from matconvnet.graph import Node, build
from matconvnet.layout import as4d
from matconvnet.nets.dagnn import DagNN
from tests.contract.test_layers import CASES, IDS
from tests.helpers import assert_close, randn
from tests.tolerances import HALF, REFERENCE

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def float32(t):
    return t.float() if isinstance(t, torch.Tensor) and t.is_floating_point() else t


def behind_convolutions(case):
    """A network of a layer whose maps are made by convolutions, which change nothing; its inputs.

    The numbers are such as all types have, so that no comparison turns out another way.
    """
    net, inputs = DagNN(), {}
    for k, x in enumerate(case.inputs):
        is_map = x.is_floating_point() and not (k and case.given_last)
        inputs[f"data{k}" if is_map else f"x{k}"] = x.bfloat16().float() if is_map else float32(x)
        if is_map:
            net.add_layer(f"conv{k}", mcn.Conv(), [f"data{k}"], [f"x{k}"], [f"f{k}"])
            net.params[f"f{k}"].value = torch.eye(as4d(x, "x").shape[2])[None, None]
    params = {f"p{k}": float32(p) for k, p in enumerate(case.params) if p is not None}
    read = [f"x{k}" for k in range(len(case.inputs))]
    net.add_layer("layer", case.layer, read, ["y"], list(params))
    for name, value in params.items():
        net.params[name].value = value
    return net, inputs


def evaluate(net, inputs, projection, **options):
    generator = torch.Generator().manual_seed(0)
    return net.eval(
        inputs, {"y": projection}, generator=generator, conserve_memory=False, **options
    )


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_layer_computes_what_it_does_in_float32(case, precision):
    net, inputs = behind_convolutions(case)
    y = net.eval(inputs, conserve_memory=False).values["y"]
    projection = randn(y.shape, 9, torch.float32)
    want = evaluate(net, inputs, projection)
    got = evaluate(with_precision(net, precision), inputs, projection)
    is_low = isinstance(case.layer, (*NARROW, *FOLLOWING)) and not isinstance(case.layer, mcn.Crop)
    kind = LOW[precision] if is_low else torch.float32
    assert got.values["y"].dtype == kind
    assert_close(got.values["y"], want.values["y"], HALF[precision])
    assert got.param_ders.keys() == want.param_ders.keys()
    for name, der in want.param_ders.items():
        assert got.param_ders[name].dtype == torch.float32
        assert_close(got.param_ders[name], der, HALF[precision], name)
    for name in inputs:
        if name.startswith("data") and name in want.ders:
            assert got.ders[name].dtype == torch.float32
            assert_close(got.ders[name], want.ders[name], HALF[precision], name)
    assert got.values.keys() == want.values.keys()
    assert got.forward_time.keys() == want.forward_time.keys()
    assert got.backward_time.keys() == want.backward_time.keys()


def chain(dtype=torch.float32):
    """Two convolutions with a bnorm and a ReLU in between; images 8 x 7 x 3 x 4, labels."""
    layers = [
        (mcn.Conv(pad=1), [0.3 * randn((3, 3, 3, 6), 1, dtype), randn((6,), 2, dtype)]),
        (mcn.BatchNorm(), [torch.ones(6, dtype=dtype), randn((6,), 3, dtype),
                           torch.ones(6, 2, dtype=dtype)]),
        mcn.ReLU(),
        (mcn.Conv(), [0.1 * randn((8, 7, 6, 5), 4, dtype), None]),
        mcn.SoftmaxLoss(),
    ]  # fmt: skip
    inputs = {"x0": randn((8, 7, 3, 4), 5, dtype), "label": torch.tensor([0, 4, 2, 1])}
    return mcn.SimpleNN(layers), inputs


def names_of(graph):
    return [node.name for node in graph.nodes]


@pytest.mark.parametrize("precision", LOW)
def test_parameters_in_float64_get_derivatives_in_float64(precision):
    net, inputs = chain(torch.float64)
    want = net.eval(inputs, {net.output: 1.0})
    got = with_precision(net, precision).eval(inputs, {net.output: 1.0})
    assert got.values[net.output].dtype == torch.float32
    assert got.ders["x0"].dtype == torch.float64
    for name, der in want.param_ders.items():
        assert got.param_ders[name].dtype == torch.float64
        if name != "l1_2":  # a bias before a bnorm: what is left of it is noise
            assert_close(got.param_ders[name], der, HALF[precision], name)


def test_only_the_border_of_half_types_has_casts():
    net, _ = chain()
    graph = with_precision(net, "bf16").graph
    assert [node.name for node in graph.nodes if isinstance(node.layer, Cast)] == [
        "x0 as bfloat16", "x4 as float32", "label as float32",
    ]  # fmt: skip


def test_two_losses_share_a_cast():
    graph = build([
        Node("conv", mcn.Conv(), ("x",), ("y",), ("f", "b")),
        Node("objective", mcn.Loss(), ("y", "c"), ("z",)),
        Node("error", mcn.Loss("classerror"), ("y", "c"), ("e",)),
    ])  # fmt: skip
    casts = with_casts(graph, torch.bfloat16)
    assert names_of(casts.graph).count("y as float32") == 1
    assert casts.graph.readers["y as float32"] == 2


def test_layers_that_share_a_parameter_with_an_exact_one_are_exact():
    graph = build([
        Node("first", mcn.Conv(), ("x",), ("y",), ("f", "b")),
        Node("second", mcn.Conv(), ("y",), ("z",), ("g", "b")),
        Node("own", mcn.Scale(), ("w", "a"), ("v",), ("g",)),
    ])  # fmt: skip
    casts = with_casts(graph, torch.bfloat16)
    assert casts.params == dict.fromkeys(("f", "b", "g"), torch.float32)
    assert not any(node.layer == Cast(torch.bfloat16) for node in casts.graph.nodes)


@pytest.mark.parametrize("depth", [1, 2, 4, 5, 9, None])
def test_depth_counts_the_layers_of_the_network(depth):
    net, inputs = chain()
    want, got = (
        n.eval(inputs, {net.output: 1.0}, depth=depth) for n in (net, with_precision(net, "bf16"))
    )
    assert got.param_ders.keys() == want.param_ders.keys()
    assert got.backward_time.keys() == want.backward_time.keys()


def test_labels_and_targets_keep_their_digits():
    """257 is no number of bfloat16; a loss reads it after a crop."""
    net = DagNN()
    net.add_layer("crop", mcn.Crop((0, 0)), ["c", "c"], ["label"], [])
    net.add_layer("conv", mcn.Conv(has_bias=False), ["x"], ["y"], ["f"])
    net.add_layer("loss", mcn.Loss(), ["y", "label"], ["z"], [])
    net.params["f"].value = torch.eye(300)[None, None]
    x = torch.zeros(1, 1, 300, 1)
    x[0, 0, 257] = 100.0
    inputs = {"x": x, "c": torch.full((1, 1, 1, 1), 257.0)}
    assert with_precision(net, "bf16").eval(inputs).values["z"] == 0


@pytest.mark.parametrize("precision", LOW)
def test_sub_batches_are_added_in_the_type_of_the_masters(precision):
    net, inputs = chain()
    view = with_precision(net, precision, LossScale() if precision == "fp16" else None)
    one = view.eval(inputs, {net.output: 1 / 64})
    got, record = {}, None
    for k in range(65):  # a half type has no 65/64 of most numbers
        record = view.eval(
            inputs, {net.output: 1 / 64}, record=record, accumulate=record is not None,
            on_param=got.__setitem__ if k == 64 else None,
        )  # fmt: skip
    for name, der in one.param_ders.items():
        assert_close(got[name], 65 * der, REFERENCE[torch.float32], name)


def test_the_scale_saves_what_float16_would_lose():
    net, inputs = chain()
    weight = 2.0**-22
    want = net.eval(inputs, {net.output: weight})
    scaled, lost = (
        with_precision(net, "fp16", scale).eval(inputs, {net.output: weight})
        for scale in (LossScale(), None)
    )
    der = want.param_ders["l4_1"]
    assert (scaled.param_ders["l4_1"] - der).norm() < HALF["fp16"] * der.norm()
    assert (lost.param_ders["l4_1"] - der).norm() > 10 * HALF["fp16"] * der.norm()
    assert scaled.ders["x0"].norm() == pytest.approx(float(want.ders["x0"].norm()), rel=0.05)
    moments = [r.param_ders["l2_3"] for r in (scaled, want)]
    assert_close(*moments, HALF["fp16"])  # no derivative, and so not scaled


def test_copies_follow_the_masters():
    net, inputs = chain()
    view = with_precision(net, "bf16")
    before = view.eval(inputs).values[net.output]
    first = view.values()["l1_1"]
    assert first is view.values()["l1_1"]  # not converted again
    net.params["l1_1"].value.mul_(2)
    assert torch.equal(view.values()["l1_1"], net.params["l1_1"].value.bfloat16())
    net.params["l1_1"].value = torch.zeros(3, 3, 3, 6)
    assert not view.values()["l1_1"].any()
    assert view.eval(inputs).values[net.output] != before


def test_derivatives_are_written_over_those_of_the_batch_before():
    net, inputs = chain()
    view = with_precision(net, "bf16")
    old = view.eval(inputs, {net.output: 1.0}).param_ders
    kept = {name: der.clone() for name, der in old.items()}
    new = view.eval(inputs, {net.output: 2.0}, out=old).param_ders
    assert new["l4_1"] is old["l4_1"]
    assert_close(new["l4_1"], 2 * kept["l4_1"], REFERENCE[torch.float32])


def test_what_is_kept_in_memory_is_in_the_half_type():
    net, inputs = chain()
    record = with_precision(net, "bf16").eval(inputs, {net.output: 1.0}, conserve_memory=False)
    maps = {v: x.dtype for v, x in record.values.items()}
    assert {v for v, dtype in maps.items() if dtype == torch.bfloat16} == {"x1", "x2", "x3", "x4"}
    conserved = with_precision(net, "bf16").eval(inputs, {net.output: 1.0}, conserve_memory=True)
    assert conserved.values.keys() == {"x0", "label", "x5"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_predictions_are_float32(precision):
    net, _ = chain()
    images = randn((8, 7, 3, 3), 6, torch.float32).numpy()
    want = net.predict(images).scores
    got = with_precision(net, precision).predict(images).scores
    assert got.dtype == torch.float32
    assert_close(got, want, HALF.get(precision, REFERENCE[torch.float32]))


def test_a_dagnn_shows_its_last_record():
    chain_net, inputs = chain()
    net = DagNN.from_simplenn(chain_net)
    names = dict(zip(net.graph.inputs, inputs.values(), strict=True))
    record = with_precision(net, "bf16").eval(names)
    assert net.record is record


def test_tf32_is_set_for_a_while():
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision
    with tf32():
        assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", "tf32")
    assert (matmul.fp32_precision, conv.fp32_precision) == before


def test_fp32_is_the_network_itself_and_tf32_the_same_on_a_cpu():
    net, inputs = chain()
    assert with_precision(net, "fp32") is net
    want = net.eval(inputs).values[net.output]
    assert torch.equal(with_precision(net, "tf32").eval(inputs).values[net.output], want)


def test_wrong_names_are_refused():
    with pytest.raises(ValueError, match="'float16'; wanted one of fp32, tf32, bf16, fp16"):
        with_precision(chain()[0], "float16")


def test_the_scale_is_halved_at_once_and_doubled_in_the_long_run():
    scale = LossScale()
    for _ in range(1999):
        scale.note(True)
    assert scale.state() == {"value": FIRST, "good": 1999}
    again = LossScale()
    again.restore(scale.state())
    again.note(True)
    assert again.state() == {"value": 2 * FIRST, "good": 0}
    again.note(True)
    again.note(False)
    assert again.state() == {"value": FIRST, "good": 0}
    assert not again.is_spent
    for _ in range(33):
        again.note(False)
    assert again.is_spent
    for _ in range(2000 * 60):
        scale.note(True)
    assert scale.value == LARGEST
