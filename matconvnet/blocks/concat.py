"""Concatenation: maps joined along one axis."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matconvnet.blocks._checks import check_map, check_projection, check_same
from matconvnet.layer import Field, Layer, Size4
from matconvnet.layout import array_api, hwcn, nchw
from matconvnet.window import integers

NCHW_AXIS = (2, 3, 1, 0)
"""Where axis 0..3 of H x W x C x N is in N x C x H x W."""


@array_api
def concat(inputs: Sequence[Tensor], *, dim: int = 2) -> Tensor:
    """Join maps along axis `dim`, in order.

        dim = 2:  y[i, j, C_0 + .. + C_(k-1) + d, n] = inputs[k][i, j, d, n]

    Args:
        inputs: maps of floats, equal in all axes but `dim`. A size of 0 along `dim` will do, and
            so will an empty tensor of shape (0,) or (0, 0): it adds nothing.
        dim: axis, 0..3: rows, columns, channels, images.

    Returns: the map with the sum of the sizes along `dim`.

    Raises:
        TypeError: types or devices differ.
        ValueError: no input; sizes that differ in another axis; `dim` not in 0..3.

    Source: vl_nnconcat.
    """
    axis = _axis(dim)
    sizes = _sizes(inputs, axis)
    maps = [nchw(check_map(x)) for x, size in zip(inputs, sizes, strict=True) if size is not None]
    return hwcn(torch.cat(maps, NCHW_AXIS[axis]))


@array_api
def concat_backward(
    inputs: Sequence[Tensor] | None,
    dzdy: Tensor,
    *,
    dim: int = 2,
    input_sizes: Sequence[Sequence[int]] | None = None,
) -> list[Tensor]:
    """Derivatives of `concat` projected on `dzdy`: the part of `dzdy` that each input became.

    Args:
        inputs: as in `concat`; not looked at (None will do) if there are `input_sizes`.
        dzdy: shape of the output of `concat`.
        dim: as in `concat`.
        input_sizes: shapes of the inputs.

    Returns: one derivative per input, with its shape; views of `dzdy`.
    Raises: as `concat`; ValueError, if `dzdy` has not the shape of the output.
    Source: vl_nnconcat.
    """
    axis = _axis(dim)
    if input_sizes is None:
        sizes = _sizes(inputs or (), axis)
        shapes = [tuple(x.shape) for x in inputs or ()]
    else:
        shapes = [
            integers(s, f"input_sizes[{k}]", (1, 2, 3, 4), 0) for k, s in enumerate(input_sizes)
        ]
        sizes = _fitting(shapes, axis, "input_sizes")
    total = sum(size[axis] for size in sizes if size is not None)
    like = next(size for size in sizes if size is not None)
    dzdy = check_projection(dzdy, (*like[:axis], total, *like[axis + 1 :]), dzdy)
    parts = dzdy.split([0 if size is None else size[axis] for size in sizes], axis)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _axis(dim: int) -> int:
    axis = integers(dim, "dim", (1,), 0)[0]
    if axis > 3:
        raise ValueError(f"dim is {dim}; wanted 0 (rows), 1 (columns), 2 (channels) or 3 (images)")
    return axis


def _sizes(inputs: Sequence[Tensor], axis: int) -> list[Size4 | None]:
    for k, x in enumerate(inputs):
        check_map(x, f"inputs[{k}]")
        check_same(inputs[0], **{f"inputs[{k}]": x})
    return _fitting([tuple(x.shape) for x in inputs], axis, "inputs")


def _fitting(shapes: Sequence[tuple[int, ...]], axis: int, name: str) -> list[Size4 | None]:
    """Sizes (H, W, C, N) that agree but for `axis`; None for an input that adds nothing."""
    sizes = [None if shape in ((0,), (0, 0)) else _size4(shape) for shape in shapes]
    like = next((size for size in sizes if size is not None), None)
    if like is None:
        raise ValueError(f"{name} has {len(shapes)} elements, none of them a map; wanted maps")
    for k, size in enumerate(sizes):
        if size is not None and any(size[i] != like[i] for i in range(4) if i != axis):
            raise ValueError(
                f"{name}[{k}] has size {size}, another input has {like}; "
                f"wanted equal sizes in all axes but {axis}"
            )
    return sizes


def _size4(shape: Sequence[int]) -> Size4:
    h, w, c, n = (*shape, 1, 1, 1)[:4]
    return h, w, c, n


@dataclass(frozen=True)
class Concat(Layer):
    """Layer form of `concat`; its derivative needs only the sizes of the inputs, which it saves."""

    type_name, needs = "concat", frozenset()
    counted_from_one = ("dim",)
    num_inputs = None
    dim: int = 2

    def forward(self, inputs, params, ctx):
        """See `concat`."""
        return (concat(inputs, dim=self.dim),), [tuple(x.shape) for x in inputs]

    def backward(self, call, der_outputs):
        """See `concat_backward`."""
        ders = concat_backward(call.inputs, der_outputs[0], dim=self.dim, input_sizes=call.saved)
        return tuple(ders), ()

    def output_sizes(self, sizes, param_shapes):
        """The sizes along `dim` add up."""
        size = list(sizes[0])
        size[self.dim] = sum(size[self.dim] for size in sizes)
        return (_size4(size),)

    def receptive_field(self, param_shapes):
        """A pixel, if pixels stay where they are."""
        return Field() if self.dim >= 2 else None
