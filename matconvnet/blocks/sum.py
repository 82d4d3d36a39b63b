"""Sum: add maps of one size, element by element. (`sum` itself is Python's: the block is `add`.)"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from matconvnet.blocks._checks import check_map, check_projection, check_same
from matconvnet.layer import Layer, Size4
from matconvnet.layout import array_api
from matconvnet.window import integers


@array_api
def add(inputs: Sequence[Tensor]) -> Tensor:
    """Add maps of one size.

        y = inputs[0] + inputs[1] + .. + inputs[K-1]

    Args:
        inputs: maps of floats, H x W x C x N; axes of size 1 at the end may be left out.

    Returns: H x W x C x N, in memory of its own.

    Raises:
        TypeError: types or devices differ.
        ValueError: no input; sizes that differ.

    Source: dagnn.Sum.
    """
    _size(_shapes(inputs), "inputs")
    first, *others = [check_map(x) for x in inputs]
    if not others:
        return first.clone()
    y = first + others[0]
    for x in others[1:]:
        y.add_(x)
    return y


@array_api
def add_backward(
    inputs: Sequence[Tensor] | None,
    dzdy: Tensor,
    *,
    input_sizes: Sequence[Sequence[int]] | None = None,
) -> list[Tensor]:
    """Derivatives of `add` projected on `dzdy`: `dzdy` for every input.

        dz/dinputs[k] = dzdy

    Args:
        inputs: as in `add`; not looked at (None will do) if there are `input_sizes`.
        dzdy: shape of the output of `add`.
        input_sizes: shapes of the inputs.

    Returns: one derivative per input, with its shape; all are views of `dzdy`.
    Raises: as `add`; ValueError, if `dzdy` has not the shape of the output.
    Source: dagnn.Sum.
    """
    if input_sizes is None:
        maps = list(inputs or ())
        shapes = _shapes(maps)
        size, like = _size(shapes, "inputs"), maps[0]
    else:
        shapes = [
            integers(s, f"input_sizes[{k}]", (1, 2, 3, 4), 0) for k, s in enumerate(input_sizes)
        ]
        size, like = _size(shapes, "input_sizes"), dzdy
    dzdy = check_projection(dzdy, size, like)
    return [dzdy.reshape(shape) for shape in shapes]


def _shapes(inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
    for k, x in enumerate(inputs):
        check_map(x, f"inputs[{k}]")
        check_same(inputs[0], **{f"inputs[{k}]": x})
    return [tuple(x.shape) for x in inputs]


def _size(shapes: Sequence[tuple[int, ...]], name: str) -> Size4:
    """The size (H, W, C, N) that all have."""
    if not shapes:
        raise ValueError(f"{name} is empty; wanted at least one map")
    first, *others = [_size4(shape) for shape in shapes]
    for k, size in enumerate(others, 1):
        if size != first:
            raise ValueError(f"{name}[{k}] has size {size}; wanted that of {name}[0], {first}")
    return first


def _size4(shape: Sequence[int]) -> Size4:
    h, w, c, n = (*shape, 1, 1, 1)[:4]
    return h, w, c, n


@dataclass(frozen=True)
class Sum(Layer):
    """Layer form of `add`, of any number of inputs; saves their shapes."""

    type_name, needs = "sum", frozenset()
    num_inputs = None

    def forward(self, inputs, params, ctx):
        """See `add`."""
        return (add(inputs),), [tuple(x.shape) for x in inputs]

    def backward(self, call, der_outputs):
        """See `add_backward`."""
        return tuple(add_backward(call.inputs, der_outputs[0], input_sizes=call.saved)), ()

    def output_sizes(self, sizes, param_shapes):
        """The size of the first input; a warning, if another one is known to differ."""
        for k, size in enumerate(sizes):
            # An unknown number is nan, which differs from itself.
            if any(a != b and a == a and b == b for a, b in zip(size, sizes[0], strict=True)):
                warnings.warn(
                    f"input {k} of a Sum has size {size}, input 0 has {sizes[0]}; they cannot be "
                    "added",
                    UserWarning,
                    stacklevel=2,
                )
        return (sizes[0],)
