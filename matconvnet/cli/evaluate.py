"""`matconvnet evaluate`: the error of a trained network on a set of images."""

from typing import Annotated, Literal

import typer

from matconvnet.cli.sources import (
    DataOption,
    PrecisionOption,
    TrainedArgument,
    load_data,
    open_trained,
)


def evaluate(
    network: TrainedArgument,
    data: DataOption = None,
    images: Annotated[
        Literal["train", "val", "test"], typer.Option("--set", help="Which images to classify.")
    ] = "test",
    precision: PrecisionOption = "fp32",
) -> None:
    """Print the objective, the errors, the speed, and the worst confusions on a set of images."""
    from rich.console import Console

    from matconvnet.cli.evaluation import confusion_table, evaluate_set
    from matconvnet.cli.sources import check_images

    net, imdb = open_trained(network, precision), load_data(data)
    check_images(net, imdb)
    found = evaluate_set(net, imdb, images, precision)
    console = Console(highlight=False)
    console.print(f"{found.count} images of the {images} set")
    console.print(f"objective    {found.objective:.4f}")
    for top in (1, 5):
        wrong = found.mistakes(top)
        console.print(f"top-{top} error  {100 * wrong / found.count:.2f} % ({wrong} images)")
    console.print(f"speed        {found.count / found.seconds:.0f} images/s")
    if found.mistakes():
        console.print(confusion_table(found))
