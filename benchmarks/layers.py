"""Where the time of a training step goes: the kernels of a program, by groups of layers."""

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from problems import Problem
from sides import Fast

from matconvnet.blocks.conv import Conv
from matconvnet.fast.peaks import Peaks
from matconvnet.fast.program import Program
from matconvnet.fast.section import Section
from matconvnet.graph import Node
from matconvnet.nets.work import Work, layer_work
from matconvnet.window import pair

WARM_UP, LEAST_STEPS = 3, 5
DIRECTIONS = ("forward", "backward")
UPDATE, REST = "update", "between kernels"
UPDATE_BYTES = 16  # of a parameter: its value and momentum, read and written
DATA, FILTERS, FORWARD = "data", "filters", "forward"
ALGORITHMS = {
    "winograd": ("Winograd", DATA), "winograd_filters_backward": ("Winograd", FILTERS),
    "conv_sweep": ("direct", DATA), "conv_filters": ("direct", FILTERS),
    "conv_full": ("product", DATA), "conv_full_data": ("product", DATA),
}  # fmt: skip
"""Of the kernels that convolve: how, and in the backward pass the derivative of what."""
NAMES = {
    "BatchNorm": "batch normalisation", "Pooling": "pooling", "Dropout": "dropout", "Sum": "sums",
    "Loss": "loss", "SoftmaxLoss": "loss",
}  # fmt: skip
Row = Mapping[str, Any]


