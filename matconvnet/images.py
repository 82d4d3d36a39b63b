"""Pictures of any kind as H x W x C arrays: files, their conversion and resampling."""

import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from math import ceil, prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.layout import to_numpy

Method = Literal["box", "bilinear", "bicubic", "lanczos2", "lanczos3"]
Source = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
Box = tuple[int, int, int, int]

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as in rgb2gray
GREY_MODES = {"1", "L", "LA", "La"}
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
WIDTHS: dict[str, int] = {"box": 1, "bilinear": 2, "bicubic": 4, "lanczos2": 4, "lanczos3": 6}
"""Width of every kernel in pixels, where it does not shrink the image."""

ROWS, COLUMNS = 8, 5  # of the result, that are made by one product of matrices
CACHED = 2**19  # pixels that become floats at a time, so that they stay in the cache
SINGLE_THREAD = 2**18  # multiplications up to which OpenBLAS starts no threads of its own
KEPT = 1 << 24  # bytes that a thread keeps for its next picture


class Workspace(threading.local):
    """Memory of each thread, which its next picture uses again: fresh pages cost much time."""

    memory = np.empty(0, np.uint8)

    def take(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """An unwritten array, which is overwritten once this thread takes another one."""
        size = prod(shape) * np.dtype(dtype).itemsize
        if size > KEPT:
            return np.empty(shape, dtype)
        if self.memory.size < size:
            self.memory = np.empty(size, np.uint8)
        return self.memory[:size].view(dtype).reshape(shape)


_parts, _strips = Workspace(), Workspace()


def read_image(source: Source, channels: int | None = None, *, upright: bool = True) -> np.ndarray:
    """Read one image.

        grey = 0.299 * red + 0.587 * green + 0.114 * blue

    Palettes and CMYK become RGB, 16 bits become 8, and transparent parts become white.

    Args:
        source: the path of a file that Pillow reads (JPEG, PNG, ...), a Pillow image, or an H x W
            or H x W x C array or tensor.
        channels: 1 for grey, 3 for colour; None for what the image has.
        upright: turn the picture as its EXIF data tell.

    Returns: H x W x C, uint8 with values 0 to 255; float32 with the very values of `source`, if
        those are floats.
    Raises: OSError, if there is no such file; FormatError (a ValueError), if it is no image or is
        damaged; ValueError, if the image has no pixels, or channels that cannot be converted;
        TypeError, if `source` or its numbers are of another type.
    """
    if isinstance(source, (np.ndarray, Tensor)):
        return _with_channels(_from_numbers(to_numpy(source)), channels)
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "")) or "the image"
        return _with_channels(_decode(source, name, upright), channels, name)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"an image is {type(source).__name__}; wanted a path, a Pillow image, an array or a "
            "tensor"
        )
    with Path(source).open("rb") as file:  # OSError with the usual words
        return _with_channels(_decode(file, str(source), upright), channels, str(source))


def resize(
    image: np.ndarray,
    size: tuple[int, int],
    box: Box | None = None,
    method: Method = "bicubic",
    flip: bool = False,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Resample a part of an image.

        out[v] = sum over k of h((u - k) / s) * image[k] / sum over k of h((u - k) / s)
        u = a * v + (a - 1) / 2 + first,  a = length / new length,  s = max(1, a)

    along the columns, then along the rows, with

        box       h(d) = 1 for -1/2 <= d < 1/2
        bilinear  h(d) = 1 - |d| for |d| < 1
        bicubic   h(d) = 1.5 |d|^3 - 2.5 |d|^2 + 1 for |d| <= 1,
                         -0.5 |d|^3 + 2.5 |d|^2 - 4 |d| + 2 for |d| <= 2
        lanczosN  h(d) = (sin(pi d) sin(pi d / N) + 1e-5) / (pi^2 d^2 / N + 1e-5) for |d| < N

    and 0 elsewhere. Shrinking stretches h, which averages (antialiasing). Pixels around the part
    are read too; beyond the image those at its edge stand for what is missing. A part that has the
    new size is copied.

    Args:
        image: H x W x C, uint8 or float32.
        size: (height, width) of the result, in pixels.
        box: (top, left, height, width) of the part, in pixels; None for the whole image.
        method: the name of the kernel.
        flip: mirror the result left to right.
        out: where the result is written, contiguous; None for new memory.

    Returns: height x width x C float32; values are not clipped, and most kernels overshoot.
    Raises: ValueError, if there is no such method.
    Source: vl_imreadjpeg; MATLAB's imresize has the same kernels but mirrors the image at its edge.
    """
    if method not in WIDTHS:
        raise ValueError(f"method is {method!r}; wanted one of {', '.join(WIDTHS)}")
    top, left, height, width = box or (0, 0, *image.shape[:2])
    channels = image.shape[2]
    if out is None:
        out = np.empty((*size, channels), np.float32)
    if (height, width) == tuple(size):
        part = image[top : top + height, left : left + width]
        if not flip:
            out[:] = part
            return out
        for c in range(channels):  # apart, since NumPy is slow where the innermost axis is short
            out[:, :, c] = part[:, ::-1, c]
        return out
    columns, across = _bands(width, size[1], COLUMNS, method, flip, channels)
    span = across.shape[1]
    first, last = left + min(columns), left + max(columns) + span // channels
    start, end = max(first, 0), min(last, image.shape[1])
    strip = _strips.take((size[0], (last - first) * channels), np.float32)
    inside = strip[:, (start - first) * channels : (end - first) * channels]
    _resize_rows(image[:, start:end], top, height, method, inside)
    pixels = strip.reshape(size[0], -1, channels)
    pixels[:, : start - first] = pixels[:, start - first, None]
    pixels[:, end - first :] = pixels[:, end - first - 1, None]
    flat, step = out.reshape(size[0], -1), COLUMNS * channels
    height = max(SINGLE_THREAD // (step * span), 1)
    for block, column in enumerate(columns):
        done = flat[:, block * step : (block + 1) * step]
        at = (left + column - first) * channels
        old, weights = strip[:, at : at + span], across[block, :, : done.shape[1]]
        for i in range(0, size[0], height):
            np.matmul(old[i : i + height], weights, out=done[i : i + height])
    return out


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an H x W x C image, C 1 or 3, to a PNG file; values are rounded and clipped to 0..255.

    Raises: ValueError, if there are other channels; OSError.
    """
    if image.shape[2] not in (1, 3):
        raise ValueError(f"the image has {image.shape[2]} channels; wanted 1 or 3")
    pixels = image.round().clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, "PNG")


