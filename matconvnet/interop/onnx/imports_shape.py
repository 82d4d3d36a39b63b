"""How ONNX operators that only change shapes are read: most of them leave a map as it is."""

import math
from collections.abc import Sequence

import numpy as np

from matconvnet.interop.onnx.builder import Builder, Map, Op, OperatorError, Value

FLOATS = (1, 10, 11, 16)
"""Numbers of the types float, float16, double, bfloat16 in ONNX."""


def _map(b: Builder, op: Op) -> Map:
    x = op.inputs[0]
    if not isinstance(x, Map):
        raise OperatorError(f"{op.kind} of this constant is not known; wanted that of a map")
    return b.settled(op, x)


def identity(b: Builder, op: Op) -> Value:
    """Identity."""
    return _map(b, op)


def cast(b: Builder, op: Op) -> Value:
    """Cast, from one type of floats to another."""
    if op.attributes["to"] not in FLOATS:
        raise OperatorError("it makes whole numbers of a map; wanted floats")
    return _map(b, op)


def shape(b: Builder, op: Op) -> Value:
    """Shape: sizes as far as they are known; nan for the others."""
    x = _map(b, op)
    h, w, c, n = x.size
    sizes = np.array([n, c * h * w] if x.flat else [n, c, h, w], float)
    sizes = sizes if np.isnan(sizes).any() else sizes.astype(np.int64)
    return sizes[op.attributes.get("start") : op.attributes.get("end")]


def flatten(b: Builder, op: Op) -> Value:
    """Flatten all but the images."""
    x = _map(b, op)
    if op.attributes.get("axis", 1) not in (1, 1 - (2 if x.flat else 4)):
        raise OperatorError("it joins images and pixels; wanted axis 1")
    return x._replace(flat=True)


def reshape(b: Builder, op: Op) -> Value:
    """Reshape to rows of numbers, and from rows to the map that they were or to one pixel."""
    x, wanted = _map(b, op), [float(n) for n in op.weight(1, "its sizes").ravel()]
    h, w, c, n = x.size
    shape = (n, c * h * w) if x.flat else (n, c, h, w)
    if not op.attributes.get("allowzero"):
        wanted = [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(wanted)]
    if len(wanted) == 2 and _agree(wanted, (n, c * h * w)):
        return x._replace(flat=True)
    if len(wanted) == 4 and _agree(wanted, (n, c, h, w)):
        return x._replace(flat=False)
    raise OperatorError(f"it makes {wanted} of {shape}; wanted rows of numbers, or the same map")


def _agree(wanted: Sequence[float], found: Sequence[float]) -> bool:
    """True, if `wanted` comes to the shape `found`; -1 is what is left, nan a size not known.

    The number of images may be not known; that of a file made for so many does not count then.
    """
    same = [p == q or (math.isnan(p) and math.isnan(q)) for p, q in zip(wanted, found, strict=True)]
    left = [p == -1 for p in wanted]
    first = same[0] or (not any(left[1:]) and (left[0] or math.isnan(found[0])))
    return first and sum(left) <= 1 and all(p or q for p, q in zip(same[1:], left[1:], strict=True))


def squeeze(b: Builder, op: Op) -> Value:
    """Squeeze the two axes of pixels away."""
    x = _map(b, op)
    if x.flat or _axes(op, 4) != [2, 3] or not x.is_vector:
        raise OperatorError(
            f"it takes axes {_axes(op, 4)} of a map {x.size}; wanted both of one pixel"
        )
    return x._replace(flat=True)


def unsqueeze(b: Builder, op: Op) -> Value:
    """Unsqueeze the two axes of pixels."""
    x = _map(b, op)
    if not x.flat or _axes(op, 4) != [2, 3] or not x.is_vector:
        raise OperatorError(
            f"it adds axes {_axes(op, 4)} to {x.size}; wanted 2 and 3, to one pixel"
        )
    return x._replace(flat=False)


def _axes(op: Op, rank: int) -> list[int]:
    """Axes from an attribute, or (since version 13) from the second input."""
    given = op.constant(1, "its axes")
    axes = op.attributes.get("axes", ()) if given is None else given.ravel()
    return sorted(int(axis) % rank for axis in axes)


def pad(b: Builder, op: Op) -> Value:
    """Pad, with zeros or (before max pooling) minus infinity; the next layer adds it, if it can."""
    x = op.inputs[0]
    if not isinstance(x, Map) or x.flat:
        raise OperatorError("it pads what is no map")
    mode = op.attributes.get("mode", b"constant")
    if mode not in (b"constant", "constant"):
        raise OperatorError(f"its mode is {mode!r}; wanted constant")
    given, filling = op.constant(1, "its sizes"), op.constant(2, "its values")
    pads = op.numbers("pads", ()) if given is None else given.ravel()
    value = op.attributes.get("value", 0.0) if filling is None else float(filling)
    axes = op.constant(3, "its axes")
    axes = range(4) if axes is None else [int(axis) % 4 for axis in axes.ravel()]
    borders = [0] * 8
    for i, axis in enumerate(axes):
        borders[axis], borders[axis + 4] = int(pads[i]), int(pads[i + len(axes)])
    _, _, top, left, _, _, bottom, right = borders
    if min(borders) < 0 or any(borders[:2]) or any(borders[4:6]):
        raise OperatorError(
            f"its sizes are {borders}; wanted rows and columns, none of them cut off"
        )
    if any(x.pad) and x.filling != value:
        x = b.settled(op, x)
    more = tuple(p + q for p, q in zip(x.pad, (top, bottom, left, right), strict=True))
    return x._replace(pad=more, filling=value)
