"""A checkpoint: everything that training needs to go on as if it had not been interrupted."""

from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor

from matconvnet.interop.safetensors import read_file, save_network
from matconvnet.nets.network import Network
from matconvnet.train.mat_checkpoint import load_mat_checkpoint, save_mat_checkpoint
from matconvnet.train.meters import Stats


class Checkpoint(NamedTuple):
    """The state of training at the end of an epoch, or within it.

    epoch: counted from 1. step: updates done within the epoch; None: it is complete. net: with the
    averaged parameters, if there is an average. solver_state: by parameter. stats: of all complete
    epochs, by phase. notes: what else was noted of them. learning_rates: theirs. rates: that
    `post_epoch_fn` gave in place of the option. average: the state of the moving average, and
    `parameters`, those that are trained. progress: of the pass over the training images, see
    `Pass.state`. generators: the random numbers of each worker. loss_scale: its state,
    in float16. options: of the run that wrote it, for the reader.
    """

    epoch: int
    net: Network
    solver_state: dict[str, Any]
    stats: dict[str, list[Stats]]
    learning_rates: list[float]
    options: dict[str, Any] = {}  # noqa: RUF012
    step: int | None = None
    notes: list[dict[str, Any]] = []  # noqa: RUF012
    rates: list[float] | None = None
    average: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    generators: list[dict[str, Any]] | None = None
    loss_scale: dict[str, Any] | None = None


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically, in the format that the name of the file tells."""
    if path.suffix == ".mat":
        _, net, state, stats, rates, *_ = checkpoint
        save_mat_checkpoint(path, net, state, stats, rates)
        return
    content = checkpoint._asdict()
    del content["net"]
    save_network(checkpoint.net, path, extra_meta=content)


def load(path: Path, net: Network) -> Checkpoint:
    """Read a checkpoint.

    net: the network in training; the original's files name the state of solvers by its parameters.

    Raises: OSError; FormatError (a ValueError), TypeError, if it is none or is damaged.
    """
    if path.suffix == ".mat":
        return Checkpoint(**load_mat_checkpoint(path, net)._asdict())
    found, extra = read_file(path)
    return Checkpoint(net=found, **extra)


def restore(net: Network, checkpoint: Checkpoint) -> None:
    """Copy the parameters of a checkpoint into `net`.

    Raises: ValueError, if they are not those of `net`.
    """
    new, old = checkpoint.net.values(), net.values()
    found, wanted = ({n: _kind(v) for n, v in values.items()} for values in (new, old))
    if found != wanted:
        name = next(n for n in [*old, *new] if found.get(n) != wanted.get(n))
        raise ValueError(
            f"the checkpoint of epoch {checkpoint.epoch} in exp_dir is of another network: "
            f"parameter {name!r} is {found.get(name, 'absent')} there and "
            f"{wanted.get(name, 'absent')} here; "
            "give another exp_dir, or resume=False"
        )
    trained = (checkpoint.average or {}).get("parameters", {})
    for name, value in new.items():
        if value is not None:
            cast(Tensor, old[name]).copy_(trained.get(name, value))


def _kind(value: Tensor | None) -> str:
    return "absent" if value is None else f"{value.dtype} of shape {tuple(value.shape)}"
