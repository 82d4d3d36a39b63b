"""`matconvnet parity`: compare every layer of a network with recorded values."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matconvnet.cli.sources import NetworkArgument, open_network

if TYPE_CHECKING:
    from rich.table import Table

    from matconvnet.explore.parity import Parity

TOLERANCE = 1e-5  # that of `explore.parity`


def parity(
    network: NetworkArgument,
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE.npz",
            help="Recorded arrays, H x W x C x N, by variable: the input (or x), and what layers "
            "write; L3 is the output of layer 3 of a SimpleNN.",
        ),
    ],
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, help="The largest deviation that agrees, relative to the largest value."
        ),
    ] = TOLERANCE,
) -> None:
    """Evaluate a network in test mode, and compare its variables with recorded ones.

    Ends with status 1 if one departs, and names the first.
    """
    from rich.console import Console
    from rich.text import Text

    from matconvnet.explore.parity import parity as compare

    net = open_network(network)
    found = compare(net, read_reference(reference), tolerance=tolerance)
    console = Console(highlight=False)
    console.print(_table(found))
    if found.taken:
        kinds = ", ".join(dict.fromkeys(net.unknown.values()))
        text = f"taken as recorded, for nobody registered {kinds}: {', '.join(found.taken)}"
        console.print(Text(text), soft_wrap=True)
    if found.left_out:
        console.print(Text(f"not compared: {', '.join(found.left_out)}"), soft_wrap=True)
    first = found.first
    if first is None:
        console.print(Text(f"All {len(found.rows)} variables agree to {tolerance:g}.", "green"))
        return
    wrong = f"The first that departs is {first.variable!r}, written by layer {first.layer!r}."
    console.print(Text(wrong, "bold red"), soft_wrap=True)
    raise typer.Exit(1)


def read_reference(path: Path) -> dict[str, Any]:
    """The arrays of a `.npz` file.

    Raises: ValueError, if it is no such file, is damaged, or holds Python objects; OSError.
    """
    import numpy as np

    path.open("rb").close()  # OSError with the usual words
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .npz file, as numpy.savez writes it")
    key = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {}
            for key in archive.files:
                arrays[key] = archive[key]
                if not isinstance(arrays[key], np.ndarray):
                    raise ValueError("it is no array, as numpy.save writes it")
            return arrays
    except (ValueError, KeyError, EOFError, MemoryError, NotImplementedError,
            zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        place = f"{key!r} in {path}" if key else f"{path}"
        raise ValueError(f"{place} cannot be read: {error}") from error


def _table(found: "Parity") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("layer", "variable", "size"):
        table.add_column(heading, overflow="fold")
    table.add_column("deviation", justify="right")
    table.add_column("")
    for row in found.rows:
        size = "x".join(map(str, row.shape))
        if row.shape != row.wanted:
            size += f"; recorded {'x'.join(map(str, row.wanted))}"
        deviation = "" if math.isnan(row.deviation) else f"{row.deviation:.1e}"
        verdict = Text("ok") if row.ok else Text("DEPARTS", "bold red")
        table.add_row(Text(row.layer), Text(row.variable), size, deviation, verdict)
    return table
