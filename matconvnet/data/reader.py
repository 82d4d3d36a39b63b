"""Batches of picture files, whatever is wrong with some of them: a source for `Pipeline`."""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from matconvnet.data.decode import read_picture
from matconvnet.data.draws import uniform
from matconvnet.data.memory import BatchMemory
from matconvnet.data.picture import DRAWS, PictureOptions
from matconvnet.data.reading import map_of_rows, reason, threads
from matconvnet.errors import FormatError
from matconvnet.images import Method, Workspace, read_image

BadFiles = Literal["fill", "replace", "raise"]


class FileSource:
    """Pictures in files, prepared for training or for testing: the source of a `Pipeline`.

    An imdb has `folder` (Path), `names` (paths below it) and `labels`.

    Args:
        image_size: (height, width) of the result, in pixels.
        crop_size: relative size of the part of a picture that is taken, of the largest that fits.
        keep_aspect: False squashes the picture rather than cutting what is too long.
        subtract_average: a number, one per channel, or an image of `image_size`.
        jitter_flip, jitter_location, jitter_aspect, jitter_scale, jitter_brightness,
        jitter_contrast, jitter_saturation: for training only: `flip`, crop_location "random",
            `crop_anisotropy`, what `crop_size` is multiplied with (one number, or the least and
            the largest), `brightness`, `contrast` and `saturation` of `PictureOptions`.
        interpolation: the kernel.
        channels: 3, or 1 to make all pictures grey.
        upright: turn pictures as their EXIF data tell.
        num_threads: that decode at a time; None for one per core.
        bad_files: what stands for a file that cannot be read. "fill": zeros, which is the average
            image, with the label -1, ignored. "replace": another picture of its set and class,
            the same one for the same seed. "raise": an error that names the file.
    Raises: ValueError and TypeError, naming the option.
    Source: getImageBatch.
    """

    def __init__(
        self,
        *,
        image_size: Sequence[int] = (227, 227),
        crop_size: float = 227 / 256,
        keep_aspect: bool = True,
        subtract_average: Any = 0.0,
        jitter_flip: bool = False,
        jitter_location: bool = False,
        jitter_aspect: float | Sequence[float] = 1.0,
        jitter_scale: float | Sequence[float] = 1.0,
        jitter_brightness: Any = 0.0,
        jitter_contrast: float = 0.0,
        jitter_saturation: float = 0.0,
        interpolation: Method = "bicubic",
        channels: Literal[1, 3] = 3,
        upright: bool = False,
        num_threads: int | None = None,
        bad_files: BadFiles = "fill",
    ):
        if bad_files not in get_args(BadFiles):
            wanted = ", ".join(get_args(BadFiles))
            raise ValueError(f"bad_files is {bad_files!r}; wanted one of {wanted}")
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}; wanted 1 or 3")
        self.test = PictureOptions(
            resize=tuple(image_size)[:2],
            crop_size=crop_size,
            crop_anisotropy=1.0 if keep_aspect else 0.0,
            subtract_average=subtract_average,
            interpolation=interpolation,
        )
        self.train = PictureOptions(
            resize=tuple(image_size)[:2],
            crop_size=np.multiply(crop_size, jitter_scale),
            crop_location="random" if jitter_location else "center",
            crop_anisotropy=jitter_aspect if keep_aspect else 0.0,
            flip=jitter_flip,
            subtract_average=subtract_average,
            brightness=jitter_brightness,
            contrast=jitter_contrast,
            saturation=jitter_saturation,
            interpolation=interpolation,
        )
        depth = self.test.subtract_average.shape[-1]
        if depth > channels:
            raise ValueError(f"subtract_average has {depth} channels; wanted {channels}")
        self.channels = channels
        self.upright = upright
        self.num_threads = threads(num_threads)
        self.bad_files: BadFiles = bad_files
        self.bad: dict[str, str] = {}
        self._filled: set[str] = set()
        self._reported = 0
        self._lock = Lock()
        self._memory = Workspace()
        self._batches = BatchMemory()
        self._pool: ThreadPoolExecutor | None = None

    def __repr__(self) -> str:
        options = f"channels={self.channels}, upright={self.upright}, bad_files={self.bad_files!r}"
        return f"FileSource(test={self.test}, train={self.train}, {options})"

    def batch(
        self, imdb: Any, indices: Sequence[int] | np.ndarray, *, training: bool, seed: int
    ) -> Tensor:
        """Read some pictures of a database.

        Args:
            imdb: the database.
            indices: B integers.
            training: with jitter, or the test-time centre crop.
            seed: what is random about a picture depends on this and its index alone.
        Returns: H x W x C x B float32, in channels-last memory.
        Raises: FormatError (a ValueError), naming the file, by the policy "raise", or if no
            picture can be read in place of one.
        """
        chosen = self.train if training else self.test
        draws = uniform(seed, np.asarray(indices), DRAWS, stream="picture").tolist()
        batch = self._batches.take((len(draws), *chosen.resize, self.channels))

        def read(k: int) -> None:
            pixels = self._pixels_or_stand_in(imdb, int(indices[k]), seed)
            if pixels is None:
                batch[k] = 0
            else:
                chosen.prepare(pixels, draws[k], self.channels, batch[k])

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.num_threads, "pictures")
            pool = self._pool
        _run_all(pool, self.num_threads, read, len(draws))
        return map_of_rows(batch)

    def ignored(self, imdb: Any, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """True for those of some pictures that zeros stand for."""
        return np.array([imdb.names[i] in self._filled for i in indices], bool)

    def report(self) -> None:
        """Warn of every bad file that was met since the last report."""
        with self._lock:
            news = list(self.bad.items())[self._reported :]
            self._reported += len(news)
        for name, why in news:
            warnings.warn(f"could not read image {name!r} because {why}", stacklevel=2)

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads, and free memory; the next batch starts anew."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        self._batches.clear()

    def _pixels_or_stand_in(self, imdb: Any, index: int, seed: int) -> np.ndarray | None:
        pixels = self._pixels(imdb, index)
        if pixels is not None:
            return pixels
        name = imdb.names[index]
        message = f"could not read image {name!r} because {self.bad[name]}"
        if self.bad_files == "raise":
            raise FormatError(message)
        if np.asarray(imdb.labels).dtype.kind == "f":
            raise FormatError(f"{message}, and labels that are no classes cannot ignore it")
        if self.bad_files == "replace":
            for other in _stand_ins(imdb, index, seed):
                pixels = self._pixels(imdb, other)
                if pixels is not None:
                    return pixels
        self._filled.add(name)
        return None

    def _pixels(self, imdb: Any, index: int) -> np.ndarray | None:
        """The pixels of a picture; None for a bad file, which is noted."""
        name = imdb.names[index]
        if name in self.bad:
            return None
        try:
            path = os.path.join(imdb.folder, name)
            pixels = read_picture(path, upright=self.upright, memory=self._memory)
            return read_image(pixels, self.channels) if self.channels == 1 else pixels
        except (OSError, FormatError) as error:
            with self._lock:
                self.bad.setdefault(name, reason(error))
            return None


def _stand_ins(imdb: Any, index: int, seed: int) -> Iterable[int]:
    """Other pictures of the same class and set, in an order drawn for this one."""
    labels = np.asarray(imdb.labels)
    same = labels == labels[index]
    if getattr(imdb, "set", None) is not None:
        same &= np.asarray(imdb.set) == imdb.set[index]
    same[index] = False
    others = np.flatnonzero(same)
    first = int(uniform(seed, np.array([index]), 1, stream="stand-in")[0, 0] * len(others))
    return (int(other) for other in np.roll(others, -first))


def _run_all(
    pool: ThreadPoolExecutor, workers: int, function: Callable[[int], None], count: int
) -> None:
    """Call a function for 0 .. count-1 in the threads of a pool; the first error is raised."""
    numbers = iter(range(count))

    def work() -> None:
        for number in numbers:
            function(number)

    futures = [pool.submit(work) for _ in range(min(workers, count))]
    try:
        for future in futures:
            future.result()
    finally:
        for _ in numbers:  # after an error: nothing is left to do
            pass
        wait(futures)
