"""A profile in words and numbers, for the terminal."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from matconvnet.train.profile import Cost, LayerCosts, Profile

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

MOST_LAYERS = 30  # lines of the table; the file holds all
MEGABYTE = 1e6
MILLISECONDS = 1e3
NUMBERS = ("forward\nms", "backward\nms", "share", "GFLOP/s", "GB/s", "of\npeak")


def profile_tables(profile: Profile) -> "list[RenderableType]":
    """What to print: the table of layers; if there is a report, what the fast path did."""
    parts: list[RenderableType] = [layer_table(profile)]
    if profile.report:
        parts.append(report_table(profile.report))
    return parts


def layer_table(profile: Profile) -> "Table":
    """The costliest layers in the order of the network, and what else took time.

    ms are per evaluation of a sub-batch; shares are of all the time that was measured. "of peak":
    the least time that the peaks of the device allow, arithmetic or copying, by the time taken.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"Profile of {profile.evaluations} evaluations, {profile.images} images"
    table = Table(  # so narrow that it fits into the 80 columns of a pipe
        title=title, title_justify="left", caption=_caption(profile), caption_justify="left",
        box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False,
    )  # fmt: skip
    for heading in ("layer", "type"):
        table.add_column(heading, overflow="fold")
    for heading in NUMBERS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, costs in _lines(profile):
        table.add_row(name, costs.type, *_cells(profile, costs))
    table.add_section()
    table.add_row("all layers", "", *_cells(profile, _together(profile.layers.values())))
    for name, seconds in profile.beside().items():
        if seconds:
            table.add_row(name, "", _ms(profile, seconds), "", _share(profile, seconds))
    return table


def report_table(report: Iterable[tuple[str, str]]) -> "Table":
    """What the fast path did and why a rewrite did not apply; layers of one fate on one line."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    layers = defaultdict[str, list[str]](list)
    for layer, did in report:
        layers[did].append(layer)
    table = Table(title="What the fast path did", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("layers")
    table.add_column("did, or why not")
    for did, names in layers.items():
        table.add_row(", ".join(names), did)
    return table


def _lines(profile: Profile) -> list[tuple[str, LayerCosts]]:
    """The layers in order; the cheapest ones together on a last line."""
    layers = profile.layers
    order = sorted(layers, key=lambda name: -layers[name].total.seconds)
    shown, others = set(order[:MOST_LAYERS]), order[MOST_LAYERS:]
    lines = [(name, costs) for name, costs in layers.items() if name in shown]
    if others:
        lines.append((f"{len(others)} others", _together(layers[name] for name in others)))
    return lines


def _together(layers: Iterable[LayerCosts]) -> LayerCosts:
    costs = list(layers)
    return LayerCosts(
        "", sum((c.forward for c in costs), Cost()), sum((c.backward for c in costs), Cost())
    )


def _cells(profile: Profile, costs: LayerCosts) -> list[str]:
    """The numbers of a line."""
    peak = None if profile.peaks is None else costs.share_of_peak(profile.peaks)
    return [
        _ms(profile, costs.forward.seconds),
        _ms(profile, costs.backward.seconds),
        _share(profile, costs.total.seconds),
        _rate(costs.total.gflops()),
        _rate(costs.total.gigabytes()),
        "" if peak is None else f"{100 * peak:.0f} %",
    ]


def _ms(profile: Profile, seconds: float) -> str:
    """Of an evaluation; nothing, if it did not happen."""
    return f"{MILLISECONDS * seconds / max(profile.evaluations, 1):.2f}" if seconds else ""


def _share(profile: Profile, seconds: float) -> str:
    total = profile.seconds()
    return f"{100 * seconds / total if total else 0:.1f} %"


def _rate(number: float | None) -> str:
    return "" if number is None else f"{number:.1f}"


def _caption(profile: Profile) -> str | None:
    """The peaks, and how much the workers exchanged; None, if there is neither."""
    lines, traffic = [], profile.traffic
    if profile.peaks is not None:
        lines.append(str(profile.peaks))
    if traffic.bytes:
        each = traffic.bytes / max(traffic.steps, 1) / MEGABYTE
        hidden = 100 * traffic.overlap
        lines.append(f"exchanged {each:.2f} MB per step, {hidden:.0f} % hidden by computing")
    return "\n".join(lines) or None
