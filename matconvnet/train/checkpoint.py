"""Checkpoints: everything that training needs to go on as if it had not been interrupted."""

import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.files import write_atomic
from matconvnet.interop.safetensors import read_file, save_network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.train.meters import Stats

PATTERN = re.compile(r"net-epoch-(\d+)\.safetensors")


class Checkpoint(NamedTuple):
    """The state of training after an epoch.

    solver_state: by parameter; stats: all epochs' statistics, by phase; learning_rates: of all
    epochs; options: those of the run that wrote it, for the reader.
    """

    epoch: int
    net: SimpleNN
    solver_state: dict[str, Any]
    stats: dict[str, list[Stats]]
    learning_rates: list[float]
    options: dict[str, Any]


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """The file of the checkpoint of an epoch, counted from 1."""
    return folder / f"net-epoch-{epoch}.safetensors"


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, atomically; return its path."""
    path = checkpoint_path(folder, checkpoint.epoch)
    content = checkpoint._asdict()
    del content["net"]
    save_network(checkpoint.net, path, extra_meta=content)
    return path


def last_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the checkpoint of the last epoch in `folder`; None, if there is none.

    A file that cannot be read is passed over, with a warning, for the one before.
    """
    found = {}
    for path in folder.iterdir():
        match = PATTERN.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    for epoch in sorted(found, reverse=True):
        try:
            net, extra = read_file(found[epoch])
            return Checkpoint(net=cast(SimpleNN, net), **extra)
        except (OSError, FormatError, TypeError) as error:
            warnings.warn(
                f"cannot resume from {found[epoch]}, trying the one before: {error}", stacklevel=2
            )
    return None


def check_folder(folder: Path) -> None:
    """Make `folder`, and make sure before the work that its results can be written.

    Raises: OSError, naming exp_dir and what is wrong with it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        write_atomic(probe, lambda path: path.write_bytes(b""))
        probe.unlink()
    except OSError as error:
        raise type(error)(
            error.errno, f"exp_dir {str(folder)!r} cannot be written: {error.strerror}"
        ) from error


def restore(net: SimpleNN, checkpoint: Checkpoint) -> None:
    """Copy the parameters of a checkpoint into `net`.

    Raises: ValueError, if they are not those of `net`.
    """
    new, old = net.values(), checkpoint.net.values()
    found, wanted = ({n: _kind(v) for n, v in values.items()} for values in (old, new))
    if found != wanted:
        name = next(n for n in [*new, *old] if found.get(n) != wanted.get(n))
        raise ValueError(
            f"the checkpoint of epoch {checkpoint.epoch} in exp_dir is of another network: "
            f"parameter {name!r} is {found.get(name, 'absent')} there and "
            f"{wanted.get(name, 'absent')} here; "
            "give another exp_dir, or resume=False"
        )
    for name, value in old.items():
        if value is not None:
            cast(Tensor, new[name]).copy_(value)


def _kind(value: Tensor | None) -> str:
    return "absent" if value is None else f"{value.dtype} of shape {tuple(value.shape)}"
