"""Cropping: cut rows and columns off the borders of a map."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from matconvnet.blocks._checks import check_float, check_map, check_projection
from matconvnet.layer import Field, Layer
from matconvnet.layout import array_api, hwcn, nchw
from matconvnet.window import integers


@array_api
def crop(x: Tensor, crop: Sequence[int]) -> Tensor:
    """Cut rows and columns off the borders of `x`.

        y[i,j,c,n] = x[top + i, left + j, c, n]

    Args:
        x: H x W x C x N map of floats.
        crop: (top, bottom, left, right), in pixels, always four numbers.

    Returns: (H - top - bottom) x (W - left - right) x C x N.
    Raises: ValueError, if a number is negative or more is cut than there is.
    Source: vl_nncrop.
    """
    x4 = check_map(x)
    top, bottom, left, right = _borders(crop, tuple(x4.shape))
    h, w = x4.shape[:2]
    return x4[top : h - bottom, left : w - right].clone()


@array_api
def crop_backward(
    x: Tensor | None,
    dzdy: Tensor,
    crop: Sequence[int],
    *,
    input_size: Sequence[int] | None = None,
) -> Tensor:
    """Derivative of `crop` projected on `dzdy`: `dzdy` framed with zeros.

    Args:
        x: as in `crop`; not looked at (None will do) if there is `input_size`.
        crop: as in `crop`.
        dzdy: shape of the output of `crop`.
        input_size: shape of `x`.

    Returns: the shape of `x`.
    Raises: as `crop`; ValueError, if `dzdy` has not the shape of the output.
    Source: vl_nncrop.
    """
    check_float(dzdy, "dzdy")
    if input_size is not None:
        shape = integers(input_size, "input_size", (1, 2, 3, 4), 0)
    elif x is not None:
        shape = tuple(check_map(x).shape[: x.dim()])
    else:
        raise ValueError("x and input_size are None; wanted one of them")
    h, w, c, n = (*shape, 1, 1, 1)[:4]
    top, bottom, left, right = _borders(crop, (h, w))
    wanted = (h - top - bottom, w - left - right, c, n)
    dzdy = check_projection(dzdy, wanted, dzdy if input_size is not None or x is None else x)
    return hwcn(F.pad(nchw(dzdy), (left, right, top, bottom))).reshape(shape)


def _borders(crop: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    borders = top, bottom, left, right = integers(crop, "crop", (4,), 0)
    if top + bottom > shape[0] or left + right > shape[1]:
        raise ValueError(
            f"crop is {borders} (top, bottom, left, right), x has {tuple(shape[:2])} pixels; "
            "wanted to cut no more than that"
        )
    return borders


@dataclass(frozen=True)
class Crop(Layer):
    """Layer form of `crop`: cuts its first input to the height and width of its second.

    `crop` is what is cut at the top and at the left, in pixels, as far as there is so much to cut;
    the rest is cut at the bottom and at the right. Saves the shape of x and the borders.
    """

    type_name, needs = "crop", frozenset()
    num_inputs = 2
    crop: Sequence[int] = (0, 0)

    def forward(self, inputs, params, ctx):
        """See `crop`."""
        shape, borders = self._cut(inputs)
        return (crop(inputs[0], borders),), (shape, borders)

    def backward(self, call, der_outputs):
        """See `crop_backward`; the second input has no derivative."""
        shape, borders = call.saved or self._cut(call.inputs)
        return (crop_backward(None, der_outputs[0], borders, input_size=shape), None), ()

    def _cut(self, inputs):
        """The shape of x, and what to cut off it (top, bottom, left, right)."""
        x, reference = inputs
        size, limits = check_map(x).shape, check_map(reference, "reference").shape
        wanted = integers(self.crop, "crop", (2,), 0)
        excess = [size[i] - limits[i] for i in range(2)]
        if min(excess) < 0:
            raise ValueError(
                f"x has {tuple(size[:2])} pixels, the reference {tuple(limits[:2])}; "
                "wanted a reference that is no larger"
            )
        (top, left) = (min(e, c) for e, c in zip(excess, wanted, strict=True))
        return tuple(x.shape), (top, excess[0] - top, left, excess[1] - left)

    def output_sizes(self, sizes, param_shapes):
        """Height and width of the second input, channels and images of the first."""
        return ((*sizes[1][:2], *sizes[0][2:]),)

    def receptive_field(self, param_shapes):
        """A pixel, displaced by what is cut at the top and at the left."""
        top, left = integers(self.crop, "crop", (2,), 0)
        return Field(offset=(top, left))

    def receptive_fields(self, count, param_shapes):
        """Of the second input only the size is read."""
        return (self.receptive_field(param_shapes),)
