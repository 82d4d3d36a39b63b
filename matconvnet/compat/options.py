"""Options in MATLAB manner: name, value pairs in any case, and dicts in place of structs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple


def parse_options(
    defaults: Mapping[str, Any], pairs: Sequence[Any], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Fill in `defaults` from name, value pairs and from keywords; names ignore case and "_".

    Args:
        defaults: every option there is, under the name wanted in the result.
        pairs: ("Stride", 2, "pad", 1); a dict may stand in place of a pair. Later ones win.
        keywords: the same as keyword arguments, such as stride=2; they win over `pairs`.

    Returns: a new dict with the keys of `defaults`.
    Raises: TypeError, if a name is unknown or no string, or a value is missing.
    """
    names = {normal(name): name for name in defaults}
    return {**defaults, **given_options(names, pairs, keywords)}


def given_options(
    names: Mapping[str, str],
    pairs: Sequence[Any],
    keywords: Mapping[str, Any],
    flags: Collection[str] = (),
) -> dict[str, Any]:
    """The options that a call gives, and no others.

    Args:
        names: from every accepted name, as `normal` spells it, to the name wanted in the result.
        pairs: as in `parse_options`.
        keywords: as in `parse_options`.
        flags: names (of the result) whose value may be left out in `pairs`, and then is True.

    Raises: TypeError, as `parse_options`.
    """
    given: dict[str, Any] = {}

    def assign(name: str, value: Any) -> None:
        given[_known(name, names)] = value

    items = list(pairs)
    while items:
        name = items.pop(0)
        if isinstance(name, Mapping):
            for key, value in name.items():
                assign(key, value)
            continue
        if not isinstance(name, str):
            raise TypeError(f"found {_kind(name)} in place of an option name; wanted a string")
        is_last = not items or isinstance(items[0], (str, Mapping))
        if is_last and _known(name, names) in flags:
            assign(name, True)
        elif not items:
            raise TypeError(f"option {name!r} has no value; wanted pairs of name and value")
        else:
            assign(name, items.pop(0))
    for name, value in keywords.items():
        assign(name, value)
    return given


def normal(name: str) -> str:
    """The spelling in which names are compared: `numSubBatches` is `num_sub_batches`."""
    return name.replace("_", "").lower()


def _known(name: str, names: Mapping[str, str]) -> str:
    try:
        return names[normal(name)]
    except KeyError:
        wanted = ", ".join(dict.fromkeys(names.values()))
        raise TypeError(f"Unknown parameter {name!r}; wanted one of {wanted}") from None


def vl_argparse(
    opts: Mapping[str, Any], args: Sequence[Any], *flags: str, return_rest: bool = False
) -> Any:
    """Fill in the defaults `opts` from a list of name, value pairs.

    A dict in `args` may stand in place of a pair: its items are pairs. A name matches a default
    whatever its case, and the default's spelling is kept; later pairs win. A default that is a
    dict with items is updated item by item, and "a.b" is short for the item "b" of "a".

    Args:
        opts: the defaults; it is not modified.
        args: pairs and dicts.
        *flags: "merge" adds unknown names to the result; "nonrecursive" takes dicts for plain
            values, which replace a default as a whole and cannot stand in place of a pair.
        return_rest: return what is unknown in place of an error, as MATLAB does when it is asked
            for two outputs.

    Returns: a new dict, or with `return_rest` (dict, list of the pairs and dicts not known).
    Raises: TypeError, if a name is unknown or no string, a value is missing, or a default that is
        a dict would become something else.
    Source: vl_argparse. Here unknown items of a nested dict stay in the rest, and a dict may
        replace a default that is none (both fail in the original).
    """
    kinds = {flag.lower() for flag in flags}
    if kinds - {"merge", "nonrecursive"}:
        raise TypeError(f"flags are {flags}; wanted 'merge', 'nonrecursive' or none")
    how = _How("merge" in kinds, "nonrecursive" not in kinds, strict=not return_rest)
    result, rest, items = dict(opts), [], list(args)
    while items:
        name = items.pop(0)
        if isinstance(name, Mapping) and how.recursive:
            unknown = _update(result, name, how)
            rest += [unknown] if unknown else []
            continue
        if not isinstance(name, str):
            raise TypeError(f"found {_kind(name)} in place of a parameter name; wanted a string")
        if not items:
            raise TypeError(f"parameter {name!r} has no value; wanted pairs of name and value")
        unknown = _update(result, {name: items.pop(0)}, how)
        rest += [part for pair in unknown.items() for part in pair]
    return (result, rest) if return_rest else result


class _How(NamedTuple):
    """The flags of `vl_argparse`; `strict` makes an unknown name an error."""

    merge: bool
    recursive: bool
    strict: bool


def _update(opts: dict[str, Any], new: Mapping[str, Any], how: _How) -> dict[str, Any]:
    """Put the items of `new` into `opts`; return those that `opts` does not know."""
    unknown: dict[str, Any] = {}
    spelling = {name.lower(): name for name in opts}
    for name, value in new.items():
        if how.recursive:
            name, *path = name.split(".")
            for part in reversed(path):
                value = {part: value}
        key = spelling.get(name.lower())
        if key is None and how.merge:
            spelling[name.lower()] = name
            opts[name] = value
        elif key is None and how.strict:
            raise TypeError(f"Unknown parameter {name!r}; wanted one of {', '.join(opts)}")
        elif key is None:
            unknown[name] = value
        elif not (how.recursive and isinstance(opts[key], Mapping) and opts[key]):
            opts[key] = value
        elif isinstance(value, Mapping):
            opts[key] = dict(opts[key])
            deeper = _update(opts[key], value, how)
            if deeper:
                unknown[name] = deeper
        else:
            raise TypeError(
                f"Cannot assign a non-struct value to the struct parameter {key!r}: "
                f"found {_kind(value)}, wanted a dict"
            )
    return unknown


def _kind(value: Any) -> str:
    return repr(value) if isinstance(value, (int, float)) else f"a {type(value).__name__}"
