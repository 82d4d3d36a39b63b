"""`matconvnet predict`: what a trained network makes of image files."""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matconvnet.cli.sources import PrecisionOption, TrainedArgument, open_trained

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from matconvnet.nets.network import Network
    from matconvnet.nets.predict import Guess, Prediction

SUFFIX = ".out.png"  # of the images that a network makes


def predict(
    network: TrainedArgument,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files, grey or colour.")
    ],
    top: Annotated[int, typer.Option(min=1, help="Classes to print.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Where the images go that the network makes.",
            show_default=f"IMAGE{SUFFIX}, beside the image",
        ),
    ] = None,
    scale: Annotated[
        float,
        typer.Option(
            parser=lambda text: float(Fraction(text)),
            metavar="NUMBER",
            help="What values are multiplied by: 1/255 for a network that wants them from 0 to 1.",
        ),
    ] = 1.0,
    invert: Annotated[
        bool, typer.Option("--invert", help="Exchange dark and light: for dark digits on white.")
    ] = False,
    precision: PrecisionOption = "fp32",
    residual: Annotated[
        bool,
        typer.Option("--residual", help="Subtract what the network makes, such as noise."),
    ] = False,
) -> None:
    """Classify image files, or write the images that a network makes of them.

    Of a classifier, print the likeliest classes of each image. Images are resized, cropped, and
    made grey as the meta data of the network tell.
    """
    from rich.console import Console
    from rich.text import Text

    from matconvnet.fast.inference import compile_for_inference
    from matconvnet.images import read_image, write_png

    net = open_trained(network, precision)
    ready = compile_for_inference(net, precision=precision)
    console = Console(highlight=False)
    written: dict[Path, Path] = {}
    for path in images:
        image = read_image(path)
        image = 255 - image if invert else image
        prediction = ready.predict(image, scale=scale)
        if prediction.is_map and len(prediction.outputs[0][0, 0]) in (1, 3):
            target = _target(path, out, len(images) > 1)
            if target in written:
                raise ValueError(f"{written[target]} and {path} would both become {target}")
            write_png(target, _restored(net, image, prediction, scale, residual))
            written[target] = path
            console.print(Text(f"{path} -> {target}"), soft_wrap=True)
        else:
            guesses = prediction.top(top)[0]
            if out or residual:
                raise ValueError("--out and --residual are for networks that make images")
            console.print(Text(str(path)), soft_wrap=True)
            console.print(_table(guesses))


def _target(path: Path, out: Path | None, in_folder: bool) -> Path:
    """Where the image goes that is made of the one in `path`."""
    name = f"{path.stem}{SUFFIX}"
    if out is None:
        return path.with_name(name)
    if not in_folder and out.suffix and not out.is_dir():
        return out
    out.mkdir(parents=True, exist_ok=True)
    return out / name


def _restored(
    net: "Network", image: "np.ndarray", prediction: "Prediction", scale: float, residual: bool
) -> "np.ndarray":
    """The image that a network made, values 0 to 255."""
    from matconvnet.layout import to_numpy
    from matconvnet.nets.preprocess import Normalization

    output = prediction.outputs[0]
    if residual:
        x = Normalization.of(net).prepare(image, scale)[..., 0]
        if x.shape != output.shape:
            raise ValueError(
                f"--residual wants an output of the size of the input, {tuple(x.shape)}; "
                f"found {tuple(output.shape)}"
            )
        output = x - output
    return to_numpy(output) / scale


def _table(guesses: "list[Guess]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("class")
    table.add_column("probability", justify="right")
    for guess in guesses:
        table.add_row(Text(guess.name), f"{100 * guess.probability:.2f} %")
    return table
