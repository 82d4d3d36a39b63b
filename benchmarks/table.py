"""Results of races as lines of text, and as the table of docs/performance.md."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from problems import KINDS
from race import TUNED
from sides import SETUPS

from matconvnet.fast.peaks import Peaks

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
LEAN = "fast-lean"
RUNTIMES = ("onnxruntime", "openvino")
PRECISIONS, TASKS = ("fp32", "tf32", "bf16"), ("train", "infer")
Row = Mapping[str, Any]


def raced(row: Row) -> dict[str, Row]:
    """The sides that ran, by name."""
    return {name: side for name, side in row["sides"].items() if "error" not in side}


def best(row: Row, names: Iterable[str]) -> str | None:
    """The fastest of some sides."""
    ran = raced(row)
    return min((n for n in names if n in ran), key=lambda n: ran[n]["ratio"][1], default=None)


def torches(row: Row, tuned: bool = False) -> list[str]:
    """PyTorch's sides that ran, with or without the tuned C library."""
    names = [n for n in raced(row) if n.removesuffix(TUNED) in SETUPS]
    return [n for n in names if n.endswith(TUNED) == tuned]


def share(row: Row) -> float | None:
    """Our rate of arithmetic, of the peak of convolutions; a multiply-add counts twice."""
    if row["ours"] is None:
        return None
    return 2e-6 * row["work"] / raced(row)[row["ours"]]["ms"] / row["peaks"]["convolution"]


def line(row: Row) -> list[str]:
    """A race as text, a line for each side that ran."""
    lines = []
    for name, side in raced(row).items():
        low, median, high = side["ratio"]
        lines.append(
            f"  {name:20} {side['ms']:10.2f} ms  x {median:5.2f} ({low:.2f} to {high:.2f})  "
            f"{side['memory'] / 1e6:8.0f} MB  {side['note']}".rstrip()
        )
    if row["ours"]:
        lines.append(f"  {row['ours']} runs at {share(row):.0%} of the convolution peak")
    return lines


