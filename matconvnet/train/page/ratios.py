"""How far the updates move the parameters: |dw| / |w|, over the epochs and layer by layer."""

import math
from collections.abc import Mapping
from statistics import quantiles

from matconvnet.train.curves import Points, Rows, number
from matconvnet.train.page import svg
from matconvnet.train.page.charts import card
from matconvnet.train.text import name_of, short

HEALTHY = (1e-4, 1e-2)
LIMITS = (1e-9, 10.0)  # ratios beyond stand at the end of the axis
FEW = 8  # parameters with a line of their own
MOST_PARAMETERS = 240
MOST_NAMES = 30  # below the axis
WIDE = 860
LETTER = 4.8  # pixels of height that a letter of a slanted name takes

Ratios = dict[str, Points]


def ratios_of(rows: Rows) -> Ratios:
    """(epoch, ratio) of every parameter, in the order of the network."""
    found: Ratios = {}
    for row in rows:
        ratios = row.get("update_ratio")
        if row["phase"] == "train" and isinstance(ratios, Mapping):
            for name, raw in ratios.items():
                value = number(raw)
                if value is not None and value >= 0:
                    found.setdefault(name, []).append((row["epoch"], value))
    return found


def ratio_cards(rows: Rows) -> list[str]:
    """Two cards: the ratios over the epochs, and those of the last epoch by parameter."""
    ratios = ratios_of(rows)
    return [_over_epochs(ratios), _by_parameter(ratios)] if ratios else []


def _over_epochs(ratios: Ratios) -> str:
    points = [point for line in ratios.values() for point in line]
    epochs = sorted({epoch for epoch, _ in points})
    x, y = svg.epoch_scale(epochs[0], epochs[-1]), _scale(points, svg.HEIGHT - svg.BOTTOM)
    drawn = [_band(x.start, x.end, y), svg.frame(x, y)]
    if len(ratios) <= FEW:
        legend = []
        for i, (name, line) in enumerate(ratios.items()):
            drawn.append(svg.line(line, x, y, f"c{i}"))
            legend.append(f'<span class="key c{i}">{name_of(name)}</span>')
    else:
        spread = _spread(ratios)
        for low, high in ((0, 4), (1, 3)):
            lower, upper = (svg.thin([(e, found[k]) for e, found in spread]) for k in (low, high))
            drawn.append(svg.area(lower, upper, x, y, "plain"))
        drawn.append(svg.line([(e, found[2]) for e, found in spread], x, y, "plain"))
        legend = [f'<span class="key plain">median of {len(ratios)} parameters</span>',
                  "<span>darker: 10 to 90 % of them; lighter: all</span>"]  # fmt: skip
    picture = svg.drawing("update ratios over the epochs", "".join(drawn))
    return card("update ratio over the epochs", "".join(legend), picture)


def _by_parameter(ratios: Ratios) -> str:
    shown = list(ratios.items())[:: math.ceil(len(ratios) / MOST_PARAMETERS)]
    every = math.ceil(len(shown) / MOST_NAMES)
    base = svg.HEIGHT - svg.BOTTOM
    height = base + 22 + round(LETTER * max(len(_tail(name)) for name, _ in shown[::every]))
    y = _scale([point for line in ratios.values() for point in line], base)
    start, end = svg.LEFT, WIDE - svg.RIGHT
    step = (end - start) / len(shown)
    drawn = [_band(start, end, y)]
    for tick in y.ticks(8):
        drawn.append(f'<path class="grid" d="M{start} {y(tick):.1f}H{end}"/>')
        drawn.append(
            f'<text x="{start - 7}" y="{y(tick):.1f}" dy=".33em" class="end">{short(tick)}</text>'
        )
    for i, (name, line) in enumerate(shown):
        at, last = start + (i + 0.5) * step, line[-1][1]
        low, high = (short_of(value for _, value in line) for short_of in (min, max))
        drawn.append(
            f"<g><title>{name_of(name)}: {short(last)} (from {short(low)} to {short(high)})</title>"
            f'<path class="range" d="M{at:.1f} {y(low):.1f}V{y(high):.1f}"/>'
            f"{svg.dot(at, y(last), 'out' if is_unhealthy(last) else 'plain')}</g>"
        )
        if i % every == 0:
            drawn.append(
                f'<text class="end" transform="translate({at + 4:.1f} {base + 14}) rotate(-40)">'
                f"{_tail(name)}</text>"
            )
    picture = svg.drawing("update ratio of each parameter", "".join(drawn), WIDE, height)
    legend = (
        '<span class="key plain">last epoch</span><span class="key out">last epoch, outside the '
        "band</span><span>bars: smallest to largest of all epochs</span>"
    )
    note = (
        "|dw| / |w|: how far an update in the middle of the epoch moved a parameter, against its "
        "own size. Between 0.0001 and 0.01 (shaded) it learns well; far below it hardly moves (a "
        "dead or frozen layer, a small learning rate), far above it is thrown about (too large a "
        "learning rate). Biases that start at 0 begin high."
    )
    return card(
        "update ratio by parameter, in the order of the network", legend, picture, note, True
    )


def is_unhealthy(ratio: float) -> bool:
    """True for a ratio outside the band."""
    return not HEALTHY[0] <= ratio <= HEALTHY[1]


def _scale(points: Points, base: float) -> svg.Scale:
    """A log axis that holds the band and the points."""
    values = [value for _, value in points if value > 0]
    low = max(min([HEALTHY[0] / 10, *values]), LIMITS[0])
    high = min(max([HEALTHY[1] * 10, *values]), LIMITS[1])
    return svg.Scale(low / 1.3, high * 1.3, base, svg.TOP, log=True)


def _band(start: float, end: float, y: svg.Scale) -> str:
    top, bottom = y(HEALTHY[1]), y(HEALTHY[0])
    return (
        f'<rect class="band" x="{start}" y="{top:.1f}" width="{end - start}" '
        f'height="{bottom - top:.1f}"/>'
    )


def _spread(ratios: Ratios) -> list[tuple[int, tuple[float, ...]]]:
    """For every epoch the smallest, 10 %, 50 %, 90 % and the largest of the ratios."""
    by_epoch: dict[int, list[float]] = {}
    for line in ratios.values():
        for epoch, value in line:
            by_epoch.setdefault(epoch, []).append(value)
    found = []
    for epoch, values in sorted(by_epoch.items()):
        cuts = quantiles(values, n=10, method="inclusive") if len(values) > 1 else values * 9
        found.append((epoch, (min(values), cuts[0], cuts[4], cuts[8], max(values))))
    return found


def _tail(name: str) -> str:
    """The end of a long name: that is where parameters of a network differ."""
    return name_of(name if len(name) <= 16 else f"\N{HORIZONTAL ELLIPSIS}{name[-15:]}")
