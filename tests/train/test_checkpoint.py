"""Checkpoints: resuming is as if nothing had happened, and no accident loses the last good one."""

import errno
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import matconvnet as mcn
from matconvnet.interop.safetensors import read_file
from matconvnet.train.store import Store
from tests.train.common import Data, assert_identical, options, small_net, train, values


def net_with_everything():
    return small_net(dropout=0.4, bnorm=True, dtype=torch.float32)


def data_in_float32():
    data = Data()
    data.images = data.images.astype(np.float32)
    return data


def run(folder, epochs, **changes):
    net = net_with_everything()
    changes = {"num_sub_batches": 2, "num_epochs": epochs, **changes}
    return train(net, data_in_float32(), folder, **changes)


ALWAYS = {".lock", "checkpoints.json", "confusion.json", "run.json"}


def names(folder):
    """The files of a run, but for those that every run has."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ALWAYS)


def newest(folder):
    with Store(folder) as store:
        return store.newest(net_with_everything())


def lines(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def without_time(stats):
    return {
        phase: [{k: v for k, v in epoch.items() if k != "time"} for epoch in epochs]
        for phase, epochs in stats.items()
    }


def assert_same_end(got, want):
    assert_identical(values(got.net), values(want.net))
    assert_identical(got.updater.state, want.updater.state)
    assert without_time(got.history.stats) == without_time(want.history.stats)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_resumed_run_is_bit_identical(tmp_path, nesterov):
    rates = [0.05, 0.04, 0.03]
    whole = run(tmp_path / "a", 5, learning_rate=rates, nesterov_update=nesterov)
    for epochs in (1, 3, 5):
        parts = run(tmp_path / "b", epochs, learning_rate=rates, nesterov_update=nesterov)
    assert_same_end(parts, whole)
    for folder in ("a", "b"):
        found = [
            (line["epoch"], line["phase"], line["learning_rate"])
            for line in lines(tmp_path / folder)
        ]
        assert found == [
            (e, p, rates[min(e, 3) - 1]) for e in range(1, 6) for p in ("train", "val")
        ]
    assert set(lines(tmp_path / "b")[0]) == {
        "epoch", "phase", "learning_rate", "objective", "top1err", "top5err", "num", "time",
        "data_time", "images_per_second", "update_ratio",
    }  # fmt: skip


def momentum_by_hand(value=None, state=0, der=None, o=None, lr=0):
    """A solver with a nested state."""
    if value is None:
        return {"share": 0.5}
    state = {
        "v": (state["v"] if state else 0) * o["share"] - der,
        "t": state["t"] + 1 if state else 1,
    }
    return value + lr * state["v"], state


def test_a_resumed_run_with_a_solver_of_the_user(tmp_path):
    changes = {"solver": momentum_by_hand, "solver_opts": {"share": 0.25}}
    whole = run(tmp_path / "a", 3, **changes)
    run(tmp_path / "b", 1, **changes)
    parts = run(tmp_path / "b", 3, **changes)
    assert_identical(values(parts.net), values(whole.net))
    assert parts.updater.state["l1_1"]["t"] == 9
    assert torch.equal(parts.updater.state["l1_1"]["v"], whole.updater.state["l1_1"]["v"])


def test_what_is_reached_already_is_not_run_again(tmp_path, capsys):
    first = run(tmp_path, 3)
    again = run(tmp_path, 2, progress=True)
    assert capsys.readouterr().out == "resuming by loading epoch 3\n"
    assert_identical(values(again.net), values(first.net))
    assert again.history.stats == first.history.stats


def test_without_resume_training_starts_afresh(tmp_path):
    run(tmp_path, 2)
    again = run(tmp_path, 1, resume=False, learning_rate=0)
    assert len(again.history.stats["train"]) == 1
    assert len(lines(tmp_path)) == 2


def test_files_of_an_epoch(tmp_path):
    folder = tmp_path / "deep" / "exp"
    run(folder, 2, plot_statistics=True)
    assert names(folder) == [
        "net-epoch-1.safetensors", "net-epoch-2.safetensors", "net-train.pdf", "net-train.png",
        "stats.jsonl",
    ]  # fmt: skip


def test_a_checkpoint_holds_options_but_no_labels(tmp_path):
    data = Data()
    net = small_net()
    train(net, data, tmp_path, train=range(6), num_epochs=1)
    path = tmp_path / "net-epoch-1.safetensors"
    extra = read_file(path).extra_meta
    assert extra.epoch == 1
    assert (extra.options.batch_size, extra.options.train) == (5, 6)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {
            "layers.0.weights.0", "layers.0.weights.1", "layers.2.weights.0",
            "extra.solver_state.l1_1", "extra.solver_state.l1_2", "extra.solver_state.l3_1",
        }  # fmt: skip
        assert '"class"' not in file.metadata()["structure"]
    assert_identical(values(mcn.load_network(path)), values(net))


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {root!r})
from tests.train.test_checkpoint import run

def die(net, options, epoch):
    if epoch.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

run(sys.argv[1], 4, post_epoch_fn=die)
"""


