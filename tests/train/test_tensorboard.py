"""Scalars for TensorBoard, read back as TensorBoard reads them."""

import logging
import sys

import pytest

from matconvnet.train.tensorboard import TensorBoard, scalars


def rows(epoch, objective):
    return [
        {"epoch": epoch, "phase": "train", "learning_rate": 0.1, "objective": objective, "num": 8,
         "time": 2.0, "data_time": 0.5, "images_per_second": 4.0,
         "update_ratio": {"l1_1": 1e-3, "l1_2": None}},
        {"epoch": epoch, "phase": "val", "learning_rate": 0.1, "objective": 2 * objective,
         "top1err": float("nan"), "time": 1.0},
    ]  # fmt: skip


def test_the_scalars_of_a_line():
    train, val = rows(1, 3.0)
    assert scalars(train) == {
        "train/objective": 3.0, "learning_rate": 0.1, "update_ratio/l1_1": 1e-3,
        "speed/train/images_per_second": 4.0, "speed/train/data_time": 0.5,
        "speed/train/time": 2.0,
    }  # fmt: skip
    assert scalars(val) == {"val/objective": 6.0, "speed/val/time": 1.0}


def written(folder, monkeypatch):
    """{tag: [(step, value)]} of all event files in a folder, less what was replaced."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(logging.getLogger("tensorboard"), "disabled", True)
    found = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_a_resumed_run_has_every_epoch_once(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    with TensorBoard(tmp_path) as board:
        for epoch in (1, 2, 3):
            board.add(rows(epoch, float(epoch)))
    with TensorBoard(tmp_path) as board:
        board.add([])
        board.add(rows(3, 30.0))
        board.add(rows(4, 40.0))
        board.add(rows(3, 5.0) + rows(4, 5.0))
    found = written(tmp_path / "tensorboard", monkeypatch)
    assert found["train/objective"] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]
    assert found["val/objective"][-1] == (4, 80.0)
    assert "val/top1err" not in found


def test_all_epochs_may_be_handed_over_again(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    for last in (2, 4):
        with TensorBoard(tmp_path) as board:
            for epoch in range(1, last + 1):
                board.add([row for e in range(1, epoch + 1) for row in rows(e, float(e))])
    found = written(tmp_path / "tensorboard", monkeypatch)
    assert found["train/objective"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


def test_without_epochs_there_are_no_files(tmp_path):
    pytest.importorskip("tensorboard")
    with TensorBoard(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_error_tells_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ImportError, match=r"pip install 'matconvnet\[tensorboard\]'"):
        TensorBoard(tmp_path)
