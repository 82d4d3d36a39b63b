"""Networks compiled for inference predict what they did before, from any size of input."""

import dataclasses

import numpy as np
import pytest
import torch

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.concat import Concat
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.softmax import Softmax
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.blocks.sum import Sum
from matconvnet.fast import inference, packing
from matconvnet.fast.fused import has_onednn
from matconvnet.fast.inference import compile_for_inference
from matconvnet.fast.native import missing
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.simplenn import SimpleNN
from tests.helpers import assert_close, randn
from tests.tolerances import REWRITTEN

TOLERANCE = REWRITTEN[torch.float32]
HAS_PACKING = has_onednn(torch.device("cpu"), torch.float32)


def classifier():
    """A residual block with normalisations, groups, a full layer, dropout; names and a size."""
    meta = {"inputSize": ["x", [8, 8, 3]], "classes": {"name": ["cat", "dog", "cow"]}}
    net = DagNN(meta)
    net.add_layer("c1", Conv(size=(3, 3, 3, 8), pad=1, has_bias=False), "x", "a", ["f1"])
    net.add_layer("n1", BatchNorm(num_channels=8), "a", "n", ["g", "o", "m"])
    net.add_layer("r1", ReLU(), "n", "b")
    net.add_layer("c2", Conv(size=(3, 3, 4, 8), pad=1), "b", "c", ["f2", "b2"])
    net.add_layer("n2", BatchNorm(num_channels=8), "c", "d", ["g2", "o2", "m2"])
    net.add_layer("sum", Sum(), ["d", "b"], "s")
    net.add_layer("r2", ReLU(0.1), "s", "t")
    net.add_layer("p", Pooling(2, stride=2, pad=(0, 1, 0, 1)), "t", "u")
    net.add_layer("drop", Dropout(), "u", "v")
    net.add_layer("full", Conv(size=(4, 4, 8, 6)), "v", "w", ["f3", "b3"])
    net.add_layer("r3", ReLU(), "w", "h")
    net.add_layer("last", Conv(size=(1, 1, 6, 3)), "h", "scores", ["f4", "b4"])
    net.add_layer("loss", Loss(), ["scores", "label"], "objective")
    net.add_layer("error", Loss("classerror"), ["scores", "label"], "error")
    net.init_params(0)
    for name, seed in {"m": 1, "m2": 2}.items():
        net.params[name].value = torch.stack(
            (randn((8,), seed), randn((8,), seed + 5).abs() + 0.5), 1
        ).float()
    return net


def chain():
    return SimpleNN(
        [
            Conv(size=(3, 3, 1, 8), pad=1), ReLU(), LRN(), Pooling(2, stride=2), Dropout(),
            Conv(size=(3, 3, 8, 4), stride=2), ReLU(), SoftmaxLoss(),
        ],
        {"inputSize": [12, 10, 1]},
    )  # fmt: skip


def branches():
    net = DagNN()
    net.add_layer("up", ConvTranspose(size=(2, 2, 4, 3), upsample=2), "x", "a", ["tf", "tb"])
    net.add_layer("n", BatchNorm(num_channels=4), "a", "b", ["g", "o", "m"])
    net.add_layer("twin", Conv(size=(1, 1, 4, 4)), "b", "c", ["f", "fb"])
    net.add_layer("twin2", Conv(size=(1, 1, 4, 4)), "c", "d", ["f", "fb"])
    net.add_layer("cat", Concat(), ["b", "d"], "e")
    net.add_layer("prob", Softmax(), "e", "y")
    net.init_params(0)
    net.params["m"].value[:, 1] = 2
    return net


def image(net, images=2, pixels=(8, 8, 3), seed=0):
    return {net.input: randn((*pixels, images), seed).float()}


def said(compiled):
    return dict(compiled.report)


@pytest.mark.parametrize("has_kernels", [True, False])
@pytest.mark.parametrize("images", [1, 2, 5])
@pytest.mark.parametrize("batch", [None, 1, 2])
@pytest.mark.parametrize(
    ("make", "pixels"), [(classifier, (8, 8, 3)), (chain, (12, 10, 1)), (branches, (3, 4, 3))]
)
def test_values_are_those_of_the_network(make, pixels, batch, images, has_kernels, monkeypatch):
    if not has_kernels:
        monkeypatch.setattr("matconvnet.fast.inference.missing", lambda: "no kernels today")
    net = make()
    before = {p: v.clone() for p, v in net.values().items()}
    inputs = image(net, images, pixels)
    wanted = net.eval(inputs, mode="test", conserve_memory=True).values[net.prediction]
    for size in (None, pixels):
        compiled = compile_for_inference(net, batch=batch, input_size=size)
        for _ in range(2):
            record = compiled.eval(inputs)
            assert_close(record.values[net.prediction], wanted, TOLERANCE)
            assert record.values.keys() == {net.input, net.prediction}
    assert all(torch.equal(net.values()[p], v) for p, v in before.items())


