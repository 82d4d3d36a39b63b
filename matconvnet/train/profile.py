"""Where the time of a training goes: layer by layer, data, updates, communication."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matconvnet.executor import Record
from matconvnet.fast.peaks import GIGA, Peaks
from matconvnet.geometry import Size, full_size
from matconvnet.nets.network import Network
from matconvnet.nets.work import LayerWork, layer_work
from matconvnet.parallel.server import Traffic
from matconvnet.train.report import write_json
from matconvnet.train.trace import Lane, Span, chrome_trace

PROFILE_FILE = "profile.json"
TRACE_FILE = "profile-trace.json"
Passes = tuple[tuple[Lane, Mapping[str, float]], ...]
MOST_SPANS = 20_000  # of the trace: the last ones, a few megabytes of file


@dataclass
class Cost:
    """Of one layer in one direction, in total: seconds, operations, bytes read and written."""

    seconds: float = 0.0
    operations: float = 0.0
    traffic: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """The cost of both."""
        return Cost(
            self.seconds + other.seconds, self.operations + other.operations,
            self.traffic + other.traffic,
        )  # fmt: skip

    def gflops(self) -> float | None:
        """GFLOP/s; None for a layer whose operations do not count."""
        return self._per_second(self.operations)

    def gigabytes(self) -> float | None:
        """GB/s; None, if nothing is known."""
        return self._per_second(self.traffic)

    def _per_second(self, count: float) -> float | None:
        return count / self.seconds / GIGA if self.seconds and count > 0 else None


@dataclass
class LayerCosts:
    """A layer by its type, and what it took."""

    type: str
    forward: Cost = field(default_factory=Cost)
    backward: Cost = field(default_factory=Cost)

    def add(self, lane: Lane, cost: Cost) -> None:
        """Add the cost of one evaluation in one direction."""
        if lane == "forward":
            self.forward += cost
        else:
            self.backward += cost

    @property
    def total(self) -> Cost:
        """Of both directions."""
        return self.forward + self.backward

    def share_of_peak(self, peaks: Peaks) -> float | None:
        """The least time that the peaks allow for this work, as a share of the time it took."""
        seconds = self.total.seconds
        costs = [cost for cost in (self.forward, self.backward) if cost.seconds]
        least = sum(peaks.seconds(cost.operations, cost.traffic) for cost in costs)
        return least / seconds if seconds and least > 0 else None


class Profile:
    """Costs by layer, and seconds beside the layers; `add` what was measured, then read it.

    On a GPU the times of layers mean something only if the evaluation waited for each (`sync`).

    Args:
        net: the network whose evaluations are measured.
        report: what the fast path did, or why it did not: (layer, sentence).

    Attributes:
        layers: costs by name. wait, update: seconds in total. traffic: between workers. peaks: of
        the device, if they were measured. spans: the last ones of the timeline.
    """

    def __init__(self, net: Network, report: Sequence[tuple[str, str]] = ()):
        self.net, self.report = net, list(report)
        self.layers = {n.name: LayerCosts(type(n.layer).__name__) for n in net.graph.nodes}
        self.evaluations = self.images = 0
        self.wait = self.update = 0.0
        self.traffic = Traffic()
        self.peaks: Peaks | None = None
        self.spans: deque[Span] = deque(maxlen=MOST_SPANS)
        self._work: dict[Any, dict[str, LayerWork]] = {}

    def add(self, record: Record, images: int) -> None:
        """Add an evaluation of `images` that has just ended, backward pass included."""
        work, size = self._work_of(record), _number_bytes(record)
        start = time.perf_counter() - sum(record.forward_time.values())
        start -= sum(record.backward_time.values())
        passes: Passes = (("forward", record.forward_time), ("backward", record.backward_time))
        for lane, times in passes:
            for name, seconds in times.items():
                todo = work[name].forward if lane == "forward" else work[name].backward
                cost = Cost(seconds, todo.operations, size * todo.numbers)
                self.layers[name].add(lane, cost)
                self._note(lane, name, start, cost, work[name].sizes)
                start += seconds
        self.evaluations += 1
        self.images += images

    def add_wait(self, seconds: float) -> None:
        """Add time, just over, in which the training waited for data."""
        self.wait += seconds
        self._note_last("waiting for data", seconds)

    def add_update(self, seconds: float) -> None:
        """Add time, just over, that the solver took to update the parameters."""
        self.update += seconds
        self._note_last("update", seconds)

    def beside(self) -> dict[str, float]:
        """Seconds that went by outside the layers."""
        beside = {"waiting for data": self.wait, "updates": self.update}
        if self.traffic.bytes:
            beside["waiting for other workers"] = self.traffic.waited
        return beside

    def seconds(self) -> float:
        """All the time that was measured."""
        layers = sum(layer.total.seconds for layer in self.layers.values())
        return layers + sum(self.beside().values())

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it, in total; times in seconds."""
        traffic = self.traffic
        return {
            "evaluations": self.evaluations,
            "images": self.images,
            "layers": [_layer_dict(name, layer) for name, layer in self.layers.items()],
            "data_wait": self.wait,
            "update": self.update,
            "communication": {
                "steps": traffic.steps,
                "bytes": traffic.bytes,
                "under_way": traffic.under_way,
                "waited": traffic.waited,
                "overlap": traffic.overlap,
            },
            "peaks": None if self.peaks is None else self.peaks._asdict(),
            "fast_path": [{"layer": layer, "did": did} for layer, did in self.report],
        }

    def write(self, folder: Path) -> None:
        """Write `profile.json` and `profile-trace.json`."""
        write_json(folder / PROFILE_FILE, self.to_dict())
        self.write_trace(folder / TRACE_FILE)

    def write_trace(self, path: Path) -> None:
        """Write the timeline for chrome://tracing and Perfetto."""
        write_json(path, chrome_trace(self.spans))

    def _work_of(self, record: Record) -> Mapping[str, LayerWork]:
        """What the layers had to do, by the sizes of the inputs of the network."""
        graph, values = self.net.graph, record.values
        sizes: dict[str, Size] = {
            v: full_size(values[v].shape, v) for v in graph.inputs if v in values
        }
        key = (tuple(sizes.items()), frozenset(record.backward_time))
        if key not in self._work:
            params = self.net.values().items()
            shapes = {name: None if p is None else tuple(p.shape) for name, p in params}
            self._work[key] = layer_work(graph, sizes, shapes, key[1])
        return self._work[key]

    def _note(self, lane: Lane, name: str, start: float, cost: Cost, sizes: Sequence[Size]) -> None:
        args = {
            "type": self.layers[name].type,
            "inputs": [" x ".join(map(str, size)) for size in sizes],
            "GFLOP/s": cost.gflops(), "GB/s": cost.gigabytes(),
        }  # fmt: skip
        self.spans.append(Span(lane, name, start, cost.seconds, args))

    def _note_last(self, name: str, seconds: float) -> None:
        start = time.perf_counter() - seconds
        self.spans.append(Span("update and data", name, start, seconds, {}))


def _number_bytes(record: Record) -> int:
    """Bytes of a number in the maps of an evaluation."""
    floats = (v.element_size() for v in record.values.values() if v.is_floating_point())
    return next(floats, 4)


def _layer_dict(name: str, layer: LayerCosts) -> dict[str, Any]:
    return {
        "name": name, "type": layer.type,
        "forward": layer.forward.seconds, "backward": layer.backward.seconds,
        "forward_operations": layer.forward.operations,
        "backward_operations": layer.backward.operations,
        "forward_bytes": layer.forward.traffic, "backward_bytes": layer.backward.traffic,
    }  # fmt: skip
