"""Image files as the maps that a network wants."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from matconvnet.errors import FormatError

MODES = {1: "L", 3: "RGB"}


def read_images(paths: Sequence[Path], size: Sequence[int], invert: bool = False) -> Tensor:
    """Read image files into one map.

    Each is cut to its largest centred part with the proportions of the network's input, and
    resized. Transparent parts become white.

    Args:
        paths: files that Pillow can read, N of them.
        size: (H, W, C) of the input, C 1 for grey or 3 for colour.
        invert: exchange dark and light.
    Returns: H x W x C x N float32 with values 0 to 255.
    Raises: FileNotFoundError; FormatError (a ValueError), if a file is no image or is damaged.
    """
    height, width, channels = size
    rows = np.empty((len(paths), height, width, channels), np.float32)
    for row, path in zip(rows, paths, strict=True):
        fitted = ImageOps.fit(
            _open(path, MODES[channels]), (width, height), Image.Resampling.BICUBIC
        )
        row[:] = np.asarray(fitted).reshape(row.shape)
    return torch.from_numpy(255 - rows if invert else rows).permute(1, 2, 3, 0)


def input_size(meta: Mapping[str, Any]) -> tuple[int, int, int]:
    """(H, W, C) of the images that a network wants, as its meta data tell."""
    sizes = meta.get("normalization", {}).get("imageSize"), meta.get("inputSize")
    size = next((size for size in sizes if size is not None), None)
    if size is None:
        raise FormatError("the network has neither meta.inputSize nor meta.normalization.imageSize")
    height, width, channels = (*(int(v) for v in size), 1, 1)[:3]
    if channels not in MODES:
        raise FormatError(f"the network wants images of {channels} channels; wanted 1 or 3")
    return height, width, channels


def _open(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                paper = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(paper, image)
            return image.convert(mode)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FormatError(f"{path} cannot be read as an image: {error}") from error
