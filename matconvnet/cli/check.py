"""`matconvnet check`: compare a network's derivatives with central differences."""

from typing import Annotated

import typer

from matconvnet.cli.sources import NetworkArgument, open_network


def check(
    network: NetworkArgument,
    seed: Annotated[int, typer.Option(help="Of drawn inputs, and of a zoo network's weights.")] = 0,
) -> None:
    """Compare all derivatives with central differences, in double precision.

    Ends with status 1 if one is wrong.
    """
    from matconvnet.explore.derivatives import check_derivatives

    report = check_derivatives(open_network(network, seed), seed=seed)
    typer.echo(str(report))
    typer.echo("All derivatives agree." if report.ok else "Some derivatives are wrong.")
    if not report.ok:
        raise typer.Exit(1)
