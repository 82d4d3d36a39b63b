"""From a block and its derivative to one function with the manners of MATLAB."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet.compat.options import given_options, normal
from matconvnet.layout import array_api

Arguments = dict[str, Any]
Function = Callable[..., Any]

WITHOUT_EFFECT: Mapping[str, Any] = {
    "verbose": False,
    "cudnn": False,
    "no_cudnn": False,
    "cudnn_workspace_limit": None,
}
"""Options of the original that choose an algorithm or a log: accepted everywhere, and ignored."""

MANNERS = """\
`dzdy` chooses: absent or empty, the value; else the projected derivative alone, a tuple where
there are several. None and [] are empty, for every argument. Options are keywords or pairs
('Name', value) in any case, with or without "_"; a flag in a pair list needs no value.
"""


def facade(
    name: str,
    forward: Function,
    backward: Function,
    *,
    optional: Sequence[str] = ("dzdy",),
    names: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    prepare: Callable[[Arguments], None] | None = None,
    finish: Callable[[Any, Arguments], Any] | None = None,
    notes: str = "",
) -> Function:
    """Join a block and its derivative to the function that MatConvNet calls `name`.

    What it takes is read from the signatures: the positional parameters of `forward`, then
    `optional`, then the keyword options of both functions as options.

    Args:
        name: of the result.
        forward: the block.
        backward: its derivative, which gets `dzdy` as well.
        optional: positional parameters that may be left out.
        names: from a name in the result to the parameter of the block, where they differ.
        extra: options that the block lacks, with their defaults; those that are False are flags.
        defaults: default values, where they differ from the block's; for the signature alone.
        prepare: changes the given arguments (under the block's names) to what the block wants.
        finish: makes the answer of the block, and what the call gave, to what is returned.
        notes: what else differs, for the docstring.
    """
    reader = _Reader(name, forward, backward, optional, names or {}, extra or {}, defaults or {})
    first = next(iter(reader.required.values()))
    accepts = {f: frozenset(inspect.signature(f).parameters) for f in (forward, backward)}

    @array_api
    def evaluate(**given: Any) -> Any:
        arguments = dict(given)
        if "dzdy" in given:
            arguments["dzdy"] = _alike(given["dzdy"], given[first])
        if prepare is not None:
            prepare(arguments)
        block = backward if "dzdy" in given else forward
        answer = block(**{k: v for k, v in arguments.items() if k in accepts[block]})
        return answer if finish is None else finish(answer, given)

    def function(*args: Any, **keywords: Any) -> Any:
        return evaluate(**reader.read(args, keywords))

    function.__name__ = function.__qualname__ = name
    function.__module__ = "matconvnet.compat.vl"
    function.__doc__ = _docstring(name, forward, backward, reader, notes)
    function.__signature__ = reader.signature  # pyright: ignore[reportFunctionMemberAccess]
    return function


class _Reader:
    """Sorts the arguments of a call by the names of the block's parameters."""

    def __init__(
        self,
        name: str,
        forward: Function,
        backward: Function,
        optional: Sequence[str],
        names: Mapping[str, str],
        extra: Mapping[str, Any],
        defaults: Mapping[str, Any],
    ):
        block = dict(inspect.signature(forward).parameters)
        positional = [k for k, p in block.items() if p.kind != p.KEYWORD_ONLY]
        for k, p in inspect.signature(backward).parameters.items():
            block.setdefault(k, p)
        outer = {inner: vl for vl, inner in reversed(list(names.items()))}
        self.name = name
        self.required = {outer.get(p, p): p for p in positional}
        self.optional = tuple(optional)
        options = {k: p.default for k, p in block.items() if p.kind == p.KEYWORD_ONLY} | dict(extra)
        self.defaults = {outer.get(k, k): v for k, v in options.items()} | dict(defaults)
        self.may_be_empty = {*positional, "dzdy", *(k for k, v in options.items() if v is None)}
        self.flags = {k for k, v in {**extra, **WITHOUT_EFFECT}.items() if v is False}
        inner = {k: names.get(k, k) for k in (*self.defaults, *names, *WITHOUT_EFFECT)}
        self.names = {normal(k): v for k, v in inner.items() if v not in positional}
        self.signature = self._signature()

    def read(self, args: Sequence[Any], keywords: Mapping[str, Any]) -> Arguments:
        """The given arguments under the block's names; empty ones are None, or left out."""
        slots = {**self.required, **{k: k for k in self.optional}}
        count = next((i for i, a in enumerate(args) if isinstance(a, (str, Mapping))), len(args))
        count = min(count, len(slots))
        given = dict(zip(slots.values(), args[:count], strict=False))
        rest = {}
        for key, value in keywords.items():
            slot = slots.get(key)
            if slot in given:
                raise TypeError(f"{self.name} got {key} twice, by position and by keyword")
            if slot is None:
                rest[key] = value
            else:
                given[slot] = value
        missing = [outer for outer, slot in self.required.items() if slot not in given]
        if missing:
            wanted = ", ".join(self.required)
            raise TypeError(f"{self.name} lacks {', '.join(missing)}; wanted ({wanted}, ...)")
        given |= given_options(self.names, args[count:], rest, self.flags)
        for key in self.may_be_empty & given.keys():
            if is_empty(given[key]):
                given[key] = None
        return {k: v for k, v in given.items() if v is not None or k in self.required.values()}

    def _signature(self) -> inspect.Signature:
        P = inspect.Parameter
        slots = [P(k, P.POSITIONAL_OR_KEYWORD) for k in self.required]
        slots += [
            P(k, P.POSITIONAL_OR_KEYWORD, default=self.defaults.get(k)) for k in self.optional
        ]
        options = [
            P(k, P.KEYWORD_ONLY, default=v)
            for k, v in self.defaults.items()
            if k not in self.optional
        ]
        return inspect.Signature([*slots, P("pairs", P.VAR_POSITIONAL), *options])


def is_empty(value: Any) -> bool:
    """True for what MATLAB writes as []: None, an empty list, an array of size 0 or 0 x 0."""
    if isinstance(value, (Tensor, np.ndarray)):
        return tuple(value.shape) in ((0,), (0, 0))
    return value is None or (isinstance(value, (list, tuple)) and not value)


def _alike(value: Any, x: Any) -> Any:
    """Numbers, and lists of them, as a tensor of the type of `x` (or of the first of several)."""
    if isinstance(x, (list, tuple)):
        x = next(iter(x), None)
    if isinstance(x, Tensor) and isinstance(value, (int, float, list, tuple)):
        return torch.as_tensor(value, dtype=x.dtype, device=x.device)
    return value


def _docstring(
    name: str, forward: Function, backward: Function, reader: _Reader, notes: str
) -> str:
    slots = ", ".join(reader.required)
    options = ", ".join(
        f"{k}={v!r}" for k, v in reader.defaults.items() if k not in reader.optional
    )
    paragraphs = [
        _formula(forward),
        _formula(backward),
        f"    {name}({slots}, options...)        the value\n"
        f"    {name}({slots}, {', '.join(reader.optional)}, options...)  the derivative",
        f"Options: {options}." if options else "",
        MANNERS.strip(),
        notes,
        f"See `matconvnet.{forward.__name__}` and `matconvnet.{backward.__name__}`.",
    ]
    return "\n\n".join(p for p in paragraphs if p)


def _formula(function: Function) -> str:
    """The docstring of a block up to the description of its arguments."""
    text = inspect.getdoc(function) or ""
    ends = (text.find(f"\n{part}:") for part in ("Args", "Returns", "Raises", "Source"))
    return text[: min((i for i in ends if i >= 0), default=len(text))].strip()
