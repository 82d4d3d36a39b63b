"""`matconvnet show`: networks of every kind, and databases."""

import json
import os
import stat

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.cli.listing import described, flat, plain
from matconvnet.interop.mat import write_mat
from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray
from tests import models
from tests.cli.common import failure, run


def shown(*args):
    result = run("show", *args)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_network_of_the_zoo():
    printed = shown("lenet", "--batch", 7)
    assert "softmxl" in printed
    assert "(for batch size 7)" in printed
    assert "meta.trainOpts.learningRate: 0.001" in printed


def test_meta_data_of_a_file(tmp_path):
    net = mcn.SimpleNN([mcn.ReLU()])
    net.meta["normalization"] = {"averageImage": torch.zeros(28, 28, 1)}
    mcn.save(net, tmp_path / "net.safetensors")
    printed = shown(tmp_path / "net.safetensors")
    assert "meta.normalization.averageImage: float32 array of 28 x 28 x 1" in printed


def test_as_json():
    content = json.loads(run("show", "alexnet", "--json", "--input-size", "227x227x3").stdout)
    assert content["kind"] == "SimpleNN"
    assert content["num_params"] == 60_965_224
    assert content["input_size"] == [227, 227, 3, 1]
    assert [row["size"][0] for row in content["layers"] if row["type"] == "conv"] == [
        55, 27, 13, 13, 13, 1, 1, 1,
    ]  # fmt: skip
    assert content["meta"]["normalization"]["imageSize"] == [227, 227, 3]


@pytest.mark.parametrize(("kind", "start"), [("csv", '"layer",'), ("latex", r"\begin{tabular}")])
def test_formats(kind, start):
    assert shown("lenet", "--format", kind).startswith(start)


@pytest.mark.parametrize("size", ["28", "28x28x1x2", "28x-1x1", "28x28x", "axb"])
def test_the_size_is_checked(size):
    if size == "28":
        assert run("show", "lenet", "--input-size", size).exit_code == 0
    else:
        assert size in failure("show", "lenet", "--input-size", size)


@pytest.fixture
def graph(tmp_path):
    """The file of a DagNN with a branch and a layer that nobody knows."""
    net = mcn.DagNN({"inputSize": [8, 6, 2]})
    net.add_layer("conv", mcn.Conv(size=(3, 3, 2, 4), stride=2), "image", "a", ("f", "b"))
    net.add_layer("relu", mcn.ReLU(), "a", "c")
    net.add_layer("sum", mcn.Sum(), ("a", "c"), "prediction")
    net.init_params()
    struct = net.to_struct()
    odd = Struct(
        name="odd",
        type="dagnn.Odd",
        inputs=Cell(["prediction", "label"]),
        outputs=Cell(["objective"]),
        params=Cell(),
        block=Struct(scale=2.0),
    )
    struct["layers"] = StructArray([*struct["layers"], odd])
    write_mat(tmp_path / "dag.mat", {"net": struct, "stats": Struct(val=[1.0, 2.0])})
    return tmp_path / "dag.mat"


def test_a_graph_has_a_row_for_each_layer(graph):
    printed = shown(graph)
    rows = [line.replace("│", "").split() for line in printed.splitlines() if "│" in line]
    assert rows == [
        ["conv", "Conv", "image", "a", "3x2x4", "3", "3x3x2x4,", "1x4"],
        ["relu", "ReLU", "a", "c", "3x2x4", "3"],
        ["sum", "Sum", "a,", "c", "prediction", "3x2x4", "3"],
        ["odd", "Odd", "prediction,", "label", "objective", "?x?x?"],
    ]
    assert "4 layers, 6 variables, 2 parameters of 76 numbers (304B)" in printed
    assert "matconvnet.register('dagnn.Odd', layer)" in printed
    assert "meta.inputSize: 8, 6, 2" in printed
    assert "beside.stats.val: 1, 2" in printed


def test_a_graph_for_another_size(graph):
    printed = shown(graph, "--input-size", "21x21", "--batch", 3)
    assert "10x10x4" in printed
    content = json.loads(shown(graph, "--json", "--input-size", "21x21", "--batch", 3))
    assert content["variables"]["a"] == [10, 10, 4, 3]


def test_a_graph_as_json(graph):
    content = json.loads(shown(graph, "--json"))
    assert content["kind"] == "DagNN"
    assert content["layers"][2] == {
        "name": "sum", "type": "dagnn.Sum", "inputs": ["a", "c"], "outputs": ["prediction"],
        "params": [],
    }  # fmt: skip
    assert content["variables"]["label"] == [None] * 4
    assert content["params"] == {"f": [3, 3, 2, 4], "b": [1, 4]}
    assert content["num_params"] == 76
    assert content["unknown"] == {"odd": "dagnn.Odd"}
    assert content["beside"] == {"stats.val": "1, 2"}


def test_a_graph_as_tables(graph):
    assert shown(graph, "--format", "csv").startswith('"func","conv","relu","sum","odd",')
    assert r"\begin{tabular}" in shown(graph, "--format", "latex")


def test_drawings(graph, tmp_path):
    printed = shown(graph, "--dot", "-")
    assert printed.startswith("digraph")
    assert '"var_image" -> "conv"' in printed
    assert shown("lenet", "--dot", tmp_path / "net.dot") == f"{tmp_path / 'net.dot'}\n"
    assert '"var_x0" -> "layer1"' in (tmp_path / "net.dot").read_text()
    assert "wanted one of them" in failure("show", "lenet", "--json", "--dot", "-")


