"""Every layer in ONNX: checked by onnx, and run by onnxruntime against our own evaluation."""

from typing import Any, NamedTuple

import pytest
import torch

from matconvnet.blocks import (
    LAYERS,
    LRN,
    AffineGrid,
    BatchNorm,
    BilinearSampler,
    Concat,
    Conv,
    ConvTranspose,
    Crop,
    Dropout,
    LpNorm,
    NormOffset,
    PDist,
    Pooling,
    ReLU,
    RoiPool,
    Scale,
    Sigmoid,
    Softmax,
    SpNorm,
    Sum,
    UniformGrid,
)
from matconvnet.interop.onnx import ops
from matconvnet.interop.onnx.verify import verify_onnx
from matconvnet.interop.onnx.writing import save_onnx
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.simplenn import SimpleNN
from tests.helpers import assert_close, randn
from tests.onnx_files import evaluate, filters, maps, moments, operators, run_maps, to_nchw
from tests.tolerances import REFERENCE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOLERANCE = REFERENCE[torch.float32]


def network(layer, inputs, params=()):
    """A DagNN of one layer: in0, in1, ... -> y, with parameters p0, p1, ..."""
    net = DagNN()
    names = [f"p{i}" for i in range(len(params))]
    net.add_layer("layer", layer, [f"in{i}" for i in range(len(inputs))], "y", names)
    for name, value in zip(names, params, strict=True):
        net.params[name].value = value
    return net


class Case(NamedTuple):
    name: str
    layer: Any
    inputs: Any
    params: Any = ()


def roi_case(name, **options):
    rois = torch.tensor(
        [
            [0, 1, 1, 0, 7, -3, 1],
            [1.5, -4, 0, 6.49, 2, 40, 2],
            [0.5, 0.25, 1, 7, 8, 3, 9],
            [7.5, 9, 0, 2, 5.5, 50, 2.49],
            [9.2, 20, 1, 8, 8, 5, 9],
        ]
    )
    return Case(f"roipool {name}".strip(), RoiPool(**options), [*maps((12, 9, 3, 2)), rois])


def sampler_case(name, size, grid_size):
    grid = 1.4 * randn((2, *grid_size), 8, torch.float32)
    grid[:, 0, 0, 0] = torch.tensor([float("nan"), 0.3])
    grid[:, 0, 1, 0] = torch.tensor([float("inf"), -0.3])
    grid[:, 1, 0, 0] = torch.tensor([1.0, -1.0])
    return Case(f"sampler {name}".strip(), BilinearSampler(), [*maps(size), grid])


