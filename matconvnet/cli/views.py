"""Networks as tables, for people and for documents, and as JSON."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from matconvnet.cli.listing import flat, plain
from matconvnet.geometry import Size
from matconvnet.layer import Field
from matconvnet.nets import dagdisplay, display
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.meta import input_size
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.nets.tables import count_text, dims_text, memory_text

TextFormat = Literal["ascii", "csv", "latex"]
MOST_COLUMNS = 18  # of a table that is not for a terminal, as in the original
DEPTH = 3  # of what is listed beside a network


class View:
    """A network, and sizes (H, W, C, N) of its inputs: those given, or of the meta data."""

    def __init__(self, net: Network, size: Sequence[int] | None = None, batch: int | None = None):
        """Look at `net` with an input of size (H, W, C), and so many images."""
        self.net, self.sizes = net, {name: input_size(net.meta, name) for name in net.data_inputs}
        if size and net.data_inputs:
            self.sizes[net.input] = list(size)
        for name, numbers in self.sizes.items():
            self.sizes[name] = [*(*numbers, *[math.nan] * 3)[:3], batch or 1]

    def text(self, text_format: TextFormat, columns: int = MOST_COLUMNS) -> str:
        """The tables of the original, of so many columns at most."""
        if isinstance(self.net, SimpleNN):
            return display.render(self._described(self.net), text_format, columns)
        return dagdisplay.render(
            self._dag(), self.sizes, all=True, format=text_format, max_num_columns=columns
        )

    def print(self, console: Console) -> None:
        """Print the layers, and what else there is, for people."""
        if isinstance(self.net, SimpleNN):
            typer.echo(self._fitted(console.width if console.is_terminal else math.inf), nl=False)
        else:
            console.print(self._rows())
            console.print(self._totals())
        for line in self._lines():
            typer.echo(line)

    def content(self) -> dict[str, Any]:
        """All of it, for JSON."""
        is_chain = isinstance(self.net, SimpleNN)
        return {
            **(self._chain_content(self.net) if is_chain else self._dag_content()),
            "unknown": self.net.unknown,
            "meta": plain(self.net.meta),
            "beside": dict(flat(self._beside(), depth=DEPTH)),
        }

    def graph(self) -> str:
        """The graph in the language of Graphviz."""
        return dagdisplay.dot(self._dag(), self.sizes)

    def _dag(self) -> DagNN:
        return self.net if isinstance(self.net, DagNN) else DagNN.from_simplenn(self.net)  # pyright: ignore

    def _described(self, net: SimpleNN) -> display.Table:
        return display.describe(net, self.sizes.get(net.input))

    def _fitted(self, width: float) -> str:
        """The table of a SimpleNN, in as many parts as make it fit."""
        narrowest = ""
        for columns in range(MOST_COLUMNS, 0, -1):
            narrowest = self.text("ascii", columns)
            if max(map(len, narrowest.splitlines()), default=0) <= width:
                break
        return narrowest

    def _rows(self) -> Table:
        """A row for each layer of a DagNN."""
        dag, table = self._dag(), Table()
        for heading in ("layer", "type", "reads", "writes", "H x W x C", "field", "parameters"):
            table.add_column(heading, overflow="fold")
        sizes, values = dag.get_var_sizes(self.sizes), dag.values()
        fields = dag.get_var_receptive_fields(self.net.input) if dag.data_inputs else {}
        for layer, kind in self._layers():
            shapes = (values[name] for name in layer.params)
            cells = (
                layer.name,
                kind.removeprefix("dagnn."),
                ", ".join(layer.inputs),
                ", ".join(layer.outputs),
                ", ".join(_pixels(sizes[v]) for v in layer.outputs),
                ", ".join(_field(fields.get(v)) for v in layer.outputs),
                ", ".join("none" if v is None else "x".join(map(str, v.shape)) for v in shapes),
            )
            table.add_row(*map(Text, cells))
        return table

    def _totals(self) -> Text:
        dag = self._dag()
        numbers = sum(value.numel() for value in dag.values().values() if value is not None)
        counts = (
            f"{len(dag.layers)} layers, {len(dag.vars)} variables, {len(dag.params)} parameters"
        )
        return Text(
            f"{counts} of {count_text(numbers)} numbers ({memory_text(display.BYTES * numbers)}); "
            f"field: receptive field in the input"
        )

    def _lines(self) -> Iterator[str]:
        """What there is besides layers: unknown types, meta data, further variables."""
        for kind in dict.fromkeys(self.net.unknown.values()):
            names = [name for name, other in self.net.unknown.items() if other == kind]
            yield (
                f"unknown type {kind!r} of {', '.join(names)}: before loading the network, call "
                f"matconvnet.register({kind!r}, layer)"
            )
        for name, value in flat(self.net.meta):
            yield f"meta.{name}: {value}"
        for name, value in flat(self._beside(), depth=DEPTH):
            yield f"beside.{name}: {value}"

    def _beside(self) -> dict[str, Any]:
        return {**self.net.extra, **(self.net.beside or {})}

    def _layers(self) -> Iterator[tuple[Any, str]]:
        """The layers of a DagNN, with their types as files have them."""
        dag = self._dag()
        for layer, entry in zip(dag.layers.values(), dag.to_struct()["layers"], strict=True):
            yield layer, entry["type"]

    def _chain_content(self, net: Any) -> dict[str, Any]:
        table = self._described(net)
        rows = [vars(row) | {"field": row.field._asdict()} for row in table.rows]
        names = ("input_size", "num_params", "multiply_adds", "data_memory")
        totals = {name: plain(getattr(table, name)) for name in names}
        return {"kind": "SimpleNN", "layers": [plain(row) for row in rows], **totals}

    def _dag_content(self) -> dict[str, Any]:
        dag = self._dag()
        shapes = {n: None if v is None else list(v.shape) for n, v in dag.values().items()}
        names = ("name", "inputs", "outputs", "params")
        layers = (
            {"type": kind} | {name: getattr(layer, name) for name in names}
            for layer, kind in self._layers()
        )
        return {
            "kind": "DagNN",
            "layers": list(layers),
            "variables": plain(dag.get_var_sizes(self.sizes)),
            "params": shapes,
            "num_params": sum(math.prod(shape) for shape in shapes.values() if shape is not None),
        }


def _pixels(size: Size) -> str:
    return "x".join("?" if math.isnan(n) else f"{n:.0f}" for n in size[:3])


def _field(field: Field | None) -> str:
    return "" if field is None else dims_text(field.size)
