"""A run that stops anywhere goes on to the very end that it would have reached."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.train.store import Store, read_manifest
from tests.train.common import assert_identical, small_net, train, values
from tests.train.test_checkpoint import data_in_float32, names, net_with_everything, without_time


class CrashError(Exception):
    """What a machine does at a bad moment."""


class Noisy:
    """A `get_batch` that draws from every global generator, and fails at a call if it has to."""

    def __init__(self, data, calls=None):
        self.data, self.left = data, calls

    def __call__(self, imdb, indices):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise CrashError
        x, labels = self.data.get_batch(imdb, indices)
        noise = np.random.randn() + random.random() + torch.randn(1).item()
        return (x + 0.1 * noise).astype(np.float32), labels


def run(folder, *, calls=None, net=None, **changes):
    data = data_in_float32()
    given = {
        "num_epochs": 3, "num_sub_batches": 2, "solver": "adam", "learning_rate": 0.01,
        "checkpoint_every": 1, **changes,
    }  # fmt: skip
    return train(net or net_with_everything(), data, folder, get_batch=Noisy(data, calls), **given)


def assert_same_end(got, want):
    assert_identical(values(got.net), values(want.net))
    for name, state in want.updater.state.items():
        assert_identical_states(got.updater.state[name], state)
    assert without_time(got.history.stats) == without_time(want.history.stats)
    ratios = [[notes["train"]["update_ratio"] for notes in t.history.notes] for t in (got, want)]
    assert ratios[0] == ratios[1]


def assert_identical_states(got, want):
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key, item in want.items():
            assert_identical_states(got[key], item)
    elif isinstance(want, torch.Tensor):
        assert torch.equal(got, want)
    else:
        assert got == want


# An epoch asks for 6 sub-batches to train and 4 to validate; a fetch fails in each of them.
@pytest.mark.parametrize("calls", [1, 3, 4, 7, 9, 10, 12, 17, 25])
def test_a_crash_within_an_epoch_costs_nothing_but_the_step(tmp_path, calls):
    whole = run(None)
    with pytest.raises(CrashError):
        run(tmp_path, calls=calls)
    assert_same_end(run(tmp_path), whole)


@pytest.mark.parametrize(
    "changes",
    [
        {"average": 0.9},
        {"clip_norm": 0.5, "clip_value": 0.1, "solver": None},
        {"learning_rate": mcn.WarmUp(mcn.Cosine(0.05), 1.5), "solver": "rmsprop"},
        {"learning_rate": mcn.Plateau(0.05, patience=1), "solver": "adadelta"},
        {"save_solver_state": False, "solver": None},
    ],
    ids=["average", "clipping", "cosine", "plateau", "no solver state"],
)
def test_every_option_resumes_exactly(tmp_path, changes):
    whole = run(None, **changes)
    for calls in (2, 15):
        with pytest.raises(CrashError):
            run(tmp_path, calls=calls, **changes)
    assert_same_end(run(tmp_path, **changes), whole)


def test_an_average_is_validated_saved_and_returned(tmp_path):
    data = data_in_float32()
    raw = train(net_with_everything(), data)
    found = train(net_with_everything(), data, tmp_path, average=0.5)
    saved = mcn.load_network(tmp_path / "net-epoch-3.safetensors")
    assert_identical(values(saved), values(found.net))
    assert not torch.equal(found.net.params["l1_1"].value, raw.net.params["l1_1"].value)
    evaluated = train(saved, data, train=())
    want = found.history.stats["val"][-1]["objective"]
    assert evaluated.history.stats["val"][0]["objective"] == pytest.approx(want, rel=1e-6)


def test_rates_of_post_epoch_fn_are_kept(tmp_path):
    def change(_net, _options, epoch):
        return [0.02, 0.01, 0.005] if epoch.epoch == 1 else None

    whole = run(None, post_epoch_fn=change)
    with pytest.raises(CrashError):
        run(tmp_path, calls=15, post_epoch_fn=change)
    parts = run(tmp_path, post_epoch_fn=change)
    assert_same_end(parts, whole)
    assert parts.history.learning_rates == whole.history.learning_rates == [0.01, 0.01, 0.005]


def test_a_checkpoint_of_the_middle_gives_way_to_that_of_the_epoch(tmp_path):
    with pytest.raises(CrashError):
        run(tmp_path, calls=5)
    assert names(tmp_path) == ["net-epoch-1-step-2.safetensors"]
    with pytest.raises(CrashError):
        run(tmp_path, calls=7)
    assert names(tmp_path) == ["net-epoch-1.safetensors", "stats.jsonl"]
    with pytest.raises(CrashError):
        run(tmp_path, calls=3)
    assert names(tmp_path) == [
        "net-epoch-1.safetensors", "net-epoch-2-step-1.safetensors", "stats.jsonl"
    ]  # fmt: skip


def test_time_is_counted_too(tmp_path):
    with pytest.raises(CrashError):
        run(tmp_path, calls=5, checkpoint_every=None, checkpoint_minutes=1e-9)
    assert names(tmp_path) == ["net-epoch-1-step-2.safetensors"]


def test_the_last_and_the_best_are_kept(tmp_path):
    found = run(tmp_path, num_epochs=6, keep_last=2, learning_rate=[0.01] * 3 + [0.3] * 3)
    errors = [stats["top1err"] for stats in found.history.stats["val"]]
    best = 1 + int(np.argmin(errors))
    kept = [name for name in names(tmp_path) if name.startswith("net")]
    assert kept == sorted({f"net-epoch-{e}.safetensors" for e in (best, 5, 6)})
    entries = read_manifest(tmp_path)
    assert sorted(entries) == kept
    assert entries[f"net-epoch-{best}.safetensors"]["value"] == min(errors)


def test_the_monitored_statistic_is_chosen(tmp_path):
    found = run(tmp_path, num_epochs=4, keep_last=1, monitor="objective")
    values_ = [stats["objective"] for stats in found.history.stats["val"]]
    best = 1 + int(np.argmin(values_))
    kept = [name for name in names(tmp_path) if name.startswith("net")]
    assert kept == sorted({f"net-epoch-{e}.safetensors" for e in (best, 4)})


def test_patience_ends_training():
    found = run(None, num_epochs=30, learning_rate=[0.01, 0.0], patience=2)
    errors = [stats["top1err"] for stats in found.history.stats["val"]]
    best = int(np.argmin(errors))
    assert len(errors) == best + 3 < 30


def test_an_old_run_is_set_aside_not_overwritten(tmp_path):
    old = run(tmp_path, num_epochs=3)
    new = run(tmp_path, num_epochs=1, resume=False, random_seed=9)
    aside = tmp_path / "previous-1"
    assert {"net-epoch-3.safetensors", "stats.jsonl", "checkpoints.json"} <= set(names_of(aside))
    kept = mcn.load_network(aside / "net-epoch-3.safetensors")
    assert_identical(values(kept), values(old.net))
    again = run(tmp_path, num_epochs=1)
    assert_identical(values(again.net), values(new.net))
    run(tmp_path, num_epochs=1, resume=False)
    assert (tmp_path / "previous-2" / "net-epoch-1.safetensors").exists()


def names_of(folder):
    return [path.name for path in folder.iterdir()]


def test_two_runs_in_one_folder(tmp_path):
    def start_another(_net, _options, _epoch):
        with pytest.raises(OSError, match="in use by another run"):
            run(tmp_path)

    run(tmp_path, num_epochs=1, post_epoch_fn=start_another)
    run(tmp_path, num_epochs=2)


def test_a_file_of_a_run_that_died_while_writing_is_removed(tmp_path):
    stale = tmp_path / ".net-epoch-1.safetensors.123.tmp"
    stale.write_bytes(b"half")
    run(tmp_path, num_epochs=1)
    assert not stale.exists()


def test_a_file_that_is_not_the_one_in_the_manifest_is_passed_over(tmp_path):
    whole = run(None)
    run(tmp_path, num_epochs=2)
    other = run(tmp_path / "other", num_epochs=2, random_seed=5)
    assert other is not None
    path = tmp_path / "net-epoch-2.safetensors"
    path.write_bytes((tmp_path / "other" / "net-epoch-2.safetensors").read_bytes())
    with pytest.warns(UserWarning, match="its SHA-256 is not the one in checkpoints.json"):
        assert_same_end(run(tmp_path), whole)


def test_a_damaged_manifest_is_no_matter(tmp_path):
    whole = run(None)
    run(tmp_path, num_epochs=2)
    for text in ("", "{}", '{"checkpoints": 3}', "nonsense"):
        (tmp_path / "checkpoints.json").write_text(text)
        assert read_manifest(tmp_path) == {}
    assert_same_end(run(tmp_path), whole)


def test_a_clock_that_goes_back_is_no_matter(tmp_path):
    run(tmp_path, num_epochs=2)
    for path in tmp_path.glob("net-epoch-2*"):
        os.utime(path, (0, 0))
    with Store(tmp_path) as store:
        assert store.newest(net_with_everything()) == "net-epoch-2.safetensors"


def test_the_run_tells_how_it_ended(tmp_path):
    def about():
        return json.loads((tmp_path / "run.json").read_text())

    with pytest.raises(CrashError):
        run(tmp_path, calls=5)
    assert (about()["status"], about()["message"]) == ("failed", "CrashError: ")
    run(tmp_path, num_epochs=1)
    assert about()["status"] == "finished"
    assert (
        about()["network"]["parameters"]
        == sum(v.numel() for v in values(small_net()).values()) + 16
    )


SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
from tests.train import test_resuming as tests

class Slow(tests.Noisy):
    def __call__(self, imdb, indices):
        print("batch", flush=True)
        time.sleep(0.02)
        return super().__call__(imdb, indices)

tests.Noisy = Slow
tests.run(sys.argv[1], num_epochs=4, checkpoint_every=None)
print("done", flush=True)
"""