def run_and_kill(folder, script):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", script.format(root=root), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_run_killed_between_epochs_goes_on(tmp_path):
    whole = run(tmp_path / "a", 4)
    folder = tmp_path / "b"
    run_and_kill(folder, SCRIPT)
    assert names(folder) == ["net-epoch-1.safetensors", "net-epoch-2.safetensors", "stats.jsonl"]
    assert_same_end(run(folder, 4), whole)


KILLED_WHILE_WRITING = """
import os, signal, sys
sys.path.insert(0, {root!r})
import matconvnet.interop.safetensors as io
from tests.train.test_checkpoint import run

save, count = io.save_file, []

def die(tensors, path, metadata):
    count.append(path)
    if len(count) < 3:
        return save(tensors, path, metadata)
    path.write_bytes(b"half a file")
    os.kill(os.getpid(), signal.SIGKILL)

io.save_file = die
run(sys.argv[1], 4)
"""


def test_a_run_killed_while_writing_goes_on_from_the_checkpoint_before(tmp_path):
    whole = run(tmp_path / "a", 4)
    folder = tmp_path / "b"
    run_and_kill(folder, KILLED_WHILE_WRITING)
    left = names(folder)
    assert [name for name in left if name.startswith("net")] == [
        "net-epoch-1.safetensors", "net-epoch-2.safetensors"
    ]  # fmt: skip
    assert len(left) == 4  # the half file has another name
    assert ".tmp" in left[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_end(run(folder, 4), whole)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 4  # of a parameter or its momentum
    path.write_bytes(content)


def change_the_header(path):
    path.write_bytes(path.read_bytes().replace(b"momentum", b"Momentum"))


def empty(path):
    path.write_bytes(b"")


def web_page(path):
    path.write_text("<!DOCTYPE html><title>503</title>")


def folder_instead(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage", [truncate, flip_a_bit, change_the_header, empty, web_page, folder_instead]
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    whole = run(tmp_path / "a", 3)
    folder = tmp_path / "b"
    run(folder, 2)
    damage(folder / "net-epoch-2.safetensors")
    if damage is folder_instead:
        with pytest.warns(UserWarning, match="cannot resume from .*net-epoch-2"):
            assert newest(folder) == "net-epoch-1.safetensors"
        return
    with pytest.warns(UserWarning, match="cannot resume from .*net-epoch-2.*, trying the one"):
        parts = run(folder, 3)
    assert_same_end(parts, whole)
    assert [(line["epoch"], line["phase"]) for line in lines(folder)] == [
        (e, p) for e in (1, 2, 3) for p in ("train", "val")
    ]


def test_nothing_but_damaged_checkpoints_is_a_start(tmp_path):
    whole = run(tmp_path / "a", 1)
    run(tmp_path / "b", 1)
    truncate(tmp_path / "b" / "net-epoch-1.safetensors")
    with pytest.warns(UserWarning, match="cannot resume"):
        assert_same_end(run(tmp_path / "b", 1), whole)


def test_a_network_without_the_state_of_training_is_passed_over(tmp_path):
    mcn.save_network(net_with_everything(), tmp_path / "net-epoch-7.safetensors")
    with pytest.warns(UserWarning, match="cannot resume from .*net-epoch-7"):
        run(tmp_path, 1)


def test_checkpoints_of_another_network_are_refused(tmp_path):
    run(tmp_path, 1)
    with pytest.raises(ValueError, match="another network: parameter 'l3_1' is absent there and "):
        train(small_net(dtype=torch.float32), Data(), tmp_path)
    with pytest.raises(ValueError, match=r"'l1_1' is torch.float32 of .* and torch.float64 of "):
        train(small_net(), Data(), tmp_path)


def test_ten_epochs_come_after_nine(tmp_path):
    run(tmp_path, 11, train=range(2), val=())
    assert newest(tmp_path) == "net-epoch-11.safetensors"


def never(*_):
    raise AssertionError("training began")


def test_a_file_in_place_of_the_folder_is_refused_before_training(tmp_path):
    (tmp_path / "exp").write_text("")
    for folder in (tmp_path / "exp", tmp_path / "exp" / "deeper"):
        with pytest.raises(OSError, match=r"exp_dir '.*exp.*' cannot be written: "):
            mcn.Trainer(small_net(), Data(), never, options(folder))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_read_only_folder_is_refused_before_training():
    with pytest.raises(OSError, match="exp_dir '/proc/self' cannot be written"):
        mcn.Trainer(small_net(), Data(), never, options("/proc/self"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission_is_refused_before_training(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot be written: Permission denied"):
        mcn.Trainer(small_net(), Data(), never, options(tmp_path))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    whole = run(tmp_path / "a", 4)
    folder = tmp_path / "b"

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_the_disk(_net, _options, epoch):
        if epoch.epoch == 2:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left"):
        run(folder, 4, post_epoch_fn=fill_the_disk)
    with pytest.raises(OSError, match=r"exp_dir .* cannot be written: No space left"):
        run(folder, 4)
    monkeypatch.undo()
    assert names(folder) == ["net-epoch-1.safetensors", "net-epoch-2.safetensors", "stats.jsonl"]
    assert_same_end(run(folder, 4), whole)