G = filters(6)
CASES = (
    Case("conv", Conv(), maps((7, 9, 4, 2)), [filters(3, 2, 4, 5), filters(5)]),
    Case(
        "conv pads stride dilation",
        Conv(pad=(2, 0, 1, 4), stride=(2, 3), dilate=(1, 2)),
        maps((11, 14, 4, 2)),
        [filters(3, 2, 4, 5), filters(5, 1)],
    ),
    Case("conv groups", Conv(pad=1), maps((7, 9, 6, 2)), [filters(3, 3, 2, 9), filters(1, 9)]),
    Case("conv without bias", Conv(), maps((7, 9, 4, 2)), [filters(3, 2, 4, 5)]),
    Case("conv of one filter", Conv(), maps((7, 9, 4, 1)), [filters(3, 3, 4), filters(1)]),
    Case("conv of two axes", Conv(pad=(0, 1, 0, 0)), maps((7, 9, 1, 2)), [filters(3, 2)]),
    Case("conv covering the map", Conv(), maps((5, 3, 4, 2)), [filters(5, 3, 4, 7), filters(7)]),
    Case(
        "convt",
        ConvTranspose(upsample=(2, 3), crop=(1, 0, 2, 1)),
        maps((5, 4, 3, 2)),
        [filters(3, 4, 5, 3), filters(5)],
    ),
    Case(
        "convt crops beyond the filter",
        ConvTranspose(crop=(3, 0, 1, 4)),
        maps((8, 9, 3, 2)),
        [filters(3, 3, 2, 3)],
    ),
    Case(
        "convt groups",
        ConvTranspose(upsample=2, num_groups=3),
        maps((4, 5, 6, 2)),
        [filters(2, 3, 2, 6), filters(6)],
    ),
    Case("convt of one channel", ConvTranspose(upsample=2), maps((4, 5, 1, 2)), [filters(4, 4)]),
    *(
        Case(f"pool {method} {pad}", Pooling(size, stride=stride, pad=pad, method=method), x)
        for method, x in (
            ("max", maps((11, 8, 3, 2), offset=-5.0)),
            ("avg", maps((11, 8, 3, 2), offset=5.0)),
        )
        for size, stride, pad in (
            (3, 2, (0, 1, 0, 1)),
            ((3, 4), (2, 3), (2, 2, 3, 0)),
            ((5, 2), 1, (4, 4, 1, 1)),
            (2, 3, (1, 0, 0, 1)),
            ((11, 8), 1, 0),
        )
    ),
    Case("relu", ReLU(), maps((5, 6, 3, 2))),
    Case("relu with a leak", ReLU(leak=0.3), maps((5, 6, 3, 2))),
    Case("sigmoid", Sigmoid(), maps((5, 6, 3, 2))),
    Case("softmax", Softmax(), maps((5, 6, 3, 2))),
    Case("dropout", Dropout(rate=0.4), maps((5, 6, 3, 2))),
    *(
        Case(f"lrn {param}", LRN(param), maps((5, 6, 7, 2)))
        for param in (
            (5, 1.5, 0.7, 0.75),
            (1, 2, 0.7, 0.6),
            (4, 1.5, 0.7, 0.75),
            (2, 1, 0.5, 0.5),
            (11, 1, 0.8, 0.75),
            (16, 1, 0.8, 0.75),
        )
    ),
    Case("lrn of zeros", LRN((3, 0, 1, 0.75)), [torch.eye(5, 6)[None, ..., None].sub(0.5).relu()]),
    *(
        Case(f"lpnorm {dims}", LpNorm(exponent=p, epsilon=0.5, dims=dims), maps((5, 6, 3, 2)))
        for p, dims in ((2, (2,)), (4, (0, 1)), (2, 3), (2, (0, 2)))
    ),
    Case("lpnorm of an odd power", LpNorm(exponent=3), [maps((5, 6, 3, 2))[0].abs()]),
    Case("spnorm", SpNorm((3, 4, 1.3, 0.6)), maps((5, 6, 3, 2))),
    Case("noffset", NormOffset((0.7, 0.4)), [*maps((5, 6, 3, 2))]),
    Case("noffset of zeros", NormOffset((0.7, 0.1)), [torch.zeros(3, 4, 5, 1)]),
    Case("bnorm", BatchNorm(1e-3), maps((5, 6, 6, 2)), [G, G + 1, moments(6)]),
    Case(
        "bnorm of small sigma",
        BatchNorm(1e-2),
        maps((5, 6, 6, 2)),
        [G, G + 1, moments(6, 0.0) * torch.tensor([1.0, 0.1])],
    ),
    *(
        Case(f"concat {dim}", Concat(dim), maps(*sizes))
        for dim, sizes in (
            (0, ((3, 4, 5, 2), (2, 4, 5, 2))),
            (1, ((3, 4, 5, 2), (3, 2, 5, 2))),
            (2, ((3, 4, 5, 2), (3, 4, 1, 2), (3, 4, 2, 2))),
            (3, ((3, 4, 5, 2), (3, 4, 5, 1))),
        )
    ),
    Case("sum", Sum(), maps((3, 4, 5, 2), (3, 4, 5, 2), (3, 4, 5, 2))),
    Case("scale", Scale(), maps((3, 4, 5, 2)), [filters(1, 1, 5), filters(1, 1, 5)]),
    Case("scale by row", Scale(has_bias=False), maps((3, 4, 5, 2)), [filters(3)]),
    Case("scale by inputs", Scale(), maps((3, 4, 5, 2), (1, 1, 5, 2)), [filters(1, 4, 1, 1)]),
    Case("crop", Crop((1, 2)), maps((9, 8, 3, 2), (5, 4, 1, 2))),
    Case("crop less than asked for", Crop((7, 1)), maps((9, 8, 3, 2), (5, 8, 1, 2))),
    sampler_case("", (6, 9, 3, 2), (5, 4, 2)),
    sampler_case("of several grids", (6, 9, 3, 2), (5, 4, 6)),
    sampler_case("of a row", (1, 9, 3, 2), (5, 4, 2)),
    sampler_case("of a pixel", (1, 1, 3, 2), (5, 4, 2)),
    Case("affine grid", AffineGrid(4, 7), maps((1, 1, 6, 3))),
    Case("affine grid of a row", AffineGrid(1, 7), maps((1, 1, 6, 3))),
    Case("uniform grid", UniformGrid(5, 3), maps((1, 1, 3, 2))),
    *(
        roi_case(f"{method} {kind}", method=method, subdivisions=(3, 2), transform=t, flatten=flat)
        for method in ("max", "avg")
        for kind, t, flat in (
            ("", 1, False),
            ("flat", (1.3, 0.6), True),
            ("turned", ((0.5, 0.25, 0.5), (-0.5, 1, 7)), False),
        )
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnxruntime_computes_what_the_layer_does(case, tmp_path):
    net, path = network(case.layer, case.inputs, case.params), tmp_path / "net.onnx"
    inputs = {f"in{i}": x for i, x in enumerate(case.inputs)}
    want = evaluate(net, inputs)["y"]
    save_onnx(net, path, input_sizes={"in0": (None, None, case.inputs[0].shape[2], None)})
    assert_close(run_maps(path, inputs)["y"], to_nchw(want), TOLERANCE)
    assert verify_onnx(net, path, inputs=inputs)["y"] <= TOLERANCE


def test_every_layer_but_losses_has_a_form_and_a_case():
    tested = {type(case.layer) for case in CASES} | {PDist}
    assert tested == {layer for layer in LAYERS if not layer.is_loss or layer is PDist}
    assert tested == set(ops.OPS)


@pytest.mark.parametrize(
    "layer",
    [
        PDist(2),
        PDist(1, no_root=True),
        PDist(3, instance_weights=0.7),
        PDist(2, instance_weights=torch.linspace(0.1, 2, 30).reshape(5, 6)),
        PDist(2, aggregate=True),
    ],
    ids=("square", "absolute", "weight", "weights", "sum"),
)
@pytest.mark.parametrize("is_broadcast", [False, True])
def test_a_distance_between_two_predictions_is_written(layer, is_broadcast, tmp_path):
    net = DagNN()
    net.add_layer("one", ReLU(leak=0.5), "a", "x")
    net.add_layer("two", ReLU(leak=0.5), "b", "x0")
    net.add_layer("distance", layer, ("x", "x0"), "y")
    sizes = ((5, 6, 3, 2), (1, 1, 3, 2) if is_broadcast else (5, 6, 3, 2))
    inputs = dict(zip("ab", maps(*sizes), strict=True))
    save_onnx(net, tmp_path / "net.onnx")
    want = evaluate(net, inputs)["y"]
    want = want.numpy() if layer.aggregate else to_nchw(want)
    assert_close(run_maps(tmp_path / "net.onnx", inputs)["y"], want, TOLERANCE)


def test_a_distance_to_a_target_from_outside_is_left_out(tmp_path):
    net = DagNN()
    net.add_layer("one", ReLU(), "a", "x")
    net.add_layer("distance", PDist(2), ("x", "target"), "y")
    save_onnx(net, tmp_path / "net.onnx")
    assert operators(tmp_path / "net.onnx") == ["Relu"]


@pytest.mark.parametrize(
    ("param", "kinds"),
    [((5, 1, 0.1, 0.75), ["LRN"]), ((1, 2, 1, 1), ["LRN"])],
)
def test_lrn_is_the_operator_of_this_name_where_runtimes_have_it(param, kinds, tmp_path):
    save_onnx(SimpleNN([LRN(param)]), tmp_path / "net.onnx")
    assert operators(tmp_path / "net.onnx") == kinds


def test_bnorm_is_one_operator_unless_its_variance_would_be_negative(tmp_path):
    for case in CASES:
        if case.name.startswith("bnorm"):
            save_onnx(network(*case[1:]), tmp_path / f"{case.name}.onnx")
    assert operators(tmp_path / "bnorm.onnx") == ["BatchNormalization"]
    assert operators(tmp_path / "bnorm of small sigma.onnx") == ["Sub", "Mul", "Add"]
