"""Operators whose inputs are constants, or sizes: what they come to is known when a file is read.

A size that is not known is nan, which arithmetic carries along.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

SMALL = 4096
"""Elements of arrays that all operators take; larger ones are only turned and reshaped."""

Attributes = Mapping[str, Any]


def _axes(args: Sequence[np.ndarray], at: Attributes) -> list[int]:
    """Axes from an attribute, or (since version 13) from the second input."""
    return [int(axis) for axis in (args[1].ravel() if len(args) > 1 else at.get("axes", ()))]


def _unsqueeze(args: Sequence[np.ndarray], at: Attributes) -> np.ndarray:
    return np.expand_dims(args[0], tuple(_axes(args, at)))


def _squeeze(args: Sequence[np.ndarray], at: Attributes) -> np.ndarray:
    axes = _axes(args, at)
    return np.squeeze(args[0], tuple(axes) if axes else None)


def _reshape(args: Sequence[np.ndarray], at: Attributes) -> np.ndarray:
    shape = [int(n) for n in args[1]]
    if not at.get("allowzero"):
        shape = [args[0].shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return args[0].reshape(shape)


def _slice(args: Sequence[np.ndarray], at: Attributes) -> np.ndarray:
    starts, ends, axes, steps = (
        [int(n) for n in given] if given is not None else None
        for given in (
            *((args[1], args[2]) if len(args) > 2 else (at["starts"], at["ends"])),
            args[3] if len(args) > 3 else at.get("axes"),
            args[4] if len(args) > 4 else None,
        )
    )
    starts, ends = starts or [], ends or []
    cut = [slice(None)] * args[0].ndim
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        cut[axis] = slice(starts[i], ends[i], steps[i] if steps else 1)
    return args[0][tuple(cut)]


def _constant_of_shape(args: Sequence[np.ndarray], at: Attributes) -> np.ndarray:
    shape = [int(n) for n in args[0]]
    if math.prod(shape) > SMALL:
        raise ValueError(f"constants have shape {shape}; wanted smaller ones")
    return np.full(shape, at.get("constant", np.zeros(1, np.float32))[0])


def _cast(args: Sequence[np.ndarray], at: Attributes) -> np.ndarray:
    from onnx import helper

    if np.isnan(args[0]).any():
        return args[0]
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(at["to"]))
    if kind.kind not in "biuf":
        raise ValueError(f"constants are cast to {kind}; wanted numbers")
    return args[0].astype(np.float32 if kind.kind == "f" else kind)


def _elementwise(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda args, _: function(*args)


LARGE: dict[str, Callable[..., np.ndarray]] = {
    "Cast": _cast,
    "Identity": lambda args, _: args[0],
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": lambda args, at: np.transpose(args[0], at.get("perm")),
    "Unsqueeze": _unsqueeze,
}
"""Operators that make nothing larger than what they are given."""

FOLDS: dict[str, Callable[..., np.ndarray]] = LARGE | {
    "Add": _elementwise(np.add),
    "Concat": lambda args, at: np.concatenate(args, at["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(lambda a, b: a // b if a.dtype.kind in "iu" else a / b),
    "Floor": _elementwise(np.floor),
    "Gather": lambda args, at: np.take(args[0], args[1].astype(int), at.get("axis", 0)),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Slice": _slice,
    "Sqrt": _elementwise(np.sqrt),
    "Sub": _elementwise(np.subtract),
}


def fold(kind: str, args: Sequence[np.ndarray], attributes: Attributes) -> np.ndarray | None:
    """What an operator makes of constants; None, if that is not ours to work out."""
    table = FOLDS if sum(a.size for a in args) <= SMALL else LARGE
    with np.errstate(all="ignore"):
        return np.asarray(table[kind](args, attributes)) if kind in table else None
