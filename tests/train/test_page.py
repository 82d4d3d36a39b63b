"""The page of a run: what it tells, what it survives, how large it gets."""

import math
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from matconvnet.train.page import svg, write_page
from matconvnet.train.page.signs import signs
from matconvnet.train.text import clock, duration, escape, short

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that all elements are closed, and keeps them: (name, attributes, text inside)."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.found = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        entry = [tag, dict(attrs), ""]
        self.found.append(entry)
        if tag not in VOID:
            self.open.append(entry)

    def handle_startendtag(self, tag, attrs):
        self.found.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for entry in self.open:
            entry[2] += data

    def all(self, tag, kind=None):
        """The elements of a name and, if given, a class."""
        return [
            (attributes, text)
            for name, attributes, text in self.found
            if name == tag and (kind is None or kind in attributes.get("class", "").split())
        ]

    def text(self, tag, kind=None):
        return " ".join(text for _, text in self.all(tag, kind))


def rows_of(epochs, *, layers=("l1_1", "l1_2"), objective=None, **fields):
    """Lines of `stats.jsonl`: the objective halves from epoch to epoch."""
    rows = []
    for epoch in range(1, epochs + 1):
        for phase in ("train", "val"):
            value = (
                objective(epoch, phase) if objective else (2.0 if phase == "val" else 1.0) / epoch
            )
            row = {"epoch": epoch, "phase": phase, "learning_rate": 0.1, "objective": value,
                   "time": 10.0, "data_time": 1.0, "images_per_second": 10.0}  # fmt: skip
            if phase == "train":
                row["update_ratio"] = dict.fromkeys(layers, 0.001)
            rows.append({**row, **fields})
    return rows


ABOUT = {
    "network": "lenet", "status": "finished", "message": "all went well", "device": "cpu",
    "started": "2030-01-02T03:04:05.678+00:00", "updated": "2030-01-02T03:05:05+00:00",
    "options": {"num_epochs": 8, "batch_size": 50, "solver": None, "learning_rate": [0.5] * 20},
    "world_size": 1,
}  # fmt: skip


