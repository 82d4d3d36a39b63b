"""`matconvnet train`: train a network, and show what it learned."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from matconvnet.cli.sources import (
    NETWORK_HELP,
    DataOption,
    PrecisionOption,
    check_images,
    load_data,
    open_network,
)

if TYPE_CHECKING:
    from matconvnet.data.lists import Database
    from matconvnet.nets.network import Network
    from matconvnet.train.trainer import Trainer

SHOWN = 40  # images in the gallery
SHOWN_MISTAKES = 16
UPDATES, IMAGES, MEMORY, FILES = "Updates", "Images", "Memory", "Files"
RATE_HELP = "A number, cosine:0.1, steps:0.1@30,60 or plateau:0.01; +warmup:5 after any."
FOLDER_FILES = {
    "network.safetensors": "the trained network, for `evaluate`, `predict` and `show`",
    "predictions.png": "some images with predictions, and the worst mistakes",
    "run.html": "the run as a page: curves, speed, confusions",
    "net-train.pdf, net-train.png": "the learning curves",
    "stats.jsonl": "the same as numbers",
    "profile.json": "where the time went",
    "profile-trace.json": "the same as a timeline, for chrome://tracing or Perfetto",
    "net-epoch-<e>.safetensors": "checkpoints: the last epochs, and the best",
    "net-epoch-<e>.mat": "checkpoints that MatConvNet reads too",
    "tensorboard": "event files, for `tensorboard --logdir`",
}


def _option(text: str, panel: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=panel, show_default=False, **more)


def train(
    network: Annotated[str, typer.Argument(metavar="NET", help=NETWORK_HELP)],
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for all results.", show_default="runs/NET"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="How many epochs.", min=1)] = None,
    bnorm: Annotated[
        bool, typer.Option("--bnorm", help="Add batch normalization to a network of the zoo.")
    ] = False,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Draw the last layer anew, for these classes.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the weights and of the order of the images.")] = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute.")] = "cpu",
    precision: PrecisionOption = "fp32",
    fast: Annotated[
        bool,
        typer.Option("--fast/--explicit", help="Programs of kernels, or layer after layer (CPU)."),
    ] = True,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Record a step once and replay it (GPU).")
    ] = False,
    resume: Annotated[
        bool, typer.Option(help="Continue after the last checkpoint in the folder.")
    ] = True,
    batch_size: Annotated[int | None, _option("Images per update.", UPDATES, min=1)] = None,
    learning_rate: Annotated[str | None, _option(RATE_HELP, UPDATES)] = None,
    solver: Annotated[
        Literal["sgd", "adadelta", "adagrad", "adam", "adamw", "rmsprop"] | None,
        _option("Update rule; sgd has the momentum of the recipe.", UPDATES),
    ] = None,
    momentum: Annotated[float | None, _option("Of sgd.", UPDATES)] = None,
    weight_decay: Annotated[float | None, _option("Multiple of the weights.", UPDATES)] = None,
    clip_norm: Annotated[float | None, _option("Largest norm of derivatives.", UPDATES)] = None,
    average: Annotated[
        float | None, _option("Decay of a moving average of the weights: 0.999.", UPDATES)
    ] = None,
    monitor: Annotated[
        str | None, _option("The statistic that tells the best epoch: top1err.", UPDATES)
    ] = None,
    patience: Annotated[
        int | None, _option("Stop after so many epochs without a better one.", UPDATES, min=1)
    ] = None,
    flip: Annotated[bool | None, _option("Mirror images by chance.", IMAGES)] = None,
    shift: Annotated[int | None, _option("Move images by up to so many pixels.", IMAGES)] = None,
    cutout: Annotated[int | None, _option("Side of a square to cover.", IMAGES)] = None,
    mixup: Annotated[float | None, _option("Mix images in pairs: 0.2.", IMAGES)] = None,
    label_smoothing: Annotated[
        float | None, _option("Share of a label spread over all classes: 0.1.", IMAGES)
    ] = None,
    threads: Annotated[int | None, _option("That decode files.", IMAGES, min=1)] = None,
    bad_files: Annotated[
        Literal["fill", "replace", "raise"],
        _option("Ignore a file that cannot be read, take another, or end.", IMAGES),
    ] = "fill",
    sub_batches: Annotated[int | None, _option("Parts of a batch.", MEMORY, min=1)] = None,
    memory: Annotated[
        str | None, _option("Split batches to fit into so many bytes: 8GB.", MEMORY)
    ] = None,
    recompute: Annotated[
        bool, _option("Compute values again rather than keep them.", MEMORY)
    ] = False,
    keep: Annotated[
        int | None, _option("Checkpoints of so many last epochs.", FILES, min=1)
    ] = None,
    checkpoint_every: Annotated[
        int | None, _option("One within an epoch, after so many updates.", FILES, min=1)
    ] = None,
    mat: Annotated[bool, _option("Write net-epoch-<e>.mat, for MatConvNet.", FILES)] = False,
    tensorboard: Annotated[bool, _option("Write its event files.", FILES)] = False,
    profile: Annotated[
        bool, _option("Measure the time of layers, data, communication.", FILES)
    ] = False,
) -> None:
    """Train a network, from fresh weights or from those in a file.

    Options that are left out are those of the network's recipe. The folder receives checkpoints,
    learning curves, a page about the run, the trained network, and a picture of its predictions.

    On several processes or machines: torchrun --nproc-per-node=2 -m matconvnet train NET ...
    """
    from matconvnet.cli import recipe
    from matconvnet.interop.safetensors import save_network
    from matconvnet.parallel.world import join
    from matconvnet.train.trainer import Trainer
    from matconvnet.zoo import NETWORKS

    _check_device(device)
    name = network + ("-bnorm" if bnorm else "")
    net, imdb = open_network(name, seed), load_data(data)
    out = out or Path("runs") / Path(network).stem
    net.meta.setdefault("name", Path(network).stem)
    recipe.fit_head(net, imdb, new_head=new_head or name in NETWORKS, seed=seed)
    given = {
        "num_epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "solver": solver, "momentum": momentum, "weight_decay": weight_decay,
        "clip_norm": clip_norm, "average": average, "monitor": monitor, "patience": patience,
        "num_sub_batches": sub_batches, "memory": memory, "recompute": recompute or None,
        "keep_last": keep, "checkpoint_every": checkpoint_every,
        "checkpoint_format": "mat" if mat else None, "tensorboard": tensorboard,
        "profile": profile, "exp_dir": out, "resume": resume, "random_seed": seed,
        "device": device, "precision": precision, "fast": fast, "cuda_graph": cuda_graph,
        "val": recipe.held_out(imdb),
    }  # fmt: skip
    options = recipe.training_options(net, given, is_packaged=data is None)
    augment = {
        "flip": flip, "shift": shift, "cutout": cutout, "mixup": mixup,
        "label_smoothing": label_smoothing,
    }  # fmt: skip
    check_images(net, imdb)
    recipe.describe_data(net, imdb)
    files = {"num_threads": threads, "bad_files": bad_files}
    pipeline = recipe.make_pipeline(net, imdb, recipe.augmentation(net, imdb, augment), files)
    with join(device) as world:
        options = recipe.with_progress(
            options, is_first=world.rank == 0, is_terminal=sys.stdout.isatty()
        )
        trainer = Trainer(net, imdb, pipeline, options, world=world)
        trainer.run()
    if world.rank == 0:
        save_network(net, out / "network.safetensors")
        _show_results(trainer, imdb, out)


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no CUDA device; wanted 'cpu'")


def _show_results(trainer: "Trainer", imdb: "Database", out: Path) -> None:
    """Print the error and where the files are; save the gallery."""
    from rich.console import Console

    from matconvnet.train.profile_tables import profile_tables

    console = Console(highlight=False)
    bad = getattr(trainer.get_batch.source, "bad", {})
    if bad:
        console.print(f"{len(bad)} files could not be read", style="bold yellow")
    if imdb.classes:
        console.print(_save_predictions(trainer.net, imdb, out), style="bold")
    if trainer.loop.profile is not None:
        console.print(*profile_tables(trainer.loop.profile))
    console.print(f"in {out}:", soft_wrap=True)
    for name, meaning in FOLDER_FILES.items():
        if any(out.glob(name.split(",")[0].replace("<e>", "*"))):
            console.print(f"  {name:28}  {meaning}", markup=False, soft_wrap=True)


def _save_predictions(net: "Network", imdb: "Database", out: Path) -> str:
    """Draw images with what the network makes of them; its error in words."""
    from matconvnet.cli.evaluation import evaluate_set, held_out_set
    from matconvnet.cli.gallery import choose, save_gallery, thumbnails

    name = held_out_set(imdb)
    found = evaluate_set(net, imdb, name)
    wrong = found.mistakes()
    result = f"{name} error {100 * wrong / found.count:.2f} % ({wrong} of {found.count} images)"
    shown = choose(found.labels, found.probabilities, SHOWN_MISTAKES, SHOWN - SHOWN_MISTAKES)
    save_gallery(
        out / "predictions.png",
        thumbnails(imdb, found.indices[shown]),
        found.labels[shown],
        found.probabilities[shown],
        imdb.classes,
        f"{result}; the worst mistakes come first",
    )
    return result
