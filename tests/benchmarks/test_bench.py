"""The benchmark does what it is asked to, and compares what it times; no time is asserted."""

import importlib
import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from matconvnet.fast.native import missing
from tests.tolerances import PRINTED, REWRITTEN

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"
PEAKS = {"convolution": 200.0, "product": 100.0, "copy": 10.0}

needs_kernels = pytest.mark.skipif(bool(missing()), reason=missing())


def module(name: str) -> Any:
    """A file of benchmarks/, which is no package."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def asked(words: str) -> list[tuple[str, str, int, tuple[str, ...]]]:
    bench = module("bench")
    found = [entry for part in bench.parts(words.split()) for entry in bench.entries(part)]
    return [(entry.network, entry.task, entry.batch, entry.sides) for entry in found]


def test_lists_follow_one_another_each_with_its_options():
    words = (
        "alexnet lenet --task train --batch small 7 --side fast eager onnxruntime "
        "--then vgg-f --task infer layers --batch small large --side fast freeze"
    )
    assert asked(words) == [
        ("alexnet", "train", 4, ("fast", "eager")),
        ("alexnet", "train", 7, ("fast", "eager")),
        ("lenet", "train", 10, ("fast", "eager")),
        ("lenet", "train", 7, ("fast", "eager")),
        ("vgg-f", "infer", 1, ("fast", "freeze")),
        ("vgg-f", "infer", 32, ("fast", "freeze")),
        ("vgg-f", "layers", 4, ("fast", "freeze")),
        ("vgg-f", "layers", 32, ("fast", "freeze")),
    ]


def test_other_precisions_race_our_float32():
    sides = {task: sides for _, task, _, sides in asked("lenet --precision bf16 --full")}
    assert "fast-fp32" in sides["train"]
    assert "fast-fp32" in sides["infer"]
    assert "fast-lean" in sides["train"]
    assert "fast-lean" not in sides["infer"]


@pytest.mark.parametrize("word", ["no-such-network", "--side=nobody", "--batch=few"])
def test_unknown_words_are_named(word, capsys):
    with pytest.raises(SystemExit):
        asked(word)
    assert f"unknown: {word.split('=')[-1]}" in capsys.readouterr().err


def test_a_result_with_all_sides_is_not_raced_again(monkeypatch, tmp_path):
    bench = module("bench")
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    (part,) = bench.parts(["lenet", "--task", "train", "--side", "fast", "eager"])
    (entry,) = bench.entries(part)
    assert not entry.is_done()
    entry.file.write_text(json.dumps({"sides": {"fast": {}}}))
    assert not entry.is_done()
    entry.file.write_text(json.dumps({"sides": {"eager": {}, "fast": {"error": ""}}}))
    assert not entry.is_done()
    entry.file.write_text(json.dumps({"sides": {"eager": {"error": ""}, "fast": {}, "x": {}}}))
    assert entry.is_done()


def test_no_race_begins_when_time_is_over(monkeypatch, tmp_path, capsys):
    bench = module("bench")
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench.py", "lenet", "--minutes", "0", "--task", "train"])
    bench.main()
    assert "lenet train fp32 batch 100: no time left" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


def row(**changes: Any) -> dict[str, Any]:
    def side(ms: float, memory: float) -> dict[str, Any]:
        ratio = [ms / 10 - 0.1, ms / 10, ms / 10 + 0.1]
        return {"ms": ms, "ratio": ratio, "memory": memory * 1e6, "note": ""}

    return {
        "date": "2026-01-01", "device": "a machine", "versions": {"torch": "2"}, "threads": 2,
        "kind": "cpu", "precision": "bf16", "network": "lenet", "task": "train", "batch": 10,
        "peaks": PEAKS, "work": 5e8, "ours": "fast",
        "sides": {
            "fast": side(10, 200), "fast-lean": side(11, 100), "fast-fp32": side(25, 300),
            "eager": side(40, 400), "compile-cl": side(20, 350), "autotune": {"error": "too long"},
        },
    } | changes  # fmt: skip


def cells(text: str, first: str) -> list[str]:
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_table_of_a_race():
    text = module("table").render([row()])
    race, memory = text.split("Peak memory in MB:")
    got = dict(zip(cells(race, "network"), cells(race, "lenet"), strict=True))
    assert got == {
        "network": "lenet", "batch": "10", "ours": "10", "eager": "40", "compile": "20",
        "gain": "**2.00** (1.90 to 2.10)", "best peer": "compile-cl", "over eager": "4.00",
        "over our fp32": "2.50", "of peak": "50%",  # 2 * 5e8 operations in 10 ms, of 200e9
    }  # fmt: skip
    got = dict(zip(cells(memory, "network"), cells(memory, "lenet"), strict=True))
    assert got == {
        "network": "lenet", "batch": "10", "eager": "400", "ours": "200", "ours / eager": "0.50",
        "lean": "100", "lean / eager": "0.25", "time of lean / ours": "1.10",
        "time of lean / eager": "0.28",
    }  # fmt: skip
    assert "- not run: autotune: too long (lenet 10)" in text


def test_memory_has_a_table_in_training_only():
    text = module("table").render([row(task="infer")])
    assert "Peak memory" not in text
    assert cells(text, "network")[-2:] == ["MB", "eager's MB"]


def test_tables_go_between_their_marks(monkeypatch, tmp_path):
    table = module("table")
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin --><!-- y: end -->"
    )
    monkeypatch.setattr(table, "DOCUMENT", page)
    table.write("new", "x")
    assert page.read_text() == (
        "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n<!-- y: begin --><!-- y: end -->"
    )


def evidence(side: str) -> dict[str, np.ndarray]:
    problem = module("problems").problem("cifar-lenet", 3)
    return module("sides").SIDES[side](problem, "train", "fp32").evidence()


@pytest.mark.parametrize("side", ["fast", "fast-lean", "explicit", "channels-last"])
def test_all_sides_compute_the_same(side):
    """Ours tell the derivative by the momentum after a step, PyTorch by autograd."""
    tolerance = REWRITTEN[torch.float32]
    module("race")._compare(
        evidence(side), evidence("eager"), {"loss": tolerance, "derivative": tolerance}
    )


def test_another_result_is_refused():
    race, want = module("race"), evidence("explicit")
    wrong = want | {"derivative": 1.1 * want["derivative"]}
    with pytest.raises(race.FailedError, match=r"derivative differs by 1\.0e-01, wanted 0\.05"):
        race._compare(wrong, want, race.TOLERANCES["fp32"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_answers_until_its_requests_end():
    worker = module("worker")
    job = worker.Job("explicit", "lenet", 2, "train", "fp32", "cpu", torch.get_num_threads())
    asked = [("build", job), ("run", 2), ("peak",), ("build", job._replace(network="no-net"))]
    answers = io.BytesIO()
    worker.serve(io.BytesIO(b"".join(pickle.dumps(request) for request in asked)), answers)
    answers.seek(0)
    built, seconds, peak, error = (pickle.load(answers) for _ in asked)
    assert {*built["evidence"]} == {"loss", "derivative"}
    assert seconds > 0
    assert peak > 0
    assert str(error) == "KeyError: 'no-net'"
    assert not answers.read()


@needs_kernels
def test_layers_of_a_step():
    problem = module("problems").problem("alexnet", 1)
    found = module("layers").measure(problem, "fp32", 0.0)
    groups = found["groups"]
    layers = {name: group["layers"] for name, group in groups.items() if group["layers"]}
    assert layers == {
        "11 x 11, stride 4, 3 channels, to 55 x 55": 1, "5 x 5, to 27 x 27": 1,
        "3 x 3, to 13 x 13": 3, "fully connected": 3, "LRN": 2, "pooling": 3, "dropout": 2,
        "loss": 1,
    }  # fmt: skip
    assert sum(group["operations"] for group in groups.values()) == 2 * problem.work("train")
    assert groups["11 x 11, stride 4, 3 channels, to 55 x 55"]["algorithm"] == "direct"
    assert all(group["forward"] > 0 and group["backward"] > 0 for name, group in groups.items()
               if group["layers"])  # fmt: skip
    assert groups["update"]["backward"] > 0
    parts = sum(group["forward"] + group["backward"] for group in groups.values())
    assert parts == pytest.approx(found["ms"], rel=PRINTED)
    assert groups["between kernels"]["backward"] > 0  # no time is counted twice


def test_the_table_of_layers():
    def group(layers: int, forward: float, backward: float, **more: Any) -> dict[str, Any]:
        return {"layers": layers, "forward": forward, "backward": backward, "operations": 0.0,
                "bytes": 0.0, "algorithm": ""} | more  # fmt: skip

    groups = {
        "3 x 3": group(2, 2.0, 6.0, operations=1.2e9, bytes=8e6, algorithm="Winograd"),
        "pooling": group(1, 0.5, 0.5, bytes=5e6),
        "between kernels": group(0, 0.0, 1.0),
    }
    text = module("layers").render([row(task="layers", ms=10.0, groups=groups)])
    assert cells(text, "3 x 3") == ["3 x 3", "2", "Winograd", "2", "6", "80.0%", "150", "75%", "1",
                                    "10%"]  # fmt: skip
    assert cells(text, "pooling")[5:] == ["10.0%", "", "", "5", "50%"]
    assert text.endswith(
        "A step takes 10 ms: 120 GFLOP/s, 60% of the convolution peak, at which its arithmetic "
        "would take 6 ms. Convolutions take 8 ms of it, everything else 2 ms (20%)."
    )
