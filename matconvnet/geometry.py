"""Geometry of a network: sizes and receptive fields of its variables, without evaluating it."""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import cast

from matconvnet.graph import Graph, Node
from matconvnet.layer import Field, Size4

Size = tuple[float, float, float, float]
"""(H, W, C, N) of a variable; nan where it is unknown."""
Shapes = Mapping[str, Sequence[int] | None]
"""Shapes of parameters by name; None for an absent one, as in `forward`."""

UNKNOWN: Size = (math.nan, math.nan, math.nan, math.nan)


def variable_sizes(
    graph: Graph, input_sizes: Mapping[str, Sequence[float]], param_shapes: Shapes
) -> dict[str, Size]:
    """Sizes (H, W, C, N) of all variables of a graph.

    Args:
        graph: structure of the network.
        input_sizes: sizes of its inputs, or of any variables, by name; nan for an unknown number.
            Ones are added to fewer than four; an empty size is that of an empty tensor, all zeros.
        param_shapes: shapes of the parameters by name, None for an absent one.

    Returns: sizes by variable, inputs first, then in the order in which variables are written.
        What follows from an unknown number, or from an input without a size, is nan.
    Raises: KeyError, if `input_sizes` names what is no variable. ValueError, if a size has more
        than four numbers, or one that is negative.
    Source: DagNN.getVarSizes.
    """
    _check_known(graph, input_sizes, "input_sizes names")
    given = {v: full_size(size, f"size of {v!r}") for v, size in input_sizes.items()}
    sizes = {v: given.get(v, UNKNOWN) for v in graph.inputs}
    for node in graph.nodes:
        # Layers compute with whole numbers; their arithmetic carries nan through.
        inputs = cast("list[Size4]", [sizes[v] for v in node.inputs])
        outputs = _output_sizes(node, inputs, param_shapes)
        for v, size in zip(node.outputs, outputs, strict=True):
            sizes[v] = given.get(v, size)
    return sizes


def receptive_fields(graph: Graph, variable: str, param_shapes: Shapes) -> dict[str, Field | None]:
    """Receptive fields, in `variable`, of the variables computed from it.

    Along a path fields compose, and where paths meet the result covers all of them:

        size   = s1 * (size2 - 1) + size1
        stride = s1 * s2
        offset = o1 + s1 * o2

    Args:
        graph: structure of the network.
        variable: the variable in whose pixels fields are measured.
        param_shapes: shapes of the parameters by name, None for an absent one.

    Returns: fields by variable, `variable` itself first. None: it depends on `variable`, but not by
        a window that slides (a loss; paths of different strides). A variable that does not depend
        on it is left out.
    Raises: KeyError, if there is no such variable.
    Source: DagNN.getVarReceptiveFields, whose offsets are counted from 1: ours plus one.
    """
    _check_known(graph, (variable,), "variable is")
    found: dict[str, Field | None] = {variable: Field()}
    for node in graph.nodes:
        rules = node.layer.receptive_fields(len(node.inputs), _shapes(node, param_shapes))
        paths: list[Field | None] = []
        # Rules may be fewer than inputs: the layer looks at the values of those alone.
        for v, rule in zip(node.inputs, rules, strict=False):
            if v in found:
                base = found[v]
                paths.append(None if base is None or rule is None else compose(base, rule))
        if paths:
            found.update(dict.fromkeys(node.outputs, reduce(merge, paths)))
    return found


def compose(first: Field, second: Field) -> Field:
    """Field of a layer's output: that of its input, `first`, then that of the layer, `second`."""
    (h1, w1), (sy1, sx1), (y1, x1) = first
    (h2, w2), (sy2, sx2), (y2, x2) = second
    return Field(
        size=(sy1 * (h2 - 1) + h1, sx1 * (w2 - 1) + w1),
        stride=(sy1 * sy2, sx1 * sx2),
        offset=(y1 + sy1 * y2, x1 + sx1 * x2),
    )


def merge(a: Field | None, b: Field | None) -> Field | None:
    """The smallest field that covers two of the same stride; None, if their strides differ."""
    if a is None or b is None:
        return None
    if not all(map(math.isclose, a.stride, b.stride)):
        return None
    (height, y), (width, x) = (
        _cover(a.size[i], a.offset[i], b.size[i], b.offset[i]) for i in range(2)
    )
    return Field((height, width), a.stride, (y, x))


def _cover(size1: float, offset1: float, size2: float, offset2: float) -> tuple[float, float]:
    """Size and centre of the smallest interval that contains two; each reaches (size - 1) / 2."""
    low = min(offset1 - (size1 - 1) / 2, offset2 - (size2 - 1) / 2)
    high = max(offset1 + (size1 - 1) / 2, offset2 + (size2 - 1) / 2)
    return high - low + 1, (low + high) / 2


def full_size(size: Sequence[float], name: str) -> Size:
    """Four numbers H, W, C, N from up to four: ones are added; no numbers at all mean zeros."""
    numbers = tuple(size)
    if len(numbers) > 4:
        raise ValueError(f"{name} is {size!r}, {len(numbers)} numbers; wanted up to 4, H W C N")
    if any(number < 0 for number in numbers):
        raise ValueError(f"{name} is {size!r}; wanted no negative number")
    h, w, c, n = (*numbers, 1, 1, 1, 1)[:4] if numbers else (0, 0, 0, 0)
    return h, w, c, n


def _output_sizes(node: Node, inputs: list[Size4], param_shapes: Shapes) -> tuple[Size, ...]:
    try:
        return node.layer.output_sizes(inputs, _shapes(node, param_shapes))
    except Exception as error:
        error.add_note(f"in layer {node.name!r} ({type(node.layer).__name__}), inputs {inputs}")
        raise


def _shapes(node: Node, param_shapes: Shapes) -> tuple[Sequence[int] | None, ...]:
    return tuple(param_shapes[p] for p in node.params)


def _check_known(graph: Graph, names, what: str) -> None:
    known = [*graph.inputs, *graph.producer]
    unknown = [v for v in names if v not in known]
    if unknown:
        raise KeyError(f"{what} {unknown}, which the graph does not have; wanted among {known}")
