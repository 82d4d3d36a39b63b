"""Networks that strangers published, and everything that the original recorded of them."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.nets.registry import TYPES, Unknown
from tests import models
from tests.helpers import assert_close

BAR = 1e-5  # of the largest number, as ../shared/models states
BATCH_STATISTICS = 2.2e-5  # of the original's single precision, "2e-5" there
APPROXIMATE = 5e-3  # the original's LRN on the CPU


@pytest.fixture
def registered():
    """Registers types for one test."""
    before = dict(TYPES)
    yield mcn.register
    TYPES.clear()
    TYPES.update(before)


def compare(values, reference, names):
    """Compare values by variable with recorded ones, by {name recorded: variable}."""
    assert names
    for key, variable in names.items():
        wanted = torch.from_numpy(np.ascontiguousarray(reference[key]))
        got = values[variable]
        assert_close(got.reshape(wanted.shape), wanted, BAR, key)


def layers(reference, suffix=""):
    """Names recorded of the outputs of layers: L3 is x3."""
    return {
        key: f"x{key.removeprefix('L').removesuffix(suffix)}"
        for key in reference
        if key.startswith("L") and key.endswith(suffix) and ("_" not in key or suffix)
    }


def with_softmax(net):
    """The chain with a softmax in the place of its loss."""
    entries = net.to_struct()["layers"]
    return mcn.SimpleNN([*entries[:-1], {"type": "softmax"}])


def test_charscnn():
    net, ref = mcn.load(models.path("charscnn_oldformat")), models.reference("charscnn_oldformat")
    compare(net.eval({"x0": ref["x"]}, mode="test").values, ref, layers(ref))


@pytest.mark.parametrize("name", ["plate_epoch50", "landcover_now_epoch100"])
def test_checkpoints(name):
    net, ref = mcn.load(models.path(name)), models.reference(name)
    assert {"state", "stats"} <= set(net.beside)
    compare(with_softmax(net).eval({"x0": ref["x"]}, mode="test").values, ref, layers(ref))


def test_cifar_forward_and_backward():
    net, ref = mcn.load(models.path("cifar_lenet_epoch20")), models.reference("cifar_lenet_epoch20")
    labels = torch.from_numpy(ref["class"] - 1).flatten()
    made = net.eval({"x0": ref["x"], "label": labels}, {"x13": 1})
    compare(made.values, ref, layers(ref))
    compare(made.ders, ref, {"dzdx": "x0", "dzdx_10": "x9"})
    weights = {key: f"l{key.removeprefix('dzdw_')}" for key in ref if key.startswith("dzdw")}
    compare(made.param_ders, ref, weights)


def test_dcfnet_with_the_exact_lrn():
    net, ref = mcn.load(models.path("dcfnet_net7")), models.reference("dcfnet_net7")
    values = net.eval({"x0": ref["x"]}, mode="test").values
    compare(values, ref, {"L1": "x1", "L3": "x3", "L4_exact": "x4"})
    assert_close(values["x4"], torch.from_numpy(ref["L4"]), APPROXIMATE)


def test_dncnn_forward():
    net, ref = mcn.load(models.path("dncnn_s25_bnorm")), models.reference("dncnn_s25_bnorm")
    compare(net.eval({"x0": ref["x"]}, mode="test").values, ref, layers(ref))


def test_dncnn_training_mode_in_double_precision():
    net, ref = mcn.load(models.path("dncnn_s25_bnorm")), models.reference("dncnn_s25_bnorm")
    net.to(torch.float64)
    x = torch.from_numpy(ref["train_x"]).double()
    made = net.eval({"x0": x}, {"x48": torch.from_numpy(ref["train_dzdy"]).double()})
    exact = {
        key: f"l{key.removeprefix('train_dzdw_').removesuffix('_double')}"
        for key in ref
        if key.startswith("train_dzdw") and key.endswith("_double")
    }
    compare(made.param_ders, ref, exact)
    compare(made.ders, ref, {"train_dzdx_double": "x0"})
    for key, variable in (("train_L4", "x4"), ("train_L48", "x48")):
        assert_close(made.values[variable], torch.from_numpy(ref[key]), BATCH_STATISTICS, key)


def test_dncnn_as_dagnn():
    net, ref = mcn.load(models.path("dncnn_dagnn_epoch50")), models.reference("dncnn_dagnn_epoch50")
    net.mode, net.conserve_memory = "test", False
    made = net.eval({"input": ref["input"]})
    compare(made.values, ref, {key: key for key in ref})
    with pytest.raises(ValueError, match="L2"):
        net.eval({"input": ref["input"], "label": ref["input"]})


def test_lapsrn_forward_and_backward():
    net, ref = mcn.load(models.path("lapsrn_x2")), models.reference("lapsrn_x2")
    net.mode, net.conserve_memory = "test", False
    made = net.eval({"LR": ref["LR"]}, {"level1_output": ref["dzdy"]})
    ders = {key: key.removeprefix("der_") for key in ref if key.startswith("der_")}
    compare(made.param_ders, ref, ders)
    compare(made.ders, ref, {"dzdx": "LR"})
    rest = set(ref) - set(ders) - {"dzdy", "dzdx"}
    compare(made.values, ref, {key: key for key in rest})


def test_the_unknown_loss_of_lapsrn_says_so_and_runs_once_registered(registered):
    path, ref = models.path("lapsrn_x2"), models.reference("lapsrn_x2")
    net = mcn.load(path)
    assert net.unknown == {"level1_L1_loss": "dagnn.vllab_dag_loss"}
    target = ref["level1_output"] + 0.5
    with pytest.raises(TypeError, match=r"register\('dagnn.vllab_dag_loss'"):
        net.eval({"LR": ref["LR"], "level1_HR": target})
    registered(
        "dagnn.vllab_dag_loss",
        (lambda x, y: (x - y).abs().sum(), lambda x, y, dzdy: (dzdy * (x - y).sign(), None)),
    )
    net = mcn.load(path)
    assert net.unknown == {}
    net.eval({"LR": ref["LR"], "level1_HR": target}, {"level1_L1_loss": 1})
    assert float(net.record.values["level1_L1_loss"]) == pytest.approx(0.5 * target.size, rel=1e-4)


def space_to_depth(x):
    """Four planes of half the size: (row, column) offsets (0,0) (1,0) (0,1) (1,1)."""
    return torch.cat([x[i::2, j::2] for j in range(2) for i in range(2)], 2)


def depth_to_space(x):
    """The inverse of `space_to_depth`."""
    h, w, c, n = x.shape
    y = x.new_empty(2 * h, 2 * w, c // 4, n)
    for k in range(4):
        y[k % 2 :: 2, k // 2 :: 2] = x[:, :, k * (c // 4) : (k + 1) * (c // 4)]
    return y


@dataclass(frozen=True)
class SubP(mcn.Layer):
    """FFDNet's: splits a map into four of half the size (scale 0.5), or the inverse (2)."""

    scale: float = 1

    def forward(self, inputs, params, ctx):
        return (space_to_depth(inputs[0]) if self.scale < 1 else depth_to_space(inputs[0]),), None

    def backward(self, call, der_outputs):
        inverse = depth_to_space if self.scale < 1 else space_to_depth
        return (inverse(der_outputs[0]),), ()


