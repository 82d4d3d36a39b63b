"""What is told: lines, a progress bar on a terminal, JSON lines."""

import json
import os
import re
import select
import sys

import pytest

from matconvnet.train.report import console_line, show_phase, write_stats
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


def test_statistics_are_lines_of_json(tmp_path):
    stats = {"train": [{"objective": 2.5, "num": 4}], "val": [{"num": 0}]}
    write_stats(tmp_path, stats, [0.1])
    lines = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"epoch": 1, "phase": "train", "learning_rate": 0.1, "objective": 2.5, "num": 4},
        {"epoch": 1, "phase": "val", "learning_rate": 0.1, "num": 0},
    ]