@pytest.mark.skipif(os.name != "posix", reason="the program is a script of the shell")
def test_graphviz_draws_pictures(graph, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@" > "$3"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert shown(graph, "--dot", tmp_path / "net.svg") == f"{tmp_path / 'net.svg'}\n"
    assert "-Tsvg" in (tmp_path / "net.svg").read_text()


@pytest.mark.filterwarnings("default")
def test_without_graphviz_there_is_a_warning_of_one_line(graph, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("show", graph, "--dot", tmp_path / "net.svg")
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'net.dot'}\n"
    assert result.stderr == (
        f"warning: Graphviz is not installed; {tmp_path / 'net.dot'} is not drawn\n"
    )


def test_a_database(tmp_path):
    images = Struct(data=np.zeros((4, 5, 1, 9), np.float32), set=np.ones((1, 9)))
    meta = Struct(sets=Cell(["train", "val"]))
    write_mat(tmp_path / "imdb.mat", {"images": images, "meta": meta})
    assert shown(tmp_path / "imdb.mat").splitlines() == [
        "an image database:",
        "images.data: float32 array of 4 x 5 x 1 x 9",
        "images.set: 1, 1, 1, 1, ... 1 (9 values)",
        "meta.sets: train, val",
    ]
    content = json.loads(shown(tmp_path / "imdb.mat", "--json"))
    assert content["variables"]["meta.sets"] == "train, val"
    assert "image database" in failure("check", tmp_path / "imdb.mat")


def test_what_is_no_network_is_told(tmp_path):
    (tmp_path / "page.mat").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    assert "a web page" in failure("show", tmp_path / "page.mat")
    (tmp_path / "net.txt").write_text("nothing")
    assert "net.txt" in failure("show", tmp_path / "net.txt")
    assert "neither a file nor a network" in failure("show", tmp_path)
    assert "neither a file nor a network" in failure("show", tmp_path / "nowhere.mat")


@pytest.mark.parametrize("name", [*models.NETWORKS, "landcover_imdb"])
def test_real_files(name):
    path = models.path(name)
    printed = shown(path)
    assert "Traceback" not in printed
    assert json.loads(shown(path, "--json"))["kind"]
    if name == "landcover_now_epoch100":
        assert "meta.classes.name: town, cropland" in printed
        assert "beside.stats.val: struct array of 1 x 100: objective, top1err" in printed
        assert "beside.state.solverState: cell of 1 x 8" in printed
    if name == "ffdnet_gray_retrained":
        assert "unknown type 'SubP' of layer1, layer32" in printed
    if name == "charscnn_oldformat":
        assert "beside.imageMean: 107.585" in printed
    if name == "dcfnet_net7":
        assert "meta.normalization.averageImage: 123, 117, 104" in printed
        assert "183KB" in printed  # 125 x 125 x 3 pixels, for inputSize alone is 125


VALUES = [
    (1.0, "1", 1.0),
    (np.float32(0.1), "0.1", float(np.float32(0.1))),
    (np.uint8(7), "7", 7),
    (float("nan"), "nan", None),
    (True, "True", True),
    (np.array([[2.5]]), "2.5", 2.5),
    (np.array([[1.0, 2.0]]), "1, 2", [1.0, 2.0]),
    (torch.arange(9), "0, 1, 2, 3, ... 8 (9 values)", list(range(9))),
    (np.zeros((2, 3)), "float64 array of 2 x 3", "float64 array of 2 x 3"),
    (np.zeros((0, 0)), "float64 array of 0 x 0", "float64 array of 0 x 0"),
    (torch.zeros(2, 3), "float32 array of 2 x 3", "float32 array of 2 x 3"),
    (None, "[]", None),
    ([], "[]", []),
    ("two\n words", "two words", "two\n words"),
    ("x" * 500, "x" * 100 + "... (500 characters)", "x" * 500),
    (Cell(["a", 1.0]), "a, 1", ["a", 1.0]),
    (Cell([np.zeros((2, 2)), "b"]), "cell of 1 x 2", ["float64 array of 2 x 2", "b"]),
    (
        StructArray([Struct(a=1.0, b=2.0)] * 6),
        "struct array of 1 x 6: a, b",
        [{"a": 1, "b": 2}] * 6,
    ),
    (Struct(a=Struct()), "struct: a", {"a": {}}),
    (Struct(), "struct without fields", {}),
    (Opaque("object", "gpuArray", None), "object of class gpuArray", "object of class gpuArray"),
    (Opaque("function", "@(x)x+1", None), "function @(x)x+1", "function @(x)x+1"),
    (
        Sparse((3, 4), np.array([1]), np.array([2]), np.array([5.0])),
        "sparse matrix of 3 x 4, 1 values",
        "sparse matrix of 3 x 4, 1 values",
    ),
]


@pytest.mark.parametrize(("value", "text", "json_value"), VALUES)
def test_values_of_every_kind(value, text, json_value):
    assert described(value) == text
    assert plain(value) == json_value
    json.dumps(plain(value), allow_nan=False)


def test_nested_structs_are_listed_to_a_depth():
    few = StructArray([Struct(name="x"), Struct(name="y")])
    many = StructArray([Struct(name="z")] * 5)
    values = {"a": Struct(b=Struct(c=1.0)), "few": few, "many": many}
    assert dict(flat(values)) == {
        "a.b.c": "1",
        "few[0].name": "x",
        "few[1].name": "y",
        "many": "struct array of 1 x 5: name",
    }
    assert dict(flat(values, depth=2))["a.b"] == "struct: c"
