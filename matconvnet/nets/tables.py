"""Tables as text: cells of numbers, and their layout in ASCII, LaTeX and CSV."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

Format = Literal["ascii", "latex", "csv"]
Line = list[str] | None
"""Cells of one line of a table; None: a line that separates."""


def table_text(lines: Sequence[Line], format: Format = "ascii") -> str:
    """A table as text, every line ended.

    Args:
        lines: cells, as many in every line.
        format: "ascii": cells aligned on the right and closed by a bar; "latex": a tabular; "csv":
            quoted cells, without separators.

    Raises: ValueError, if the format is unknown.
    Source: vl_simplenn_display.
    """
    writers = {"ascii": _ascii, "latex": _latex, "csv": _csv}
    if format not in writers:
        raise ValueError(f"format is {format!r}; wanted one of {', '.join(get_args(Format))}")
    return writers[format](lines)


def dims_text(dims: Sequence[float]) -> str:
    """Dimensions joined by "x"; a single number, if all are equal."""
    items = dims[:1] if all(d == dims[0] for d in dims) else dims
    return "x".join("NaN" if math.isnan(d) else f"{d:.4g}" for d in items)


def memory_text(size: float) -> str:
    """Bytes, rounded, with a unit of 1024 bytes or a power of it."""
    if math.isnan(size):
        return "NaN"
    power = sum(size >= 1024**p for p in (1, 2, 3))
    return f"{size / 1024**power:.0f}{('B', 'KB', 'MB', 'GB')[power]}"


def count_text(count: float) -> str:
    """A large number to three digits, in thousands (K), millions (M), 10^9 (G) or 10^12 (T)."""
    if math.isnan(count):
        return "NaN"
    for unit in ("", "K", "M", "G"):
        if float(f"{count:.3g}") < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}T"


def _widths(lines: Sequence[Line]) -> list[int]:
    return [max(map(len, column)) for column in zip(*filter(None, lines), strict=True)]


def _ascii(lines: Sequence[Line]) -> str:
    widths = _widths(lines)
    text = ""
    for line in lines:
        cells = ["-" * width for width in widths] if line is None else line
        padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        text += "".join(f"{cell}|" for cell in padded) + "\n"
    return text


def _csv(lines: Sequence[Line]) -> str:
    quoted = ([cell.replace('"', '""') for cell in line] for line in lines if line is not None)
    return "".join("".join(f'"{cell}",' for cell in line) + "\n" for line in quoted)


def _latex(lines: Sequence[Line]) -> str:
    widths = _widths(lines)
    text = f"\\begin{{tabular}}{{{'c' * len(widths)}}}\n"
    for line in lines:
        if line is None:
            text += "\\hline\n"
            continue
        escaped = (cell.replace("\\", "\\\\").replace("_", "\\char`_") for cell in line)
        cells = (cell.rjust(width) for cell, width in zip(escaped, widths, strict=True))
        text += "&".join(cells) + "\\\\\n"
    return text + "\\end{tabular}\n"
