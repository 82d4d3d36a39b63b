"""`matconvnet runs`: runs side by side, in a folder that holds other things too."""

import json
import os

import pytest
import typer
from typer.testing import CliRunner

from matconvnet.cli.app import Commands, options
from matconvnet.cli.runs import runs
from matconvnet.train.report import write_about, write_stats

app = typer.Typer(cls=Commands)
app.command("runs")(runs)
app.callback()(options)


def invoke(*args):
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, ["runs", *map(str, args)])


def shown(*args):
    result = invoke(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def save_run(folder, errors, status="finished", **options):
    """A run with an error on val per epoch; on train the objective is the number of the epoch."""
    folder.mkdir(parents=True)
    rows = []
    for epoch, error in enumerate(errors, 1):
        rows.append(
            {
                "epoch": epoch,
                "phase": "train",
                "learning_rate": 0.1 / epoch,
                "objective": float(epoch),
                "time": 60.0,
                "images_per_second": 99.6,
            }
        )
        rows.append({"epoch": epoch, "phase": "val", "objective": 0.5, "top1err": error,
                     "time": 30.0})  # fmt: skip
    write_stats(folder, rows)
    given = {"exp_dir": str(folder), "num_epochs": 4, "batch_size": 50, "solver": None}
    write_about(
        folder, {"network": {"name": "lenet"}, "status": status, "options": given | options}
    )


@pytest.fixture
def folder(tmp_path):
    save_run(tmp_path / "first", [0.5, 0.25, 0.375, 0.5])
    save_run(tmp_path / "deep" / "er" / "second", [0.5, 0.125], "stopped", batch_size=100)
    save_run(tmp_path / "third", [0.75], "failed", solver="adam", weight_decay=0.01)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes.txt").write_text("no run")
    return tmp_path


def lines(printed):
    return [line.split() for line in printed.splitlines() if line.strip()]


def test_a_table_with_the_best_first(folder):
    head, *found = lines(shown(folder))
    assert head[:5] == ["run", "status", "epochs", "val", "top1err"]
    second = os.path.join("deep", "er", "second")
    assert found == [
        [second, "stopped", "2/4", "0.125", "(2)", "0.125", "2", "0.5", "0.05", "100", "sgd",
         "100", "3", "min"],
        ["first", "finished", "4/4", "0.25", "(2)", "0.5", "4", "0.5", "0.025", "50", "sgd",
         "100", "6", "min"],
        ["third", "failed", "1/4", "0.75", "(1)", "0.75", "1", "0.5", "0.1", "50", "adam",
         "100", "90", "s"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("order", "want"),
    [
        ("name", ["second", "first", "third"]),
        ("epochs", ["first", "second", "third"]),
        ("time", ["third", "second", "first"]),
    ],
)
def test_other_orders(folder, order, want):
    found = json.loads(shown(folder, "--json", "--sort", order))
    assert [os.path.basename(run["name"]) for run in found] == want


def test_json_holds_all(folder):
    first = json.loads(shown(folder / "first", "--json"))[0]
    options = first.pop("options")
    assert options["batch_size"] == 50
    assert first == {
        "name": str(folder / "first"), "folder": str(folder / "first"), "status": "finished",
        "network": "lenet", "started": None, "epochs": 4, "num_epochs": 4,
        "statistic": "val top1err", "best": 0.25, "best_epoch": 2, "last": 0.5, "train": 4.0,
        "val": 0.5, "learning_rate": 0.025, "batch_size": 50, "solver": "sgd",
        "images_per_second": 99.6, "time": 360.0,
    }  # fmt: skip


def test_only_options_that_differ_are_shown(folder):
    printed = shown(folder, "--options")
    head, *found = lines(printed[printed.index("batch_size") - 40 :])[-4:]
    assert head == ["run", "batch_size", "solver", "weight_decay"]
    assert [line[1:] for line in found] == [
        ["100", "\N{EN DASH}"], ["50", "\N{EN DASH}"], ["50", "adam", "0.01"]
    ]  # fmt: skip
    assert "exp_dir" not in printed
    assert shown(folder / "first", "--options").endswith("No options differ.\n")


def test_a_run_is_listed_once(folder):
    found = json.loads(shown(folder, folder / "first", folder, "--json"))
    assert len(found) == 3


def test_of_a_statistic_after_a_minus_sign_the_largest_is_best(tmp_path):
    save_run(tmp_path / "a", [0.5, 0.25], monitor="-top1err")
    save_run(tmp_path / "b", [0.125, 0.75], monitor="-top1err")
    found = json.loads(shown(tmp_path, "--json"))
    assert [(run["best"], run["best_epoch"]) for run in found] == [(0.75, 2), (0.5, 1)]
    assert "val top1err (epoch)" in shown(tmp_path)


def test_runs_with_other_statistics_stand_apart(folder):
    save_run(folder / "other", [0.1], monitor="objective")
    _, *found = lines(shown(folder))
    assert found[0][3:6] == ["val", "objective", "0.5"]
    assert found[1][3:6] == ["val", "top1err", "0.125"]


@pytest.mark.filterwarnings("default")
def test_damaged_folders_are_named_and_left_out(folder):
    (folder / "first" / "stats.jsonl").write_text('{"epoch": 1, "phase"')
    (folder / "third" / "run.json").write_text("[]")
    result = invoke(folder)
    assert result.exit_code == 0
    assert len(lines(result.stdout)) == 2
    assert f"{folder / 'first'} is left out: line 1 of" in result.stderr
    assert f"{folder / 'third'} is left out" in result.stderr
    assert "wanted an object" in result.stderr


def test_a_run_that_has_only_begun_or_is_old(tmp_path):
    (tmp_path / "begun").mkdir()
    write_about(tmp_path / "begun", {"status": "running"})
    (tmp_path / "old").mkdir()
    write_stats(tmp_path / "old", [{"epoch": 1, "phase": "train", "objective": None}])
    dash = "\N{EN DASH}"
    _, *found = lines(shown(tmp_path))
    assert [line[:5] for line in found] == [
        ["begun", "running", f"0/{dash}", dash, dash],
        ["old", dash, f"1/{dash}", dash, dash],
    ]


def test_narrow_terminals_get_fewer_columns(tmp_path, monkeypatch):
    save_run(tmp_path / "a", [0.5])
    wide = shown(tmp_path)
    monkeypatch.setattr("matconvnet.cli.runs.WIDTH", 90)
    narrow = shown(tmp_path)
    assert "images/s" in wide
    assert "images/s" not in narrow
    assert max(map(len, narrow.splitlines())) <= 90 < max(map(len, wide.splitlines()))
    assert (
        lines(narrow)[1][:6] == lines(wide)[1][:6] == ["a", "finished", "1/4", "0.5", "(1)", "0.5"]
    )


@pytest.mark.skipif(os.name != "posix", reason="file names are not so free here")
def test_names_do_not_control_the_terminal(tmp_path):
    save_run(tmp_path / "evil\x1b[31m\n[bold]", [0.5])
    printed = shown(tmp_path)
    assert "\x1b" not in printed
    assert "evil\ufffd[31m\ufffd[bold]" in printed


def test_nothing_to_compare(folder, tmp_path):
    for arguments, message in (
        ([folder / "elsewhere"], "there are no runs below"),
        ([folder / "nowhere"], "is not a folder"),
        ([folder / "first" / "stats.jsonl"], "is not a folder"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
