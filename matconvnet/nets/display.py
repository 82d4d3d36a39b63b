"""A SimpleNN as a table: geometry, receptive fields, memory and work of every layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from matconvnet.blocks import LRN, Conv, ConvTranspose, Pooling, Softmax, SoftmaxLoss
from matconvnet.geometry import Shapes, Size, compose, variable_sizes
from matconvnet.layer import Field, Filter, Layer, Size4
from matconvnet.nets import meta
from matconvnet.nets.fields import is_empty, to_list
from matconvnet.nets.registry import Unknown
from matconvnet.nets.simplenn import Link, SimpleNN
from matconvnet.nets.tables import Format, Line, count_text, dims_text, memory_text, table_text
from matconvnet.window import pair, quad

BYTES = 4
"""Memory of a number, whatever its type."""


@dataclass(frozen=True)
class Row:
    """What the table says of one layer.

    type: the name of its type, abbreviated. support, stride: (vertical, horizontal), and pad: (top,
    bottom, left, right), of the window that slides over the input, in pixels of the input; for a
    convolution transpose, of the window of input pixels that one output pixel sees. filter_dim,
    num_filters, dilate: of a convolution, else None. field: receptive field of an output pixel in
    the input of the network. size: (H, W, C, N) of the output, nan where unknown. num_params:
    numbers in its weights. multiply_adds: of one forward evaluation; nan where unknown.
    """

    type: str
    name: str
    support: tuple[float, float]
    filter_dim: int | None
    num_filters: int | None
    dilate: tuple[int, int] | None
    stride: tuple[float, float]
    pad: tuple[float, float, float, float]
    field: Field
    size: Size
    num_params: int
    multiply_adds: float


@dataclass(frozen=True)
class Table:
    """The rows of all layers, in order, and the size (H, W, C, N) of the input."""

    input_size: Size
    rows: tuple[Row, ...]

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Sizes of all variables, the input first."""
        return (self.input_size, *(row.size for row in self.rows))

    @property
    def data_memory(self) -> float:
        """Bytes of one copy of each variable; nan if unknown."""
        return sum(BYTES * math.prod(size) for size in self.sizes)

    @property
    def num_params(self) -> int:
        """Numbers in all weights."""
        return sum(row.num_params for row in self.rows)

    @property
    def multiply_adds(self) -> float:
        """Multiply-add operations of one forward evaluation; nan if unknown."""
        return sum(row.multiply_adds for row in self.rows)


def describe(
    net: SimpleNN, input_size: Sequence[float] | None = None, batch_size: float | None = None
) -> Table:
    """Sizes, receptive fields, memory and work of the layers of `net`.

    Args:
        net: the network.
        input_size: up to four numbers H, W, C, N of its input. None: `net.meta["inputSize"]`, else
            `net.meta["normalization"]["imageSize"]`, else unknown. A missing N is 1.
        batch_size: N, in place of the one in the size.

    Raises: ValueError, if the size has more than four numbers.
    Source: vl_simplenn_display. Unlike there, a convolution transpose has a geometry, and the value
        of a loss is one number.
    """
    shapes = {
        name: None if value is None else tuple(value.shape) for name, value in net.values().items()
    }
    size = _input_size(net, input_size, batch_size)
    sizes = variable_sizes(net.graph, {net.input: size}, shapes) if net.layers else {}
    field: Field = Field()
    rows = []
    for i, link in enumerate(net.layers):
        before, after = sizes[f"x{i}"], sizes[f"x{i + 1}"]
        row = _row(link, shapes, field, before, after)
        field = row.field
        rows.append(row)
    return Table(size, tuple(rows))


def render(table: Table, format: Format = "ascii", max_num_columns: int = 18) -> str:
    """The table as text, a column for each layer, and below it the totals.

    Offsets of receptive fields are printed as the original does, the first pixel being 1.

    Args:
        table: what `describe` returned.
        format: "ascii", "latex" or "csv".
        max_num_columns: columns of one table, besides the labels; what is left follows below.

    Raises: ValueError, if the format is unknown or there may be no column.
    Source: vl_simplenn_display; the multiply-adds are ours.
    """
    if max_num_columns < 1:
        raise ValueError(f"max_num_columns is {max_num_columns}; wanted at least 1")
    lines, step = _lines(table), max_num_columns
    blocks = [
        [line and [line[0], *line[start : start + step]] for line in lines]
        for start in range(1, len(table.sizes) + 1, step)
    ]
    return "".join(table_text(block, format) + "\n" for block in [*blocks, _totals(table)])


