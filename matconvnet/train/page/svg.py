"""Axes, lines and marks in SVG: the little that the charts of a run need."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matconvnet.train.curves import Points
from matconvnet.train.text import escape, short

WIDTH, HEIGHT = 400, 220  # about the pixels of a card
LEFT, RIGHT, TOP, BOTTOM = 52, 17, 12, 28
LOG_RANGE = 30  # a positive range of more than this ratio gets a log axis
LARGEST = 1e100  # beyond it, and below its inverse, values stand at the end of their axis
MOST_POINTS = 400  # of a line
MOST_HOVERS = 120


@dataclass(frozen=True)
class Scale:
    """An axis: values from `low` to `high` at pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value stands; values beyond the ends stand at the ends."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log10(v) for v in (value, low, high))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 6, whole: bool = False) -> list[float]:
        """Round values along the axis; `whole`: integers only."""
        return self._log_ticks(most) if self.log else self._linear_ticks(most, whole)

    def _linear_ticks(self, most: int, whole: bool) -> list[float]:
        step = 10 ** math.floor(math.log10((self.high - self.low) / most))
        step *= next(f for f in (1, 2, 5, 10) if (self.high - self.low) / (step * f) <= most)
        step = max(step, 1) if whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = max(1, math.ceil((last - first) / most))
        factors = (1, 2, 5) if last - first <= 3 else (1,)
        ticks = [f * 10.0**e for e in range(first, last + 1, every) for f in factors]
        return [tick for tick in ticks if self.low * 0.999 <= tick <= self.high * 1.001]


def value_scale(values: Iterable[float], zero: bool = False, height: int = HEIGHT) -> Scale:
    """The axis of some values: logarithmic where their range asks for it.

    zero: the axis begins at 0, as of speeds and times.
    """
    found = [min(max(value, -LARGEST), LARGEST) for value in values]
    low, high = min(found, default=0), max(found, default=1)
    pixels = (height - BOTTOM, TOP)
    if not zero and low > 0 and high / low > LOG_RANGE:
        low = max(low, 1 / LARGEST)
        return Scale(low / 1.15, high * 1.15, *pixels, log=True)
    if zero or 0 <= low < 0.5 * high:
        low = min(low, 0)
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 1
    return Scale(low - pad if low else 0, high + pad, *pixels)


def epoch_scale(first: int, last: int, width: int = WIDTH) -> Scale:
    """The axis of epochs."""
    pad = 0.5 if last == first else 0
    return Scale(first - pad, last + pad, LEFT, width - RIGHT)


def frame(x: Scale, y: Scale, height: int = HEIGHT) -> str:
    """Grid and numbers of both axes; x counts epochs."""
    parts = []
    for tick in y.ticks():
        at = _px(y(tick))
        parts.append(f'<path class="grid" d="M{_px(x.start)} {at}H{_px(x.end)}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at}" dy=".33em" class="end">{short(tick)}</text>')
    base = height - BOTTOM
    parts.append(f'<path class="axis" d="M{_px(x.start)} {base}H{_px(x.end)}"/>')
    parts.append(f'<text x="{LEFT - 7}" y="{base + 17}" class="end">epoch</text>')
    for tick in x.ticks(whole=True):
        at = _px(x(tick))
        parts.append(f'<path class="axis" d="M{at} {base}v4"/>')
        parts.append(f'<text x="{at}" y="{base + 17}" class="mid">{tick:.0f}</text>')
    return "".join(parts)


def line(points: Points, x: Scale, y: Scale, color: str, dots: bool = True) -> str:
    """A curve, broken where an epoch has no value; few points get dots."""
    parts = []
    for run in runs(points):
        path = "L".join(f"{_px(x(e))} {_px(y(v))}" for e, v in thin(run))
        parts.append(f'<path class="line {color}" d="M{path}"/>')
        if dots and (len(points) <= 25 or len(run) == 1):
            parts += [dot(x(e), y(v), color, 2.2) for e, v in run]
    return "".join(parts)


def dot(x: float, y: float, color: str, radius: float = 3.5, kind: str = "dot") -> str:
    """A filled mark; of kind "ring" an open one."""
    return f'<circle class="{kind} {color}" cx="{_px(x)}" cy="{_px(y)}" r="{radius}"/>'


def area(lower: Points, upper: Points, x: Scale, y: Scale, color: str) -> str:
    """The area between two curves over the same epochs."""
    corners = [(x(e), y(v)) for e, v in upper] + [(x(e), y(v)) for e, v in reversed(lower)]
    path = "L".join(f"{_px(a)} {_px(b)}" for a, b in corners)
    return f'<path class="area {color}" d="M{path}Z"/>'


def hovers(x: Scale, told: Sequence[tuple[int, str]]) -> str:
    """Invisible columns that tell an epoch's numbers when the mouse rests on them."""
    every = math.ceil(len(told) / MOST_HOVERS) or 1
    shown = [*told[::every], *([told[-1]] if len(told) > 1 and (len(told) - 1) % every else [])]
    centers = [x(epoch) for epoch, _ in shown]
    parts = []
    for i, (_, text) in enumerate(shown):
        left = (centers[i - 1] + centers[i]) / 2 if i else x.start
        right = (centers[i] + centers[i + 1]) / 2 if i + 1 < len(shown) else x.end
        parts.append(
            f'<rect class="hover" x="{_px(left)}" y="{TOP}" width="{_px(right - left)}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{escape(text)}</title></rect>'
        )
    return "".join(parts)


def drawing(label: str, content: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """A whole picture; `label` says what it shows."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{content}</svg>"
    )


def runs(points: Points) -> list[Points]:
    """Stretches of epochs without a gap."""
    found: list[Points] = []
    for point in points:
        if found and point[0] <= found[-1][-1][0] + 1:
            found[-1].append(point)
        else:
            found.append([point])
    return found


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """At most about `most` points: of each stretch the smallest and the largest, and both ends."""
    if len(points) <= most:
        return points
    size = math.ceil(2 * len(points) / most)
    kept = {points[0], points[-1]}
    for first in range(0, len(points), size):
        part = points[first : first + size]
        kept |= {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
    return sorted(kept)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