def page(folder, rows=(), about=ABOUT, **rest):
    write_page(folder, rows=list(rows), about=about, **rest)
    return Reader((folder / "run.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("status", ["running", "finished", "stopped", "failed"])
def test_status_and_message(tmp_path, status):
    found = page(tmp_path / ".", rows_of(3), {**ABOUT, "status": status})
    assert status.capitalize() in found.text("p", "status")
    assert "2030-01-02 03:05:05 UTC" in found.text("p", "status")
    assert found.text("p", "message") == "all went well"
    assert found.text("h1") == tmp_path.name
    refreshes = [a for a, _ in found.all("meta") if a.get("http-equiv") == "refresh"]
    assert bool(refreshes) == (status == "running")


def test_nothing_is_loaded_and_nothing_runs(tmp_path):
    found = page(tmp_path, rows_of(3), confusion={"classes": ["a"], "counts": [[1]]})
    assert not {name for name, _, _ in found.found} & {"script", "link", "img", "iframe", "a"}
    text = (tmp_path / "run.html").read_text()
    assert "url(" not in text
    assert "http:" not in text
    assert "https:" not in text


def test_a_run_without_epochs(tmp_path):
    found = page(tmp_path, [], {**ABOUT, "status": "running"})
    assert "Waiting for the first numbers." in found.text("section", "progress")
    assert found.all("svg") == []
    assert page(tmp_path, [], {}).text("p", "status") == "? Status unknown"


def test_progress_of_the_running_epoch(tmp_path):
    live = {"epoch": 4, "phase": "train", "batch": 30, "batches": 120, "objective": 0.4567,
            "num": 99, "time": 3.0, "images_per_second": 512.4}  # fmt: skip
    found = page(tmp_path, rows_of(3), {**ABOUT, "status": "running"}, live=live)
    told = found.text("section", "progress")
    assert "Epoch 4 of 8, train: batch 30 of 120; objective\xa00.4567, 512 images/s" in told
    assert [a["style"] for a, _ in found.all("i")] == ["width:25.0%", "width:37.5%"]
    assert "still to go, about2 min" in found.text("dl", "tiles")  # 5 x 20 s


def legend(found, title):
    """The legend of the card with a title."""
    return next(text for _, text in found.all("figcaption") if text.startswith(title))


def test_a_curve_for_every_statistic(tmp_path):
    rows = rows_of(4, top1err=0.25)
    rows[3]["top1err"] = 0.125
    found = page(tmp_path, rows)
    assert "train 0.25val 0.25, best 0.125 in epoch 2" in legend(found, "top1err")
    assert "train 0.25val 0.5, best 0.5 in epoch 4" in legend(found, "objective")
    assert "best top1err on val0.125in epoch 2" in found.text("dl", "tiles")
    labels = [attributes["aria-label"] for attributes, _ in found.all("svg")]
    assert labels == [
        "objective", "top1err", "learning rate", "images per second", "seconds per epoch",
        "update ratios over the epochs", "update ratio of each parameter",
    ]  # fmt: skip


def test_of_a_statistic_after_a_minus_sign_the_largest_is_best(tmp_path):
    rows = rows_of(3, accuracy=0.5)
    rows[3]["accuracy"] = 0.75
    about = {**ABOUT, "options": {"monitor": "-accuracy"}}
    found = page(tmp_path, rows, about)
    assert "best 0.75 in epoch 2" in legend(found, "accuracy")
    assert "best accuracy on val0.75in epoch 2" in found.text("dl", "tiles")


def test_wide_ranges_get_a_log_axis(tmp_path):
    assert "log" not in legend(page(tmp_path, rows_of(4)), "objective")
    assert "log" in legend(page(tmp_path, rows_of(40)), "objective")


def paths(found, title, kind):
    """The `d` of the paths of a class in the picture with a title."""
    text = next(
        part for part in re.findall(r"<figure.*?</figure>", found, re.DOTALL) if title in part
    )
    return re.findall(rf'<path class="{kind}" d="([^"]*)"', text)


def test_points_stand_where_they_belong(tmp_path):
    values = {1: 4.0, 2: 2.0, 3: 3.0}
    write_page(tmp_path, rows=rows_of(3, objective=lambda e, _: values[e]), about={})
    (path,) = paths((tmp_path / "run.html").read_text(), "<h3>objective", "line val")
    points = [tuple(map(float, point.split())) for point in path[1:].split("L")]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x1 < x2 < x3
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 < y3 < y2  # up is more
    assert y2 - y1 == pytest.approx(2 * (y2 - y3), abs=0.3)


def test_missing_values_break_a_line(tmp_path):
    bad = {3: math.nan, 4: None, 5: math.inf}
    rows = rows_of(8, objective=lambda e, _: bad.get(e, 1.0 / e))
    found = page(tmp_path, rows)
    text = (tmp_path / "run.html").read_text()
    assert len(paths(text, "<h3>objective", "line val")) == 2
    assert "nan" not in re.sub(r"<style>.*</style>", "", text)
    assert "not a finite number in epoch 3" in found.text("section", "signs")


def test_lines_without_what_only_new_trainers_write(tmp_path):
    rows = [{"epoch": 1, "phase": "train", "objective": [0.5, 7.0]}, {"epoch": 1, "phase": "val"}]
    found = page(tmp_path, rows)
    assert "train 0.5, best 0.5 in epoch 1" in legend(found, "objective")
    assert [a["aria-label"] for a, _ in found.all("svg")] == ["objective"]


@pytest.mark.parametrize(
    ("network", "want"),
    [
        ("lenet", "lenet"),
        (
            {"kind": "DagNN", "layers": 8, "parameters": 431080},
            "DagNN, 8 layers, 431,080 parameters",
        ),
        ({"name": "cifar", "kind": "SimpleNN", "layers": "?"}, "cifar"),
        ({}, "network"),
        (None, ""),
    ],
)
def test_the_network_is_named(tmp_path, network, want):
    assert page(tmp_path, rows_of(1), {"network": network}).text("p", "under") == want


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-320, 1e308, -1e308, 5])
def test_extreme_numbers(tmp_path, value):
    page(tmp_path, rows_of(3, objective=lambda e, _: value if e == 2 else 1.0, time=0))
    text = (tmp_path / "run.html").read_text()
    assert not re.search(r'"[^"]*\b(nan|inf)\b[^"]*"', text)


HOSTILE = "\"><script>alert(1)</script>\x00\u202e\ud800&amp;'"


