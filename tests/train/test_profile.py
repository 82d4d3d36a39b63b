"""Where the time goes: sums, shares, the file."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

import matconvnet as mcn
from matconvnet.executor import Record
from matconvnet.fast.peaks import Peaks
from matconvnet.parallel.server import Traffic
from matconvnet.train.profile import Cost, LayerCosts, Profile
from matconvnet.train.profile_tables import MOST_LAYERS, layer_table, profile_tables
from matconvnet.train.profiling import profile_network
from tests.train.common import Data, small_net, train

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


def evaluated(net, data, ders, count=4, **options):
    x, c = data.get_batch(data, np.arange(count))
    x = torch.tensor(x, dtype=net.values()["l1_1"].dtype)
    return net.eval({"x0": x, "label": torch.tensor(c)}, ders, **options)


def printed(profile):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*profile_tables(profile))
    return console.export_text()


def cells(profile):
    """{first cell: the others} of the lines of the table."""
    columns = [list(column.cells) for column in layer_table(profile).columns]
    return {name: list(others) for name, *others in zip(*columns, strict=True)}


def test_the_table_adds_up():
    found = cells(profiled())
    assert found["layer1"][:4] == ["Conv", "1000.00", "", "20.0 %"]
    assert found["layer3"][:4] == ["Conv", "1250.00", "1000.00", "45.0 %"]
    assert found["all layers"][:4] == ["", "3000.00", "1000.00", "80.0 %"]
    assert found["waiting for data"][1:4] == ["375.00", "", "7.5 %"]
    assert found["updates"][1:4] == ["125.00", "", "2.5 %"]
    assert found["waiting for other workers"][1:4] == ["500.00", "", "10.0 %"]
    assert list(found)[:4] == [name for name, _ in LAYERS]
    text = printed(profiled())
    assert "Profile of 2 evaluations, 8 images" in text
    assert "exchanged 2.00 MB per step, 75 % hidden by computing" in text


def test_speed_of_layers():
    net, data = small_net(dtype=torch.float32), Data()
    record = evaluated(net, data, {net.output: 1})
    record.forward_time = dict.fromkeys(record.forward_time, 1e-6)
    record.backward_time = dict.fromkeys(record.backward_time, 3e-6)
    profile = Profile(net)
    profile.add(record, 4)
    # Filters 3 x 2 x 2 x 4 in 4 x 4 places of 4 images: no derivative by the images is wanted.
    operations = 2 * 3 * 2 * 2 * 4 * (4 * 4 * 4)
    x, weights, y = 6 * 5 * 2 * 4, 3 * 2 * 2 * 4 + 4, 4 * 4 * 4 * 4
    traffic = 4 * ((x + weights + y) + (y + x + 2 * weights))
    gflops, gigabytes = 2 * operations / 4e-6 / 1e9, traffic / 4e-6 / 1e9
    assert cells(profile)["layer1"][4:] == [f"{gflops:.1f}", f"{gigabytes:.1f}", ""]
    assert cells(profile)["layer2"][4] == ""

    profile.peaks = Peaks(convolution=0.5, product=operations / 1e-6 / 1e9, copy=1e9)
    peak = "50 %"  # at full speed it takes 1 us each way, of the 4 us that it took
    assert cells(profile)["layer1"][6] == peak
    profile.peaks = Peaks(convolution=1e9, product=1e9, copy=4 * gigabytes)
    assert cells(profile)["layer1"][6] == "25 %"
    assert str(profile.peaks) in " ".join(printed(profile).split())


def test_values_that_were_freed_cost_no_knowledge():
    net, data = small_net(), Data()
    kept = Profile(net)
    kept.add(evaluated(net, data, {net.output: 1}), 4)
    freed = Profile(net)
    freed.add(evaluated(net, data, {net.output: 1}, conserve_memory=True), 4)
    for name, layer in kept.layers.items():
        assert freed.layers[name].total.operations == layer.total.operations
        assert freed.layers[name].total.traffic == layer.total.traffic > 0


def test_batches_of_different_sizes_add_up():
    net, data = small_net(), Data()
    together, parts = Profile(net), Profile(net)
    together.add(evaluated(net, data, {net.output: 1}, count=6), 6)
    for count in (4, 2):
        parts.add(evaluated(net, data, {net.output: 1}, count=count), count)
    operations = [p.layers["layer1"].total.operations for p in (together, parts)]
    assert operations[0] == operations[1] > 0


def test_the_fast_path_reports():
    profile = profiled()
    assert "fast path" not in printed(profile)
    profile.report = [("layer1", "own kernel"), ("layer2", "in layer1"), ("layer3", "own kernel")]
    lines = [" ".join(line.split()) for line in printed(profile).splitlines()]
    assert lines.index("What the fast path did") < lines.index("layer1, layer3 own kernel")
    assert "layer2 in layer1" in lines
    assert Profile(small_net(), profile.report).to_dict()["fast_path"][1] == {
        "layer": "layer2", "did": "in layer1"
    }  # fmt: skip


def test_one_worker_exchanges_nothing():
    profile = profiled()
    profile.traffic = Traffic(steps=7)
    assert "waiting for other workers" not in cells(profile)
    assert "exchanged" not in printed(profile)


def test_nothing_measured():
    found = cells(Profile(small_net()))
    assert found["all layers"] == ["", "", "", "0.0 %", "", "", ""]
    assert "waiting for data" not in found


def test_of_many_layers_the_cheap_ones_are_together():
    profile = profiled()
    profile.layers = {
        f"n{i}": LayerCosts("Conv", Cost(seconds=2.0 + i)) for i in range(MOST_LAYERS + 5)
    }
    found = cells(profile)
    assert found["5 others"][1] == "10000.00"  # (2 + 3 + 4 + 5 + 6) s over 2 evaluations
    assert "n4" not in found
    assert [name for name in found if name.startswith("n")] == [
        f"n{i}" for i in range(5, MOST_LAYERS + 5)
    ]


def test_the_file_holds_totals(tmp_path):
    profile = profiled()
    profile.peaks = Peaks(300.0, 200.0, 10.0)
    profile.write(tmp_path)
    found = json.loads((tmp_path / "profile.json").read_text())
    layer = found["layers"][2]
    assert (layer["name"], layer["type"]) == ("layer3", "Conv")
    assert (layer["forward"], layer["backward"]) == (2.5, 2)
    assert layer["forward_operations"] is None  # these records tell no sizes
    assert [(layer["name"], layer["type"]) for layer in found["layers"]] == LAYERS
    assert (found["evaluations"], found["images"]) == (2, 8)
    assert (found["data_wait"], found["update"]) == (0.75, 0.25)
    assert found["communication"] == {
        "steps": 3, "bytes": 6_000_000, "under_way": 4.0, "waited": 1.0, "overlap": 0.75
    }  # fmt: skip
    assert found["peaks"] == {"convolution": 300, "product": 200, "copy": 10}
    assert found["fast_path"] == []


@pytest.mark.parametrize("training", [True, False])
def test_records_of_the_executor(training):
    net, data = small_net(), Data()
    profile = Profile(net)
    profile.add(evaluated(net, data, {net.output: 1} if training else None), 4)
    layers = profile.layers.values()
    assert all(layer.forward.seconds > 0 for layer in layers)
    assert any(layer.backward.seconds for layer in layers) == training


def test_training_writes_a_timeline(tmp_path, monkeypatch):
    monkeypatch.setattr("matconvnet.fast.peaks.SECONDS", 0.01)
    net = small_net()
    trainer = train(net, Data(), tmp_path, num_epochs=1, profile=True, num_sub_batches=2)
    trace = json.loads((tmp_path / "profile-trace.json").read_text())
    rows = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    names = {row: {e["name"] for e in spans if rows[e["tid"]] == row} for row in rows.values()}
    layers = {name for name, _ in LAYERS}
    assert names == {
        "forward": layers, "backward": layers, "update and data": {"update", "waiting for data"}
    }  # fmt: skip
    assert sum(e["name"] == "update" for e in spans) == 3  # 14 images, 5 a batch
    assert spans[0]["ts"] == 0
    ends = [0.0, *(e["ts"] + e["dur"] for e in spans)]
    for event, end in zip(spans, ends, strict=False):
        assert event["ts"] >= end - 0.01, event["name"]  # one after the other, in microseconds
    forward = next(e for e in spans if e["name"] == "layer1")
    assert forward["args"]["inputs"] == ["6 x 5 x 2 x 3"]
    assert forward["args"]["type"] == "Conv"
    assert forward["args"]["GFLOP/s"] > 0
    assert trainer.loop.profile.peaks.copy > 0


def test_of_a_long_run_the_end_is_kept(monkeypatch):
    monkeypatch.setattr("matconvnet.train.profile.MOST_SPANS", 4)
    profile = profiled()
    assert [span.name for span in profile.spans] == [
        "layer4", "waiting for data", "waiting for data", "update"
    ]  # fmt: skip


def test_any_network_is_profiled_on_random_images(monkeypatch):
    monkeypatch.setattr("matconvnet.fast.peaks.SECONDS", 0.01)
    net = small_net(dtype=torch.float32)
    before = {name: value.clone() for name, value in net.values().items() if value is not None}
    for fast in (True, False):
        profile = profile_network(net, batch=3, steps=2, fast=fast)
        assert (profile.evaluations, profile.images) == (2, 6)
        assert profile.update > 0
        layers = profile.layers.values()
        assert all(c.backward.seconds for c in layers if not (fast and c.type == "ReLU"))
        assert bool(profile.report) == fast
    for name, value in before.items():
        torch.testing.assert_close(net.values()[name], value)
    profile = profile_network(net, batch=3, steps=1, training=False)
    assert profile.update == 0
    assert profile.layers["layer3"].forward.operations > 0
    assert not any(c.backward.seconds for c in profile.layers.values())


def test_what_has_no_loss_cannot_be_trained():
    net = small_net()
    with pytest.raises(ValueError, match="no loss to differentiate; wanted training=False"):
        profile_network(mcn.SimpleNN(net.layers[:-1]))
