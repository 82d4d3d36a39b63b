"""Figures, and the measurements they show."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.train.diagnostics import diagnose
from matconvnet.train.plots import plot_diagnostics, plot_statistics
from tests.helpers import assert_close
from tests.tolerances import REFERENCE
from tests.train.common import Data, options, small_net, train


def is_figure(path):
    start = {"pdf": b"%PDF", "png": b"\x89PNG"}[path.suffix[1:]]
    return path.read_bytes().startswith(start)


def test_learning_curves_after_every_epoch(tmp_path):
    sizes = []

    def look(_net, _options, _epoch):
        sizes.append([(tmp_path / f"net-train.{kind}").stat().st_size for kind in ("pdf", "png")])

    train(small_net(), Data(), tmp_path, plot_statistics=True, num_epochs=2, post_epoch_fn=look)
    assert is_figure(tmp_path / "net-train.pdf")
    assert is_figure(tmp_path / "net-train.png")
    assert sizes[0] != sizes[1]


def panels(monkeypatch, folder, stats):
    """The panels of the learning curves: {title: {label: points}}."""
    from matplotlib.figure import Figure

    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (
        seen.append(figure), path.write_bytes(b"")
    ))  # fmt: skip
    plot_statistics(folder, stats)
    return {
        axes.get_title(): {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
        for axes in (seen[0].axes if seen else [])
    }


def test_one_panel_for_each_statistic(tmp_path, monkeypatch):
    stats = {
        "train": [{"top1err": 0.5, "objective": 2, "num": 3}, {"objective": [1, 9], "time": 1}],
        "val": [{"num": 0}, {"objective": 4}],
    }
    assert panels(monkeypatch, tmp_path, stats) == {
        "objective": {"train": [[1, 2], [2, 1]], "val": [[2, 4]]}, "top1err": {"train": [[1, 0.5]]}
    }  # fmt: skip


def test_nothing_to_draw(tmp_path):
    plot_statistics(tmp_path, {"train": [{"num": 0}], "val": []})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("conserve", [True, False])
def test_diagnostics_are_measured_and_drawn(tmp_path, conserve):
    net, data = small_net(bnorm=True), Data()
    order = {"permute": lambda indices, _: indices}
    trainer = train(
        net, data, tmp_path, plot_diagnostics=True, conserve_memory=conserve, val=(),
        num_epochs=1, batch_size=14, learning_rate=0.5, **order,
    )  # fmt: skip
    found = trainer.loop.diagnostics
    before = small_net(bnorm=True)
    x, c = data.get_batch(data, np.arange(14))
    record = before.eval({"x0": x, "label": torch.tensor(c)})
    power = [float(record.values[name].square().mean()) for name in ("x1", "x4")]
    assert found.power_labels == ["layer1", "layer4"]
    assert found.labels == ["layer1_filters", "layer1_biases", "layer4_filters"]
    assert_close(np.array(found.power), np.array(power), REFERENCE[torch.float64])
    state, after = trainer.updater.state, net.values()
    want = [
        0.5 * state["l1_1"].abs().mean() / after["l1_1"].square().mean(),
        0.5 * state["l1_2"].abs().mean() / power[0] ** 0.5,
        0.5 * state["l4_1"].abs().mean() / after["l4_1"].square().mean(),
    ]
    assert_close(np.array(found.variation), np.array(want), REFERENCE[torch.float64])
    assert is_figure(tmp_path / "net-diagnostics.png")


def test_solvers_without_momentum_show_no_variation(tmp_path):
    net = small_net()
    record = net.eval({"x0": Data().images, "label": torch.tensor(Data().labels)})
    found = diagnose(net, record, {"l1_1": {"m": torch.ones(2)}}, 0.1)
    assert (found.labels, len(found.power)) == ([], 2)
    plot_diagnostics(tmp_path, found, record.values["x3"])
    assert is_figure(tmp_path / "net-diagnostics.png")


def test_the_trainer_alone_loads_no_matplotlib():
    code = "import sys, matconvnet as m; m.Trainer; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_global_figures(tmp_path):
    train(small_net(), Data(), tmp_path, plot_statistics=True, plot_diagnostics=True, num_epochs=1)
    assert "matplotlib.pyplot" not in sys.modules


def test_without_a_folder_nothing_is_drawn():
    trainer = mcn.Trainer(
        small_net(), data := Data(), data.get_batch, options(plot_statistics=True, num_epochs=1)
    )
    trainer.run()
    assert trainer.folder is None
