"""`matconvnet convert`: a network from a file of one format to that of another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from matconvnet.cli.show import parse_size
from matconvnet.cli.sources import NETWORK_HELP, find_network

if TYPE_CHECKING:
    from rich.table import Table

    from matconvnet.interop.convert import Conversion


def convert(
    source: Annotated[str, typer.Argument(metavar="A", help=NETWORK_HELP)],
    target: Annotated[
        Path, typer.Argument(metavar="B", help="The new file: .mat, .safetensors or .onnx.")
    ],
    deploy: Annotated[
        bool,
        typer.Option(
            "--deploy",
            help="Leave out losses and dropout, and merge batch normalisation into convolutions.",
        ),
    ] = False,
    softmax: Annotated[
        bool | None,
        typer.Option(
            "--softmax/--no-softmax",
            help="Whether a deployed network ends in a softmax.",
            show_default="if its loss has one",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxWxC",
            help="Of the input, where A leaves it free; it becomes fixed in an .onnx file.",
        ),
    ] = None,
    mat_version: Annotated[
        Literal["7", "6", "7.3"] | None,
        typer.Option(help="Of a .mat file: 7 is compressed.", show_default="7, or 7.3 above 2 GB"),
    ] = None,
    caffemodel: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The weights of a .prototxt file.")
    ] = None,
    mean: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The mean image (.binaryproto) of a .prototxt file."),
    ] = None,
) -> None:
    """Convert a network to the format that the name of B ends in.

    What became of each layer is printed. Before B takes its place, it is read back, or run by
    onnxruntime, and compared with A on random input.
    """
    from rich.console import Console
    from rich.text import Text

    from matconvnet.interop.convert import convert as convert_network

    result = convert_network(
        find_network(source), target, deploy=deploy, softmax=softmax,
        input_size=None if size is None else _three(size),
        load_options=_options(Path(source), ".prototxt", caffemodel=caffemodel, mean=mean),
        save_options=_options(target, ".mat", mat_version=mat_version),
    )  # fmt: skip
    console = Console(highlight=False)
    console.print(_table(result))
    for line in result.left_out:
        console.print(Text(f"left out: {line}"), soft_wrap=True)
    for proof in result.proofs:
        gap = f"; largest deviation {proof.deviation:.1e} of the largest value"
        line = f"verified: {proof.text}{gap if proof.deviation else ''}"
        console.print(Text(line, "green"), soft_wrap=True)
    console.print(Text(f"{source} -> {target}"), soft_wrap=True)


def _three(text: str) -> list[int]:
    size = parse_size(text)
    if len(size) != 3:
        raise ValueError(f"input size is {text!r}; wanted HxWxC, such as 224x224x3")
    return size


def _options(path: Path, suffix: str, **given: Any) -> dict[str, Any]:
    """Options that only files of one format have."""
    named = {name: value for name, value in given.items() if value is not None}
    if named and path.suffix.lower() != suffix:
        option = next(iter(named)).replace("_", "-")
        raise ValueError(f"--{option} is for {suffix} files; found {path}")
    return {name.removeprefix("mat_"): value for name, value in named.items()}


def _table(result: "Conversion") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("layer", "type", "becomes", "parameters"):
        table.add_column(heading, overflow="fold")
    for layer in result.mapping:
        shapes = ", ".join(
            "none" if shape is None else "x".join(map(str, shape)) for shape in layer.shapes
        )
        style = "" if layer.became else "dim"
        cells = (layer.name, layer.kind or "(new)", layer.became or "left out", shapes)
        table.add_row(*(Text(cell, style) for cell in cells))
    return table
