"""`matconvnet predict`: what a trained network sees in image files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matconvnet.cli.sources import TrainedArgument, open_trained

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from matconvnet.cli.classifier import Classifier

BEST = 5


def predict(
    network: TrainedArgument,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files, grey or colour.")
    ],
    invert: Annotated[
        bool, typer.Option("--invert", help="Exchange dark and light: for dark digits on white.")
    ] = False,
) -> None:
    """Classify image files, and print the five likeliest classes of each.

    The largest centred part of the image that has the network's proportions is resized to its
    input.
    """
    from rich.console import Console
    from rich.text import Text

    from matconvnet.cli.classifier import Classifier
    from matconvnet.cli.images import input_size, read_images
    from matconvnet.layout import to_tensor

    net = open_trained(network)
    classifier = Classifier.of(net)
    x = read_images(images, input_size(net.meta), invert)
    if classifier.average is not None:
        x = x - to_tensor(classifier.average)[..., None]
    console = Console()
    rows = classifier.to_probabilities(classifier.scores(x))
    for path, row in zip(images, rows, strict=True):
        console.print(Text(str(path)), soft_wrap=True)
        console.print(_table(row, classifier))


def _table(probabilities: "Tensor", classifier: "Classifier") -> "Table":
    from rich.table import Table
    from rich.text import Text

    values, indices = probabilities.topk(min(BEST, probabilities.numel()))
    table = Table()
    table.add_column("class")
    table.add_column("probability", justify="right")
    for value, index in zip(values.tolist(), indices.tolist(), strict=True):
        table.add_row(Text(classifier.name(index)), f"{100 * value:.2f} %")
    return table
