"""Where the time goes: sums, shares, the file."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from matconvnet.executor import Record
from matconvnet.parallel.server import Traffic
from matconvnet.train.profile import MOST_LAYERS, Profile
from tests.train.common import Data, small_net

LAYERS = [("layer1", "Conv"), ("layer2", "ReLU"), ("layer3", "Conv"), ("layer4", "SoftmaxLoss")]


def profiled():
    """Two evaluations of 4 layers: 6 s forward and 2 s backward; 1 s beside, 1 s waited."""
    profile = Profile(small_net())
    forward = {"layer1": 1.0, "layer2": 0.5, "layer3": 1.25, "layer4": 0.25}
    profile.add(Record(forward_time=forward, backward_time={"layer3": 2.0}), 5)
    profile.add(Record(forward_time=forward), 3)
    profile.add_wait(0.5)
    profile.add_wait(0.25)
    profile.add_update(0.25)
    profile.traffic = Traffic(bytes=6_000_000, under_way=4.0, waited=1.0, steps=3)
    return profile


def printed(profile):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(profile.table())
    return console.export_text()


def cells(profile):
    """{first cell: the others} of the lines of the table."""
    lines = [line.split("│")[1:-1] for line in printed(profile).splitlines() if "│" in line]
    return {cell.strip(): [other.strip() for other in others] for cell, *others in lines}


def test_the_table_adds_up():
    found = cells(profiled())
    assert found["layer1"] == ["Conv", "1000.00", "0.00", "20.0 %"]
    assert found["layer3"] == ["Conv", "1250.00", "1000.00", "45.0 %"]
    assert found["all layers"] == ["", "3000.00", "1000.00", "80.0 %"]
    assert found["waiting for data"] == ["", "375.00", "", "7.5 %"]
    assert found["updates"] == ["", "125.00", "", "2.5 %"]
    assert found["waiting for other workers"] == ["", "500.00", "", "10.0 %"]
    assert list(found)[:4] == [name for name, _ in LAYERS]
    text = printed(profiled())
    assert "Profile of 2 evaluations, 8 images" in text
    assert "exchanged 2.00 MB per step, 75 % hidden by computing" in text


def test_one_worker_exchanges_nothing():
    profile = profiled()
    profile.traffic = Traffic(steps=7)
    assert "waiting for other workers" not in cells(profile)
    assert "exchanged" not in printed(profile)


def test_nothing_measured():
    assert cells(Profile(small_net()))["all layers"] == ["", "0.00", "0.00", "0.0 %"]


def test_of_many_layers_the_cheap_ones_are_together():
    profile = profiled()
    profile.types = {f"n{i}": "Conv" for i in range(MOST_LAYERS + 5)}
    profile.forward = {f"n{i}": 2.0 + i for i in range(MOST_LAYERS + 5)}
    profile.backward = dict.fromkeys(profile.types, 0.0)
    found = cells(profile)
    assert found["5 others"][1] == "10000.00"  # (2 + 3 + 4 + 5 + 6) s over 2 evaluations
    assert "n4" not in found
    assert [name for name in found if name.startswith("n")] == [
        f"n{i}" for i in range(5, MOST_LAYERS + 5)
    ]


def test_the_file_holds_seconds(tmp_path):
    profiled().write(tmp_path)
    found = json.loads((tmp_path / "profile.json").read_text())
    assert found["layers"][2] == {"name": "layer3", "type": "Conv", "forward": 2.5, "backward": 2}
    assert [(layer["name"], layer["type"]) for layer in found["layers"]] == LAYERS
    assert (found["evaluations"], found["images"]) == (2, 8)
    assert (found["data_wait"], found["update"]) == (0.75, 0.25)
    assert found["communication"] == {
        "steps": 3, "bytes": 6_000_000, "under_way": 4.0, "waited": 1.0, "overlap": 0.75
    }  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
def test_records_of_the_executor(training):
    net, data = small_net(), Data()
    x, c = data.get_batch(data, np.arange(4))
    inputs = {"x0": torch.tensor(x), "label": torch.tensor(c)}
    record = net.eval(inputs, {net.output: 1} if training else None)
    profile = Profile(net)
    profile.add(record, 4)
    assert all(seconds > 0 for seconds in profile.forward.values())
    assert any(profile.backward.values()) == training
