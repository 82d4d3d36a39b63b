"""`matconvnet data`: look at a database before training on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from matconvnet.cli.data_report import (
    counted,
    group_text,
    kind,
    print_classes,
    print_colours,
    print_list,
    print_sizes,
    progress,
    spread,
)
from matconvnet.cli.sources import DATA_HELP, NETWORK_HELP, file_source, load_data, open_network

if TYPE_CHECKING:
    from matconvnet.data.lists import Database
    from matconvnet.nets.network import Network

SAMPLE = 2000  # images of a list whose heads are read for the sizes
COLOUR_SAMPLE = 500  # images that are decoded for the mean colour
FILE_SIZE = (227, 227)  # of the input, where no network tells one

data_app = typer.Typer(
    name="data",
    help="Look at a database: its numbers, its faults, and what a network sees of it.",
    no_args_is_help=True,
)
PathArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="PATH",
        help=f"{DATA_HELP} Without it, the 10,000 digits of this package.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[int, typer.Option(help="Files read at the same time.", min=1)]


@data_app.command()
def stats(path: PathArgument = None, threads: ThreadsOption = 4) -> None:
    """Count images by set and class; tell their sizes, and the mean and deviation of their colours.

    Classes without images in a set, and with far fewer or more than the others, are marked. Of long
    lists of files, sizes and colours are those of a sample.
    """
    import numpy as np

    from matconvnet.data.checks import image_facts
    from matconvnet.data.imdb import TRAIN, Imdb

    imdb = load_data(path)
    typer.echo(f"{path or 'digits of the package'}: {counted(len(imdb), 'image')}, {kind(imdb)}")
    print_classes(imdb)
    if isinstance(imdb, Imdb):
        print_colours(imdb, np.flatnonzero(imdb.set == TRAIN).tolist())
        return
    chosen = spread(range(len(imdb)), SAMPLE)
    facts = list(image_facts(imdb, chosen, threads=threads, decode=False))
    usable = [fact for fact in facts if fact.broken is None]
    if len(usable) < len(facts):
        broken = counted(len(facts) - len(usable), "image")
        typer.echo(f"{broken} cannot be read; see `matconvnet data check`")
    print_sizes(usable, len(imdb))
    train = [fact.at for fact in usable if imdb.set[fact.at] == TRAIN]
    print_colours(imdb, spread(train, COLOUR_SAMPLE))


@data_app.command()
def check(path: PathArgument = None, threads: ThreadsOption = 4) -> None:
    """Open every image; list the broken and the odd ones, and equal images in different sets.

    Ends with status 1 if an image is broken.
    """
    from matconvnet.data.checks import check_database, class_counts, class_remarks, image_name

    imdb = load_data(path)
    with progress("images", len(imdb)) as tell:
        found = check_database(imdb, threads=threads, progress=tell)

    def name(index: int) -> str:
        return image_name(imdb, index)

    print_list(
        f"{counted(len(found.broken), 'image')} cannot be used",
        (f"{name(i)}: {why}" for i, why in found.broken),
    )
    for what, indices in found.odd.items():
        print_list(f"{counted(len(indices), 'image')}: {what}", map(name, indices))
    for groups, what in (
        (found.across, "equal images in different sets: what is learned by heart looks known"),
        (found.disagreeing, "equal images with different labels"),
        (found.within, "equal images in one set"),
    ):
        number = counted(len(groups), "group")
        print_list(f"{number} of {what}", (group_text(imdb, group) for group in groups))
    remarks = zip(imdb.classes, class_remarks(class_counts(imdb)), strict=True)
    told = [f"{label}: {remark}" for label, remark in remarks if remark]
    print_list(f"{counted(len(told), 'class')} with a remark", told)
    unknown = int((imdb.labels == -1).sum()) if imdb.classes else 0
    if unknown:
        typer.echo(f"{counted(unknown, 'image')} without a label")
    sound = found.count - len(found.broken)
    typer.echo(f"{sound} of {counted(found.count, 'image')} can be used.")
    if found.broken:
        raise typer.Exit(1)


Pair = tuple[float, float] | None


@data_app.command()
def show(
    path: PathArgument = None,
    out: Annotated[Path, typer.Option(help="The picture, a PNG file.")] = Path("sheet.png"),
    network: Annotated[
        str | None,
        typer.Option(metavar="NET", help=f"Whose input is shown. {NETWORK_HELP}"),
    ] = None,
    images: Annotated[int, typer.Option(help="How many, of one class after the other.", min=1)] = 8,
    draws: Annotated[int, typer.Option(help="Augmented versions of each.", min=0)] = 4,
    seed: Annotated[int, typer.Option(help="Of the choice of images and of the draws.")] = 0,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror with probability 1/2.")] = False,
    shift: Annotated[
        int | None, typer.Option(help="Of images in memory: pixels, up to which they move.")
    ] = None,
    cutout: Annotated[
        int | None, typer.Option(help="Of images in memory: side of a square that is covered.")
    ] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(help="Of files: height and width of the input.")
    ] = None,
    location: Annotated[
        bool, typer.Option("--location", help="Of files: take a part from anywhere.")
    ] = False,
    scale: Annotated[
        Pair, typer.Option(help="Of files: least and largest of what the crop is multiplied with.")
    ] = None,
    aspect: Annotated[
        Pair, typer.Option(help="Of files: least and largest stretch of the width.")
    ] = None,
    brightness: Annotated[
        float | None, typer.Option(help="Of files: deviation of a shift of each colour.")
    ] = None,
    contrast: Annotated[float | None, typer.Option(help="Of files: 0 to 1.")] = None,
    saturation: Annotated[float | None, typer.Option(help="Of files: 0 to 1.")] = None,
) -> None:
    """Draw what a network sees of a database: images as they are, in a test, and augmented."""
    from matconvnet.cli.sheet import choose, look, save_sheet
    from matconvnet.data.imdb import Imdb

    imdb = load_data(path)
    if not len(imdb):
        raise ValueError(f"{path} has no images; wanted one or more")
    in_memory = {"shift": shift, "cutout": cutout}
    of_files = {
        "image_size": size,
        "jitter_location": location or None,
        "jitter_scale": scale,
        "jitter_aspect": aspect,
        "jitter_brightness": brightness,
        "jitter_contrast": contrast,
        "jitter_saturation": saturation,
    }
    is_loaded = isinstance(imdb, Imdb)
    unused = _given(of_files if is_loaded else in_memory)
    if unused:
        option = f"--{next(iter(unused)).removeprefix('jitter_').removeprefix('image_')}"
        where = "files" if is_loaded else "images in memory"
        raise ValueError(f"{option} is for {where}; found {kind(imdb)}")
    net = None if network is None else open_network(network)
    options = _given(in_memory if is_loaded else of_files) | ({"flip": True} if flip else {})
    source, average = _source(imdb, net, options)
    views = look(imdb, source, choose(imdb, images, seed), draws, seed)
    title = f"{path or 'digits of the package'}: {kind(imdb)}"
    if network is not None:
        title += f"\nthe input of {network}"
    save_sheet(out, imdb, views, average, title)
    typer.echo(f"{counted(len(views.indices), 'image')} in {out}")


def _source(imdb: "Database", net: "Network | None", options: dict[str, Any]) -> tuple[Any, Any]:
    """What makes the batches, and the average that it subtracts."""
    from matconvnet.cli.sources import check_images
    from matconvnet.data.augment import ArraySource
    from matconvnet.data.imdb import Imdb
    from matconvnet.data.reader import FileSource

    if isinstance(imdb, Imdb):
        if net is not None:
            check_images(net, imdb)
        return ArraySource(**options), 0.0 if imdb.mean is None else imdb.mean
    if "flip" in options:
        options["jitter_flip"] = options.pop("flip")
    if net is not None:
        source = file_source(net, **options)
    else:
        source = FileSource(**{"image_size": FILE_SIZE, **options})
    return source, source.test.subtract_average


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
