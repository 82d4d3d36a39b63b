"""What the trainer is given: indices into a database, and what `get_batch` returns, checked."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.blocks._checks import check_float
from matconvnet.layout import as4d, to_tensor
from matconvnet.train.options import Indices

GetBatch = Callable[..., Any]


def find_indices(imdb: Any, given: Indices | None, code: int, name: str) -> np.ndarray:
    """The images to use: those given, else those of set `code` of the database.

    Args:
        imdb: the database; its `set` holds a code per image, if there is one.
        given: indices from 0, or None.
        code: of the set: 1 train, 2 val.
        name: the option that `given` comes from, for errors.

    Raises: TypeError, ValueError, naming the option.
    """
    sets = getattr(imdb, "set", None)
    if given is None:
        if sets is None:
            raise ValueError(f"{name} is None and imdb has no `set`; give the indices as {name}")
        return np.flatnonzero(np.asarray(sets) == code)
    indices = np.asarray(given)
    if indices.size == 0:
        return np.zeros(0, np.int64)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise TypeError(
            f"{name} is {indices.dtype} of shape {indices.shape}; wanted a vector of integers"
        )
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or (sets is not None and high >= np.size(sets)):
        count = "" if sets is None else f" to {np.size(sets) - 1}"
        raise ValueError(f"{name} spans {low} to {high}; wanted indices from 0{count}")
    return indices.astype(np.int64)


def check_prefetch(get_batch: GetBatch) -> None:
    """Raise TypeError, if `get_batch` cannot be called with `prefetch=True`."""
    parameters = inspect.signature(get_batch).parameters.values()
    if not any(p.name == "prefetch" or p.kind == p.VAR_KEYWORD for p in parameters):
        raise TypeError("prefetch is True, but get_batch has no parameter `prefetch`")


def check_batch(batch: Any, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch, as tensors on the device.

    Args:
        batch: what get_batch returned: (images H x W x C x N, labels).
        count: for how many indices.
        device: where the network is.

    Raises: TypeError, unless they are a pair, the images floats; ValueError, unless there are
        `count` images, and as many labels or maps of labels.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(f"get_batch returned {type(batch).__name__}; wanted (images, labels)")
    x, labels = to_tensor(batch[0]), to_tensor(batch[1])
    check_float(x, "images of get_batch")
    labels = torch.as_tensor(labels)
    found = as4d(x, "images of get_batch").shape[3]
    if found != count:
        raise ValueError(
            f"get_batch returned {found} images (shape {tuple(x.shape)}) for {count} indices"
        )
    if labels.numel() != count and (labels.dim() < 2 or labels.shape[-1] != count):
        raise ValueError(
            f"get_batch returned labels of shape {tuple(labels.shape)} for {count} images; "
            f"wanted {count} labels, or maps H x W x 1 x {count}"
        )
    return x.to(device, non_blocking=True), labels.to(device, non_blocking=True)
