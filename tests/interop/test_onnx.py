"""What is written to an ONNX file, and what is left out; names, sizes, meta data, errors."""

import json
import sys

import numpy as np
import pytest
import torch

from matconvnet.blocks import (
    LRN,
    AffineGrid,
    BatchNorm,
    BilinearSampler,
    Concat,
    Conv,
    Dropout,
    Loss,
    LpNorm,
    Pooling,
    ReLU,
    RoiPool,
    Scale,
    Softmax,
    SoftmaxLoss,
    Sum,
)
from matconvnet.errors import FormatError
from matconvnet.interop.onnx import ops, writing
from matconvnet.interop.onnx.verify import verify_onnx
from matconvnet.interop.onnx.writing import save_onnx
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.registry import Unknown
from matconvnet.nets.simplenn import SimpleNN
from tests.helpers import assert_close
from tests.onnx_files import evaluate, filters, maps, moments, operators, run_maps, to_nchw
from tests.tolerances import REFERENCE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOLERANCE = REFERENCE[torch.float32]


def chain(meta=None):
    """A small classifier with its loss."""
    layers = [
        Conv(size=(3, 4, 2, 8), pad=(1, 0, 2, 1), stride=2),
        ReLU(),
        LRN((5, 1, 0.1, 0.75)),
        Pooling(3, stride=2, pad=(0, 1, 0, 1), method="avg"),
        Conv(size=(1, 1, 4, 6)),
        (BatchNorm(), [filters(6), filters(6), moments(6)]),
        Dropout(),
        Conv(size=(2, 2, 6, 5)),
        Softmax(),
        Loss(),
    ]
    return SimpleNN(layers, meta)


def test_a_chain_is_written_without_its_loss(tmp_path):
    net, path = chain(), tmp_path / "net.onnx"
    save_onnx(net, path)
    (x,) = maps((23, 18, 2, 3))
    found = run_maps(path, {"x0": x})
    assert list(found) == ["x9"]
    assert_close(found["x9"], to_nchw(evaluate(net, {"x0": x})["x9"]), TOLERANCE)
    names = {value for node in onnx.load(str(path)).graph.node for value in node.output}
    assert {f"x{i}" for i in range(1, 10)} <= names


def test_a_double_network_is_written_in_single_precision(tmp_path):
    net = chain().to(torch.float64)
    save_onnx(net, tmp_path / "net.onnx")
    assert verify_onnx(net, tmp_path / "net.onnx")["x9"] <= TOLERANCE


@pytest.mark.parametrize("opset", [16, 17, 18, 20, 21])
def test_opsets(opset, tmp_path):
    net, path = DagNN(), tmp_path / "net.onnx"
    net.add_layer("grid", AffineGrid(5, 4), "a", "grid")
    net.add_layer("sample", BilinearSampler(), ("x", "grid"), "sampled")
    net.add_layer("norm", LpNorm(dims=(0, 1)), "sampled", "normed")
    net.add_layer("lrn", LRN((4, 1, 0.3, 0.75)), "normed", "local")
    net.add_layer("rois", RoiPool("avg", 2), ("local", "rois"), "y")
    save_onnx(net, path, opset=opset)
    assert verify_onnx(net, path)["y"] <= TOLERANCE
    assert onnx.load(str(path)).opset_import[0].version == opset


@pytest.mark.parametrize("opset", [15, 1000])
def test_an_opset_out_of_range(opset, tmp_path):
    with pytest.raises(ValueError, match=f"opset is {opset}; wanted 16 to"):
        save_onnx(chain(), tmp_path / "net.onnx", opset=opset)


def shape_of(value):
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims]


def test_sizes_are_free_but_for_the_channels(tmp_path):
    save_onnx(chain(), tmp_path / "net.onnx")
    graph = onnx.load(str(tmp_path / "net.onnx")).graph
    assert shape_of(graph.input[0]) == ["x0.N", 2, "x0.H", "x0.W"]
    assert shape_of(graph.output[0])[1] == 5


