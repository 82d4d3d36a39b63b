"""Derivative checking: compare what backward returns with central differences of forward."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matconvnet.explore import subjects
from matconvnet.explore.subjects import Subject

STEPS = (1e-4, 1e-3, 1e-5, 1e-2, 1e-6)
"""Steps tried in turn, times the size of the element: until one agrees."""


class Row(NamedTuple):
    """The verdict on one tensor: its worst element among those that were checked.

    relative_error: the largest difference of numeric and analytic derivative, over the largest
    derivative of the tensor. kinks: elements where the function has a corner and the analytic
    derivative is one of its one-sided ones, or between them.
    """

    name: str
    shape: tuple[int, ...]
    checked: int
    at: tuple[int, ...]
    numeric: float
    analytic: float
    relative_error: float
    kinks: int
    ok: bool


@dataclass(frozen=True)
class Report:
    """What `check_derivatives` found, one row per input and parameter; `print` it."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """True, if every derivative agrees."""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        lines: list[list[str]] = [
            ["tensor", "shape", "checked", "worst at", "numeric", "analytic", "rel. error", ""]
        ]
        for row in self.rows:
            verdict = "ok" if row.ok else "WRONG"
            kinks = f" ({row.kinks} on a kink)" if row.kinks else ""
            numbers = (f"{row.numeric:.8g}", f"{row.analytic:.8g}", f"{row.relative_error:.1e}")
            shape = "x".join(map(str, row.shape))
            at = str(list(row.at))
            lines.append([row.name, shape, str(row.checked), at, *numbers, verdict + kinks])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def check_derivatives(
    subject: Any,
    *args: Any,
    seed: int = 0,
    rtol: float = 1e-6,
    max_elements: int = 100,
    training: bool = True,
    **options: Any,
) -> Report:
    """Compare the derivatives of a block, layer or network with central differences, in float64.

        numeric = sum of p * (f(x + h*e) - f(x - h*e)) / (2*h),  p random, of the shape of f(x)

    Where a step crosses a corner of ReLU or of a maximum other steps are tried; an element that
    lies on the corner itself passes, if its derivative is between the two one-sided ones.

    Args:
        subject: one of
            a block function, whose derivative is found by its name (`mcn.conv`, `mcn.vl_nnconv`);
            a pair of functions `(f, f_backward)` in the manner of the blocks: `f(*args)`, and
            `f_backward(*tensors, dzdy, *others)` with one derivative for every tensor;
            a Layer, with its inputs as `args` and its parameters as `params=[...]`;
            a network, with its inputs as a dict, or without: then they are drawn to its
            `meta.inputSize`.
        args: inputs; every tensor or array of floats among them is checked.
        seed: of the projection, of the choice of elements, and of drawn inputs.
        rtol: largest relative error that passes.
        max_elements: how many elements of each tensor are checked, drawn at random; all of a
            smaller one.
        training: mode of layers and networks.
        options: options of the block; `params` of a layer.

    Returns: a Report; `.ok` is the verdict, `print(report)` shows the worst elements.
    Raises: ValueError, if a derivative is missing or has the wrong shape.
    """
    generator = torch.Generator().manual_seed(seed)
    target = subjects.describe(subject, args, options, training, generator)
    outputs = target.evaluate(target.tensors)
    projections = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    ders = target.differentiate(target.tensors, projections)
    rows = []
    for name, tensor in target.tensors.items():
        der = ders.get(name)
        if der is None:
            raise ValueError(f"backward returned no derivative for {name!r}")
        if der.shape != tensor.shape:
            raise ValueError(
                f"the derivative of {name!r} has shape {tuple(der.shape)}; "
                f"wanted the shape of {name!r}, {tuple(tensor.shape)}"
            )
        count = min(max_elements, tensor.numel())
        chosen = torch.randperm(tensor.numel(), generator=generator)[:count].tolist()
        rows.append(_check(target, name, der, outputs, projections, chosen, rtol))
    return Report(tuple(rows))


def _check(
    target: Subject,
    name: str,
    der: Tensor,
    outputs: list[Tensor],
    projections: list[Tensor],
    chosen: list[int],
    rtol: float,
) -> Row:
    tensor = target.tensors[name]
    analytic = der.reshape(-1)[chosen].tolist() if chosen else []
    scale = max((abs(v) for v in analytic), default=0.0)
    results = []
    for position, expected in zip(chosen, analytic, strict=True):

        def change(step: float, position: int = position) -> Change:
            moved = target.evaluate(_moved(target.tensors, name, position, step))
            return _change(projections, moved, outputs)

        unit = max(abs(float(tensor.reshape(-1)[position])), 0.1)
        results.append(_compare(change, unit, expected, rtol * scale))
    if not results:
        return Row(name, tuple(tensor.shape), 0, (), 0.0, 0.0, 0.0, 0, True)
    worst = max(results, key=lambda result: (not result.ok, result.error))
    at = results.index(worst)
    index = torch.unravel_index(torch.tensor(chosen[at]), tensor.shape)
    return Row(
        name, tuple(tensor.shape), len(chosen), tuple(map(int, index)), worst.numeric,
        analytic[at], worst.error / max(scale, abs(worst.numeric), 1e-300),
        sum(result.on_kink for result in results), worst.ok,
    )  # fmt: skip


class Change(NamedTuple):
    """Change of the projected output, and a bound of its rounding error."""

    value: float
    rounding: float


class Result(NamedTuple):
    """A numeric derivative, its difference from the analytic one, and whether that is allowed."""

    numeric: float
    error: float
    ok: bool
    on_kink: bool = False


def _change(projections: list[Tensor], moved: list[Tensor], outputs: list[Tensor]) -> Change:
    value = rounding = 0.0
    for p, y, y0 in zip(projections, moved, outputs, strict=True):
        difference = y - y0
        value += float((p * difference).sum())
        rounding += float((p * y0)[difference != 0].abs().sum())
    return Change(value, 8 * torch.finfo(torch.float64).eps * rounding)


def _compare(
    change: Callable[[float], Change], unit: float, expected: float, allowed: float
) -> Result:
    """Compare with the central difference at the first step that agrees, else at the best one."""
    results, one_sided = [], {}
    for step in (s * unit for s in STEPS):
        up, down = change(step), change(-step)
        right, left = up.value / step, -down.value / step
        numeric, noise = (right + left) / 2, (up.rounding + down.rounding) / (2 * step)
        error = abs(numeric - expected)
        if error <= allowed + noise:
            return Result(numeric, error, ok=True)
        results.append(Result(numeric, error, ok=False))
        one_sided[step] = sorted((left, right))
    best = min(results, key=lambda result: result.error)
    low, high = one_sided[min(one_sided)]
    gap = high - low
    is_corner = gap > 1e-3 * max(abs(low), abs(high))
    if is_corner and low - 1e-4 * gap <= expected <= high + 1e-4 * gap:
        return Result(best.numeric, 0.0, ok=True, on_kink=True)
    return best


def _moved(
    tensors: Mapping[str, Tensor], name: str, position: int, step: float
) -> dict[str, Tensor]:
    moved = tensors[name].clone(memory_format=torch.contiguous_format)
    moved.view(-1)[position] += step
    return {**tensors, name: moved}
