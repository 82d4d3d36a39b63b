"""Ranges of the numbers in a SimpleNN: weights, values and derivatives, layer by layer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from matconvnet.executor import Record
from matconvnet.layout import to_tensor
from matconvnet.nets.custom import Entry
from matconvnet.nets.simplenn import SimpleNN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "filters": "C0", "biases": "C0", "x": "C2", "dzdx": "C3", "dfilters": "C3", "dbiases": "C3",
}  # fmt: skip
"""Of the panels: derivatives have one colour."""


class Ranges(NamedTuple):
    """Mean, smallest and largest number in each of several tensors; nan where there is none."""

    mean: np.ndarray
    min: np.ndarray
    max: np.ndarray


def diagnose(net: SimpleNN, evaluated: Record | Sequence[Entry] | None = None) -> dict[str, Ranges]:
    """Ranges of all weights and, if an evaluation is given, of its values and derivatives.

    Args:
        net: a network of n layers.
        evaluated: what `net.eval` or `vl_simplenn` returned for it, with derivatives or without.

    Returns:
        Ranges by quantity, each over n + 1 numbers, one for the input (0) and one for each layer:
        `filters`, `biases`: the first and second weight of the layer (of a batch normalisation the
        multipliers and biases). With `evaluated`, also `x`, `dzdx`: the output of the layer and its
        derivative, where there are more than one number; `dfilters`, `dbiases`: derivatives of the
        weights.

    Source: vl_simplenn_diagnose, where `x` of a layer is its input. Convolution transposes, left
        out there, are included here.
    """
    columns = {"filters": _column(_weights(net), 0), "biases": _column(_weights(net), 1)}
    if evaluated is not None:
        entries = _entries(net, evaluated)
        ders = [
            entry.dzdw or [] if link.layer.param_names else []
            for entry, link in zip(entries, net.layers, strict=False)
        ]
        columns["x"] = [_several(entry.x) for entry in entries]
        columns["dzdx"] = [_several(entry.dzdx) for entry in entries]
        columns["dfilters"], columns["dbiases"] = _column(ders, 0), _column(ders, 1)
    return {name: _ranges(tensors) for name, tensors in columns.items()}


def plot_diagnosis(numbers: Mapping[str, Ranges]) -> "Figure":
    """A figure of what `diagnose` returned: a panel for each quantity, over the layers.

    Points are means, bars reach from the smallest to the largest number.
    """
    from matplotlib.figure import Figure

    rows = (len(numbers) + 1) // 2
    figure = Figure(figsize=(9, 0.6 + 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 2, sharex=True, squeeze=False)
    for panel, (name, ranges) in zip(panels.flat, numbers.items(), strict=False):
        _draw(panel, name, ranges)
    for panel in panels[-1]:
        panel.set_xlabel("layer")
    panels[0, 0].set_title("coefficient ranges")
    figure.align_ylabels(panels)
    return figure


def _draw(panel: "Axes", name: str, ranges: Ranges) -> None:
    layers = np.arange(len(ranges.mean))
    panel.set_xlim(-0.5, len(layers) - 0.5)
    panel.locator_params(axis="x", integer=True)
    panel.set_ylabel(name)
    if not np.isfinite(ranges.mean).any():
        panel.text(
            0.5, 0.5, "no finite numbers", color="0.5", ha="center", transform=panel.transAxes
        )
        panel.set_yticks([])
        return
    panel.ticklabel_format(axis="y", scilimits=(-2, 3))
    panel.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    # Rounding may put the mean of equal numbers outside of them.
    lengths = np.maximum([ranges.mean - ranges.min, ranges.max - ranges.mean], 0)
    panel.errorbar(
        layers, ranges.mean, lengths, fmt="o", color=COLORS[name], markersize=4, capsize=3
    )


def _weights(net: SimpleNN) -> list[list[Any]]:
    """The weights of every layer of ours; what those of a custom layer mean is not known."""
    return [
        [param.value for param in link.params] if link.layer.param_names else []
        for link in net.layers
    ]


def _entries(net: SimpleNN, evaluated: Record | Sequence[Entry]) -> list[Entry]:
    """An evaluation as entries: entry i holds variable i and the derivatives of layer i + 1."""
    count = len(net.layers)
    if not isinstance(evaluated, Record):
        if len(evaluated) != count + 1:
            raise ValueError(f"evaluated has {len(evaluated)} entries; wanted {count + 1}")
        return list(evaluated)
    entries = []
    for i in range(count + 1):
        params = net.layers[i].params if i < count else []
        dzdw = [evaluated.param_ders.get(param.name) for param in params]
        entries.append(Entry(evaluated.values.get(f"x{i}"), evaluated.ders.get(f"x{i}"), dzdw))
    return entries


def _column(lists: Sequence[Sequence[Any]], index: int) -> list[Any]:
    """Item `index` of every list that has one; the input comes first and has none."""
    return [None, *(items[index] if index < len(items) else None for items in lists)]


def _several(value: Any) -> Any:
    """None in place of a single number, such as the value of a loss."""
    tensor = to_tensor(value)
    return tensor if isinstance(tensor, Tensor) and tensor.numel() > 1 else None


def _ranges(values: Sequence[Any]) -> Ranges:
    rows = [_range(to_tensor(value)) for value in values]
    return Ranges(*np.array(rows).T)


def _range(value: Any) -> tuple[float, float, float]:
    if not isinstance(value, Tensor) or value.numel() == 0:
        return np.nan, np.nan, np.nan
    low, high = torch.aminmax(value)
    return value.mean(dtype=torch.float64).item(), low.item(), high.item()
