"""Picture files in, maps out, by several threads."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.data.decode import read_picture
from matconvnet.data.draws import uniform
from matconvnet.data.picture import DRAWS, PictureOptions
from matconvnet.errors import FormatError
from matconvnet.images import Workspace
from matconvnet.layout import hwcn


def read_pictures(
    files: Sequence[str | os.PathLike[str]],
    *,
    num_threads: int | None = None,
    pack: bool = False,
    device: str | torch.device = "cpu",
    seed: int = 0,
    indices: Sequence[int] | None = None,
    strict: bool = False,
    upright: bool = False,
    **options: Any,
) -> Any:
    """Read pictures, cut, resized and jittered.

    Args:
        files: paths of K pictures.
        num_threads: that decode at a time; None for one per core.
        pack: return one map rather than a list; `resize` must be (height, width).
        device: of the result.
        seed, indices: what is random about picture k depends on seed and indices[k] alone; None
            for 0 .. K-1.
        strict: raise an error for a file that cannot be read, rather than warn.
        upright: turn pictures as their EXIF data tell.
        **options: of `PictureOptions`.

    Returns: a list of K tensors H x W x C float32, C 1 for grey files, None for what cannot be
        read; with `pack` an H x W x 3 x K tensor, 0 for what cannot be read (the average, if one
        is subtracted).
    Raises: ValueError and TypeError, naming an option; with `strict` FormatError (a ValueError),
        naming the file.
    Source: vl_imreadjpeg.
    """
    numbers = np.arange(len(files)) if indices is None else np.asarray(indices)
    draws = uniform(seed, numbers, DRAWS)
    reading = Reading(files, PictureOptions(**options), draws, num_threads, pack, upright)
    return reading.result(device, strict)


class Reading:
    """Pictures that are read in the background, from now on.

    Args:
        files: paths of K pictures.
        options: what is done to them.
        draws: K x DRAWS uniform numbers.
        num_threads, pack, upright: as in `read_pictures`.
    Raises: ValueError, if they cannot be packed.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        options: PictureOptions,
        draws: np.ndarray,
        num_threads: int | None = None,
        pack: bool = False,
        upright: bool = False,
    ):
        if pack and (options.resize is None or len(options.resize) != 2):
            raise ValueError(f"resize is {options.resize!r}; pack wants (height, width)")
        self.names = [os.fspath(file) for file in files]
        self.pack = pack
        self._rows: Any = [None] * len(self.names)
        if pack:
            self._rows = np.zeros((len(self.names), *options.resize, 3), np.float32)
        memory = Workspace()

        def read(name: str, row: list[float], out: np.ndarray | None) -> np.ndarray | str:
            try:
                pixels = read_picture(name, upright=upright, memory=memory)
                return options.prepare(pixels, row, 3 if pack else None, out)
            except (OSError, FormatError) as error:
                return reason(error)

        pool = ThreadPoolExecutor(threads(num_threads), "pictures")
        self._results = pool.map(read, self.names, draws.tolist(), self._rows)
        pool.shutdown(wait=False)

    def result(self, device: str | torch.device = "cpu", strict: bool = False) -> Any:
        """Wait for the pictures; see `read_pictures`. They can be had once."""
        results = list(self._results)
        for name, result in zip(self.names, results, strict=True):
            if isinstance(result, str):
                message = f"could not read image {name!r} because {result}"
                if strict:
                    raise FormatError(message)
                warnings.warn(message, stacklevel=3)
        if self.pack:
            return map_of_rows(self._rows).to(device)
        found = (None if isinstance(r, str) else torch.from_numpy(r) for r in results)
        return [r if r is None else r.to(device) for r in found]


def map_of_rows(rows: np.ndarray) -> Tensor:
    """N H W C memory as an H x W x C x N tensor."""
    return hwcn(torch.from_numpy(rows).permute(0, 3, 1, 2))


def threads(number: int | None) -> int:
    """How many threads to start."""
    if number is None:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if number < 1:
        raise ValueError(f"num_threads is {number}; wanted 1 or more")
    return int(number)


def reason(error: Exception) -> str:
    """What is wrong with a file, without its name."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