def test_names_and_messages_are_only_text(tmp_path):
    rows = rows_of(3, layers=[HOSTILE], **{HOSTILE: 1.0})
    about = {**ABOUT, "network": HOSTILE, "message": HOSTILE, "options": {HOSTILE: HOSTILE},
             "updated": HOSTILE, "device": {HOSTILE: [HOSTILE]}}  # fmt: skip
    live = {"epoch": 1, "phase": HOSTILE, "batch": 1, "batches": 2, HOSTILE: 1.0}
    confusion = {"classes": [HOSTILE, "b"], "counts": [[1, 2], [3, 4]]}
    found = page(tmp_path, rows, {**about, "status": "running"}, live=live, confusion=confusion)
    assert not found.all("script")
    shown = (
        HOSTILE.replace("\x00", "\ufffd").replace("\u202e", "\ufffd").replace("\ud800", "\ufffd")
    )
    assert found.text("p", "message") == shown
    assert shown in found.text("dt")
    assert shown in found.text("dd")
    assert shown in found.text("h3")
    assert found.text("th").count(shown) >= 3
    assert any(shown in attributes.get("title", "") for attributes, _ in found.all("td"))
    for _, attributes, _ in found.found:
        assert not any(name.startswith("on") for name in attributes)


def test_long_names_are_cut(tmp_path):
    confusion = {"classes": ["x" * 10_000, "b"], "counts": [[1, 2], [3, 4]]}
    page(tmp_path, rows_of(2), confusion=confusion)
    assert (tmp_path / "run.html").stat().st_size < 40_000


def test_a_small_confusion_matrix_is_a_heat_map(tmp_path):
    confusion = {"classes": ["cat", "dog", "owl"], "counts": [[8, 2, 0], [1, 9, 0], [0, 0, 0]]}
    found = page(tmp_path, rows_of(1), confusion=confusion)
    titles = [a["title"] for a, _ in found.all("td") if "title" in a]
    assert titles == [
        "cat taken for cat: 8, 80 %", "cat taken for dog: 2, 20 %",
        "dog taken for cat: 1, 10 %", "dog taken for dog: 9, 90 %",
    ]  # fmt: skip
    assert [text for _, text in found.all("td", "wrong")] == ["2", "1"]
    shades = [a["style"] for a, _ in found.all("td", "right")]
    assert shades[0] < shades[1]
    assert "17 of 20 right, 15 % wrong" in found.text("p", "note")
    assert "none there" in found.text("td", "sum")


def test_a_large_confusion_matrix_is_a_list_of_the_worst(tmp_path):
    counts = np.eye(100, dtype=int) * 50
    counts[7, 9], counts[3, 4] = 30, 10
    content = {"classes": [f"class {i}" for i in range(100)], "counts": counts.tolist()}
    found = page(tmp_path, rows_of(1), confusion=content)
    worst, hardest = (text for _, text in found.all("tbody") if "class 7" in text)
    assert worst == "class 7class 93038 %class 3class 41017 %"
    assert hardest == "class 78038 %class 36017 %"
    assert found.all("td", "wrong") == []


def test_many_epochs_and_layers_stay_small(tmp_path):
    rng = np.random.default_rng(0)
    layers = [f"block{i}.conv.filter" for i in range(200)]
    rows = rows_of(1000, objective=lambda e, _: float(rng.random()) / e)
    for row in rows[::2]:
        row["update_ratio"] = dict(zip(layers, 10 ** rng.normal(-3, 1, 200), strict=True))
    classes = [f"class {i}" for i in range(40)]
    confusion = {"classes": classes, "counts": rng.integers(1, 99, (40, 40)).tolist()}
    found = page(tmp_path, rows, confusion=confusion)
    assert (tmp_path / "run.html").stat().st_size < 500_000
    epochs = [row for row in found.all("tr") if re.match(r"\d", row[1])]
    assert len(epochs) < 80
    assert "of 1000 epochs; stats.jsonl holds all" in found.text("p", "note")


def test_the_latest_and_the_best_epoch_are_in_the_table(tmp_path):
    rows = rows_of(500, objective=lambda e, _: abs(e - 201.0) + 1)
    found = page(tmp_path, rows)
    assert len(found.all("tr", "best")) == 1
    assert found.text("tr", "best").startswith("201")
    numbers = found.all("table", "numbers")[0][1]
    assert "500" in numbers


