"""`matconvnet parity`: tables and verdicts, and files that are no reference."""

import zipfile

import numpy as np
import pytest

import matconvnet as mcn
from matconvnet.cli import parity as command
from matconvnet.explore import parity as explore
from tests import models
from tests.cli.common import failure, run


@pytest.fixture
def network(tmp_path):
    """The file of a network that halves, then rectifies."""
    half = np.full((1, 1, 1, 1), 0.5, np.float32)
    layers = [{"type": "conv", "weights": [half, []], "name": "half"}, {"type": "relu"}]
    mcn.save(mcn.SimpleNN(layers), tmp_path / "half.mat")
    return tmp_path / "half.mat"


def reference(path, **spoiled):
    x = np.random.default_rng(0).standard_normal((3, 4, 1, 2), np.float32)
    np.savez(path, **({"x": x, "L1": x / 2, "L2": (x / 2).clip(0)} | spoiled))
    return path


def rows(output):
    return [line.replace("│", "").split() for line in output.splitlines() if "│" in line]


def test_a_network_that_agrees(network, tmp_path):
    result = run("parity", network, reference(tmp_path / "ok.npz", dzdx=np.ones(3)))
    assert result.exit_code == 0, result.output
    assert rows(result.output) == [
        ["half", "x1", "3x4x1x2", "0.0e+00", "ok"],
        ["layer2", "x2", "3x4x1x2", "0.0e+00", "ok"],
    ]
    assert "not compared: dzdx\n" in result.output
    assert "All 2 variables agree to 1e-05." in result.output


def test_the_first_that_departs_is_named(network, tmp_path):
    wrong = reference(tmp_path / "wrong.npz", L2=np.zeros((3, 4, 1, 2)), L1=np.ones((1, 1, 1, 2)))
    result = run("parity", network, wrong)
    assert result.exit_code == 1
    assert rows(result.output)[0][:5] == ["half", "x1", "3x4x1x2;", "recorded", "1x1x1x2"]
    assert result.output.count("DEPARTS") == 2
    assert "The first that departs is 'x1', written by layer 'half'.\n" in result.output
    assert "agree" not in result.output


def test_the_tolerance(network, tmp_path):
    with np.load(reference(tmp_path / "a.npz")) as archive:
        off = reference(tmp_path / "b.npz", L2=archive["L2"] * 1.001)
    assert run("parity", network, off).exit_code == 1
    assert run("parity", network, off, "--tolerance", 0.01).exit_code == 0
    assert command.TOLERANCE == explore.TOLERANCE


def test_a_reference_without_what_it_needs(network, tmp_path):
    np.savez(tmp_path / "a.npz", L1=np.zeros((2, 2)))
    assert "wanted the input too" in failure("parity", network, tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 2)))
    assert "wanted variables that follow" in failure("parity", network, tmp_path / "b.npz")
    assert "nowhere.npz" in failure("parity", network, tmp_path / "nowhere.npz")
    assert "nowhere.mat" in failure("parity", tmp_path / "nowhere.mat", tmp_path / "a.npz")


def page(path):
    path.write_text("<!DOCTYPE html>")


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def objects(path):
    np.savez(path, x=np.array([{"a": 1}], dtype=object), allow_pickle=True)


def truncated(path):
    reference(path)
    path.write_bytes(path.read_bytes()[:-200])


def damaged(path):
    reference(path)
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)


def huge(path):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    header += " " * (117 - len(header)) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00\x76\x00" + header.encode())


def text(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "words")


@pytest.mark.parametrize("make", [page, one_array, objects, truncated, damaged, huge, text])
def test_files_that_are_no_reference(make, network, tmp_path):
    make(tmp_path / "bad.npz")
    assert "bad.npz" in failure("parity", network, tmp_path / "bad.npz")


def test_unknown_types_are_told(tmp_path):
    struct = mcn.SimpleNN([mcn.ReLU(), mcn.ReLU()]).to_struct()
    struct["layers"][0] = {"type": "Odd", "name": "odd"}
    mcn.save(mcn.SimpleNN.from_struct(struct, keep_unknown=True), tmp_path / "odd.mat")
    x = np.ones((2, 2, 1, 1), np.float32)
    np.savez(tmp_path / "all.npz", x=x, L1=-x, L2=0 * x)
    result = run("parity", tmp_path / "odd.mat", tmp_path / "all.npz")
    assert result.exit_code == 0
    assert "taken as recorded, for nobody registered Odd: x1\n" in result.output


@pytest.mark.parametrize("name", models.NETWORKS)
def test_real_networks(name):
    models.reference(name)
    result = run("parity", models.path(name), models.FOLDER / "reference" / f"{name}.npz")
    assert result.exit_code == 0, result.output
    assert "agree to 1e-05" in result.output