def render(rows: Sequence[Row]) -> str:
    """All races, grouped by device, precision and task."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (
            row["kind"], row["device"], str(row["threads"]), PRECISIONS.index(row["precision"]),
            TASKS.index(row["task"]),
        )  # fmt: skip
        groups.setdefault(key, []).append(row)
    parts = []
    order = list(KINDS)
    for (_, device, threads, precision, task), group in sorted(groups.items()):
        group.sort(key=lambda row: (order.index(row["network"]), row["batch"]))
        title = ("Training step", "Inference")[task]
        parts.append(f"### {title}, {PRECISIONS[precision]}: {device}, {threads} threads")
        parts.append(_facts(group))
        parts.append(_table(group))
        parts.append(_means(group))
        if TASKS[task] == "train":
            parts.append(_memory(group))
        parts.append(_failures(group))
    return "\n\n".join(part for part in parts if part)


def _facts(rows: Sequence[Row]) -> str:
    dates = sorted({row["date"] for row in rows})
    versions = {f"{name} {number}" for row in rows for name, number in row["versions"].items()}
    peaks = {name: max(row["peaks"][name] for row in rows) for name in rows[0]["peaks"]}
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return f"{days}; {', '.join(sorted(versions))}; {Peaks(**peaks)}."


def _memory(rows: Sequence[Row]) -> str:
    """The peaks of memory, of the races with PyTorch eager."""
    cells = [_memory_cells(row) for row in rows if _mb(row, "eager") and row["ours"]]
    return f"Peak memory in MB:\n\n{_lines(cells)}" if cells else ""


def _memory_cells(row: Row) -> dict[str, str]:
    return {
        "network": row["network"],
        "batch": str(row["batch"]),
        "eager": _mb(row, "eager"),
        "ours": _mb(row, row["ours"]),
        "ours / eager": _over(row, row["ours"], "eager", "memory"),
        "lean": _mb(row, LEAN),
        "lean / eager": _over(row, LEAN, "eager", "memory"),
        "time of lean / ours": _gain(row, LEAN),
        "time of lean / eager": _over(row, LEAN, "eager", "ms"),
    }


def _over(row: Row, name: str, other: str, what: str) -> str:
    sides = raced(row)
    return f"{sides[name][what] / sides[other][what]:.2f}" if {name, other} <= {*sides} else ""


def _table(rows: Sequence[Row]) -> str:
    cells = [_cells(row) for row in rows]
    if rows[0]["task"] == "train":  # has a table of its own
        cells = [{k: v for k, v in row.items() if "MB" not in k} for row in cells]
    return _lines(cells)


def _lines(cells: Sequence[Mapping[str, str]]) -> str:
    """Columns that are empty in all rows are left out."""
    heads = [head for head in cells[0] if any(row[head] for row in cells)]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    lines += [[row[head] for head in heads] for row in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> dict[str, str]:
    """A line of the table, by the heads of its columns."""
    torch_best, runtime = best(row, torches(row)), best(row, RUNTIMES)
    tuned = [n for n in torches(row) if "autotune" in n]
    compiled = [n for n in torches(row) if n not in ("eager", "channels-last", *tuned)]
    return {
        "network": row["network"],
        "batch": str(row["batch"]),
        "ours": _ms(row, row["ours"]),
        "explicit": _ms(row, "explicit"),
        "eager": _ms(row, "eager"),
        "channels-last": _ms(row, "channels-last"),
        "compile": _ms(row, best(row, compiled)),
        "autotune": _ms(row, best(row, tuned)),
        "gain": _spread(row, torch_best),
        "best peer": torch_best or "",
        "over eager": _gain(row, "eager"),
        "over tuned malloc": _gain(row, best(row, torches(row, tuned=True))),
        "over our fp32": _gain(row, "fast-fp32"),
        "onnxruntime": _ms(row, "onnxruntime"),
        "openvino": _ms(row, "openvino"),
        "over both": _gain(row, runtime),
        "of peak": "" if row["ours"] is None else f"{share(row):.0%}",
        "MB": _mb(row, row["ours"]),
        "eager's MB": _mb(row, "eager"),
    }


def _gain(row: Row, name: str | None) -> str:
    """The time of a side, in ours."""
    side = raced(row).get(name or "")
    return f"{side['ratio'][1]:.2f}" if side and row["ours"] else ""


def _spread(row: Row, name: str | None) -> str:
    """`_gain` with its quartiles."""
    if not _gain(row, name):
        return ""
    low, median, high = raced(row)[name or ""]["ratio"]
    return f"**{median:.2f}** ({low:.2f} to {high:.2f})"


def _means(rows: Sequence[Row]) -> str:
    """The geometric means of the gains."""
    gains = {}
    for row in rows:
        for what, name in (
            ("the best PyTorch", best(row, torches(row))),
            ("eager PyTorch", best(row, ["eager"])),
            ("the best runtime", best(row, RUNTIMES)),
        ):
            if name and row["ours"]:
                gains.setdefault(what, []).append(raced(row)[name]["ratio"][1])
    means = [
        f"over {what} {math.exp(math.fsum(map(math.log, values)) / len(values)):.2f} "
        f"(least {min(values):.2f})"
        for what, values in gains.items()
    ]
    return f"Geometric mean of the gain: {'; '.join(means)}." if means else ""


def _failures(rows: Sequence[Row]) -> str:
    """What did not run, and why."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for name, side in row["sides"].items():
            if "error" in side:
                where = f"{row['network']} {row['batch']}"
                reasons.setdefault(f"{name}: {side['error']}", []).append(where)
    return "\n".join(f"- not run: {why} ({', '.join(at)})" for why, at in reasons.items())


def _ms(row: Row, name: str | None) -> str:
    side = raced(row).get(name or "")
    return f"{side['ms']:.3g}" if side and side["ms"] < 100 else f"{side['ms']:.0f}" if side else ""


def _mb(row: Row, name: str | None) -> str:
    side = raced(row).get(name or "")
    return f"{side['memory'] / 1e6:.0f}" if side else ""


def write(text: str, mark: str) -> None:
    """Put tables between two marks of the document."""
    begin, end = (f"<!-- {mark}: {where} -->" for where in ("begin", "end"))
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
