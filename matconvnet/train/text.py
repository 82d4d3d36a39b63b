"""Numbers, times and names in few letters; what comes from outside, safe in a page of HTML."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matconvnet.train.curves import number

NAME_LENGTH = 60
TEXT_LENGTH = 2000
# Control characters, and those that turn the direction of the text after them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def escape(value: Any, length: int = TEXT_LENGTH) -> str:
    """Any value as text for HTML, in an element or in a quoted attribute."""
    text = _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(value))
    if len(text) > length:
        text = f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"
    return html.escape(text)


def name_of(value: Any) -> str:
    """A name, of a class or of a parameter, short enough for a table."""
    return escape(value, NAME_LENGTH)


def short(value: float | None) -> str:
    """A number in four digits; a dash for one that is missing."""
    if value is None:
        return "\N{EN DASH}"
    if 1e4 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return re.sub(
        r"e([+-])0?(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", f"{value:.4g}"
    )


def percent(share: float) -> str:
    """A share of one; small ones with a decimal."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours / 24:.1f} days"


def clock(value: Any) -> str:
    """An ISO 8601 time without fractions of seconds; anything else as it is."""
    found = re.match(
        r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)?$", str(value)
    )
    if found is None:
        return str(value)
    return " ".join(part for part in found.groups() if part).replace("+00:00", "UTC")


def described(value: Any) -> str:
    """The value of an option: long lists by their ends."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {described(item)}" for key, item in value.items()) or "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        cells = [described(item) for item in value]
        if len(cells) > 8:
            return f"{', '.join(cells[:4])}, \N{HORIZONTAL ELLIPSIS} {cells[-1]} ({len(cells)})"
        return ", ".join(cells) or "[]"
    if isinstance(value, float):
        return short(number(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "\N{EN DASH}" if value is None else str(value)
