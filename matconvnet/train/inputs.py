"""What the trainer is given: indices into a database, and what `get_batch` returns, checked."""

import inspect
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.blocks._checks import check_float
from matconvnet.layout import as4d, to_tensor
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.train.options import Indices

GetBatch = Any
"""`get_batch(imdb, indices)`, or an object that also has `batches(imdb, parts, ...)`."""
LABEL = "label"
"""The variable of the labels of a SimpleNN."""
Inputs = dict[str, Tensor]
"""Input variables of a network."""


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
    if hasattr(get_batch, "batches"):
        return
    parameters = inspect.signature(get_batch).parameters.values()
    if not any(p.name == "prefetch" or p.kind == p.VAR_KEYWORD for p in parameters):
        raise TypeError("prefetch is True, but get_batch has no parameter `prefetch`")


class Feed:
    """Sub-batches of a database, as input variables of a network, in order.

    waited: seconds that training waited for them.
    """

    def __init__(
        self, net: Network, imdb: Any, get_batch: GetBatch, device: torch.device, prefetch: bool
    ):
        self.net, self.imdb, self.get_batch = net, imdb, get_batch
        self.device, self.prefetch = device, prefetch
        self.waited = 0.0

    def read(self, parts: Sequence[np.ndarray], phase: str, seed: int) -> Generator[Inputs]:
        """The input variables of each part, arrays of indices.

        What `get_batch` returns may be (images, labels): then every input of the network but the
        data is the labels; or a dict of variables.
        """
        with closing(self._batches(parts, phase, seed)) as batches:
            for part in parts:
                start = time.perf_counter()
                inputs = check_batch(next(batches), len(part), self.net, self.device)
                self.waited += time.perf_counter() - start
                yield inputs

    def _batches(self, parts: Sequence[np.ndarray], phase: str, seed: int) -> Generator[Any]:
        if hasattr(self.get_batch, "batches"):
            yield from self.get_batch.batches(
                self.imdb, parts, phase=phase, seed=seed, device=self.device
            )
            return
        for part, following in zip_longest(parts, parts[1:]):
            batch = self.get_batch(self.imdb, part)
            if self.prefetch and following is not None:
                self.get_batch(self.imdb, following, prefetch=True)
            yield batch


def check_batch(batch: Any, count: int, net: Network, device: torch.device) -> Inputs:
    """The input variables that a batch gives, as tensors on the device.

    Args:
        batch: what get_batch returned: (images H x W x C x N, labels), or a dict of variables.
        count: for how many indices.
        net: whose inputs they are.
        device: where the network is.

    Raises: TypeError, unless it is one of these, the images floats; ValueError, unless there are
        `count` images, and, of a pair, as many labels or maps of labels.
    """
    if isinstance(batch, Mapping):
        inputs = {name: torch.as_tensor(to_tensor(value)) for name, value in batch.items()}
        if net.input not in inputs:
            raise ValueError(
                f"get_batch returned variables {list(inputs)}; wanted {net.input!r} among them"
            )
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        labels = torch.as_tensor(to_tensor(batch[1]))
        names = net.graph.inputs
        if isinstance(net, SimpleNN):  # errors are measured with the labels, whatever the loss is
            names = (*names, LABEL)
        inputs = dict.fromkeys(names, labels) | {net.input: to_tensor(batch[0])}
        if labels.numel() != count and (labels.dim() < 2 or labels.shape[-1] != count):
            raise ValueError(
                f"get_batch returned labels of shape {tuple(labels.shape)} for {count} images; "
                f"wanted {count} labels, or maps H x W x 1 x {count}"
            )
    else:
        raise TypeError(
            f"get_batch returned {type(batch).__name__}; wanted (images, labels), or a dict of "
            "variables"
        )
    x = inputs[net.input]
    check_float(x, "images of get_batch")
    found = as4d(x, "images of get_batch").shape[3]
    if found != count:
        raise ValueError(
            f"get_batch returned {found} images (shape {tuple(x.shape)}) for {count} indices"
        )
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
