"""What commands work on: networks by name or file, databases by folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from matconvnet.data.imdb import Imdb
    from matconvnet.nets.network import Network
    from matconvnet.nets.simplenn import SimpleNN

FILE_HELP = (
    ".mat (MatConvNet), .safetensors (ours), .onnx, or .prototxt (Caffe, with a .caffemodel of the "
    "same name beside it)"
)
NETWORK_HELP = (
    f"A file: {FILE_HELP}. Or a network of the zoo, with fresh weights: alexnet, cifar-lenet, "
    "cifar-nin, lenet, vgg-f; all but the CIFAR ones also with -bnorm added."
)
NetworkArgument = Annotated[str, typer.Argument(metavar="NET", help=NETWORK_HELP)]
TrainedArgument = Annotated[
    Path, typer.Argument(metavar="NET", help=f"The file of a trained network: {FILE_HELP}.")
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


def find_network(name: str, seed: int = 0) -> "Network | Path":
    """A network of the zoo, its weights drawn from `seed`; for any other name the file."""
    from matconvnet.zoo import NETWORKS

    if name in NETWORKS:
        return NETWORKS[name](seed=seed)
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"{name!r} is neither a file nor a network of the zoo: {', '.join(NETWORKS)}"
        )
    return Path(name)


def open_any(name: str, seed: int = 0) -> Any:
    """A network of the zoo, or what a file holds: a network, or an image database (a Struct)."""
    from matconvnet.interop.formats import load

    found = find_network(name, seed)
    return load(found) if isinstance(found, Path) else found


def open_network(name: str, seed: int = 0) -> "Network":
    """Read a file, or build a network of the zoo with fresh weights drawn from `seed`."""
    return _network(open_any(name, seed), name)


def open_simplenn(name: str, seed: int = 0) -> "SimpleNN":
    """`open_network`, for what works on a SimpleNN alone."""
    from matconvnet.nets.simplenn import SimpleNN

    net = open_network(name, seed)
    if not isinstance(net, SimpleNN):
        raise ValueError(f"{name} holds a {type(net).__name__}; wanted a SimpleNN")
    return net


def open_trained(path: Path) -> "Network":
    """Read a file; the fresh weights of a network of the zoo know nothing."""
    from matconvnet.interop.formats import load
    from matconvnet.zoo import NETWORKS

    if str(path) in NETWORKS and not path.is_file():
        raise ValueError(
            f"{str(path)!r} has fresh weights; wanted the file of a trained network, "
            f"as `matconvnet train {path}` makes it"
        )
    return _network(load(path), path)


def _network(found: Any, name: object) -> "Network":
    from matconvnet.nets.network import Network

    if not isinstance(found, Network):
        raise ValueError(f"{name} holds an image database; wanted a network")
    return found


def load_images(folder: Path | None) -> "Imdb":
    """The database in a folder, or the digits of the package."""
    from matconvnet.data.imdb import load_digits, load_mnist

    return load_digits() if folder is None else load_mnist(folder)


def check_images(net: "Network", imdb: "Imdb") -> None:
    """Raise ValueError unless the images have the size that the network declares."""
    from matconvnet.nets.fields import is_empty, to_list

    declared = net.meta.get("inputSize")
    numbers = [] if is_empty(declared) else to_list(declared)
    wanted, found = tuple(map(int, numbers[:3])), imdb.images.shape[:3]
    if len(wanted) == 3 and found != wanted:
        raise ValueError(f"images are {_times(found)}; the network wants {_times(wanted)}")


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
