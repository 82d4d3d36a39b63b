"""What commands work on: networks by name or file, databases by folder or file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from matconvnet.data.lists import Database
    from matconvnet.data.reader import FileSource
    from matconvnet.nets.network import Network

FILE_HELP = (
    ".mat (MatConvNet), .safetensors (ours), .onnx, or .prototxt (Caffe, with a .caffemodel of the "
    "same name beside it)"
)
NETWORK_HELP = (
    f"A file: {FILE_HELP}. Or a network of the zoo, with fresh weights: alexnet, cifar-lenet, "
    "cifar-nin, dncnn, fashion, inception, lenet, resnet-20, resnet-50, resnet-101, resnet-152, "
    "vgg-f, vgg-m, vgg-s, vgg-vd-16, vgg-vd-19; alexnet, lenet and those of vgg also with -bnorm "
    "added."
)
JITTER = tuple(
    f"jitter_{what}"
    for what in ("flip", "location", "aspect", "scale", "brightness", "contrast", "saturation")
)
NetworkArgument = Annotated[str, typer.Argument(metavar="NET", help=NETWORK_HELP)]
DATA_HELP = (
    "A folder of images (train/CLASS/*.jpg, or CLASS/*.jpg), of the four IDX files of MNIST or "
    "Fashion-MNIST, or of the batches of CIFAR-10; a list of images (.csv, .parquet); a MatConvNet "
    "imdb (.mat); arrays (.npz)."
)
TrainedArgument = Annotated[
    Path, typer.Argument(metavar="NET", help=f"The file of a trained network: {FILE_HELP}.")
]
PrecisionOption = Annotated[
    Literal["fp32", "tf32", "bf16", "fp16"],
    typer.Option(
        "--precision", help="What layers compute in: bf16 is fast where the processor knows it."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help=f"{DATA_HELP} Without it, the 10,000 digits of this package.",
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


def open_trained(path: Path, precision: str = "fp32") -> "Network":
    """Read a file; a network of the zoo has fresh weights: refused.

    precision: what it is to compute in; something that is worth knowing of it is printed.
    """
    from matconvnet.fast.precision import note
    from matconvnet.interop.formats import load
    from matconvnet.zoo import NETWORKS

    if str(path) in NETWORKS and not path.is_file():
        raise ValueError(
            f"{str(path)!r} has fresh weights; wanted the file of a trained network, "
            f"as `matconvnet train {path}` makes it"
        )
    if told := note(precision, "cpu"):
        typer.echo(told, err=True)
    return _network(load(path), path)


def _network(found: Any, name: object) -> "Network":
    from matconvnet.nets.network import Network

    if not isinstance(found, Network):
        raise ValueError(f"{name} holds an image database; wanted a network")
    return found


def load_data(path: Path | None) -> "Database":
    """The database that `--data` names, or the digits of the package."""
    from matconvnet.interop.databases import load_data

    return load_data(path)


def file_source(net: "Network", **changes: Any) -> "FileSource":
    """What reads picture files for a network, as its meta data tell.

    Args:
        net: size, crop and average are those of `meta.normalization`, jitter of
            `meta.augmentation`.
        **changes: options of FileSource that replace these.
    Raises: ValueError, if the network tells no size of its input.
    """
    from matconvnet.data.reader import FileSource
    from matconvnet.layout import to_numpy
    from matconvnet.nets.fields import camel_case, is_empty, to_list
    from matconvnet.nets.preprocess import Normalization

    norm = Normalization.of(net)
    if norm.size is None:
        raise ValueError("the network tells no size of its input; files want one")
    options: dict[str, Any] = {
        "image_size": norm.size,
        "crop_size": max(norm.crop),
        "keep_aspect": norm.keep_aspect,
        "subtract_average": 0.0 if norm.average is None else norm.average,
        "interpolation": norm.method,
        "channels": norm.channels or 3,
    }
    told = net.meta.get("augmentation")
    for name in JITTER:
        value = told.get(camel_case(name)) if isinstance(told, Mapping) else None
        if not is_empty(value):
            numbers = to_list(value)  # of a .mat file a row; a square matrix stays one
            few = numbers[0] if len(numbers) == 1 else numbers
            options[name] = few if len(numbers) < 4 else to_numpy(value)
    return FileSource(**options | changes)


def check_images(net: "Network", imdb: "Database") -> None:
    """Raise ValueError unless the images have the size that the network declares.

    Those in files are resized as they are read.
    """
    from matconvnet.data.imdb import Imdb
    from matconvnet.nets.meta import input_size

    if not isinstance(imdb, Imdb):
        return
    wanted = tuple(map(int, input_size({"inputSize": net.meta.get("inputSize")}, net.input)[:3]))
    found = imdb.images.shape[:3]
    if len(wanted) == 3 and found != wanted:
        raise ValueError(f"images are {_times(found)}; the network wants {_times(wanted)}")


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
