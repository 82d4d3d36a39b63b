"""A profile as a timeline that chrome://tracing and Perfetto show."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

Lane = Literal["forward", "backward", "update and data"]
LANES: tuple[Lane, ...] = ("forward", "backward", "update and data")
MICROSECONDS = 1e6


class Span(NamedTuple):
    """Something that took time. start: in seconds of `time.perf_counter`; args: shown beside it."""

    lane: Lane
    name: str
    start: float
    seconds: float
    args: dict[str, Any]


def chrome_trace(spans: Iterable[Span]) -> dict[str, Any]:
    """The content of a trace file: a row for each lane, times from the first span on.

    Source: Trace Event Format, "Complete Events" and "Metadata Events".
    """
    spans = sorted(spans, key=lambda span: span.start)
    first = spans[0].start if spans else 0.0
    names = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": row, "args": {"name": lane}}
        for row, lane in enumerate(LANES)
    ]
    events = [
        {
            "name": span.name, "cat": span.lane, "ph": "X", "pid": 0,
            "tid": LANES.index(span.lane),
            "ts": MICROSECONDS * (span.start - first), "dur": MICROSECONDS * span.seconds,
            "args": span.args,
        }
        for span in spans
    ]  # fmt: skip
    return {"displayTimeUnit": "ms", "traceEvents": [*names, *events]}