def test_other_sizes_than_were_told():
    net = classifier()
    compiled = compile_for_inference(net, batch=2)
    for pixels in ((8, 8, 3), (15, 11, 3), (8, 8, 3)):
        inputs = image(net, 3, pixels)
        wanted = net.eval(inputs, mode="test").values["scores"].clone()
        assert_close(compiled.eval(inputs).values["scores"], wanted, TOLERANCE)


@pytest.fixture
def _torch_alone(monkeypatch):
    monkeypatch.setattr("matconvnet.fast.inference.missing", lambda: "no kernels today")


@pytest.mark.usefixtures("_torch_alone")
def test_what_was_done_is_told():
    told = said(compile_for_inference(classifier(), batch=2))
    assert told["n1"] == "folded into 'c1'"
    assert told["n2"] == "folded into 'c2'"
    assert told["drop"] == "removed: it does nothing in test mode"
    assert told["r1"] == "one layer with 'c1'"
    assert told["sum"] == "one layer with 'c2'"
    assert told["r2"] == "one layer with 'sum'"
    assert told["r3"] == "one layer with 'full'"
    if HAS_PACKING:
        assert told[""] == "filters of 4 layers packed"
    text = str(compile_for_inference(branches()))
    assert "n: folded into 'up'" in text
    assert text.splitlines()[-1].startswith("all: filters of 0 layers packed")


@pytest.mark.usefixtures("_torch_alone")
@pytest.mark.skipif(not HAS_PACKING, reason="torch was built without oneDNN")
def test_packed_filters_have_no_derivative():
    net = classifier()
    compiled = compile_for_inference(net, batch=2)
    (layer,) = [n.layer for n in compiled.evaluator.graph.nodes if n.name == "r1"]
    assert isinstance(layer, packing.PackedConv)
    with pytest.raises(TypeError, match="PackedConv has no derivative"):
        layer.backward(None, ())


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
@pytest.mark.parametrize("make", [classifier, chain, branches])
def test_precisions(make, precision):
    net = make()
    pixels = {classifier: (8, 8, 3), chain: (12, 10, 1), branches: (3, 4, 3)}[make]
    inputs = image(net, 3, pixels)
    wanted = net.eval(inputs, mode="test").values[net.prediction].clone()
    got = compile_for_inference(net, precision=precision).eval(inputs).values[net.prediction]
    assert got.dtype == torch.float32
    tolerance = TOLERANCE if precision == "tf32" else REWRITTEN[torch.bfloat16]
    assert_close(got, wanted, tolerance)
    assert precision == "tf32" or not torch.equal(got, wanted)


def test_double_precision_stays():
    net = classifier().to(torch.float64)
    inputs = {"x": randn((8, 8, 3, 2))}
    wanted = net.eval(inputs, mode="test").values["scores"].clone()
    got = compile_for_inference(net).eval(inputs).values["scores"]
    assert_close(got, wanted, REWRITTEN[torch.float64])


def test_predictions():
    net = classifier()
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 3, 5)).astype(np.uint8)
    compiled = compile_for_inference(net)
    for batch_size in (1, 2, 32):
        wanted = net.predict(images, batch_size=batch_size)
        got = compiled.predict(images, batch_size=batch_size)
        assert_close(got.scores, wanted.scores, TOLERANCE)
        assert [g[0].name for g in got.top(1)] == [g[0].name for g in wanted.top(1)]
    assert_close(
        compiled.predict(images, scale=1 / 255).scores,
        net.predict(images, scale=1 / 255).scores,
        TOLERANCE,
    )


def test_what_computes_can_be_replaced():
    """By anything with an `eval` from inputs to outputs."""

    class Constant:
        def eval(self, inputs):
            return {"scores": torch.ones(1, 1, 3, inputs["x"].shape[3])}

    compiled = dataclasses.replace(compile_for_inference(classifier()), evaluator=Constant())
    images = np.zeros((8, 8, 3, 5), np.uint8)
    assert compiled.predict(images).scores.tolist() == [[1.0] * 5] * 3


