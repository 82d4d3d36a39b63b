"""`matconvnet show`: the table of a network's layers, and its meta data."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from matconvnet.cli.sources import NetworkArgument, open_network

if TYPE_CHECKING:
    from matconvnet.nets.display import Table

MOST_COLUMNS = 18  # of a table that is not for a terminal, as in the original
LONG = 8  # numbers; of a longer list the ends are shown


def show(
    network: NetworkArgument,
    input_size: Annotated[
        str | None,
        typer.Option(metavar="HxWxC", help="Of the input.", show_default="that in the meta data"),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images in the input.")] = None,
    text_format: Annotated[
        Literal["ascii", "csv", "latex"], typer.Option("--format", help="Of the table.")
    ] = "ascii",
    as_json: Annotated[bool, typer.Option("--json", help="Print all as JSON.")] = False,
) -> None:
    """Print sizes, receptive fields, memory and work of all layers, and the meta data."""
    from matconvnet.nets.display import describe, render

    net = open_network(network)
    table = describe(net, None if input_size is None else _parse_size(input_size), batch)
    if as_json:
        content = {"layers": _rows(table), **_totals(table), "meta": _plain(net.meta)}
        typer.echo(json.dumps(content, indent=1, allow_nan=False))
        return
    if text_format == "ascii":
        typer.echo(_fitted(table), nl=False)
        for name, value in _flat(net.meta):
            typer.echo(f"meta.{name}: {value}")
    else:
        typer.echo(render(table, text_format), nl=False)


def _parse_size(text: str) -> list[int]:
    numbers = text.lower().split("x")
    if not 1 <= len(numbers) <= 3 or not all(n.isdecimal() and int(n) for n in numbers):
        raise ValueError(f"input size is {text!r}; wanted HxWxC, such as 224x224x3")
    return [int(n) for n in numbers]


def _fitted(table: "Table") -> str:
    """The table, in as many parts as make it fit the terminal, if there is one."""
    from rich.console import Console

    from matconvnet.nets.display import render

    console = Console()
    width = console.width if console.is_terminal else math.inf
    texts = (render(table, "ascii", columns) for columns in range(MOST_COLUMNS, 0, -1))
    narrowest = ""
    for narrowest in texts:
        if max(map(len, narrowest.splitlines())) <= width:
            break
    return narrowest


def _rows(table: "Table") -> list[dict[str, Any]]:
    rows = [vars(row) | {"field": row.field._asdict()} for row in table.rows]
    return [_plain(row) for row in rows]


def _totals(table: "Table") -> dict[str, Any]:
    names = ("input_size", "num_params", "multiply_adds", "data_memory")
    return {name: _plain(getattr(table, name)) for name in names}


def _plain(value: Any) -> Any:
    """What JSON can hold: unknown numbers are null, arrays are named by type and size."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return _described(value)


def _flat(meta: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested meta data, one a line."""
    for key, value in meta.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{key}", _list_text(value)
        else:
            yield f"{prefix}{key}", _described(value)


def _list_text(values: Sequence[Any]) -> str:
    cells = [_described(value) for value in values]
    if len(cells) > LONG:
        return f"{', '.join(cells[: LONG // 2])}, ... {cells[-1]} ({len(cells)} values)"
    return ", ".join(cells)


def _described(value: Any) -> str:
    """A number or a word as it is, an array by its type and size."""
    if isinstance(value, float):
        return f"{value:.6g}"
    shape = getattr(value, "shape", None)
    if shape:
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} array of {' x '.join(map(str, shape))}"
    return str(value)
