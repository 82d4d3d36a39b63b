"""`vl_simplenn_display` and `vl_simplenn_diagnose`, with MATLAB manners."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from matconvnet.compat.options import parse_options
from matconvnet.nets.custom import Entry
from matconvnet.nets.diagnose import Ranges, diagnose, plot_diagnosis
from matconvnet.nets.display import Table, describe, render
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Struct

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIONS = {"input_size": None, "batch_size": None, "max_num_columns": 18, "format": "ascii"}


def vl_simplenn_display(net: Any, *pairs: Any, print_table: bool = True, **options: Any) -> Struct:
    """Print a table of the layers of a network, and return its numbers.

    Args:
        net: a network struct (a dict with `layers`), or a SimpleNN.
        *pairs: name, value pairs, in any case:
            inputSize: up to four numbers H, W, C, N; else those in `net.meta`.
            batchSize: N. maxNumColumns: layers side by side (18).
            format: 'ascii', 'latex' or 'csv'.
        print_table: print it (ours; MATLAB prints if nothing is asked of the function).
        **options: the same as keywords.

    Returns:
        A struct of arrays with a column for each of n layers, vertical above horizontal: `support`,
        `stride` (2 x n), `pad` (4 x n: top, bottom, left, right), `receptiveFieldSize`,
        `receptiveFieldOffset` (of the first pixel's centre, counted from 1), `receptiveFieldStride`
        (2 x n), `dataSize` (4 x n+1, the first column the input). `text`: the table.

    Raises: TypeError: an unknown option. ValueError: an unknown format, a size of five numbers.
    Source: vl_simplenn_display.
    """
    opts = parse_options(OPTIONS, pairs, options)
    table = _describe(net, opts["input_size"], opts["batch_size"])
    text = render(table, opts["format"], opts["max_num_columns"])
    if print_table:
        print(text, end="")
    rows = table.rows
    return Struct(
        support=_columns([row.support for row in rows], 2),
        stride=_columns([row.stride for row in rows], 2),
        pad=_columns([row.pad for row in rows], 4),
        receptiveFieldSize=_columns([row.field.size for row in rows], 2),
        receptiveFieldOffset=_columns([row.field.offset for row in rows], 2) + 1,
        receptiveFieldStride=_columns([row.field.stride for row in rows], 2),
        dataSize=_columns(table.sizes, 4),
        text=text,
    )


def vl_simplenn_diagnose(
    net: Any, res: Sequence[Entry] | None = None
) -> tuple[dict[str, Ranges], "Figure"]:
    """Draw the ranges of a network's weights and, given `res`, of its values and derivatives.

    Args:
        net: a network struct, or a SimpleNN.
        res: what `vl_simplenn` returned.

    Returns: the numbers drawn, as `matconvnet.nets.diagnose.diagnose` returns them, and the figure.
    Source: vl_simplenn_diagnose.
    """
    chain = net if isinstance(net, SimpleNN) else SimpleNN.from_struct(net)
    numbers = diagnose(chain, res)
    return numbers, plot_diagnosis(numbers)


def _describe(net: Any, input_size: Any, batch_size: Any) -> Table:
    if isinstance(net, SimpleNN):
        return describe(net, input_size, batch_size)
    table = describe(SimpleNN.from_struct(net), input_size, batch_size)
    # A layer does not know by which of two names its struct called it.
    rows = [
        replace(row, type="lrn") if isinstance(layer, Mapping) and layer["type"] == "lrn" else row
        for row, layer in zip(table.rows, net["layers"], strict=True)
    ]
    return replace(table, rows=tuple(rows))


def _columns(items: Sequence[Sequence[float]], height: int) -> np.ndarray:
    return np.array(items, dtype=float).reshape(-1, height).T
