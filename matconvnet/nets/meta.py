"""What the meta data of a network tell of its inputs."""

from collections.abc import Mapping
from typing import Any

from matconvnet.errors import FormatError
from matconvnet.nets.fields import is_empty, to_list


def input_size(meta: Mapping[str, Any], variable: str) -> list[float]:
    """Height, width, channels and images of an input: as many numbers as the meta data tell.

    They stand in `inputSize`, in `normalization.imageSize` or in `inputs`; where several of them
    tell, the first with both height and width counts.

    Args:
        meta: the meta data.
        variable: the input. In a DagNN sizes may have names: `inputSize` is name, size, name, size,
            ..., and `inputs` are structs of name and size; the only one is that of any input.

    Raises: FormatError, naming the field, if it does not hold positive numbers.
    """
    normalization = meta.get("normalization")
    image = normalization.get("imageSize") if isinstance(normalization, Mapping) else None
    candidates = {
        "inputSize": _of(meta.get("inputSize"), variable),
        "normalization.imageSize": image,
        "inputs": _of(meta.get("inputs"), variable),
    }
    known = [_numbers(size, name) for name, size in candidates.items() if not is_empty(size)]
    return max(known, key=lambda size: min(len(size), 2), default=[])


def _numbers(size: Any, name: str) -> list[float]:
    numbers = to_list(size)
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise FormatError(f"meta.{name} is {size!r}; wanted numbers")
    if min(numbers) < 1:
        raise FormatError(f"meta.{name} is {numbers}; wanted H, W, C, all 1 or more")
    return numbers


def _of(value: Any, variable: str) -> Any:
    """The size of a variable; one without a name is that of any."""
    if isinstance(value, Mapping):
        value = [value]
    if is_empty(value) or not isinstance(value, (list, tuple)):
        return value
    if isinstance(value[0], Mapping):
        sizes = {item.get("name"): item.get("size") for item in value}
    elif isinstance(value[0], str):
        sizes = dict(zip(value[::2], value[1::2], strict=False))
    else:
        return value
    only = next(iter(sizes.values())) if len(sizes) == 1 else None
    return sizes.get(variable, only)
