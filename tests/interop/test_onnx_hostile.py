"""ONNX files that hold what we cannot compute, are damaged, or mean harm."""

import random

import numpy as np
import pytest
import torch

from matconvnet.blocks import Conv, Pooling, ReLU
from matconvnet.errors import FormatError
from matconvnet.interop.onnx import load_onnx, save_onnx, writing
from matconvnet.nets.simplenn import SimpleNN
from tests.helpers import assert_close, randn
from tests.onnx_files import PADS, F, X, array, write

onnx = pytest.importorskip("onnx")

REFUSED = (
    ([("Tanh", "x", "a"), ("Erf", "a", "b"), ("Tanh", "b", "y")], {}, r"Tanh \(2 times\); Erf$"),
    ([("Tanh", "x", "a"), ("Relu", "a", "b"), ("Clip", "x", "c"), ("Add", "b c", "y")], {},
     r"Tanh; Clip \['c'\]: it clips to None .. None"),
    ([("Clip", "x low high", "y")], {"low": np.float32(0), "high": np.float32(6)}, "0.0 .. 6.0"),
    ([("LeakyRelu", "x", "y", {"alpha": -0.5})], {}, "alpha is -0.5"),
    ([("Softmax", "x", "y")], {}, "along axis 3 of 4"),
    ([("ReduceMean", "x", "y", {"axes": [1]})], {}, r"along axes \[1\]|along axes \(1,\)"),
    ([("Conv", "x x", "y")], {}, "its filters are computed"),
    ([("Conv", "x f", "y")], {"f": array(6, 5, 1, 1)}, "read 5 channels; the map has 4"),
    ([("Conv", "x f", "y")], {"f": array(6, 4, 1)}, r"shape \(6, 4, 1\); wanted four axes"),
    ([("Conv", "x f", "y")], {"f": array(6, 4, 10, 1)}, "wanted at least one pixel"),
    ([("Conv", "x f", "y", {"pads": [-1, 0, 0, 0]})], {"f": array(6, 4, 1, 1)}, "none below 0"),
    ([("ConvTranspose", "x f", "y", {"dilations": [2, 2]})], {"f": array(4, 4, 2, 2)}, "dilated"),
    ([("ConvTranspose", "x f", "y")], {"f": array(5, 4, 2, 2)}, "5 filters; the map has 4"),
    ([("ConvTranspose", "x f", "y", {"output_padding": [9, 9], "strides": [10, 10]})],
     {"f": array(4, 4, 2, 2)}, "output_padding"),
    ([("MaxPool", "x", "y", {"kernel_shape": [2, 2], "dilations": [2, 2]})], {}, "dilated"),
    ([("MaxPool", "x", "y", {"kernel_shape": [2, 2], "pads": [2, 0, 0, 0]})], {}, "reach the win"),
    ([("MaxPool", "x", "a i", {"kernel_shape": [2, 2]}), ("Cast", "i", "y", {"to": 1})], {},
     "reads output 1 of MaxPool"),
    ([("Pad", "x p", "y", {"mode": "reflect"})], {"p": PADS["pads"]}, "reflect"),
    ([("Pad", "x p", "y")], {"p": -PADS["pads"]}, "none of them cut off"),
    ([("Pad", "x p", "y")], {"p": np.ones(8, int)}, "rows and columns"),
    ([("Pad", "x p c", "a"), ("Relu", "a", "y")], {"p": PADS["pads"], "c": np.float32(1)},
     "padded with 1.0"),
    ([("Reshape", "x s", "y")], {"s": np.array([2, 2, 2, -1])}, "wanted rows of numbers"),
    ([("Reshape", "x s", "y")], {"s": np.array([2, 2, 9, 14])}, "wanted rows of numbers"),
    ([("Flatten", "x", "y", {"axis": 2})], {}, "wanted axis 1"),
    ([("Flatten", "x", "a"), ("Relu", "x", "b"), ("Add", "a b", "y")], {}, "adds maps of sizes"),
    ([("GlobalMaxPool", "x", "a"), ("Add", "x a", "y")], {}, "adds maps of sizes"),
    ([("Flatten", "x", "a"), ("MatMul", "a w", "y")], {"w": array(251, 3)}, "reads 251 numbers"),
    ([("MatMul", "x w", "y")], {"w": array(7, 3)}, "wanted Flatten before it"),
    ([("Gemm", "w x", "y")], {"w": array(7, 7)}, "its weights are computed"),
    ([("Squeeze", "x a", "y")], {"a": np.array([2, 3])}, "wanted both of one pixel"),
    ([("Add", "x c", "y")], {"c": array(3, 1, 1)}, r"shape \(1, 3, 1, 1\) meets a map"),
    ([("Add", "x c", "y")], {"c": array(1, 1, 1, 1, 1)}, "wanted no more axes"),
    ([("BatchNormalization", "x g g g g", "y")], {"g": -np.ones(4, np.float32)}, "is negative"),
    ([("BatchNormalization", "x g g g g", "y")], {"g": np.ones(3, np.float32)}, "map 4 channels"),
    ([("Add", "c c", "y")], {"c": np.ones(3, np.float32)}, "output 'y', which is a constant"),
)  # fmt: skip