def _input_size(net: SimpleNN, given: Any, batch_size: Any) -> Size:
    """The size of the input as far as it is known."""
    numbers = meta.input_size(net.meta, net.input) if is_empty(given) else to_list(given)
    if len(numbers) > 4:
        raise ValueError(f"input size is {numbers}; wanted up to 4 numbers, H W C N")
    h, w, c, n = (*numbers, *(math.nan,) * (3 - len(numbers)), 1)[:4]
    n = n if is_empty(batch_size) else batch_size
    return _whole(h), _whole(w), _whole(c), _whole(n)


def _whole(number: float) -> float:
    return int(number) if number == number and number == int(number) else number


def _row(link: Link, shapes: Shapes, field: Field, before: Size, after: Size) -> Row:
    layer = link.layer
    param_shapes = [shapes[param.name] for param in link.params]
    own = layer.receptive_field(param_shapes) or Field()  # a loss leaves the field as it is
    is_conv = isinstance(layer, Conv)
    bank = (*(param_shapes[0] or ()), 1, 1, 1, 1) if is_conv else None
    return Row(
        type=_abbreviation(layer),
        name=link.name,
        support=own.size,
        filter_dim=bank[2] if bank else None,
        num_filters=bank[3] if bank else None,
        dilate=pair(layer.dilate, "dilate") if is_conv else None,
        stride=own.stride,
        pad=_pad(layer, own),
        field=compose(field, own),
        size=after,
        num_params=sum(math.prod(shape) for shape in param_shapes if shape is not None),
        multiply_adds=layer.multiply_adds([cast("Size4", before)], param_shapes),
    )


def _abbreviation(layer: Layer) -> str:
    if isinstance(layer, Pooling):
        return "apool" if layer.method.lower() == "avg" else "mpool"
    if isinstance(layer, Unknown):
        return layer.kind
    short = {LRN: "norm", Softmax: "softmx", SoftmaxLoss: "softmxl"}
    return short.get(type(layer), layer.type_name)


def _pad(layer: Layer, own: Field) -> tuple[float, float, float, float]:
    """Padding that makes output = floor((input + pads - support) / stride) + 1."""
    if isinstance(layer, Filter):
        return quad(layer.pad, "pad")
    if isinstance(layer, ConvTranspose):
        top, bottom, left, right = quad(layer.crop, "crop")
        (support_y, support_x), (stride_y, stride_x) = own.size, own.stride
        return (
            support_y - 1 - top * stride_y,
            support_y - 1 - bottom * stride_y,
            support_x - 1 - left * stride_x,
            support_x - 1 - right * stride_x,
        )
    return (0, 0, 0, 0)


def _lines(table: Table) -> list[Line]:
    """The cells of the whole table, in the order of the original."""

    def layers(label: str, cell: Callable[[Row], str], first: str = "n/a") -> list[str]:
        return [label, first, *map(cell, table.rows)]

    def data(label: str, cell: Callable[[Size], str]) -> list[str]:
        return [label, *map(cell, table.sizes)]

    return [
        ["layer", *(str(i) for i in range(len(table.sizes)))],
        layers("type", lambda row: row.type, "input"),
        layers("name", lambda row: row.name),
        None,
        layers("support", lambda row: dims_text(row.support)),
        layers("filt dim", lambda row: _optional(row.filter_dim)),
        layers("filt dilat", lambda row: _optional(row.dilate)),
        layers("num filts", lambda row: _optional(row.num_filters)),
        layers("stride", lambda row: dims_text(row.stride)),
        layers("pad", lambda row: dims_text(row.pad)),
        None,
        layers("rf size", lambda row: dims_text(row.field.size)),
        layers("rf offset", lambda row: dims_text([o + 1 for o in row.field.offset])),
        layers("rf stride", lambda row: dims_text(row.field.stride)),
        None,
        data("data size", lambda size: dims_text(size[:2])),
        data("data depth", lambda size: _number(size[2])),
        data("data num", lambda size: _number(size[3])),
        None,
        data("data mem", lambda size: memory_text(BYTES * math.prod(size))),
        layers("param mem", lambda row: memory_text(BYTES * row.num_params)),
        layers("mult-adds", lambda row: count_text(row.multiply_adds)),
    ]


def _optional(value: int | tuple[int, int] | None) -> str:
    if value is None:
        return "n/a"
    return dims_text(value) if isinstance(value, tuple) else _number(value)


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else str(value)


def _totals(table: Table) -> list[Line]:
    memory = memory_text(BYTES * table.num_params)
    batch = f"(for batch size {_number(table.input_size[3])})"
    return [
        ["parameter memory", f"{memory} ({table.num_params:.2g} parameters)"],
        ["data memory", f"{memory_text(table.data_memory)} {batch}"],
        ["mult-adds", f"{count_text(table.multiply_adds)} {batch}"],
    ]