def _kernel(method: Method, d: np.ndarray) -> np.ndarray:
    """h(d), as in `resize`."""
    if method == "box":
        return ((d >= -0.5) & (d < 0.5)).astype(np.float64)
    distance = np.abs(d)
    if method == "bilinear":
        return np.maximum(1 - distance, 0)
    if method == "bicubic":
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        return np.where(distance <= 1, near, np.where(distance <= 2, far, 0))
    n = WIDTHS[method] // 2
    ripple = np.sin(np.pi * d) * np.sin(np.pi * d / n) + 1e-5
    return np.where(distance < n, ripple / ((np.pi * d) ** 2 / n + 1e-5), 0)


def _resize_rows(image: np.ndarray, top: int, height: int, method: Method, out: np.ndarray) -> None:
    """Resample `height` rows, from `top` on, along the columns; `out` is new rows x (W * C)."""
    starts, down = _bands(height, len(out), ROWS, method)
    span, size = down.shape[1], image[0].size
    together = max(CACHED // (span * size), 1)
    width = max(SINGLE_THREAD // (ROWS * span), 1)
    for group in range(0, len(starts), together):
        own = starts[group : group + together]
        first, last = top + own[0], top + own[-1] + span
        part = _parts.take((last - first, *image.shape[1:]), np.float32)
        if first >= 0 and last <= len(image):
            part[:] = image[first:last]
        else:
            part[:] = image[np.arange(first, last).clip(0, len(image) - 1)]
        part = part.reshape(last - first, size)
        for block, row in enumerate(own, group):
            done = out[block * ROWS : (block + 1) * ROWS]
            at = top + row - first
            weights, old = down[block, :, : len(done)].T, part[at : at + span]
            for i in range(0, size, width):
                np.matmul(weights, old[:, i : i + width], out=done[:, i : i + width])


@lru_cache(maxsize=64)
def _bands(
    length: int, new: int, size: int, method: Method, flip: bool = False, channels: int = 1
) -> tuple[list[int], np.ndarray]:
    """Resampling of `length` pixels to `new` ones.

    It is the product with a matrix, whose columns belong to new pixels; blocks of `size` of them
    read few of the old ones, and just that band of the matrix is made.

    Returns: for every block the first pixel that it reads, from that of the part on; weights
        float32, blocks x (pixels read by a block * channels) x (size * channels), for interleaved
        channels.
    """
    # Whole numbers as long as possible: at the ends of a kernel that jumps a rounding would show.
    number = np.minimum(np.arange(-(-new // size) * size), new - 1)  # the last one fills up
    if flip:
        number = new - 1 - number
    longer = max(length, new)
    centres = (2 * number + 1) * length - new  # 2 new u
    reach = WIDTHS[method] * longer
    taps = -((reach - centres) // (2 * new))[:, None] + np.arange(ceil(reach / new) + 1)
    weights = _kernel(method, (centres[:, None] - 2 * new * taps) / (2 * longer))
    weights /= weights.sum(axis=1, keepdims=True)
    starts = taps[:, 0].reshape(-1, size).min(axis=1)
    blocks, columns = np.divmod(np.arange(len(number))[:, None], size)
    places = taps - starts[blocks]
    bands = np.zeros((len(starts), places.max() + 1, channels, size, channels), np.float32)
    for c in range(channels):
        bands[blocks, places, c, columns, c] = weights
    return starts.tolist(), bands.reshape(len(starts), -1, size * channels)


def _from_numbers(array: np.ndarray) -> np.ndarray:
    """An array as H x W x C, uint8 or float32."""
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(f"an image has shape {array.shape}; wanted H x W or H x W x C, not empty")
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype != np.uint8:
        raise TypeError(f"an image is of {array.dtype}; wanted uint8, uint16, bool or floats")
    return array


def _decode(source: Any, name: str, upright: bool) -> np.ndarray:
    """The pixels of a file or of a Pillow image."""
    try:
        image = source if isinstance(source, Image.Image) else Image.open(source)
        return _pixels(ImageOps.exif_transpose(image) if upright else image)
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over
        raise FormatError(f"{name} cannot be read as an image: {error}") from error


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        return _from_numbers(np.asarray(image))
    if image.mode in DEEP_MODES:
        return _from_numbers(np.asarray(image).clip(0, 65535).astype(np.uint16))
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _from_numbers(np.asarray(image.convert(mode)))


def _with_channels(image: np.ndarray, channels: int | None, name: str = "the image") -> np.ndarray:
    """Grey from colour, or colour from grey, where other channels are wanted."""
    found = image.shape[2]
    if channels in (None, found):
        return image
    if (found, channels) == (1, 3):
        return image.repeat(3, axis=2)
    if (found, channels) == (3, 1):
        grey = image @ np.array(LUMA, np.float32)
        return (grey.round() if image.dtype == np.uint8 else grey).astype(image.dtype)[..., None]
    raise ValueError(f"{name} has {found} channels; wanted {channels}")
