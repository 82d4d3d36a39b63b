"""Picture files to pixels: JPEG by libjpeg-turbo, everything else by Pillow."""

import os
import stat
from io import BytesIO

import numpy as np
import simplejpeg
from PIL import Image

from matconvnet.errors import FormatError
from matconvnet.images import Workspace, read_image

FORMATS = ("JPEG", "PNG", "AVIF", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for: not EPS, whose reader runs another program."""

MAX_BYTES = 1 << 30  # of a file
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte of RGB, as in Pillow
MAX_PIXELS_PER_BYTE = 1024  # of JPEG: an 8 x 8 block of its densest channel takes a bit at least
JPEG_START = b"\xff\xd8"
JPEG_COLOURS = {"Gray": "GRAY", "YCbCr": "RGB", "RGB": "RGB"}  # in the file; decoded
HARMLESS = ("extraneous bytes", "JFIF revision", "Adobe color transform")
"""Complaints of libjpeg about files whose pixels are all there."""


def read_picture(
    path: str | os.PathLike[str], *, upright: bool = False, memory: Workspace | None = None
) -> np.ndarray:
    """Read a picture file of a data set, which may be damaged in any way.

    Args:
        path: of a file in one of FORMATS, whatever its name ends in.
        upright: turn the picture as its EXIF data tell; vl_imreadjpeg does not.
        memory: for the pixels, which last until it is used again; None for new memory.

    Returns: H x W x 3 uint8, or H x W x 1 for grey files.
    Raises: OSError, if there is no such file; FormatError (a ValueError), if it is no picture, is
        damaged, or is larger than MAX_PIXELS. Neither message names the file.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise FormatError("no regular file")
    if found.st_size > MAX_BYTES:
        raise FormatError(f"{found.st_size} bytes; wanted at most {MAX_BYTES}")
    with open(path, "rb", buffering=0) as file:
        content = file.read()
    return decode(content, upright=upright, memory=memory)


def decode(content: bytes, *, upright: bool = False, memory: Workspace | None = None) -> np.ndarray:
    """Decode the content of a picture file; see `read_picture`. Other threads run meanwhile."""
    if not content:
        raise FormatError("the file is empty")
    is_jpeg = content.startswith(JPEG_START)
    if is_jpeg and not (upright and b"Exif\0" in content):
        pixels = _decode_jpeg(content, memory or Workspace())
        if pixels is not None:
            return pixels
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            _check_size(image.size, content, is_jpeg)
            return read_image(image, upright=upright)
    except FormatError as error:
        raise FormatError(str(error.__cause__ or error)) from error
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over
        raise FormatError(_reason(error)) from error


def _decode_jpeg(content: bytes, memory: Workspace) -> np.ndarray | None:
    """The pixels of a usual JPEG file; None for one that Pillow is to judge."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    _check_size((int(width), int(height)), content, is_jpeg=True)
    if colours not in JPEG_COLOURS:
        return None  # CMYK, in Adobe's inverted way or not
    try:
        shape = int(height), int(width), 1 if colours == "Gray" else 3
        pixels = memory.take(shape, np.uint8)
        return simplejpeg.decode_jpeg(content, JPEG_COLOURS[colours], buffer=pixels)
    except ValueError as error:
        if any(words in str(error) for words in HARMLESS):
            return None
        raise FormatError(str(error)) from error


def _check_size(size: tuple[int, int], content: bytes, is_jpeg: bool) -> None:
    """Refuse what would take memory out of proportion, before any is taken."""
    limit = min(MAX_PIXELS, MAX_PIXELS_PER_BYTE * len(content)) if is_jpeg else MAX_PIXELS
    if size[0] * size[1] > limit:
        raise FormatError(
            f"its header tells of {size[0]} x {size[1]} pixels; a file of {len(content)} bytes may "
            f"have {limit}"
        )


def _reason(error: Exception) -> str:
    text = str(error).partition("<_io.BytesIO")[0].strip()
    return "not a picture" if text == "cannot identify image file" else text or repr(error)