@pytest.mark.parametrize("sizes", [(23, 18, 2, None), {"x0": (23, 18, 2, None)}])
def test_sizes_that_are_given_are_fixed(sizes, tmp_path):
    save_onnx(chain(), tmp_path / "net.onnx", input_sizes=sizes)
    graph = onnx.load(str(tmp_path / "net.onnx")).graph
    assert shape_of(graph.input[0]) == ["x0.N", 2, 23, 18]
    assert shape_of(graph.output[0]) == ["", 5, 4, 3]
    assert verify_onnx(chain(), tmp_path / "net.onnx")["x9"] <= TOLERANCE


def test_sizes_of_a_variable_that_is_not_there(tmp_path):
    with pytest.raises(KeyError, match=r"input_sizes names \['x99'\]"):
        save_onnx(chain(), tmp_path / "net.onnx", input_sizes={"x99": (1, 1, 1, 1)})


def test_the_groups_of_the_first_layer_follow_from_meta(tmp_path):
    net = SimpleNN([Conv(size=(3, 3, 2, 6))], {"inputSize": [9, 9, 6]})
    save_onnx(net, tmp_path / "net.onnx")
    assert verify_onnx(net, tmp_path / "net.onnx")["x1"] <= TOLERANCE


def test_outputs_are_chosen_by_name(tmp_path):
    save_onnx(chain(), tmp_path / "net.onnx", outputs=["x4", "x2"])
    (x,) = maps((23, 18, 2, 3))
    found, want = run_maps(tmp_path / "net.onnx", {"x0": x}), evaluate(chain(), {"x0": x})
    assert list(found) == ["x4", "x2"]
    for name, y in found.items():
        assert_close(y, to_nchw(want[name]), TOLERANCE)
    with pytest.raises(KeyError, match=r"outputs name \['x99'\]; wanted some of \['x1'"):
        save_onnx(chain(), tmp_path / "net.onnx", outputs=["x99"])


def test_shared_parameters_and_values_read_twice(tmp_path):
    net = DagNN()
    net.add_layer("one", Conv(pad=1, size=(3, 3, 4, 4)), "x", "a", ("f", "b"))
    net.add_layer("two", Conv(pad=1, size=(3, 3, 4, 4)), "a", "c", ("f", "b"))
    net.add_layer("sum", Sum(), ("a", "c", "a"), "x1/Conv")
    net.add_layer("f", Concat(), ("x1/Conv", "x"), "b")
    net.init_params()
    save_onnx(net, tmp_path / "net.onnx")
    assert verify_onnx(net, tmp_path / "net.onnx")["b"] <= TOLERANCE
    names = [t.name for t in onnx.load(str(tmp_path / "net.onnx")).graph.initializer]
    assert names == ["f", "b_2"]


def test_a_parameter_that_two_kinds_of_layers_read(tmp_path):
    net = DagNN()
    net.add_layer("conv", Conv(), "x", "a", ("f", "b"))
    net.add_layer("scale", Scale(has_bias=False), "a", "c", "b")
    net.add_layer("norm", BatchNorm(), "c", "y", ("g", "b", "m"))
    net.params["f"].value, net.params["b"].value = filters(2, 2, 4, 5), filters(1, 1, 5)
    net.params["g"].value, net.params["m"].value = filters(5), moments(5)
    save_onnx(net, tmp_path / "net.onnx")
    assert verify_onnx(net, tmp_path / "net.onnx")["y"] <= TOLERANCE


def test_meta_data_are_kept_as_json(tmp_path):
    mean = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
    meta = {"normalization": {"averageImage": mean, "interpolation": "bilinear"}, "function": print}
    save_onnx(chain(meta), tmp_path / "net.onnx")
    model = onnx.load(str(tmp_path / "net.onnx"))
    props = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert props["normalization"]["interpolation"] == "bilinear"
    assert props["normalization"]["averageImage"]["values"] == [0, 1, 2]
    assert props["function"] is None


