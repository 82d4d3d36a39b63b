"""What commands work on: networks by name or file, databases by folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from matconvnet.data.imdb import Imdb
    from matconvnet.nets.simplenn import SimpleNN

NETWORK_HELP = (
    "A .safetensors file, or a network of the zoo: alexnet, cifar-lenet, cifar-nin, lenet, vgg-f; "
    "all but the CIFAR ones also with -bnorm added."
)
NetworkArgument = Annotated[str, typer.Argument(metavar="NET", help=NETWORK_HELP)]
TrainedArgument = Annotated[
    Path, typer.Argument(metavar="NET", help="The .safetensors file of a trained network.")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder with the four IDX files of MNIST or Fashion-MNIST, gzipped or not; "
        "without it, the 10,000 digits of this package.",
        show_default=False,
    ),
]


def open_network(name: str, seed: int = 0) -> "SimpleNN":
    """Read a file, or build a network of the zoo with fresh weights drawn from `seed`."""
    from matconvnet.interop.safetensors import load_network
    from matconvnet.zoo import NETWORKS

    if name in NETWORKS:
        return NETWORKS[name](seed=seed)
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"{name!r} is neither a file nor a network of the zoo: {', '.join(NETWORKS)}"
        )
    return load_network(name)


def open_trained(path: Path) -> "SimpleNN":
    """Read a file; the fresh weights of a network of the zoo know nothing."""
    from matconvnet.interop.safetensors import load_network
    from matconvnet.zoo import NETWORKS

    if str(path) in NETWORKS and not path.is_file():
        raise ValueError(
            f"{str(path)!r} has fresh weights; wanted the file of a trained network, "
            f"as `matconvnet train {path}` makes it"
        )
    return load_network(path)


def load_images(folder: Path | None) -> "Imdb":
    """The database in a folder, or the digits of the package."""
    from matconvnet.data.imdb import load_digits, load_mnist

    return load_digits() if folder is None else load_mnist(folder)


def check_images(net: "SimpleNN", imdb: "Imdb") -> None:
    """Raise ValueError unless the images have the size that the network declares."""
    wanted = tuple(int(size) for size in net.meta.get("inputSize", ()))[:3]
    found = imdb.images.shape[:3]
    if wanted and found != wanted:
        raise ValueError(f"images are {_times(found)}; the network wants {_times(wanted)}")


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