def test_thinning_keeps_ends_and_spikes():
    points = [(epoch, 1.0) for epoch in range(1, 2001)]
    points[777], points[1200] = (778, 50.0), (1201, -3.0)
    thin = svg.thin(points, 100)
    assert len(thin) <= 110
    assert {(1, 1.0), (2000, 1.0), (778, 50.0), (1201, -3.0)} <= set(thin)
    assert thin == sorted(thin)
    assert svg.thin(points[:100], 100) == points[:100]


@pytest.mark.parametrize(
    ("low", "high", "log", "want"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 7, False, [0, 2, 4, 6]),
        (-3, 3, False, [-3, -2, -1, 0, 1, 2, 3]),
        (0.01, 1, True, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]),
        (1e-6, 10, True, [1e-6, 1e-4, 1e-2, 1]),
    ],
)
def test_ticks_are_round(low, high, log, want):
    assert svg.Scale(low, high, 0, 1, log).ticks() == pytest.approx(want)


def test_ticks_of_epochs_are_whole():
    assert svg.Scale(1, 3, 0, 1).ticks(whole=True) == [1, 2, 3]


def ratios(**last):
    """Lines whose last update ratios are these."""
    rows = rows_of(3)
    rows[-2]["update_ratio"] = last
    return rows


def test_update_ratios_outside_the_band_are_marked(tmp_path):
    found = page(tmp_path, ratios(l1_1=1e-3, l1_2=1e-7, l2_1=0.5, l2_2=0.0))
    assert len(found.all("circle", "out")) == 3
    told = found.text("section", "signs")
    assert "l1_2, l2_2 hardly move" in told
    assert "l2_1 move by more than a tenth" in told


def test_signs_of_overfitting():
    rows = rows_of(9, objective=lambda e, phase: 1 / e if phase == "train" else 1 + (e - 4) ** 2)
    (found,) = signs(rows)
    assert "lowest in epoch 4" in found
    assert "overfits" in found
    assert signs(rows[:12]) == []  # two epochs after the best are too few to tell


def test_signs_of_divergence():
    (found,) = signs(rows_of(3, objective=lambda e, _: float(e)))
    assert "rose</b> from 1 to 3" in found


def test_signs_of_waiting():
    (found,) = signs(rows_of(3, data_time=4.0))
    assert "40 % of the last epoch went by waiting for data" in unescape(found)
    assert signs(rows_of(3)) == []


def test_the_split_of_time(tmp_path):
    found = page(tmp_path, rows_of(90, time=10.0, data_time=2.5))
    assert "computing 11 minwaiting for data 4 min, 25 %" in legend(found, "seconds per")
    assert len(found.all("rect", "wait")) == 45  # 90 epochs, two together


def test_an_old_page_stays_if_the_new_one_cannot_be_written(tmp_path):
    page(tmp_path, rows_of(1))
    before = (tmp_path / "run.html").read_text()
    with pytest.raises(ValueError, match="wanted 1 x 1"):
        page(tmp_path, rows_of(2), confusion={"classes": ["a"], "counts": [[1, 2]]})
    assert (tmp_path / "run.html").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.html"]


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (None, "\N{EN DASH}"), (0.0, "0"), (1.23456, "1.235"), (12345.6, "12,346"), (1e-5, "1e-5"),
        (-2.5e-10, "-2.5e-10"), (1e6, "1e6"), (2.34567e12, "2.346e12"), (0.0001, "0.0001"),
    ],
)  # fmt: skip
def test_short_numbers(value, want):
    assert short(value) == want


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (0.04, "0.0 s"), (9.96, "10 s"), (99.6, "2 min"), (3570, "1 h 00 min"),
        (5400, "1 h 30 min"), (86400 * 3, "3.0 days"),
    ],
)  # fmt: skip
def test_durations(seconds, want):
    assert duration(seconds) == want


def test_other_text():
    assert clock("2030-01-02T03:04:05+02:00") == "2030-01-02 03:04:05 +02:00"
    assert clock("yesterday <") == "yesterday <"
    assert escape("x" * 50, 10) == "x" * 9 + "\N{HORIZONTAL ELLIPSIS}"
