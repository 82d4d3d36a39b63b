"""Figures of training. Imported only when something is drawn: matplotlib takes its time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from matconvnet.files import write_atomic
from matconvnet.layout import as4d, to_numpy
from matconvnet.train.diagnostics import Diagnostics
from matconvnet.train.meters import Stats
from matconvnet.train.report import NOT_SHOWN

PANEL = (4.5, 3.5)  # inches


def plot_statistics(folder: Path, stats: Mapping[str, Sequence[Stats]]) -> None:
    """Draw learning curves to `net-train.pdf` and `net-train.png`.

    One panel for each statistic, in alphabetical order: its values in the phases against the epoch;
    of a statistic with several values, the first.
    """
    names = sorted({name for phase in stats.values() for epoch in phase for name in epoch})
    names = [name for name in names if name not in NOT_SHOWN]
    if not names:
        return
    figure, panels = _figure(len(names))
    for name, axes in zip(names, panels, strict=True):
        for phase, epochs in stats.items():
            points = [(e, np.ravel(s[name])[0]) for e, s in enumerate(epochs, 1) if name in s]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=phase)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True)
        axes.legend()
    for kind in ("pdf", "png"):
        _save(figure, folder / f"net-train.{kind}")


def plot_diagnostics(folder: Path, found: Diagnostics, prediction: Tensor) -> None:
    """Draw the measurements of an update to `net-diagnostics.png`.

    Three panels: the variation of every parameter (log axis, 1e-5 to 1), the root of the power of
    every layer (log axis, 1e-5 to 1e5), the mean prediction of every channel for every image.
    """
    figure, (variation, power, scores) = _figure(3)
    _bars(variation, found.labels, found.variation, (1e-5, 1))
    variation.set_title("variation of the parameters")
    _bars(power, found.power_labels, np.sqrt(found.power), (1e-5, 1e5))
    power.set_title("root of the power of the outputs")
    means = to_numpy(as4d(prediction, "prediction").double().mean((0, 1)))  # C x N
    scores.plot(means.T)
    scores.set(title="predictions", xlabel="image")
    scores.grid(visible=True)
    _save(figure, folder / "net-diagnostics.png")


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(PANEL[0] * panels, PANEL[1]), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _bars(axes: Axes, labels: Sequence[str], values: Any, limits: tuple[float, float]) -> None:
    places = np.arange(len(labels))
    axes.barh(places, np.clip(values, *limits) if labels else [])
    axes.set_yticks(places, labels)
    axes.set(xscale="log", xlim=limits)
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure, atomically, in the format that the name of the file tells."""
    kind = path.suffix[1:]
    write_atomic(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=120))