def start(folder):
    script = SCRIPT.format(root=str(Path(__file__).parents[2]))
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "batches", "status"),
    [(signal.SIGTERM, 3, 0), (signal.SIGTERM, 8, 0), (signal.SIGTERM, 15, 0),
     (signal.SIGINT, 13, None)],
)  # fmt: skip
def test_a_signal_ends_the_run_after_its_step_and_nothing_is_lost(
    tmp_path, number, batches, status
):
    whole = run(None, num_epochs=4)
    process = start(tmp_path)
    assert process.stdout is not None
    for _ in range(batches):
        assert process.stdout.readline() == "batch\n"
    process.send_signal(number)
    rest = process.communicate()[0]
    code = process.returncode
    assert code == status if status is not None else code != 0
    assert "done" not in rest
    assert rest.count("batch") <= 4  # the step under way, of two sub-batches, and one begun
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["status"] == "stopped"
    assert any("-step-" in name for name in names(tmp_path))
    assert_same_end(run(tmp_path, num_epochs=4), whole)


def test_a_run_that_has_ended_before_its_last_epoch_stays_so(tmp_path):
    rates = {"num_epochs": 30, "learning_rate": [0.01, 0.0], "patience": 2}
    first = run(tmp_path / "patience", **rates)
    assert_same_end(run(tmp_path / "patience", **rates), first)
    changes = {"post_epoch_fn": lambda *_: 0, "num_epochs": 5}
    first = run(tmp_path / "told", **changes)
    assert len(first.history.stats["train"]) == 1
    assert_same_end(run(tmp_path / "told", **changes), first)


def test_the_best_of_what_is_there_is_kept(tmp_path):
    options = {"keep_last": 1, "monitor": "-objective"}  # the largest, that of the first epoch
    run(tmp_path, num_epochs=4, **options)
    assert {name for name in names(tmp_path) if name.startswith("net")} == {
        "net-epoch-1.safetensors", "net-epoch-4.safetensors"
    }  # fmt: skip
    (tmp_path / "net-epoch-1.safetensors").unlink()
    run(tmp_path, num_epochs=6, **options)
    kept = {name for name in names(tmp_path) if name.startswith("net")}
    assert kept == {"net-epoch-4.safetensors", "net-epoch-6.safetensors"}
    assert set(read_manifest(tmp_path)) == kept
