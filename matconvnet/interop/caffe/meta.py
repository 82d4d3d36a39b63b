"""Meta data of an imported network: its inputs, how images are prepared, names of classes."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from matconvnet.errors import FormatError
from matconvnet.geometry import Size
from matconvnet.images import resize
from matconvnet.interop.caffe.reader import read_mean
from matconvnet.layout import hwcn, to_numpy
from matconvnet.values import Struct, StructArray

Preparation = Literal["caffe", "vgg-caffe", "fcn"]
Lines = str | os.PathLike[str] | Sequence[str]
"""A text file, or its lines."""

MOST_PIXELS = 1 << 26


class Images(NamedTuple):
    """How images are prepared; see `load_caffe`."""

    preproc: Preparation = "caffe"
    mean: Any = None
    full_image_size: tuple[int, int] = (256, 256)
    bgr: bool = True
    transpose: bool = True


def describe(inputs: dict[str, Size], images: Images) -> dict[str, Any]:
    """The fields `inputs` and `normalization`.

    Args:
        inputs: sizes (H, W, C, N) of the inputs of the network, by variable; the first one takes
            images.
        images: how they are prepared.
    """
    sizes = {name: size for name, size in inputs.items() if not any(map(math.isnan, size))}
    records = [Struct(name=name, size=list(map(float, size))) for name, size in sizes.items()]
    return {
        "inputs": StructArray(records, fields=("name", "size")),
        "normalization": _normalization(next(iter(inputs.values())), images),
    }


def classes(class_names: Lines | None, synsets: Lines | None) -> dict[str, Any]:
    """The field `classes`: names and descriptions.

    Args:
        class_names: a name a line.
        synsets: lines of a name and its description, as in "n01440764 tench, Tinca tinca".

    Raises: ValueError, if both are given; OSError; FormatError, if a file is no text.
    """
    if class_names is not None and synsets is not None:
        raise ValueError("class_names and synsets are both given; wanted one of them")
    if class_names is not None:
        names = _lines(class_names)
        return {"classes": Struct(name=names, description=list(names))}
    if synsets is None:
        return {}
    pairs = [line.partition(" ") for line in _lines(synsets)]
    names, descriptions = [a for a, _, _ in pairs], [c.strip() for _, _, c in pairs]
    return {"classes": Struct(name=names, description=descriptions)}


def _lines(source: Lines) -> list[str]:
    if not isinstance(source, (str, os.PathLike)):
        return list(source)
    try:
        text = Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{source} is no text in UTF-8: {error}") from error
    return [line for line in map(str.strip, text.splitlines()) if line]


def _normalization(size: Size, images: Images) -> Struct:
    """The field `normalization`; what depends on an unknown size is left out."""
    is_plain = images.preproc == "caffe"
    out = Struct(interpolation="bicubic" if is_plain else "bilinear", keepAspect=not is_plain)
    h, w, c, _ = size
    if not (math.isnan(h) or math.isnan(w)):
        full = images.full_image_size if images.transpose else images.full_image_size[::-1]
        # The whole image is never smaller than the part of it that the network reads.
        full = [max(a, b) for a, b in zip(full, (h, w), strict=True)]
        out["imageSize"] = [float(h), float(w), 3.0 if math.isnan(c) else float(c)]
        out["border"] = [float(full[0] - h), float(full[1] - w)]
        out["cropSize"] = [h / full[0], w / full[1]]
    if images.mean is not None:
        out["averageImage"] = _average(size, images)
    return out


def _average(size: Size, images: Images) -> np.ndarray:
    """The mean as H x W x C float32, of the size of the input; of a colour, as 1 x 1 x C."""
    mean = images.mean
    if isinstance(mean, (str, os.PathLike)):
        planes = read_mean(Path(mean))
        planes = planes if images.transpose else planes.swapaxes(1, 2)
        image = hwcn(torch.from_numpy(planes[None]))[..., 0].numpy()
        if images.bgr and image.shape[2] == 3:
            image = image[:, :, ::-1]
    else:
        image = np.asarray(to_numpy(mean) if isinstance(mean, Tensor) else mean, np.float32)
        image = image.reshape(1, 1, -1) if image.ndim < 2 else image
    image = np.ascontiguousarray(image, np.float32)
    h, w, c, _ = size
    if image.ndim != 3 or not (math.isnan(c) or image.shape[2] in (1, c)):
        raise FormatError(
            f"the mean has shape {image.shape}; wanted H x W x {c:g}, or {c:g} numbers"
        )
    if image.shape[:2] == (1, 1) or math.isnan(h) or math.isnan(w):
        return image
    if h * w > MOST_PIXELS:
        raise FormatError(f"the input has {h} x {w} pixels; wanted at most {MOST_PIXELS} in all")
    return resize(image, (int(h), int(w)), method="bilinear")
