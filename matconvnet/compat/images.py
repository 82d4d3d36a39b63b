"""`vl_imreadjpeg`, and the function of the examples that calls it for a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.compat.facade import is_empty
from matconvnet.compat.options import given_options, normal, parse_options
from matconvnet.data.draws import uniform
from matconvnet.data.picture import DRAWS, PictureOptions
from matconvnet.data.reading import Reading
from matconvnet.layout import to_numpy, to_tensor
from matconvnet.values import Cell

FLAGS = ("prefetch", "pack", "gpu", "flip", "verbose")
OPTIONS = (
    *("num_threads", "resize", "crop_anisotropy", "crop_size", "crop_location"),
    *("subtract_average", "brightness", "contrast", "saturation", "interpolation", "generator"),
)
NAMES = {normal(name): name for name in (*FLAGS, *OPTIONS)}
WORDS = ("crop_location", "interpolation")
MAX_SEED = 2**63 - 1

BATCH_DEFAULTS: dict[str, Any] = {
    "use_gpu": False,
    "prefetch": False,
    "num_threads": 1,
    "image_size": (227, 227),
    "crop_size": 227 / 256,
    "keep_aspect": True,
    "subtract_average": None,
    "jitter_flip": False,
    "jitter_location": False,
    "jitter_aspect": 1,
    "jitter_scale": 1,
    "jitter_brightness": 0,
    "jitter_contrast": 0,
    "jitter_saturation": 0,
    "generator": None,
}


class _Prefetched:
    """What the last call with 'Prefetch' began to read."""

    files: tuple[str, ...] | None = None
    reading: Reading
    device: torch.device

    def start(self, files: tuple[str, ...], given: dict[str, Any]) -> None:
        """Begin to read, and forget what was begun before."""
        self.files = None
        self.device = _device(bool(given.pop("gpu", False)))
        threads, pack = given.pop("num_threads", None), bool(given.pop("pack", False))
        seed = _seed(given.pop("generator", None))
        draws = uniform(seed, np.arange(len(files)), DRAWS)
        threads = None if threads is None else max(1, int(threads))
        self.reading = Reading(files, PictureOptions(**given), draws, threads, pack)
        self.files = files

    def finish(self) -> list[Any]:
        """Wait for the pictures."""
        self.files = None
        answer = self.reading.result(self.device)
        return [answer] if self.reading.pack else answer


_prefetched = _Prefetched()


def vl_imreadjpeg(files: Any, *pairs: Any, **options: Any) -> Any:
    """Read pictures in background threads, cut, resized and jittered.

        vl_imreadjpeg(files, 'NumThreads', 4, 'Resize', [227, 227], 'Pack')
        vl_imreadjpeg(files, 'Prefetch', ...)  then  vl_imreadjpeg(files)

    The second form begins to read, and returns None; a later call with the very same list returns
    what was begun, with the options of the first call. Another list discards it.

    Args:
        files: a list, tuple, `Cell` or NumPy array of paths.
        *pairs: flags and name, value pairs, in any case. Flags: Prefetch, Pack, GPU, Flip; Verbose
            has no effect. Pairs: NumThreads, Resize, CropAnisotropy, CropSize, CropLocation,
            SubtractAverage, Brightness, Contrast, Saturation, Interpolation, as the options of
            `PictureOptions`; and Generator (ours): a seed, or a generator of NumPy or PyTorch. By
            default PyTorch's draws, so that `torch.manual_seed` makes runs equal.
        **options: the same as keywords.

    Returns: a list (a Cell or an array, if `files` is one) with the shape of `files`, of H x W x 3
        tensors, H x W x 1 for grey pictures, float32 with values 0 to 255; None, with a warning,
        for those that cannot be read. With Pack a list of one H x W x 3 x K tensor, where 0 (the
        average, if one is subtracted) stands for those that cannot be read.
    Raises: TypeError, if `files` holds no paths, or an option is unknown; ValueError, naming an
        option that makes no sense; RuntimeError, if there is no GPU.
    Source: vl_imreadjpeg. Here CMYK, PNG and other files are read as well.
    """
    names = _file_names(files)
    given = given_options(NAMES, pairs, options, FLAGS)
    given = {key: value for key, value in given.items() if not is_empty(value)}
    given.pop("verbose", None)
    for key in WORDS:
        if isinstance(given.get(key), str):
            given[key] = given[key].lower()
    prefetch = bool(given.pop("prefetch", False))
    if prefetch or names != _prefetched.files:
        _prefetched.start(names, given)
    if prefetch:
        return None
    answer = _prefetched.finish()
    return answer if _prefetched.reading.pack else _shaped_as(files, answer)


def cnn_get_image_batch(paths: Any, *pairs: Any, **options: Any) -> Tensor | None:
    """Read a batch of pictures for a network, with jitter or without.

    Args:
        paths: of N pictures.
        *pairs: name, value pairs and dicts, names in any case: useGpu, prefetch, numThreads,
            imageSize, cropSize, keepAspect, subtractAverage, jitterFlip, jitterLocation,
            jitterAspect, jitterScale, jitterBrightness, jitterContrast, jitterSaturation; and
            generator, as of `vl_imreadjpeg`.
        **options: the same as keywords.

    Returns: H x W x 3 x N float32, resampled bicubically; None with prefetch.
    Raises: as `vl_imreadjpeg`.
    Source: getImageBatch of the ImageNet example.
    """
    opts = parse_options(BATCH_DEFAULTS, pairs, options)
    anisotropy = opts["jitter_aspect"] if opts["keep_aspect"] else 0
    answer = vl_imreadjpeg(
        paths,
        "Pack",
        gpu=bool(opts["use_gpu"]),
        prefetch=bool(opts["prefetch"]),
        num_threads=opts["num_threads"],
        resize=np.asarray(to_numpy(to_tensor(opts["image_size"]))).ravel()[:2],
        crop_size=np.multiply(opts["crop_size"], opts["jitter_scale"]),
        crop_location="random" if opts["jitter_location"] else "center",
        crop_anisotropy=anisotropy,
        subtract_average=opts["subtract_average"],
        flip=bool(opts["jitter_flip"]),
        brightness=opts["jitter_brightness"],
        contrast=opts["jitter_contrast"],
        saturation=opts["jitter_saturation"],
        interpolation="bicubic",
        generator=opts["generator"],
    )
    return None if answer is None else answer[0]


def _file_names(files: Any) -> tuple[str, ...]:
    if isinstance(files, np.ndarray):
        files = files.ravel().tolist()
    if not isinstance(files, Sequence) or isinstance(files, (str, bytes)):
        raise TypeError(f"files is {type(files).__name__}; wanted a list of paths")
    names = []
    for k, file in enumerate(files):
        if isinstance(file, bytes) or not (isinstance(file, str) or hasattr(file, "__fspath__")):
            raise TypeError(f"files[{k}] is {type(file).__name__}; wanted a path")
        names.append(str(file))
    return tuple(names)


def _shaped_as(files: Any, answer: list[Any]) -> Any:
    if isinstance(files, Cell):
        return Cell(answer, files.shape)
    if not isinstance(files, np.ndarray):
        return answer
    shaped = np.empty(files.size, object)
    for k, item in enumerate(answer):
        shaped[k] = item
    return shaped.reshape(files.shape)


def _device(gpu: bool) -> torch.device:
    if gpu and not torch.cuda.is_available():
        raise RuntimeError("GPU is given, but torch finds no CUDA device")
    return torch.device("cuda" if gpu else "cpu")


def _seed(generator: Any) -> int:
    if isinstance(generator, np.random.Generator):
        return int(generator.integers(MAX_SEED))
    if generator is None or isinstance(generator, torch.Generator):
        return int(torch.randint(MAX_SEED, (), generator=generator))
    if isinstance(generator, (int, np.integer)):
        return int(generator)
    raise TypeError(f"generator is {type(generator).__name__}; wanted a seed or a generator")
