"""The charts of a run over its epochs: statistics, learning rate, speed, time."""

import math
from collections.abc import Mapping
from dataclasses import replace

from matconvnet.train.curves import PHASES, Points, Rows, best_point, curve, statistics
from matconvnet.train.page import svg
from matconvnet.train.text import duration, name_of, percent, short

MOST_BARS = 60


def learning_curves(rows: Rows, monitor: str | None = None) -> list[str]:
    """A card for each statistic: its values in both phases, the last and the best marked.

    The best is the smallest, of a statistic that `monitor` names after a minus sign the largest.
    """
    cards = []
    for name in statistics(rows):
        curves = {phase: curve(rows, phase, name) for phase in PHASES}
        if any(curves.values()):
            cards.append(_curves(name, curves, is_larger_better=monitor == f"-{name}"))
    return cards


def learning_rate(rows: Rows) -> str:
    """A card: the learning rate of every epoch."""
    points = curve(rows, "train", "learning_rate") or curve(rows, "val", "learning_rate")
    return _curves("learning rate", {"plain": points}, is_scored=False) if points else ""


def speed(rows: Rows) -> str:
    """A card: images per second in both phases."""
    curves = {phase: curve(rows, phase, "images_per_second") for phase in PHASES}
    if not any(curves.values()):
        return ""
    return _curves("images per second", curves, zero=True, is_scored=False)


def time_split(rows: Rows) -> str:
    """A card: how the seconds of an epoch of training part into waiting for data and computing."""
    seconds = dict(curve(rows, "train", "time"))
    waited = dict(curve(rows, "train", "data_time"))
    epochs = sorted(seconds.keys() & waited.keys())
    if not epochs:
        return ""
    split = {e: (min(waited[e], seconds[e]), max(seconds[e] - waited[e], 0)) for e in epochs}
    size = math.ceil(len(epochs) / MOST_BARS)
    x = replace(svg.epoch_scale(1, 2), low=epochs[0] - 0.5, high=epochs[-1] + 0.5)
    groups = [epochs[i : i + size] for i in range(0, len(epochs), size)]
    means = [[sum(split[e][k] for e in g) / len(g) for k in (0, 1)] for g in groups]
    y = svg.value_scale((sum(mean) for mean in means), zero=True)
    bars = []
    for group, (wait, work) in zip(groups, means, strict=True):
        left, right = x(group[0] - 0.42), x(group[-1] + 0.42)
        over = f"epoch {group[0]}" + (f" to {group[-1]}" if len(group) > 1 else "")
        told = f"{over}: {duration(work)} computing, {duration(wait)} waiting for data"
        bars.append(f"<g><title>{told}</title>")
        for kind, low, high in (("work", 0, work), ("wait", work, work + wait)):
            top, height = y(high), y(low) - y(high)
            bars.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                f'height="{height:.1f}"/>'
            )
        bars.append("</g>")
    picture = svg.drawing("seconds per epoch", svg.frame(x, y) + "".join(bars))
    wait, work = (sum(split[e][k] for e in epochs) for k in (0, 1))
    share = percent(wait / (wait + work)) if wait + work else percent(0)
    legend = (
        f'<span class="key work">computing {duration(work)}</span>'
        f'<span class="key wait">waiting for data {duration(wait)}, {share}</span>'
    )
    return card("seconds per epoch of training", legend, picture)


def card(title: str, legend: str, picture: str, note: str = "", wide: bool = False) -> str:
    """A picture with its title, its legend, and a note; all are HTML already."""
    kind = "card wide" if wide else "card"
    below = f'<p class="note">{note}</p>' if note else ""
    return (
        f'<figure class="{kind}"><figcaption><h3>{title}</h3><div class="legend">{legend}</div>'
        f"</figcaption>{picture}{below}</figure>"
    )


def _curves(
    name: str,
    curves: Mapping[str, Points],
    *,
    zero: bool = False,
    is_scored: bool = True,
    is_larger_better: bool = False,
) -> str:
    """A card with a line for each phase; of a scored statistic the best value is marked."""
    points = [point for line in curves.values() for point in line]
    epochs = [epoch for epoch, _ in points]
    x = svg.epoch_scale(min(epochs), max(epochs))
    y = svg.value_scale((value for _, value in points), zero)
    drawn, legend = [svg.frame(x, y)], []
    scored = next((p for p in ("val", "train") if curves.get(p)), "") if is_scored else ""
    for phase, line in curves.items():
        if not line:
            continue
        drawn.append(svg.line(line, x, y, phase))
        drawn.append(svg.dot(x(line[-1][0]), y(line[-1][1]), phase))
        told = f"{phase} {short(line[-1][1])}" if phase != "plain" else short(line[-1][1])
        if phase == scored:
            epoch, value = best_point(line, is_larger_better)
            drawn.append(svg.dot(x(epoch), y(value), phase, 6, "ring"))
            told += f", best {short(value)} in epoch {epoch}"
        legend.append(f'<span class="key {phase}">{told}</span>')
    drawn.append(svg.hovers(x, _told(curves)))
    title = name_of(name) + (' <small class="log">log</small>' if y.log else "")
    return card(title, "".join(legend), svg.drawing(name, "".join(drawn)))


def _told(curves: Mapping[str, Points]) -> list[tuple[int, str]]:
    """For every epoch its values in words."""
    told: dict[int, list[str]] = {}
    for phase, line in curves.items():
        for epoch, value in line:
            label = "" if phase == "plain" else f"{phase} "
            told.setdefault(epoch, [f"epoch {epoch}"]).append(label + short(value))
    return [(epoch, "\n".join(parts)) for epoch, parts in sorted(told.items())]
