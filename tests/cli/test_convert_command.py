"""`matconvnet convert`: what it prints, its options, and what it refuses."""

import os

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.interop import proof
from tests import models
from tests.cli.common import failure, run
from tests.interop import caffe_files
from tests.interop.samples import LENET, WEIGHTS, chain


def converted(*args):
    result = run("convert", *args)
    assert result.exit_code == 0, result.output
    return result.output


def rows(output):
    lines = [line for line in output.splitlines() if "│" in line]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


@pytest.fixture
def source(tmp_path):
    net = chain()
    net.beside = {"stats": 1.0}
    mcn.save(net, tmp_path / "chain.mat")
    return tmp_path / "chain.mat"


def test_what_became_of_each_layer_is_printed(source, tmp_path):
    target = tmp_path / "chain.onnx"
    printed = converted(source, target, "--deploy")
    assert rows(printed) == [
        ["conv1", "conv", "Conv", "3x3x2x4, 1x4"],
        ["bn1", "bnorm", "part of conv1", "1x4, 1x4, 4x2"],
        ["layer3", "relu", "Relu", ""],
        ["drop", "dropout", "left out", ""],
        ["layer5", "conv", "Conv", "1x1x4x3, 1x3"],
        ["loss", "softmaxloss", "left out", ""],
        ["prob", "(new)", "Softmax", ""],
    ]
    lines = printed.splitlines()
    assert "left out: what is beside the network: stats" in lines
    assert any(line.startswith("verified: deployed: 1 variable compared") for line in lines)
    assert any(line.startswith("verified: run by onnxruntime ") for line in lines)
    assert lines[-1] == f"{source} -> {target}"
    assert mcn.load(target).prediction


def test_what_is_exact_is_told(source, tmp_path):
    printed = converted(source, tmp_path / "chain.safetensors")
    assert "verified: read back: 7 parameters and 5 variables equal, bit for bit\n" in printed
    assert "left out: the field 'class' of 1 layer\n" in printed


@pytest.mark.parametrize(("option", "last"), [("--softmax", "softmax"), ("--no-softmax", "conv")])
def test_whether_a_softmax_ends_it(source, tmp_path, option, last):
    converted(source, tmp_path / "net.mat", "--deploy", option)
    assert mcn.load(tmp_path / "net.mat").layers[-1].layer.type_name == last
    assert "softmax is given without deploy" in failure("convert", source, "b.mat", option)


@pytest.mark.parametrize(("version", "start"), [("6", b"MATLAB 5.0"), ("7.3", b"MATLAB 7.3")])
def test_versions_of_mat_files(source, tmp_path, version, start):
    converted(source, tmp_path / "net.mat", "--mat-version", version)
    data = (tmp_path / "net.mat").read_bytes()
    assert data.startswith(start)
    assert (b"softmaxloss" in data) == (version == "6")  # compressed, or two bytes a character


def test_a_network_of_the_zoo(tmp_path):
    converted("lenet", tmp_path / "lenet.onnx", "--size", "28x28x1")
    import onnx

    value = onnx.load(tmp_path / "lenet.onnx").graph.input[0]
    assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [0, 1, 28, 28]


def test_a_network_of_caffe(tmp_path):
    (tmp_path / "net.prototxt").write_text(LENET)
    (tmp_path / "other.caffemodel").write_bytes(caffe_files.caffemodel(WEIGHTS))
    mean = caffe_files.blob(np.full((1, 1, 8, 8), 3.0), old=True)
    (tmp_path / "mean.binaryproto").write_bytes(mean)
    net = tmp_path / "net.prototxt"
    assert "'c_1' has no value" in failure("convert", net, tmp_path / "net.mat")
    weights = ("--caffemodel", tmp_path / "other.caffemodel")
    printed = converted(
        net, tmp_path / "net.mat", *weights, "--mean", tmp_path / "mean.binaryproto"
    )
    assert rows(printed)[0] == ["c_1", "Convolution", "dagnn.Conv", "3x3x1x2, 2"]
    assert (mcn.load(tmp_path / "net.mat").meta["normalization"]["averageImage"] == 3).all()
    (tmp_path / "other.caffemodel").rename(tmp_path / "net.caffemodel")
    converted(net, tmp_path / "again.mat")  # found beside it


def test_options_of_other_formats_are_refused(source, tmp_path):
    other = tmp_path / "net.onnx"
    assert "--mat-version is for .mat files" in failure(
        "convert", source, other, "--mat-version", "6"
    )
    for option in ("--caffemodel", "--mean"):
        message = failure("convert", source, other, option, tmp_path / "file")
        assert f"{option} is for .prototxt files" in message
    for size in ("28x28", "axbxc"):
        assert size in failure("convert", source, other, "--size", size)


def test_what_cannot_be_read_or_written(source, tmp_path):
    target = tmp_path / "net.mat"
    (tmp_path / "page.mat").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    assert "a web page" in failure("convert", tmp_path / "page.mat", target)
    assert "nowhere.mat" in failure("convert", tmp_path / "nowhere.mat", target)
    assert "neither a file nor a network" in failure("convert", tmp_path, target)
    (tmp_path / "net.txt").write_text("nothing")
    assert "net.txt" in failure("convert", tmp_path / "net.txt", target)
    assert "suffix '.h5'" in failure("convert", source, tmp_path / "net.h5")
    assert "nowhere is no folder" in failure("convert", source, tmp_path / "nowhere" / "net.mat")
    assert f"{tmp_path} is a folder" not in failure("convert", source, tmp_path)
    (tmp_path / "folder.mat").mkdir()
    assert "is a folder" in failure("convert", source, tmp_path / "folder.mat")
    assert {path.name for path in tmp_path.iterdir()} == {
        "chain.mat", "page.mat", "net.txt", "folder.mat",
    }  # fmt: skip


def test_a_folder_that_is_read_only(source, tmp_path):
    folder = tmp_path / "fixed"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    message = failure("convert", source, folder / "net.mat")
    assert message == f"error: [Errno 13] Permission denied: '{folder / 'net.mat'}'\n"


def test_a_failed_proof_leaves_the_older_file(source, tmp_path, monkeypatch):
    (tmp_path / "net.safetensors").write_bytes(b"older")
    monkeypatch.setattr(proof, "_is_same", lambda a, b: False)
    message = failure("convert", source, tmp_path / "net.safetensors")
    assert "net.safetensors is not written" in message
    assert "parameter 'l1_1' of layer 'conv1' departs" in message
    assert (tmp_path / "net.safetensors").read_bytes() == b"older"


def test_a_missing_package_is_one_line(source, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    message = failure("convert", source, tmp_path / "net.onnx")
    assert "pip install 'matconvnet[onnx]'" in message


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(tmp_path):
    net = mcn.SimpleNN([mcn.ReLU(), {"type": "bnorm", "weights": [torch.ones(2)] * 2}])
    net.params["l2_3"].value = torch.ones(2, 2)
    mcn.save(net, tmp_path / "net.mat")
    result = run("convert", tmp_path / "net.mat", tmp_path / "new.mat", "--deploy")
    assert result.exit_code == 0, result.output
    assert result.stderr == (
        "warning: batch normalisation 'layer2' is not merged: "
        "what it normalises is not the output of a convolution\n"
    )


@pytest.mark.parametrize("name", models.NETWORKS)
def test_real_networks(name, tmp_path):
    printed = converted(models.path(name), tmp_path / "net.safetensors", "--deploy")
    assert printed.count("verified: ") == 2
    assert len(rows(printed)) >= len(mcn.load(models.path(name)).graph.nodes)
