"""`matconvnet train`: train a network, and show what it learned."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from matconvnet.cli.sources import (
    NETWORK_HELP,
    DataOption,
    check_images,
    load_images,
    open_simplenn,
)

if TYPE_CHECKING:
    from matconvnet.data.imdb import Imdb
    from matconvnet.nets.simplenn import SimpleNN

DIGITS_RECIPE = {"learningRate": [0.002] * 8 + [0.0002] * 2, "numEpochs": 10, "batchSize": 50}
"""For the 8,000 digits of the package, where the networks' own recipes are for 60,000 images.

Chosen on a fifth of the training set. Test errors with seeds 0, 1, 2: lenet 2.15, 2.35, 2.25 %;
lenet-bnorm 1.65, 1.80, 1.95 %.
"""
SHOWN = 40  # images in the gallery
SHOWN_MISTAKES = 16


def train(
    network: Annotated[str, typer.Argument(metavar="NET", help=NETWORK_HELP)],
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for all results.", show_default="runs/NET"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How many epochs.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per update.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The same in all epochs.")] = None,
    solver: Annotated[
        Literal["sgd", "adadelta", "adagrad", "adam", "adamw", "rmsprop"],
        typer.Option(help="Update rule; sgd has the momentum of the recipe."),
    ] = "sgd",
    sub_batches: Annotated[int, typer.Option(help="Parts of a batch, to save memory.", min=1)] = 1,
    bnorm: Annotated[
        bool, typer.Option("--bnorm", help="Add batch normalization to a network of the zoo.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the weights and of the order of the images.")] = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
    resume: Annotated[
        bool, typer.Option(help="Continue after the last epoch found in the folder.")
    ] = True,
) -> None:
    """Train a network from fresh weights, or from those in a file.

    Options that are left out are those of the network's recipe. The folder receives the network
    after every epoch, the learning curves, the trained network, and a picture of its predictions.
    """
    from matconvnet.data.batches import get_batch
    from matconvnet.interop.safetensors import save_network
    from matconvnet.train.options import TrainOptions
    from matconvnet.train.trainer import Trainer

    _check_device(device)
    net, imdb = open_simplenn(network + ("-bnorm" if bnorm else ""), seed), load_images(data)
    check_images(net, imdb)
    _describe_data(net, imdb)
    out = out or Path("runs") / Path(network).stem
    given = {"num_epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    options = TrainOptions(
        **_recipe(net, is_packaged=data is None)
        | {key: value for key, value in given.items() if value is not None},
        exp_dir=out,
        resume=resume,
        solver=None if solver == "sgd" else solver,
        num_sub_batches=sub_batches,
        random_seed=seed,
        device=device,
        val=_held_out(imdb),
        progress=sys.stdout.isatty(),
        post_epoch_fn=None if sys.stdout.isatty() else _print_epoch,
    )
    net, _ = Trainer(net, imdb, get_batch, options).run()
    save_network(net, out / "network.safetensors")
    _show_results(net, imdb, out)


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no CUDA device; wanted 'cpu'")


def _describe_data(net: "SimpleNN", imdb: "Imdb") -> None:
    """Write into the meta data what `predict` reads there: class names and the mean image."""
    net.meta["classes"] = {"name": list(imdb.classes)}
    normalization = dict(net.meta.get("normalization", {}))
    normalization.pop("averageImage", None)
    if imdb.mean is not None:
        normalization["averageImage"] = imdb.mean
    net.meta["normalization"] = normalization


def _recipe(net: "SimpleNN", is_packaged: bool) -> dict[str, Any]:
    """Training options in the network's meta data, under their names in TrainOptions."""
    from dataclasses import fields

    from matconvnet.nets.fields import camel_case
    from matconvnet.train.options import TrainOptions

    recipe = {**net.meta.get("trainOpts", {}), **(DIGITS_RECIPE if is_packaged else {})}
    names = {camel_case(field.name): field.name for field in fields(TrainOptions)}
    return {names[key]: value for key, value in recipe.items() if key in names}


def _print_epoch(_net: "SimpleNN", _options: Any, epoch: Any) -> None:
    """Print one line on an epoch: a file keeps what a progress bar would overwrite."""
    parts = []
    for phase in ("train", "val"):
        stats = epoch.stats[phase][-1]
        values = ", ".join(f"{k} {v:.4f}" for k, v in stats.items() if k not in ("num", "time"))
        parts.append(f"{phase} {values} ({stats['time']:.1f} s)")
    print(f"epoch {epoch.epoch:3d}: {'; '.join(parts)}", flush=True)


def _held_out(imdb: "Imdb") -> Any:
    """Indices of the validation set; of the test set, if there is none."""
    import numpy as np

    from matconvnet.data.imdb import TEST, VAL

    return np.flatnonzero(imdb.set == (VAL if VAL in imdb.set else TEST))


def _show_results(net: "SimpleNN", imdb: "Imdb", out: Path) -> None:
    """Print the test error and where the files are; save the gallery."""
    from rich.console import Console

    from matconvnet.cli.evaluation import evaluate_set
    from matconvnet.cli.gallery import choose, save_gallery

    found = evaluate_set(net, imdb, "test")
    wrong = found.mistakes()
    result = f"test error {100 * wrong / found.count:.2f} % ({wrong} of {found.count} images)"
    shown = choose(found.labels, found.probabilities, SHOWN_MISTAKES, SHOWN - SHOWN_MISTAKES)
    save_gallery(
        out / "predictions.png",
        imdb.images[..., found.indices[shown]],
        found.labels[shown],
        found.probabilities[shown],
        imdb.classes,
        f"{result}; the worst mistakes come first",
    )
    console = Console(highlight=False)
    console.print(result, style="bold")
    files = {
        "network.safetensors": "the trained network, for `evaluate`, `predict` and `show`",
        "predictions.png": "some images with predictions, and the worst mistakes",
        "net-train.pdf, net-train.png": "the learning curves",
        "stats.jsonl": "the same as numbers",
        "net-epoch-<e>.safetensors": "the network after each epoch",
    }
    console.print(f"in {out}:", soft_wrap=True)
    for name, meaning in files.items():
        console.print(f"  {name:28}  {meaning}", markup=False, soft_wrap=True)
