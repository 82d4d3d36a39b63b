"""`load_data`: an image database from whatever holds one, told by what is there."""

import os
from pathlib import Path

from matconvnet.data.folders import is_image_name, load_folder
from matconvnet.data.imdb import MNIST_FILES, load_digits, load_mnist, load_npz
from matconvnet.data.lists import Database, load_list
from matconvnet.errors import FormatError
from matconvnet.interop.cifar import BATCHES, find_batch, load_cifar
from matconvnet.interop.imdb import load_imdb_mat

LISTS = (".csv", ".tsv", ".txt", ".parquet", ".pq")
READABLE = (".mat", ".npz", *LISTS)
DATA_KINDS = (
    "a folder with the four IDX files of MNIST, a folder with the batches of CIFAR-10 (.mat or "
    ".bin), a folder of images (train/CLASS/IMAGE or CLASS/IMAGE), a list of image files (.csv or "
    ".parquet), a MatConvNet imdb (.mat), or arrays (.npz)"
)


def load_data(path: str | os.PathLike[str] | None = None) -> Database:
    """Load a database from a file or a folder of any kind that is known.

    Args:
        path: see `DATA_KINDS`; None for the 10,000 digits of this package.
    Returns: an Imdb, or an ImageList where images stay in their files.
    Raises: FormatError (a ValueError), if it is nothing that is known, or is damaged;
        FileNotFoundError, if there is nothing; what the reader of the kind raises.
    """
    if path is None:
        return load_digits()
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"no such data: {str(path)!r}; wanted {DATA_KINDS}")
    suffix = path.suffix.lower()
    if suffix == ".mat":
        return load_imdb_mat(path)
    if suffix == ".npz":
        return load_npz(path)
    if suffix in LISTS:
        return load_list(path)
    what = "a single image" if is_image_name(path.name) else f"a file of suffix {suffix!r}"
    raise FormatError(f"{path} is {what}; wanted {DATA_KINDS}")


def _load_folder(folder: Path) -> Database:
    """The database in a folder, by the files that it holds."""
    if any((folder / f"{name}{end}").is_file() for name in MNIST_FILES for end in ("", ".gz")):
        return load_mnist(folder)
    if find_batch(folder, BATCHES[0]):
        return load_cifar(folder)
    if (folder / BATCHES[0]).is_file():
        raise FormatError(
            f"{folder} holds CIFAR-10 as Python pickles, which can run any program; wanted its "
            "version for MATLAB, or the binary one"
        )
    try:
        return load_folder(folder)
    except FormatError as error:
        files = sorted(item.name for item in folder.iterdir() if item.suffix.lower() in READABLE)
        if files:
            error.add_note(f"for one of its files, name it: {', '.join(files[:5])}")
        if not any(item.is_dir() for item in folder.iterdir()):
            known = ", ".join(MNIST_FILES)
            error.add_note(f"other folders that are known: IDX files ({known}); CIFAR-10 batches")
        raise
