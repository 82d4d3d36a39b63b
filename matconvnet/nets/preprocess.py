"""From pictures to the input of a network, as its meta data tell."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from matconvnet.blocks.conv import Conv
from matconvnet.errors import FormatError
from matconvnet.images import Box, Method, Source, read_image, resize
from matconvnet.layout import empty_map, to_numpy, to_tensor
from matconvnet.nets.fields import is_empty, to_list
from matconvnet.nets.meta import input_size
from matconvnet.nets.network import Network

Images = Source | Sequence[Source]


@dataclass(frozen=True, eq=False)
class Normalization:
    """What is done to an image before a network sees it.

    size: (height, width) of the input in pixels; None: images keep theirs. channels: 1 for grey, 3
    for colour; None: images keep theirs. average: H x W x C or 1 x 1 x C float32, subtracted; None
    for nothing. crop: height and width of the centred part that is taken, relative to the largest
    one that the image holds. keep_aspect: that part has the proportions of `size`; else those of
    the image, and is squashed. method: how it is resized. An image of just the size of the input is
    taken whole.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    average: np.ndarray | None = None
    crop: tuple[float, float] = (1.0, 1.0)
    keep_aspect: bool = True
    method: Method = "bicubic"

    @classmethod
    def of(cls, net: Network) -> "Normalization":
        """Read what a network wants.

        The size is `imageSize` of `meta.normalization`, else `meta.inputSize`, else that in
        `meta.inputs`, else that of an average image; an average image of another size is resized.
        Channels that none of them tells are those of the filters of the first layer. Fields of the
        oldest files are understood: `border`, in place of `cropSize`, and a top-level `imageMean`.

        Raises: FormatError (a ValueError), naming a field that makes no sense.
        """
        fields = net.meta.get("normalization")
        fields = fields if isinstance(fields, Mapping) else {}
        size, channels = _input_size(net)
        method, average = _method(fields), _average(fields, net.extra)
        channels = channels or _filter_depth(net)
        if average is not None and average.size > 1:
            channels = channels or average.shape[2]
            if average.shape[2] not in (1, channels):
                raise FormatError(
                    f"meta.normalization.averageImage has {average.shape[2]} channels; wanted 1 or "
                    f"those of the input, {channels}"
                )
        if average is not None and average.shape[:2] != (1, 1):
            size = size or (average.shape[0], average.shape[1])
            average = resize(average, size, method=method)
        keep_aspect = fields.get("keepAspect")
        keep_aspect = is_empty(keep_aspect) or bool(to_list(keep_aspect)[0])
        return cls(size, channels, average, _crop(fields, size), keep_aspect, method)

    def prepare(self, images: Images, scale: float = 1.0) -> Tensor:
        """Make the input of a network of images.

            x = scale * resized - average

        Args:
            images: as `predict` takes them, N of them.
            scale: of the values, before the average is subtracted.

        Returns: H x W x C x N float32.
        Raises: what `read_image` does; ValueError, if there is no image, or, where the network has
            no size, images differ in theirs.
        """
        rows = [self._row(source, scale) for source in as_list(images)]
        shapes = {row.shape for row in rows}
        if len(shapes) != 1:
            raise ValueError(f"images have shapes {sorted(shapes)}; wanted one shape for all")
        x = empty_map((*rows[0].shape, len(rows)), torch.empty(0))
        for i, row in enumerate(rows):
            x[..., i] = torch.from_numpy(row)
        return x

    def _row(self, source: Source, scale: float) -> np.ndarray:
        image = read_image(source, self.channels)
        height, width = image.shape[:2]
        row = resize(image, self.size or (height, width), self._box(height, width), self.method)
        row *= scale
        return row if self.average is None else row - self.average

    def _box(self, height: int, width: int) -> Box:
        """The part of an image that is resized, in whole pixels (source: vl_imreadjpeg)."""
        whole = (height, width)
        if self.size in (None, whole):
            return 0, 0, height, width
        largest: tuple[float, ...] = whole
        if self.keep_aspect:
            fit = min(height / self.size[0], width / self.size[1])
            largest = tuple(fit * side for side in self.size)
        part = [
            min(max(floor(share * side + 0.5), 1), limit)
            for share, side, limit in zip(self.crop, largest, whole, strict=True)
        ]
        return (height - part[0]) // 2, (width - part[1]) // 2, part[0], part[1]


def as_list(images: Images) -> list[Any]:
    """One image, several, or an H x W x C x N array, as a list of images."""
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)):
        return [images[..., i] for i in range(images.shape[3])] if images.ndim == 4 else [images]
    return list(images)


def _input_size(net: Network) -> tuple[tuple[int, int] | None, int | None]:
    """(H, W) and C of the input, as far as the meta data tell them."""
    numbers = [int(number) for number in input_size(net.meta, net.input)]
    if not numbers:
        return None, None
    height, width = (numbers * 2)[:2] if len(numbers) == 1 else numbers[:2]
    return (height, width), numbers[2] if len(numbers) > 2 else None


def _filter_depth(net: Network) -> int | None:
    """Channels of the filters of the layer that reads the data, if it is a convolution."""
    for node in net.graph.nodes:
        if net.input in node.inputs and isinstance(node.layer, Conv) and node.params:
            filters = net.params[node.params[0]].value
            return None if filters is None else (*filters.shape, 1, 1, 1)[2]
    return None


def _average(fields: Mapping[str, Any], extra: Mapping[str, Any]) -> np.ndarray | None:
    """The average as H x W x C; a number, or a vector in any direction, is a colour."""
    value = fields.get("averageImage")
    value = extra.get("imageMean") if is_empty(value) else value
    if is_empty(value):
        return None
    array = np.asarray(to_numpy(to_tensor(value)))
    if array.dtype.kind not in "biuf" or array.ndim > 4 or (array.ndim == 4 and array.shape[3] > 1):
        raise FormatError(
            f"meta.normalization.averageImage is {array.dtype} of shape {array.shape}; wanted "
            "numbers, H x W x C or C"
        )
    array = array.astype(np.float32)
    is_colour = array.ndim < 2 or (array.ndim == 2 and 1 in array.shape)
    return array.reshape(1, 1, -1) if is_colour else array.reshape((*array.shape, 1)[:3])


def _method(fields: Mapping[str, Any]) -> Method:
    value = fields.get("interpolation")
    if is_empty(value) or value == "":
        return "bicubic"
    for method in get_args(Method):
        if method == str(value).lower():
            return method
    raise FormatError(
        f"meta.normalization.interpolation is {value!r}; wanted one of "
        f"{', '.join(get_args(Method))}"
    )


def _crop(fields: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[float, float]:
    """`cropSize`, else from the border around the input: size / (size + border)."""
    value, border = fields.get("cropSize"), fields.get("border")
    if not is_empty(value):
        pair = (_numbers(value, "normalization.cropSize") * 2)[:2]
    elif not is_empty(border) and size is not None:
        borders = (_numbers(border, "normalization.border") * 2)[:2]
        pair = [side / (side + more) for side, more in zip(size, borders, strict=True)]
    else:
        return 1.0, 1.0
    if not all(0 < share <= 1 for share in pair):
        raise FormatError(f"meta.normalization.cropSize is {pair}; wanted parts of 1, such as 0.9")
    return pair[0], pair[1]


def _numbers(value: Any, name: str) -> list[float]:
    try:
        return [float(number) for number in to_list(value)]
    except (TypeError, ValueError) as error:
        raise FormatError(f"meta.{name} is {value!r}; wanted numbers") from error
