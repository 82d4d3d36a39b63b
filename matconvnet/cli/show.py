"""`matconvnet show`: what a file holds: the layers of a network, its meta data; a database."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from matconvnet.cli.sources import NetworkArgument, open_any


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
    dot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the graph for Graphviz to a .dot file, or to a picture that it draws, such "
            "as .pdf or .svg; - prints it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all as JSON.")] = False,
) -> None:
    """Print the layers of a network, its meta data, and what its file holds beside it.

    Of an image database the variables are listed.
    """
    from rich.console import Console

    from matconvnet.cli.views import View
    from matconvnet.nets.network import Network

    if as_json and dot is not None:
        raise ValueError("--json and --dot are both given; wanted one of them")
    found = open_any(network)
    if not isinstance(found, Network):
        _show_database(found, as_json)
        return
    view = View(found, None if input_size is None else parse_size(input_size), batch)
    if dot is not None:
        _write_graph(view.graph(), dot)
    elif as_json:
        typer.echo(json.dumps(view.content(), indent=1, allow_nan=False))
    elif text_format == "ascii":
        view.print(Console(highlight=False))
    else:
        typer.echo(view.text(text_format), nl=False)


def parse_size(text: str) -> list[int]:
    """The numbers of HxWxC, of which the last may be missing."""
    numbers = text.lower().split("x")
    if not 1 <= len(numbers) <= 3 or not all(n.isdecimal() and int(n) for n in numbers):
        raise ValueError(f"input size is {text!r}; wanted HxWxC, such as 224x224x3")
    return [int(n) for n in numbers]


def _show_database(variables: dict[str, Any], as_json: bool) -> None:
    from matconvnet.cli.listing import flat

    listing = dict(flat(variables))
    if as_json:
        typer.echo(json.dumps({"kind": "image database", "variables": listing}, indent=1))
        return
    typer.echo("an image database:")
    for name, value in listing.items():
        typer.echo(f"{name}: {value}")


def _write_graph(text: str, path: Path) -> None:
    """Print a graph, write it to a file, or let Graphviz draw it."""
    from matconvnet.nets.dagdisplay import draw

    if str(path) == "-":
        typer.echo(text, nl=False)
    elif path.suffix == ".dot":
        path.write_text(text, encoding="utf-8")
        typer.echo(path)
    else:
        typer.echo(draw(text, path))