def test_outputs_that_are_asked_for_are_not_hidden():
    net = classifier()
    net.vars["b"].precious = True
    inputs = image(net)
    wanted = net.eval(inputs, mode="test", precious=["a"]).values
    compiled = compile_for_inference(net)
    assert compiled.eval(inputs).values.keys() == {"x", "scores", "b"}
    assert_close(compiled.eval(inputs).values["b"], wanted["b"], TOLERANCE)
    compiled = compile_for_inference(net, outputs=["a"])
    assert_close(compiled.eval(inputs).values["a"], wanted["a"], TOLERANCE)
    assert said(compiled)["n1"] == "not folded: 'a' is kept"
    with pytest.raises(KeyError, match="outputs name \\['nothing'\\]"):
        compile_for_inference(net, outputs=["nothing"])


def test_arrays_and_maps_of_three_axes():
    net = classifier()
    compiled, x = compile_for_inference(net), image(net, 1)["x"]
    wanted = compiled.eval({"x": x}).values["scores"]
    for value in (x.numpy(), x[..., 0], x.double(), x.numpy()[..., 0].astype(np.float64)):
        assert torch.equal(compiled.eval({"x": value}).values["scores"], wanted)
    labels = {"x": x, "label": torch.tensor([1])}
    assert torch.equal(compiled.eval(labels).values["scores"], wanted)


def test_errors():
    net = classifier()
    compiled = compile_for_inference(net)
    with pytest.raises(KeyError, match=r"inputs lacks \['x'\]"):
        compiled.eval({})
    with pytest.raises(TypeError, match="x is str; wanted a tensor or a NumPy array"):
        compiled.eval({"x": "image.png"})
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        compile_for_inference(net, precision="fp8")
    with pytest.raises(ValueError, match="batch is 0"):
        compile_for_inference(net, batch=0)
    with pytest.raises(ValueError, match=r"input_size of 'x' is \(8, 8\); wanted \(H, W, C\)"):
        compile_for_inference(net, input_size=(8, 8))
    with pytest.raises(ValueError, match="no layers but losses"):
        compile_for_inference(SimpleNN([SoftmaxLoss()]))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpu(precision):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    net = classifier()
    compiled = compile_for_inference(net, precision=precision, device="cuda")
    for images in (1, 3, 1, 5, 2, 3):
        inputs = image(net, images, seed=images)
        wanted = net.eval(inputs, mode="test").values["scores"].clone()
        got = compiled.eval(inputs).values["scores"].cpu()
        assert_close(got, wanted, REWRITTEN[torch.bfloat16])
    evaluator = compiled.evaluator
    assert isinstance(evaluator, inference.Replaying)
    assert "recorded in mode 'test'" in evaluator.report[0].what


@pytest.mark.skipif(bool(missing()), reason="no kernels")
def test_what_is_evaluated_may_change_from_call_to_call(monkeypatch):
    net = classifier()
    compiled, looked_up = compile_for_inference(net), []
    find = compiled.evaluator.programs.find
    monkeypatch.setattr(
        compiled.evaluator.programs, "find", lambda *a: looked_up.append(1) or find(*a)
    )

    def check(given):
        want = net.eval(given, mode="test").values["scores"]
        got = compiled.eval(given).values["scores"]
        assert_close(got.double(), want.double(), TOLERANCE)
        return got

    first, other = image(net, 2, seed=1), image(net, 2, seed=2)
    scores = check(first)
    kept = scores.clone()
    check(other)  # at another address
    check(first)
    assert len(looked_up) == 1
    check({"x": first["x"].contiguous()})  # other strides
    assert len(looked_up) == 1
    assert torch.equal(scores, kept)  # it is the caller's
    check(image(net, 3))
    check(first)
    assert len(looked_up) == 3
    first["x"].mul_(2)
    check(first)
    assert len(looked_up) == 3


@pytest.mark.skipif(bool(missing()), reason="no kernels")
def test_threads_may_change_from_call_to_call():
    net, before = chain(), torch.get_num_threads()
    compiled, given = compile_for_inference(net), {"x0": randn((12, 10, 1, 4), 3).float()}
    want = net.eval(given, mode="test").values[compiled.outputs[0]]
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            got = compiled.eval(given).values[compiled.outputs[0]]
            assert_close(got.double(), want.double(), TOLERANCE)
            assert threads in {key[-1] for key in compiled.evaluator.programs.made}
    finally:
        torch.set_num_threads(before)
