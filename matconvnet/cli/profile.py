"""`matconvnet profile`: where the time of a network goes, layer by layer."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from matconvnet.cli.sources import NetworkArgument, open_network


def profile(
    network: NetworkArgument,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="That are measured.")] = 10,
    training: Annotated[
        bool | None,
        typer.Option(
            "--train/--infer",
            help="Steps of training, or evaluations in test mode.",
            show_default="train, if the network has a loss",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a timeline for chrome://tracing or Perfetto, as JSON."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of drawn images, and of a zoo network's weights.")] = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
    fast: Annotated[
        bool,
        typer.Option("--fast/--explicit", help="Programs of kernels, or layer after layer (CPU)."),
    ] = True,
) -> None:
    """Measure every layer on random images: time, arithmetic, memory traffic, share of the peak."""
    from rich.console import Console

    from matconvnet.train.profile_tables import profile_tables
    from matconvnet.train.profiling import profile_network

    net = open_network(network, seed)
    if training is None:
        training = any(node.layer.is_loss for node in net.graph.nodes)
    found = profile_network(
        net, batch=batch, steps=steps, training=training, seed=seed, device=device, fast=fast
    )
    Console(highlight=False).print(*profile_tables(found))
    if trace is not None:
        found.write_trace(trace)
        typer.echo(trace)
