"""What a network knows of a block: the Layer contract, and what the executor hands to it.

A layer is a frozen description (type and options). It owns no tensors and keeps no state: values
come in, values go out, and what backward reads is declared in `needs` or returned as `saved`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from matconvnet.window import Pad4, Size2, output_size, pair, quad

Tensors = tuple[Any, ...]
"""Tensors in order; None for one that is absent or withheld."""
Size4 = tuple[int, int, int, int]


class Context(NamedTuple):
    """How a network is evaluated: training or test mode, and where random numbers come from."""

    training: bool = True
    generator: torch.Generator | None = None


class Call(NamedTuple):
    """One evaluation of a layer, as its backward sees it.

    `inputs` and `outputs` hold None for whatever the layer did not declare in `needs`. `saved` is
    what forward returned beside its outputs, or None when it was not kept: a layer that can
    recompute it does. `wanted` tells for each input whether its derivative will be used. `out` may
    hold, for each parameter, a tensor of its shape that backward may write the derivative to.
    """

    inputs: Tensors
    params: Tensors
    outputs: Tensors
    saved: Any
    ctx: Context
    wanted: tuple[bool, ...]
    out: Tensors = ()


class Field(NamedTuple):
    """Receptive field of one output pixel in an input, (vertical, horizontal), in pixels.

    Output pixel (i, j) is centred at `offset + stride * (i, j)`, counted from the centre of the
    first input pixel, and depends on `size` pixels around that centre.
    """

    size: tuple[float, float] = (1, 1)
    stride: tuple[float, float] = (1, 1)
    offset: tuple[float, float] = (0, 0)


@dataclass(frozen=True)
class Layer(ABC):
    """Description of a block in a network; subclasses are frozen, their fields the options.

    type_name: the name in SimpleNN structs; aliases: other names that mean the same.
    needs: which of {"inputs", "outputs"} backward reads; the executor may free the rest.
    param_names: the learnable parameters, in order.
    averaged_params: those that are running averages of what backward returns for them.
    num_inputs: how many maps it reads; None: any number.
    label_inputs: how many more inputs are labels or targets given from outside.
    keeps_saved: what forward saved is kept even when memory is conserved, to repeat the call.
    struct_names: exceptions to the rule that a field `num_groups` is `numGroups` in a SimpleNN
        struct; None: the field has no place there.
    dag_type: the class in DagNN files, without "dagnn."; by default that of Python.
    dag_names: `struct_names` for DagNN files.
    dag_defaults: values of fields that DagNN files leave out, where they are not the defaults.
    counted_from_one: fields that files count from 1, such as the number of an axis.
    """

    type_name: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[frozenset[str]] = frozenset({"inputs"})
    param_names: ClassVar[tuple[str, ...]] = ()
    averaged_params: ClassVar[tuple[str, ...]] = ()
    num_inputs: ClassVar[int | None] = 1
    label_inputs: ClassVar[int] = 0
    is_loss: ClassVar[bool] = False
    keeps_saved: ClassVar[bool] = False
    struct_names: ClassVar[Mapping[str, str | None]] = {}
    dag_type: ClassVar[str] = ""
    dag_names: ClassVar[Mapping[str, str | None]] = {}
    dag_defaults: ClassVar[Mapping[str, Any]] = {}
    counted_from_one: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "dag_type" not in vars(cls):
            cls.dag_type = cls.__name__

    @abstractmethod
    def forward(
        self, inputs: Tensors, params: Tensors, ctx: Context
    ) -> tuple[tuple[Tensor, ...], Any]:
        """Evaluate the block: (outputs, saved)."""

    @abstractmethod
    def backward(self, call: Call, der_outputs: Tensors) -> tuple[Tensors, Tensors]:
        """Derivatives projected on `der_outputs`: (one per input, one per parameter)."""

    def sparing(self) -> "Layer":
        """What takes the place of the layer, where it alone would keep its outputs.

        A layer whose derivative reads less than all of its outputs may save that instead.
        """
        return self

    def init_params(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """New values of the parameters, drawn from `generator`."""
        return []

    def options(self) -> dict[str, Any]:
        """The fields by name: keyword options of the block."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def output_sizes(
        self, sizes: Sequence[Size4], param_shapes: Sequence[Sequence[int] | None]
    ) -> tuple[Size4, ...]:
        """Sizes (H, W, C, N) of the outputs, given those of the inputs and of the parameters."""
        return (sizes[0],)

    def receptive_field(self, param_shapes: Sequence[Sequence[int] | None]) -> Field | None:
        """Receptive field of an output pixel in the first input; None if there is no such thing."""
        return Field()

    def receptive_fields(
        self, count: int, param_shapes: Sequence[Sequence[int] | None]
    ) -> tuple[Field | None, ...]:
        """Receptive field of an output pixel in each of `count` inputs: the same, as a rule.

        A layer that reads only the size of its last inputs returns fields of the others alone.
        """
        return (self.receptive_field(param_shapes),) * count

    def multiply_adds(
        self, sizes: Sequence[Size4], param_shapes: Sequence[Sequence[int] | None]
    ) -> int:
        """Multiply-add operations of one forward evaluation, where they dominate; else 0."""
        return 0


@dataclass(frozen=True)
class Elementwise(Layer):
    """A layer whose output has the size of its input, pixel by pixel."""


@dataclass(frozen=True)
class Filter(Layer):
    """A layer that slides a window over its input: stride and padding in pixels."""

    pad: Pad4 = field(default=0, kw_only=True)
    stride: Size2 = field(default=1, kw_only=True)

    @abstractmethod
    def window(self, param_shapes: Sequence[Sequence[int] | None]) -> tuple[int, int]:
        """Height and width of the window, in input pixels."""

    def output_sizes(self, sizes, param_shapes):
        """Sizes by floor((in + pads - window) / stride) + 1; the channels stay."""
        h, w, c, n = sizes[0]
        size_y, size_x = self.window(param_shapes)
        stride_y, stride_x = pair(self.stride, "stride")
        top, bottom, left, right = quad(self.pad, "pad")
        y = output_size(h + top + bottom, size_y, stride_y)
        x = output_size(w + left + right, size_x, stride_x)
        return ((y, x, c, n),)

    def receptive_field(self, param_shapes):
        """The window, its stride, and the centre of the first window."""
        size_y, size_x = self.window(param_shapes)
        top, _, left, _ = quad(self.pad, "pad")
        offset = ((size_y - 1) / 2 - top, (size_x - 1) / 2 - left)
        return Field((size_y, size_x), pair(self.stride, "stride"), offset)