@pytest.mark.parametrize(("nodes", "weights", "match"), REFUSED)
def test_what_no_layer_computes_is_refused(nodes, weights, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=match):
        load_onnx(write(tmp_path / "net.onnx", nodes, X, weights).relative_to(tmp_path))


@pytest.mark.parametrize(("kind", "shape"), [(1, (2, 3, 4)), (1, ()), (7, (2, 4, 9, 7))])
def test_inputs_that_are_no_maps(kind, shape, tmp_path):
    path = write(tmp_path / "net.onnx", [("Identity", "x", "y")], {"x": shape})
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.elem_type = kind
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=r"input 'x': it (has|is no)"):
        load_onnx(path)


def test_an_operator_that_makes_nothing(tmp_path):
    path = write(tmp_path / "net.onnx", [("Relu", "x", "y"), ("MaxPool", "x", "z i")], X)
    model = onnx.load(str(path))
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("kernel_shape", [2, 2]))
    model.graph.node[1].output[0] = ""
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=r"it makes nothing|no valid ONNX model"):
        load_onnx(path)


def test_operators_of_others_are_refused(tmp_path):
    path = write(tmp_path / "net.onnx", [("Relu", "x", "y")], X)
    model = onnx.load(str(path))
    model.graph.node[0].domain = "com.somebody"
    model.opset_import.append(onnx.helper.make_opsetid("com.somebody", 1))
    onnx.save(model, str(path))
    with pytest.raises(FormatError, match=r"com\.somebody::Relu"):
        load_onnx(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x00" * 100, b"MATLAB 5.0"])
def test_what_is_no_onnx_file(content, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"no ONNX file|no valid ONNX model"):
        load_onnx(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_onnx(tmp_path / "net.onnx")


def beside(tmp_path, monkeypatch):
    """A file whose weights are in another one; their places can be changed."""
    monkeypatch.setattr(writing, "LIMIT", 0)
    path = tmp_path / "in" / "net.onnx"
    path.parent.mkdir()
    net = SimpleNN([(Conv(), [randn((3, 3, 4, 20), 0, torch.float32), None])])
    save_onnx(net, path)
    return net, path


def moved(path, **places):
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = places.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


def test_weights_in_other_files_are_read_if_asked_for(tmp_path, monkeypatch):
    net, path = beside(tmp_path, monkeypatch)
    with pytest.raises(FormatError, match="external_data=True"):
        load_onnx(path)
    back = load_onnx(path, external_data=True)
    assert_close(back.params["l1_1"].value, net.params["l1_1"].value, 0)


@pytest.mark.parametrize(
    "place",
    [
        {"location": "../secret"},
        {"location": "link"},
        {"location": ""},
        {"location": "."},
        {"location": "a\0b"},
        {"location": "x" * 5000},
        {"location": "absent"},
        {"offset": "-4"},
        {"offset": "4"},
        {"offset": "much"},
        {"length": "-1"},
        {"length": "99999999999999"},
        {"length": "4"},
    ],
    ids=str,
)
def test_weights_are_read_from_nowhere_else(place, tmp_path, monkeypatch):
    _, path = beside(tmp_path, monkeypatch)
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (path.parent / "link").symlink_to(tmp_path / "secret")
    moved(path, **place)
    with pytest.raises(FormatError, match=r"tensor 'l1_1'|no valid ONNX"):
        load_onnx(path, external_data=True)


def test_weights_at_an_absolute_place(tmp_path, monkeypatch):
    _, path = beside(tmp_path, monkeypatch)
    (tmp_path / "secret").write_bytes(bytes(10_000))
    moved(path, location=str(tmp_path / "secret"))
    with pytest.raises(FormatError, match="wanted a file in the folder of the model"):
        load_onnx(path, external_data=True)


@pytest.mark.parametrize("dims", [[6, 4, 3, 3], [6, 4, -3, -2], [2**40, 2**40], [10**12]])
def test_tensors_whose_shape_does_not_fit(dims, tmp_path):
    path = write(tmp_path / "net.onnx", [("Conv", "x f b", "y")], X, F)
    model = onnx.load(str(path))
    model.graph.initializer[0].dims[:] = dims
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FormatError, match=r"tensor 'f'|no valid ONNX"):
        load_onnx(path)


def test_damaged_files_are_errors_of_one_kind(tmp_path):
    path = tmp_path / "net.onnx"
    net = SimpleNN([Conv(size=(3, 3, 2, 4)), ReLU(), Pooling(2)], {"inputSize": [20, 20, 2]})
    save_onnx(net, path)
    whole, numbers = path.read_bytes(), random.Random(0)
    accepted = 0
    for _ in range(300):
        mutant = bytearray(whole)
        for _ in range(numbers.randint(1, 4)):
            mutant[numbers.randrange(len(mutant))] = numbers.randrange(256)
        if numbers.random() < 0.2:
            del mutant[numbers.randrange(len(mutant)) :]
        path.write_bytes(mutant)
        try:
            load_onnx(path)
            accepted += 1
        except FormatError:
            pass
    assert accepted > 0  # most bytes are weights
