"""Values of every kind, those of MATLAB too, in a few words or as JSON."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matconvnet.values import Opaque, Sparse, StructArray

LONG = 8  # numbers; of a longer list the ends are shown
WIDE = 100  # characters of a text
FEW = 4  # structs of an array that are listed one by one


def flat(values: Mapping[str, Any], prefix: str = "", depth: int = 9) -> Iterator[tuple[str, str]]:
    """Names and values of nested structs, one a line; deeper ones in short."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and depth > 1:
            yield from flat(value, f"{name}.", depth - 1)
        elif isinstance(value, StructArray) and 0 < len(value) <= FEW and depth > 1:
            for i, item in enumerate(value):
                yield from flat(item, f"{name}[{i}].", depth - 1)
        else:
            yield name, described(value)


def plain(value: Any) -> Any:
    """What JSON can hold: unknown numbers are null, large arrays are told by type and size."""
    value = _scalar(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return plain(_numbers(value)) if _is_vector(value) else described(value)


def described(value: Any) -> str:
    """A number or a text as it is, short lists too, anything else by its kind and size."""
    value = _scalar(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or (isinstance(value, (list, tuple)) and not value):
        return "[]"
    if isinstance(value, str):
        text = " ".join(value.split())
        return text if len(text) <= WIDE else f"{text[:WIDE]}... ({len(value)} characters)"
    if isinstance(value, Opaque):
        name = value.class_name or "unknown"
        return f"function {name}" if value.kind == "function" else f"object of class {name}"
    if isinstance(value, Sparse):
        return f"sparse matrix of {_times(value.shape)}, {len(value.data)} values"
    if isinstance(value, StructArray):
        return f"struct array of {_times(value.shape)}: {', '.join(value.fields)}"
    if isinstance(value, Mapping):
        return f"struct: {', '.join(map(str, value))}" if value else "struct without fields"
    if isinstance(value, (list, tuple)):
        return _list_text(value)
    if _is_vector(value):
        return _list_text(_numbers(value))
    if getattr(value, "shape", None):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} array of {_times(value.shape)}"
    return str(value)


def _scalar(value: Any) -> Any:
    """The number in an array of one element, as one of Python's; anything else as it is."""
    is_number = hasattr(value, "dtype") and math.prod(value.shape) == 1
    return value.item() if is_number else value


def _is_vector(value: Any) -> bool:
    """True for an array of several numbers along one axis."""
    shape = getattr(value, "shape", ())
    is_array = hasattr(value, "dtype") and "U" not in str(value.dtype)
    return is_array and 1 < math.prod(shape) == max(shape)


def _numbers(vector: Any) -> list[Any]:
    return vector.reshape(-1).tolist()


def _list_text(values: Sequence[Any]) -> str:
    """Numbers and texts one after the other; lists of anything else by their size."""
    shape = getattr(values, "shape", (len(values),))
    values = [_scalar(value) for value in values]
    if not all(value is None or isinstance(value, (bool, int, float, str)) for value in values):
        return f"cell of {_times(shape)}"
    cells = [described(value) for value in values]
    if len(cells) > LONG:
        return f"{', '.join(cells[: LONG // 2])}, ... {cells[-1]} ({len(cells)} values)"
    return ", ".join(cells)


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
