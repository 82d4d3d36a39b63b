"""From the pixels of a picture file to what a network is trained on: cut, resize, jitter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from matconvnet.data.colour import change_colours, normals
from matconvnet.data.geometry import Location, Placement, place
from matconvnet.images import Method, resize
from matconvnet.layout import to_numpy, to_tensor

DRAWS = 11  # anisotropy, size, x, y, flip, saturation, contrast, brightness (two pairs)


@dataclass(frozen=True, eq=False)
class PictureOptions:
    """What is done to every picture.

    resize: None; one number, for the shorter side; or (height, width), in pixels. crop_size: the
    size of the part that is taken, relative to the largest that fits, or (least, largest); their
    squares are uniform. crop_location: "center" or "random". crop_anisotropy: aspect of that part
    over that of the result, or (least, largest), log-uniform; 0: that of the picture, squashed.
    flip: mirror every second one, at random. subtract_average: a number, one per channel, or an
    image of the size of the result. brightness: standard deviation of a shift of the colours, one
    number, one per channel, or C x C: the square root of a covariance. contrast, saturation: c and
    s are uniform in 1 - contrast .. 1 + contrast, and so on; 0 for no change. interpolation: the
    kernel, see `resize`.

    Raises: ValueError, TypeError, naming the option.
    Source: vl_imreadjpeg.
    """

    resize: Any = None
    crop_size: Any = 1.0
    crop_location: Location = "center"
    crop_anisotropy: Any = 1.0
    flip: bool = False
    subtract_average: Any = 0.0
    brightness: Any = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    interpolation: Method = "bilinear"

    def __post_init__(self):
        size = _resize(self.resize)
        values: dict[str, Any] = {
            "resize": size,
            "crop_size": _range("crop_size", self.crop_size, 1.0),
            "crop_anisotropy": _range("crop_anisotropy", self.crop_anisotropy, np.inf),
            "subtract_average": _average(self.subtract_average, size),
            "brightness": _brightness(self.brightness),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        for name in ("contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; wanted 0 to 1")
        choices = {
            "crop_location": get_args(Location),
            "interpolation": get_args(Method),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                wanted = ", ".join(known)
                raise ValueError(f"{name} is {getattr(self, name)!r}; wanted one of {wanted}")

    def place(self, shape: Sequence[int], draws: Sequence[float]) -> Placement:
        """The part of a picture of shape (H, W, ...) that is taken, and its new size."""
        return place(
            shape[0],
            shape[1],
            self.resize,
            self.crop_size,
            self.crop_anisotropy,
            self.crop_location,
            draws,
        )

    def prepare(
        self,
        pixels: np.ndarray,
        draws: Sequence[float],
        channels: int | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Cut, resize and jitter a picture.

            out = saturation o (contrast(resized) + brightness - average)

        Args:
            pixels: H x W x C, uint8 or float32, values 0 to 255; C is 1 or 3.
            draws: DRAWS numbers, uniform in [0, 1).
            channels: 3 to make colour of grey; None to keep the channels that there are. Grey
                becomes colour wherever an average image of colour is subtracted.
            out: where the result is written; None for new memory.

        Returns: H' x W' x C' float32.
        """
        if pixels.shape[2] == 1 and 3 in (channels, self._average_depth):
            pixels = pixels.repeat(3, axis=2)
        size, box = self.place(pixels.shape, draws)
        flip = self.flip and draws[4] < 0.5
        out = resize(pixels, size, box, self.interpolation, flip, out)
        self._colour(out, draws[5:])
        return out

    @property
    def _average_depth(self) -> int | None:
        """Channels of the average image, if one is subtracted."""
        return self.subtract_average.shape[2] if self.subtract_average.ndim == 3 else None

    def _colour(self, v: np.ndarray, draws: Sequence[float]) -> None:
        channels = v.shape[2]
        saturation = 1 + self.saturation * (2 * draws[0] - 1)
        contrast = 1 + self.contrast * (2 * draws[1] - 1)
        shift = -self.subtract_average[..., :channels]
        if self.brightness.any():
            shift = shift + (self.brightness @ normals(draws[2:6])[:3])[:channels]
        if shift.any() or contrast != 1 or saturation != 1:
            shift = np.broadcast_to(shift, (*shift.shape[:-1], channels))
            change_colours(v, shift, contrast, saturation)


def _resize(value: Any) -> tuple[int, ...] | None:
    """Whole numbers of pixels, one or two."""
    if value is None:
        return None
    numbers = np.asarray(value, float).ravel()
    if numbers.shape not in ((1,), (2,)) or not np.isfinite(numbers).all() or numbers.min() < 1:
        raise ValueError(f"resize is {value!r}; wanted one or two numbers, 1 or more")
    return tuple(int(number) for number in numbers)


def _range(name: str, value: Any, most: float) -> tuple[float, float]:
    numbers = np.asarray(value, float).ravel()
    if numbers.shape == (1,):
        numbers = numbers.repeat(2)
    if numbers.shape != (2,) or not 0 <= numbers[0] <= numbers[1] <= most or np.isinf(numbers[1]):
        wanted = "0 or more" if most == np.inf else f"from 0 to {most:g}"
        raise ValueError(
            f"{name} is {value!r}; wanted a number, or the least and the largest, {wanted}"
        )
    return float(numbers[0]), float(numbers[1])


def _average(value: Any, size: tuple[int, ...] | None) -> np.ndarray:
    """One number per channel, or an image of the size of the result; floats."""
    array: np.ndarray = np.asarray(to_numpy(to_tensor(value)))
    if array.dtype.kind not in "iuf":
        raise TypeError(f"subtract_average is {array.dtype}; wanted numbers")
    if array.ndim <= 1 or array.size == array.shape[-1] or array.size == array.shape[0]:
        array = array.reshape(-1)  # a colour, in any direction
    shape: tuple[int, ...] = array.shape
    if shape in ((1,), (3,)):
        return array.astype(np.float64)
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(
            f"subtract_average has shape {shape}; wanted a number, 3 numbers or H x W x 3"
        )
    if shape[:2] != size:
        raise ValueError(
            f"subtract_average is {shape[0]} x {shape[1]} pixels, resize is {size}; wanted the same"
        )
    return array.astype(np.float32)


def _brightness(value: Any) -> np.ndarray:
    """The 3 x 3 matrix that makes a shift of three normal numbers."""
    array = np.asarray(to_numpy(to_tensor(value)), np.float64)
    if array.shape == (3, 3):
        return array
    if array.size not in (1, 3):
        raise ValueError(f"brightness has shape {array.shape}; wanted a number, 3 numbers or 3 x 3")
    return np.diag(np.broadcast_to(array.reshape(-1), 3))