def test_losses_alone_are_nothing_to_write(tmp_path):
    with pytest.raises(ValueError, match="no layer to write"):
        save_onnx(SimpleNN([SoftmaxLoss()]), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_layer_without_a_form_is_named(tmp_path):
    net = DagNN()
    net.add_layer("odd", Unknown("dagnn.Odd"), "x", "y")
    net.add_layer("relu", ReLU(), "y", "z")
    with pytest.raises(
        ValueError, match=r"no form of layers 'odd' \(dagnn\.Odd\); .*register_onnx"
    ):
        save_onnx(net, tmp_path / "net.onnx")


def test_an_unknown_layer_that_judges_the_output_is_left_out(tmp_path):
    net = DagNN()
    net.add_layer("relu", ReLU(), "x", "y")
    net.add_layer("loss", Unknown("dagnn.some_loss"), ("y", "target"), "objective")
    save_onnx(net, tmp_path / "net.onnx")
    assert operators(tmp_path / "net.onnx") == ["Relu"]


def double(x):
    return 2 * x


def test_a_layer_of_ones_own_is_written_once_it_is_registered(tmp_path, monkeypatch):
    monkeypatch.setattr(ops, "OPS", dict(ops.OPS))
    net = DagNN()
    net.add_layer("twice", double, "x", "y")
    with pytest.raises(ValueError, match=r"'twice' \(double\)"):
        save_onnx(net, tmp_path / "net.onnx")
    ops.register_onnx(double, lambda g, at: g.op("Mul", at.inputs[0], g.constant(2.0)))
    save_onnx(net, tmp_path / "net.onnx")
    assert verify_onnx(net, tmp_path / "net.onnx")["y"] <= TOLERANCE


def test_an_error_names_the_layer(tmp_path):
    net = DagNN()
    net.add_layer("layer", BatchNorm(), "x", "y", ("g", "b"))
    net.params["g"].value = net.params["b"].value = filters(3)
    with pytest.raises(ValueError, match="without stored moments") as caught:
        save_onnx(net, tmp_path / "net.onnx")
    assert caught.value.__notes__ == ["in layer 'layer' (bnorm)"]


def test_large_weights_go_to_a_file_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "LIMIT", 1000)
    net, path = SimpleNN([Conv(size=(5, 4, 3, 20)), Conv(size=(1, 1, 20, 30))]), tmp_path / "n.onnx"
    save_onnx(net, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["n.onnx", "n.onnx.data"]
    assert (tmp_path / "n.onnx.data").stat().st_size == 8192 + 20 * 30 * 4
    assert verify_onnx(net, path)["x2"] <= TOLERANCE


def test_a_file_that_departs_is_told_by_the_first_layer_that_does(tmp_path):
    net, path = chain(), tmp_path / "net.onnx"
    save_onnx(net, path)
    net.params["l5_1"].value = net.params["l5_1"].value * 1.001
    with pytest.raises(FormatError, match=r"'x5', written by layer 'layer5', by 0\.001 of its"):
        verify_onnx(net, path)


def test_an_old_file_stays_where_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    save_onnx(chain(), path)
    before = path.read_bytes()
    monkeypatch.setattr(ops, "OPS", {**ops.OPS, ReLU: lambda g, at: g.op("Nonsense", *at.inputs)})
    with pytest.raises(onnx.checker.ValidationError):
        save_onnx(chain(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_named(package, tmp_path, monkeypatch):
    save_onnx(chain(), tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    use = save_onnx if package == "onnx" else verify_onnx
    with pytest.raises(ImportError, match=rf"package {package}: pip install 'matconvnet\[onnx\]'"):
        use(chain(), tmp_path / "net.onnx")


def test_parameters_without_a_value_are_named(tmp_path):
    net = DagNN()
    net.add_layer("conv", Conv(size=(1, 1, 2, 3)), "x", "y", ["f", "b"])
    with pytest.raises(ValueError, match="'f' of layer 'conv' has no value"):
        save_onnx(net, tmp_path / "net.onnx")
