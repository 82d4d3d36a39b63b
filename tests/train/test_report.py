"""What is told: lines, a progress bar on a terminal, the files that hold the truth."""

import json
import math
import os
import re
import select
import sys
from pathlib import Path

import numpy as np
import pytest

from matconvnet.train.report import (
    console_line,
    read_about,
    read_stats,
    show_phase,
    write_about,
    write_stats,
)
from tests.train.common import Data, small_net, train


def test_console_line_is_that_of_the_original():
    stats = {"top5err": 0.0, "objective": 1.0631, "num": 8, "top1err": 0.625, "time": 1.0}
    line = console_line("train", 1, 1, 3, 223.7, 223.7, stats)
    assert line == (
        "train: epoch 01:   1/  3: 223.7 (223.7) Hz objective: 1.063 top1err: 0.625 top5err: 0.000"
    )


def test_a_run_prints_a_line_per_batch(capsys):
    train(small_net(), Data(), progress=True, num_epochs=2)
    lines = capsys.readouterr().out.splitlines()
    heads = [line.split(": ")[:3] for line in lines]
    assert heads[:5] == [
        ["train", "epoch 01", "  1/  3"], ["train", "epoch 01", "  2/  3"],
        ["train", "epoch 01", "  3/  3"], ["val", "epoch 01", "  1/  2"],
        ["val", "epoch 01", "  2/  2"],
    ]  # fmt: skip
    assert len(lines) == 10
    for line in lines:
        assert re.fullmatch(
            r"(train|val): epoch 0\d:   \d/  \d: \d+\.\d \(\d+\.\d\) Hz"
            r" objective: \d+\.\d{3} top1err: \d\.\d{3} top5err: 0\.000",
            line,
        )


def test_silence(capsys):
    train(small_net(), Data(), progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_terminal_gets_a_progress_bar(monkeypatch):
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        with show_phase("train", 3, 2, enabled=True) as show:
            show(1, 100.0, 99.0, {"objective": 2.5, "num": 4, "time": 1.0})
            show(2, 123.4, 99.0, {"objective": 1.25, "num": 4, "time": 1.0})
        terminal.flush()
        monkeypatch.undo()
        shown = b""
        while b"1.250" not in shown and select.select([reader], [], [], 5)[0]:
            shown += os.read(reader, 1 << 16)
    os.close(reader)
    for text in ("train epoch 03", "2/2", "123.4 images/s objective: 1.250"):
        assert text in shown.decode()


ROWS = [
    {"epoch": 1, "phase": "train", "learning_rate": 0.1, "objective": 2.5, "num": 4,
     "update_ratio": {"l1_1": 1e-3}},
    {"epoch": 1, "phase": "val", "learning_rate": 0.1, "num": 0},
]  # fmt: skip


def strict(text):
    """JSON as the standard has it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_statistics_are_lines_of_json(tmp_path):
    write_stats(tmp_path, ROWS)
    lines = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert [strict(line) for line in lines] == ROWS
    assert read_stats(tmp_path) == ROWS


def test_numbers_that_are_not_finite_are_null(tmp_path):
    row = {"epoch": 1, "phase": "val", "objective": math.nan, "top1err": np.float32(np.inf),
           "both": np.array([0.5, np.nan]), "time": np.float64(2)}  # fmt: skip
    write_stats(tmp_path, [row])
    found = strict((tmp_path / "stats.jsonl").read_text())
    assert found == {"epoch": 1, "phase": "val", "objective": None, "top1err": None,
                     "both": [0.5, None], "time": 2.0}  # fmt: skip
    (tmp_path / "stats.jsonl").write_text('{"epoch": 1, "phase": "val", "objective": NaN}\n')
    assert read_stats(tmp_path) == [{"epoch": 1, "phase": "val", "objective": None}]


def test_a_run_that_has_only_begun_has_no_lines(tmp_path):
    assert read_stats(tmp_path) == []
    assert read_about(tmp_path) == {}


def test_what_a_run_is(tmp_path):
    about = {
        "network": "lenet", "status": "running", "message": "caf\xe9",
        "options": {"exp_dir": Path("a/b"), "solver": strict, "learning_rate": np.array([1.0, 2.0]),
                    "val": range(2), "der_outputs": {"objective": 1.0}},
    }  # fmt: skip
    write_about(tmp_path, about)
    strict((tmp_path / "run.json").read_text())
    options = {"exp_dir": str(Path("a/b")), "solver": "strict", "learning_rate": [1.0, 2.0],
               "val": [0, 1], "der_outputs": {"objective": 1.0}}  # fmt: skip
    assert read_about(tmp_path) == {**about, "options": options}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"epoch": 1, "phase": "val"}\n{"epo', "line 2 of .* is not JSON"),
        (b"[1]\n", "line 1 of .* holds list; wanted an object"),
        (b'{"epoch": "x", "phase": "val"}\n', "has epoch 'x' and phase 'val'; wanted"),
        (b'{"epoch": 1, "phase": "test"}\n', "wanted a whole number, and 'train' or 'val'"),
        (b"\xff\xfe\n", "not text in UTF-8"),
        (b"[" * 100_000, "is not JSON"),
    ],
    ids=["cut", "list", "epoch", "phase", "bytes", "deep"],
)
def test_damaged_lines_are_named(tmp_path, content, message):
    (tmp_path / "stats.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_stats(tmp_path)


def test_a_damaged_description_is_named(tmp_path):
    (tmp_path / "run.json").write_text("7")
    with pytest.raises(ValueError, match=r"run\.json holds int; wanted an object"):
        read_about(tmp_path)
