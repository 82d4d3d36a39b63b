"""MatConvNet's spelling of our names: `net.conserveMemory`, `net.renameVar(a, b, "quiet", True)`.

One rule for all: a name is found whatever its case and its underscores, if it is written with a
capital. What is spelt wrong is an error, never a new attribute.
"""

import difflib
import functools
import inspect
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def squash(name: str) -> str:
    """A name without its underscores and capitals."""
    return name.replace("_", "").lower()


def hint(name: str, known: Iterable[str]) -> str:
    """What an error says after an unknown name: those that look alike, or else the first ten."""
    names = list(known)
    alike = difflib.get_close_matches(name, names, 3)
    if alike:
        return f"did you mean {' or '.join(map(repr, alike))}?"
    return f"there are {names[:10]}" + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _public(cls: type) -> Iterator[str]:
    yield from (name for name in dir(cls) if not name.startswith("_"))
    yield from getattr(cls, "__dataclass_fields__", ())


@functools.cache
def find_name(cls: type, name: str) -> str:
    """Our spelling of an attribute's name.

    Raises: AttributeError, if the class has nothing of the kind.
    """
    names = sorted(set(_public(cls)))
    if name in names:
        return name
    found = [n for n in names if squash(n) == squash(name)] if name.lower() != name else []
    if not found:
        raise AttributeError(f"{cls.__name__} has no attribute {name!r}; {hint(name, names)}")
    return found[0]


class CamelMeta(ABCMeta):
    """Lets a class answer to MatConvNet's names: `DagNN.fromSimpleNN`."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = find_name(cls, name)
        if found == name:  # a field, which instances have
            raise AttributeError(f"{cls.__name__} itself has no {name!r}; its instances have")
        return getattr(cls, found)


class CamelCase(metaclass=CamelMeta):
    """Objects whose attributes go by MatConvNet's names too, and by no others."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = find_name(type(self), name)
        # A property that raised is asked again, for its own error.
        return getattr(self, found) if found != name else super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name if name.startswith("_") else find_name(type(self), name), value)


def option_pairs(method: F) -> F:
    """Let the keyword options of a method also come as pairs after its arguments: "quiet", True."""
    parameters = inspect.signature(method).parameters.values()
    count = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    options = {squash(p.name): p.name for p in parameters if p.kind is p.KEYWORD_ONLY}

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        pairs = args[count:]
        names, values = pairs[::2], pairs[1::2]
        if len(names) != len(values) or not all(isinstance(n, str) for n in names):
            raise TypeError(
                f"{method.__name__} got {pairs!r} after its arguments; "
                "wanted pairs of an option's name and its value"
            )
        for name, value in zip(names, values, strict=True):
            if squash(name) not in options:
                raise TypeError(
                    f"{method.__name__} has no option {name!r}; {hint(name, options.values())}"
                )
            kwargs[options[squash(name)]] = value
        return method(*args[:count], **kwargs)

    return cast(F, wrapper)