def test_ffdnet_runs_once_its_types_are_registered(registered):
    path, ref = models.path("ffdnet_gray_retrained"), models.reference("ffdnet_gray_retrained")
    net = mcn.load(path)
    assert net.unknown == {"layer1": "SubP", "layer2": "concat", "layer32": "SubP"}
    with pytest.raises(TypeError, match=r"register\('SubP'"):
        net.eval({"x0": ref["x"]}, mode="test")
    sigma = float(ref["sigma"].item())
    registered("SubP", SubP)
    registered("concat", lambda x: torch.cat((x, torch.full_like(x[:, :, :1], sigma)), 2))
    net = mcn.load(path)
    assert net.unknown == {}
    compare(net.eval({"x0": ref["x"]}, mode="test").values, ref, layers(ref))


def linear_combination(x, f, b):
    return ((x * f.to(x)).sum(2, keepdim=True) + b.to(x)).sigmoid()


def test_mscnn_runs_once_its_types_are_registered(registered):
    path, ref = models.path("mscnn_dehaze_coarse"), models.reference("mscnn_dehaze_coarse")
    unknown = mcn.load(path)
    assert set(unknown.unknown.values()) == {"upsmpl", "chnLinComb"}
    assert isinstance(unknown.layers[3].layer, Unknown)
    registered("upsmpl", lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 1))
    registered("chnLinComb", linear_combination)
    values = mcn.load(path).eval({"x0": ref["x"]}, mode="test").values
    exact = layers(ref, "_exact")
    compare(values, ref, exact)
    for key, variable in layers(ref).items():
        assert_close(values[variable], torch.from_numpy(ref[key]), APPROXIMATE, key)


def test_landcover_errors_on_its_own_database():
    net, imdb = (
        mcn.load(models.path("landcover_now_epoch100")),
        mcn.load(models.path("landcover_imdb")),
    )
    chain = with_softmax(net)
    x, label = imdb.images.data, imdb.images.label.ravel() - 1
    scores = chain.eval({"x0": x}, mode="test").values["x8"]
    wrong = scores.argmax(2).flatten().numpy() != label
    sets = imdb.images.set.ravel()
    errors = [wrong[sets == number].mean() for number in (1, 2, 3)]
    np.testing.assert_allclose(errors, [0.055, 0.02, 0.048889], atol=5e-7)
    assert net.beside["stats"].val[-1].top1err == pytest.approx(0.02)
