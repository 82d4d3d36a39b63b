"""`matconvnet profile`."""

import json

import pytest
import torch

import matconvnet as mcn
from matconvnet.fast import peaks
from matconvnet.interop.safetensors import save_network
from tests.cli.common import failure, run
from tests.train.common import small_net


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(peaks, "SECONDS", 0.01)


def words(result):
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.output.splitlines()]


def test_a_network_of_the_zoo_is_trained(tmp_path):
    trace = tmp_path / "trace.json"
    lines = words(run("profile", "lenet", "--batch", 2, "--steps", 1, "--trace", trace))
    assert lines[0] == "Profile of 1 evaluations, 2 images"
    assert any(line.startswith("updates ") for line in lines)
    assert any(line.startswith("peaks: convolution ") for line in lines)
    events = json.loads(trace.read_text())["traceEvents"]
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {
        "forward", "backward", "update and data"
    }  # fmt: skip
    assert lines[-1].endswith("trace.json")


def test_inference():
    lines = words(run("profile", "lenet", "--batch", 2, "--steps", 1, "--infer"))
    assert not any(line.startswith("updates") for line in lines)


def test_a_file_without_a_loss_is_evaluated(tmp_path):
    path = tmp_path / "net.safetensors"
    save_network(mcn.SimpleNN(small_net(dtype=torch.float32).layers[:-1]), path)
    lines = words(run("profile", path, "--batch", 2, "--steps", 3))
    assert lines[0] == "Profile of 3 evaluations, 6 images"
    assert "no loss to differentiate" in failure("profile", path, "--train")
