"""Which part of a picture is cut out, and what size it gets."""

from collections.abc import Sequence
from math import floor, sqrt
from typing import Literal, NamedTuple

from matconvnet.images import Box

Location = Literal["center", "random"]
Range = tuple[float, float]


class Placement(NamedTuple):
    """`box` (top, left, height, width) of a picture becomes `size` (height, width), in pixels."""

    size: tuple[int, int]
    box: Box


def output_size(height: int, width: int, resize: tuple[int, ...] | None) -> tuple[int, int]:
    """Size of the result: of the picture, of its shorter side, or the size that is wanted."""
    if resize is None:
        return height, width
    if len(resize) == 2:
        return resize[0], resize[1]
    scale = max(resize[0] / height, resize[0] / width)
    return max(1, rounded(scale * height)), max(1, rounded(scale * width))


def place(
    height: int,
    width: int,
    resize: tuple[int, ...] | None = None,
    crop_size: Range = (1.0, 1.0),
    crop_anisotropy: Range = (1.0, 1.0),
    crop_location: Location = "center",
    draws: Sequence[float] = (0.5, 0.5, 0.5, 0.5),
) -> Placement:
    """Choose the part of a picture of `height` x `width` that becomes the result.

        a = amin (amax / amin)^u0                  aspect of the part over that of the result
        r = sqrt(cmin^2 + u1 (cmax^2 - cmin^2))    size relative to the largest part that fits
        (w, h) = round(r min(W / w', H / h') (w', h')),   w' = Wo sqrt(a), h' = Ho / sqrt(a)

    centred, or anywhere inside the picture.

    Args:
        height, width: of the picture, in pixels.
        resize: None for no resizing, one number for the shorter side, or (height, width).
        crop_size: least and largest r.
        crop_anisotropy: least and largest a; with a 0 among them the part has the aspect of the
            picture, and is squashed.
        crop_location: "center" or "random".
        draws: u0, u1, and those that place the part along x and along y, uniform in [0, 1).
    Source: vl_imreadjpeg; its manual calls a and r uniform, the code is as here.
    """
    new_height, new_width = output_size(height, width, resize)
    low, high = crop_anisotropy
    if low == 0 or high == 0:
        aspect = (width / height) / (new_width / new_height)
    else:
        aspect = low * (high / low) ** draws[0]
    shape = new_height / sqrt(aspect), new_width * sqrt(aspect)
    small, large = crop_size
    scale = min(height / shape[0], width / shape[1])
    scale *= sqrt(small**2 + draws[1] * (large**2 - small**2))
    h = min(max(rounded(scale * shape[0]), 1), height)
    w = min(max(rounded(scale * shape[1]), 1), width)
    left, top = (width - w) // 2, (height - h) // 2
    if crop_location == "random":
        left, top = floor(draws[2] * (width - w + 1)), floor(draws[3] * (height - h + 1))
    return Placement((new_height, new_width), (top, left, h, w))


def rounded(number: float) -> int:
    """The nearest integer to a number that is not negative; halves go up."""
    return floor(number + 0.5)
