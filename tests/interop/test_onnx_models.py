"""Networks that strangers published go to ONNX, and compute there what the original recorded."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.interop.onnx import load_onnx, ops, save_onnx, verify_onnx
from matconvnet.layout import as4d, nchw
from matconvnet.nets.registry import TYPES
from tests import models
from tests.helpers import assert_close
from tests.onnx_files import evaluate, run, to_nchw
from tests.tolerances import REFERENCE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

AGREEMENT = REFERENCE[torch.float32]
OWN_TYPES = {"ffdnet_gray_retrained", "mscnn_dehaze_coarse"}
RECORDED = {
    "charscnn_oldformat": {"x9": "L9"},
    "cifar_lenet_epoch20": {"x12": "L12"},
    "dcfnet_net7": {"x4": "L4_exact"},
    "dncnn_dagnn_epoch50": {"prediction": "prediction"},
    "dncnn_s25_bnorm": {"x48": "L48"},
    "ffdnet_gray_retrained": {"x32": "L32"},
    "landcover_now_epoch100": {"x7": "L7"},
    "lapsrn_x2": {"level1_output": "level1_output"},
    "mscnn_dehaze_coarse": {"x15": "L15_exact"},
    "plate_epoch50": {"x7": "L7"},
}
"""What the file puts out, and its name among the recorded arrays."""
DATA = {"dncnn_dagnn_epoch50": "input", "lapsrn_x2": "LR"}
"""The recorded input, where it is not x."""


@pytest.mark.parametrize("name", models.NETWORKS)
def test_a_network_computes_in_onnxruntime_what_the_original_did(name, tmp_path, monkeypatch):
    reference, path = models.reference(name), tmp_path / "net.onnx"
    if name in OWN_TYPES:
        register_own_types(monkeypatch, reference)
    net = mcn.load(models.path(name))
    x = reference[DATA.get(name, "x")]
    save_onnx(net, path)
    found = run(path, {net.input: to_nchw(x)})
    assert set(found) == set(RECORDED[name])
    ours = evaluate(net, {net.input: x})
    for variable, key in RECORDED[name].items():
        assert_close(found[variable], to_nchw(ours[variable]), AGREEMENT, variable)
        assert_close(found[variable], to_nchw(reference[key]), AGREEMENT, key)
    assert max(verify_onnx(net, path).values()) <= AGREEMENT


@pytest.mark.parametrize("name", [n for n in models.NETWORKS if n not in OWN_TYPES])
def test_a_network_comes_back_from_onnx(name, tmp_path):
    net, path = mcn.load(models.path(name)), tmp_path / "net.onnx"
    save_onnx(net, path)
    back = load_onnx(path)
    assert max(verify_onnx(back, path).values()) <= AGREEMENT
    (output,), x = RECORDED[name], models.reference(name)[DATA.get(name, "x")]
    want = evaluate(net, {net.input: x})[output]
    assert_close(evaluate(back, {back.input: x})[output], want, AGREEMENT)


@pytest.mark.parametrize("name", sorted(OWN_TYPES))
def test_types_that_nobody_registered_are_named(name, tmp_path):
    net = mcn.load(models.path(name))
    with pytest.raises(ValueError, match=r"no form of layers 'layer\d+' \((SubP|upsmpl)\)"):
        save_onnx(net, tmp_path / "net.onnx")


@dataclass(frozen=True)
class SubP(mcn.Layer):
    """FFDNet's: splits a map of one channel into four of half the size (0.5), or the inverse."""

    scale: float = 1

    def forward(self, inputs, params, ctx):
        (x,) = inputs
        if self.scale < 1:
            return (torch.cat([x[i::2, j::2] for j in range(2) for i in range(2)], 2),), None
        y = x.new_empty(2 * x.shape[0], 2 * x.shape[1], 1, x.shape[3])
        for k in range(4):
            y[k % 2 :: 2, k // 2 :: 2] = x[:, :, k : k + 1]
        return (y,), None

    def backward(self, call, der_outputs):
        raise NotImplementedError


def write_sub(g, at):
    """The same in ONNX, where columns run fastest."""
    (x,), turned = at.inputs, g.constant([0, 2, 1, 3])
    if at.layer.scale < 1:
        return g.op("Gather", g.op("SpaceToDepth", x, blocksize=2), turned, axis=1)
    return g.op("DepthToSpace", g.op("Gather", x, turned, axis=1), blocksize=2)


def enlarge(x):
    return x.repeat_interleave(2, 0).repeat_interleave(2, 1)


def write_enlarged(g, at):
    scales = g.constant([1.0, 1.0, 2.0, 2.0])
    return g.op(
        "Resize", at.inputs[0], "", scales, mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip


def combine(x, f, b):
    return ((x * f.to(x)).sum(2, keepdim=True) + b.to(x)).sigmoid()


def write_combined(g, at):
    f, b = (g.weight(n, nchw(as4d(p, n))) for n, p in zip(at.names, at.params, strict=True))
    products = g.op("ReduceSum", g.op("Mul", at.inputs[0], f), g.constant([1]), keepdims=1)
    return g.op("Sigmoid", g.op("Add", products, b))


def register_own_types(monkeypatch, reference):
    """The layers that the authors of two networks wrote for themselves."""
    monkeypatch.setattr(ops, "OPS", dict(ops.OPS))
    for name in ("SubP", "concat", "upsmpl", "chnLinComb"):
        monkeypatch.setitem(TYPES, name, None)  # restores what is there now
    sigma = float(np.ravel(reference.get("sigma", 0))[0])

    def append(x):
        return torch.cat((x, torch.full_like(x[:, :, :1], sigma)), 2)

    def write_appended(g, at):
        plane = g.op("Gather", at.inputs[0], g.constant([0]), axis=1)
        plane = g.op("Add", g.op("Mul", plane, g.constant(0.0)), g.constant(sigma))
        return g.op("Concat", at.inputs[0], plane, axis=1)

    for name, layer, emit in (
        ("SubP", SubP, write_sub),
        ("concat", append, write_appended),
        ("upsmpl", enlarge, write_enlarged),
        ("chnLinComb", combine, write_combined),
    ):
        mcn.register(name, layer)
        ops.register_onnx(layer, emit)