@dataclass
class Group:
    """Layers of one kind: how many; milliseconds; operations and bytes that they take at least."""

    layers: int = 0
    forward: float = 0.0
    backward: float = 0.0
    operations: float = 0.0
    bytes: float = 0.0
    algorithm: str = ""
    ways: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def measure(problem: Problem, precision: str, seconds: float) -> dict[str, Any]:
    """Train for about so many seconds.

    Returns: "ms" of a step; "groups": by name the fields of `Group`, in the order of the network,
        the update and what is no kernel at the end. Times are means of the middle half of the
        steps.
    """
    side = Fast(problem, "train", precision)
    for _ in range(WARM_UP):
        start = time.perf_counter()
        side.step()
    steps = max(LEAST_STEPS, round(seconds / (time.perf_counter() - start)))
    program = next(reversed(side.programs.programs.made.values()))
    runs: list[tuple[float, dict[tuple[str, str], float]]] = []
    for _ in range(steps):
        start = time.perf_counter()
        side.step()
        wall = time.perf_counter() - start
        runs.append((wall, _times(program)))
    runs.sort(key=lambda run: run[0])
    usual = runs[steps // 4 : steps - steps // 4]
    step = 1e3 * fmean(wall for wall, _ in usual)
    ms = {key: 1e3 * fmean(times[key] for _, times in usual) for key in usual[0][1]}
    groups = _grouped(problem, program, ms)
    rest = step - sum(group.forward + group.backward for group in groups.values())
    groups[REST] = Group(backward=rest)
    return {
        "ms": step,
        "groups": {
            name: {k: v for k, v in vars(group).items() if k != "ways"}
            for name, group in groups.items()
        },
    }


def _times(program: Program) -> dict[tuple[str, str], float]:
    """Seconds of the last step by direction and layer; updates of parameters by themselves."""
    found: dict[tuple[str, str], float] = {}
    for direction in DIRECTIONS:
        section: Section = getattr(program, direction)
        updates = defaultdict[str, float](float)
        for layer, kernel, taken in section.kernels():
            updates[layer] += taken if kernel.startswith("update") else 0.0
        for layer, taken in section.times().items():
            found[direction, layer] = taken - updates[layer]
        found[direction, UPDATE] = sum(updates.values())
    return found


def _grouped(
    problem: Problem, program: Program, ms: Mapping[tuple[str, str], float]
) -> dict[str, Group]:
    """Convolutions by geometry, in the order of the network, then layers of other types."""
    sizes, shapes = problem.sizes()
    graph = program.task.graph
    inputs = {v: sizes[v] for v in graph.inputs}
    work = layer_work(graph, inputs, shapes, frozenset(node.name for node in graph.nodes))
    convolved: dict[str, Group] = {}
    others: dict[str, Group] = {}
    for unit in program.units:
        node = unit.node
        is_conv = isinstance(node.layer, Conv)
        name = _kind(node, sizes, shapes) if is_conv else _name(node)
        group = (convolved if is_conv else others).setdefault(name, Group())
        group.layers += 1
        group.forward += ms["forward", node.name]
        group.backward += ms.get(("backward", node.name), 0.0)
        weights = sum(math.prod(shapes[p] or ()) for p in node.params if shapes[p])
        maps = program.task.maps.itemsize
        todo = work[node.name]
        group.operations += todo.forward.operations + todo.backward.operations
        group.bytes += _bytes(todo.forward, weights, maps)
        group.bytes += _bytes(todo.backward, 2 * weights, maps)
        for direction in DIRECTIONS:
            for layer, kernel, _ in getattr(program, direction).kernels():
                if layer == node.name and kernel.removesuffix("_bf16") in ALGORITHMS:
                    how, what = ALGORITHMS[kernel.removesuffix("_bf16")]
                    group.ways[how].add(FORWARD if direction == "forward" else what)
        if not unit.native:
            group.algorithm = "its own"
    for group in convolved.values():
        group.algorithm = _algorithm(group.ways)
    stepped = sum(math.prod(shape) for shape in shapes.values() if shape)
    update = Group(backward=ms["backward", UPDATE], bytes=UPDATE_BYTES * stepped)
    if update.backward:
        others[UPDATE] = update
    return convolved | others


def _bytes(work: Work, weights: float, size: int) -> float:
    """Parameters are float32, maps of the type of the program."""
    return size * (work.numbers - weights) + 4 * weights


def _kind(node: Node, sizes: Mapping[str, Sequence[int]], shapes: Mapping[str, Any]) -> str:
    """A convolution by its geometry."""
    layer: Any = node.layer
    fh, fw, fc, _ = shapes[node.params[0]]
    height, width = sizes[node.outputs[0]][:2]
    if (height, width) == (1, 1):
        return "fully connected"
    stride = max(pair(layer.stride, "stride"))
    step = f", stride {stride}" if stride > 1 else ""
    few = f", {fc} channels" if fc <= 4 else ""
    return f"{fh} x {fw}{step}{few}, to {height} x {width}"


def _name(node: Node) -> str:
    name = type(node.layer).__name__
    return NAMES.get(name, name)


def _algorithm(ways: Mapping[str, set[str]]) -> str:
    """In words; of several, with what each is for."""
    if len(ways) == 1:
        return next(iter(ways))
    order = (FORWARD, DATA, FILTERS)
    return ", ".join(
        f"{how} ({' and '.join(what for what in order if what in whats)})"
        for how, whats in sorted(ways.items())
    )


def render(rows: Sequence[Row]) -> str:
    """All tables."""
    return "\n\n".join(part for row in rows for part in (_title(row), _table(row), _sum(row)))


def _title(row: Row) -> str:
    return (
        f"### {row['network']}, batch {row['batch']}, {row['precision']}: {row['device']}, "
        f"{row['threads']} threads\n\n{row['date']}; {Peaks(**row['peaks'])}."
    )


def _table(row: Row) -> str:
    heads = ("", "layers", "algorithm", "forward ms", "backward ms", "of time", "GFLOP/s",
             "of peak", "GB/s", "of copy")  # fmt: skip
    lines = [heads, ("---", "---:", "---", *["---:"] * 7)]
    for name, group in row["groups"].items():
        ms = group["forward"] + group["backward"]
        rate, moved = (1e-6 * group[what] / ms if ms else 0 for what in ("operations", "bytes"))
        lines.append((
            name, str(group["layers"] or ""), group["algorithm"], _ms(group["forward"]),
            _ms(group["backward"]), f"{ms / row['ms']:.1%}",
            *_rate(rate, row["peaks"]["convolution"]), *_rate(moved, row["peaks"]["copy"]),
        ))  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rate(rate: float, peak: float) -> tuple[str, str]:
    return (
        (f"{rate:.3g}" if rate < 100 else f"{rate:.0f}", f"{rate / peak:.0%}") if rate else ("", "")
    )


def _ms(ms: float) -> str:
    return f"{ms:.3g}" if 0 < ms < 100 else f"{ms:.0f}" if ms else ""


def _sum(row: Row) -> str:
    """Where the distance to the peak comes from."""
    groups = row["groups"].values()
    operations = sum(group["operations"] for group in groups)
    convolved = sum(g["forward"] + g["backward"] for g in groups if g["operations"])
    least = 1e-6 * operations / row["peaks"]["convolution"]
    return (
        f"A step takes {_ms(row['ms'])} ms: {1e-6 * operations / row['ms']:.0f} GFLOP/s, "
        f"{least / row['ms']:.0%} of the convolution peak, at which its arithmetic would take "
        f"{_ms(least)} ms. Convolutions take {_ms(convolved)} ms of it, everything else "
        f"{_ms(row['ms'] - convolved)} ms ({1 - convolved / row['ms']:.0%})."
    )
