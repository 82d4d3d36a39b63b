"""Pictures of any kind as H x W x C arrays: files, their conversion and resampling."""

import os
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.layout import to_numpy

Method = Literal["bilinear", "bicubic"]
Source = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor
Box = tuple[int, int, int, int]

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as in rgb2gray
GREY_MODES = {"1", "L", "LA", "La"}
DEEP_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
KERNELS = {
    "bilinear": (Image.Resampling.BILINEAR, 1),
    "bicubic": (Image.Resampling.BICUBIC, 2),
}
"""Pillow's name of a kernel, and its half width in pixels. The cubic one has a = -1/2, as here."""


def read_image(source: Source, channels: int | None = None) -> np.ndarray:
    """Read one image.

        grey = 0.299 * red + 0.587 * green + 0.114 * blue

    Files are turned upright as their EXIF data tell; palettes and CMYK become RGB, 16 bits become
    8, and transparent parts become white.

    Args:
        source: the path of a file that Pillow reads (JPEG, PNG, ...), a Pillow image, or an H x W
            or H x W x C array or tensor.
        channels: 1 for grey, 3 for colour; None for what the image has.

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
        return _with_channels(_decode(source, name), channels, name)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"an image is {type(source).__name__}; wanted a path, a Pillow image, an array or a "
            "tensor"
        )
    with Path(source).open("rb") as file:  # OSError with the usual words
        return _with_channels(_decode(file, str(source)), channels, str(source))


def resize(
    image: np.ndarray, size: tuple[int, int], box: Box | None = None, method: Method = "bicubic"
) -> np.ndarray:
    """Resample a part of an image.

        out[v] = sum over k of h((u - k) / s) * image[k] / sum over k of h((u - k) / s)
        u = a * v + (a - 1) / 2 + first,  a = length / new length,  s = max(1, a)

    along one axis, then along the other. h is the triangle (bilinear) or the cubic of Keys with
    a = -1/2 (bicubic). Shrinking stretches h, which averages (antialiasing). Pixels around the part
    are read too; beyond the image those at its edge stand for what is missing.

    Args:
        image: H x W x C, uint8 or float32.
        size: (height, width) of the result, in pixels.
        box: (top, left, height, width) of the part, in pixels; None for the whole image.
        method: "bilinear" or "bicubic".

    Returns: height x width x C float32; values are not clipped, and a bicubic kernel overshoots.
    Source: vl_imreadjpeg; MATLAB's imresize has the same kernels but mirrors the image at its edge.
    """
    top, left, height, width = box or (0, 0, *image.shape[:2])
    if (height, width) == tuple(size):
        return image[top : top + height, left : left + width].astype(np.float32)
    kernel, half_width = KERNELS[method]
    sides = ((top, height, size[0]), (left, width, size[1]))
    margins = [ceil(half_width * max(1.0, old / new)) + 1 for _, old, new in sides]
    ends = [(first - m, first + old + m) for (first, old, _), m in zip(sides, margins, strict=True)]
    inside = tuple(slice(max(start, 0), stop) for start, stop in ends)
    beyond = [
        (max(-start, 0), max(stop - limit, 0))
        for (start, stop), limit in zip(ends, image.shape[:2], strict=True)
    ]
    part = np.pad(image[inside], [*beyond, (0, 0)], mode="edge")
    inner = (margins[1], margins[0], margins[1] + width, margins[0] + height)
    out = np.empty((*size, image.shape[2]), np.float32)
    for c in range(image.shape[2]):
        plane = Image.fromarray(part[..., c].astype(np.float32))  # mode "F", and stays so
        out[..., c] = np.asarray(plane.resize((size[1], size[0]), kernel, inner))
    return out


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an H x W x C image, C 1 or 3, to a PNG file; values are rounded and clipped to 0..255.

    Raises: ValueError, if there are other channels; OSError.
    """
    if image.shape[2] not in (1, 3):
        raise ValueError(f"the image has {image.shape[2]} channels; wanted 1 or 3")
    pixels = image.round().clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, "PNG")


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


def _decode(source: Any, name: str) -> np.ndarray:
    """The pixels of a file or of a Pillow image."""
    try:
        image = source if isinstance(source, Image.Image) else Image.open(source)
        return _pixels(ImageOps.exif_transpose(image))
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
