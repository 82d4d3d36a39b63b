"""Text files of Caffe (`.prototxt`): the text format of protobuf, and what we do not know in it.

Not left to the protobuf package, whose parser skips unknown fields without a word, and takes a time
that grows with the square of a line.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from matconvnet.errors import FormatError
from matconvnet.interop.caffe.schema import FIELDS, HARMLESS, VALUES, Field, Message

LIMIT = 2 << 20
"""Bytes of a text file; that of a network of a thousand layers has a tenth of it."""

MOST_IGNORED = 20
MOST_LEVELS = 32  # of messages within messages; Caffe has five
LONGEST = 40  # letters of a token in an error

TOKEN = re.compile(
    r"""
      (?P<space>\s++|\#[^\n]*+)
    | (?P<string>"(?:[^"\\\n]|\\.)*+" | '(?:[^'\\\n]|\\.)*+')
    | (?P<word>[-+.\w]++)
    | (?P<mark>[{}<>\[\]:,;])
    """,
    re.VERBOSE,
)
CLOSING = {"{": "}", "<": ">"}
TRUTH = {"true": True, "True": True, "t": True, "1": True,
         "false": False, "False": False, "f": False, "0": False}  # fmt: skip


RANGES = {"uint32": range(1 << 32), "int32": range(-(1 << 31), 1 << 31),
          "int64": range(-(1 << 63), 1 << 63)}  # fmt: skip
ESCAPE = re.compile(r"\\(.)", re.DOTALL)
ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "t": "\t"}
FLOAT_END = re.compile(r"(?<=[\d.])[fF]$")  # C's, as in 0.5f


class Token(NamedTuple):
    """A piece of a text: its kind ("string", "word", "mark"; "end"), text, and place."""

    kind: str
    text: str
    at: int


class Level(NamedTuple):
    """A message that is being read (None: one that we do not know), its name, and what ends it."""

    into: Message | None
    path: str
    end: str


def read_text(path: Path) -> tuple[Message, list[str]]:
    """Read the description of a network.

    Returns: a NetParameter, and the fields of the file that are no part of our schema, each once,
        with the line where it first stands.
    Raises: FormatError, if the file is too large or is no such text; OSError.
    """
    if path.stat().st_size > LIMIT:
        raise FormatError(
            f"{path} has {path.stat().st_size} bytes; wanted a text file of at most {LIMIT}"
        )
    # Comments are in any encoding; what names a layer is ASCII.
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    net, parser = Message("NetParameter"), Parser(text)
    try:
        parser.parse(net)
    except ValueError as error:
        line = text.count("\n", 0, parser.last.at) + 1
        raise FormatError(f"{path} is no network of Caffe, in line {line}: {error}") from error
    lines = [
        f"{name} (line {text.count(chr(10), 0, at) + 1})" for name, at in parser.unknown.items()
    ]
    return net, [*lines[:MOST_IGNORED], *(["and more"] if len(lines) > MOST_IGNORED else [])]


class Parser:
    """Fills a message with what a text says.

    token: the next one; last: the one before. unknown: places of fields that the message lacks.
    """

    def __init__(self, text: str):
        self.tokens = _tokens(text)
        self.token = self.last = next(self.tokens)
        self.unknown: dict[str, int] = {}

    def parse(self, root: Message) -> None:
        """Read all of the text.

        Raises: ValueError, at `self.last`.
        """
        levels: list[Level] = [Level(root, "", "")]
        while self.token.kind != "end":
            name = self._next()
            if name.kind == "word" and name.text.isidentifier():
                self._field(name, levels)
            elif name.text == levels[-1].end:
                levels.pop()
            elif name.text not in (",", ";"):
                raise ValueError(f"there is {name.text[:LONGEST]!r}; wanted the name of a field")
        if len(levels) > 1:
            raise ValueError(f"the file ends within {levels[-1].path!r}")

    def _next(self) -> Token:
        """The token that is due; the one after it becomes due."""
        self.last = self.token
        if self.token.kind != "end":
            self.token = next(self.tokens)
        return self.last

    def _take(self, mark: str) -> bool:
        """Pass over a mark, if it is due."""
        if self.token.kind != "mark" or self.token.text != mark:
            return False
        self._next()
        return True

    def _field(self, name: Token, levels: list[Level]) -> None:
        """Read a field after its name; a message becomes the last level."""
        into, path, _ = levels[-1]
        field = None if into is None else FIELDS[into.kind].get(name.text)
        path = f"{path}.{name.text[:LONGEST]}".lstrip(".")
        if into is not None and field is None and name.text not in HARMLESS:
            self._note(path, name.at)
        is_single = field is not None and not field.is_repeated
        if into is not None and is_single and into.has(name.text):
            raise ValueError(f"{path} is given twice")
        has_colon = self._take(":")
        if self.token.text in CLOSING and self.token.kind == "mark":
            if len(levels) > MOST_LEVELS:
                raise ValueError(f"{path} is too deep; wanted at most {MOST_LEVELS} levels")
            end = CLOSING[self._next().text]
            levels.append(Level(_submessage(into, field, name.text), path, end))
        elif not has_colon:
            raise ValueError(f"after {name.text[:LONGEST]!r} there is no `:` and no `{{`")
        elif into is None or field is None:
            self._values()
        else:
            _set(into, field, name.text, self._values())

    def _note(self, path: str, at: int) -> None:
        """Note an unknown field where it is met first, one more than will be told."""
        if len(self.unknown) <= MOST_IGNORED:
            self.unknown.setdefault(path, at)

    def _values(self) -> list[Token]:
        """One value, or a list of them in brackets."""
        if not self._take("["):
            return [self._value()]
        values = []
        while not self._take("]"):
            values.append(self._value())
            if not self._take(",") and self.token.text != "]":
                raise ValueError(f"there is {self.token.text[:LONGEST]!r}; wanted `,` or `]`")
        return values

    def _value(self) -> Token:
        """A number or a word; or strings, which are joined."""
        value = self._next()
        if value.kind not in ("word", "string"):
            raise ValueError(f"there is {value.text[:LONGEST]!r}; wanted a value")
        parts = [value.text[1:-1]]
        while value.kind == "string" == self.token.kind:
            parts.append(self._next().text[1:-1])
        return value if value.kind == "word" else Token("string", "".join(parts), value.at)


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            yield Token("mark", text[at : at + LONGEST], at)
            break
        if found.lastgroup != "space":
            yield Token(found.lastgroup or "", found[0], at)
        at = found.end()
    yield Token("end", "the end of the file", len(text))


def _submessage(into: Message | None, field: Field | None, name: str) -> Message | None:
    """A message within another one; None, if we know none of this name."""
    if into is None or field is None:
        return None
    if not field.is_message:
        raise ValueError(f"{name} is a message; wanted a value")
    made = Message(field.kind)
    into.give(name, made)
    return made


def _set(into: Message, field: Field, name: str, values: list[Token]) -> None:
    """Give a field its values."""
    if field.is_message:
        raise ValueError(f"{name} is a value; wanted `{{`")
    if len(values) != 1 and not field.is_repeated:
        raise ValueError(f"{name} has {len(values)} values; wanted one")
    for value in values:
        into.give(name, _read(field.kind, name, value))


def _read(kind: str, name: str, value: Token) -> Any:
    """A value of a field, in its type."""
    found: Any = None
    try:
        if kind == "string":
            found = _unescaped(value.text) if value.kind == "string" else None
        elif value.kind == "string":
            found = None
        elif kind == "word":
            found = value.text
        elif kind == "bool":
            found = TRUTH.get(value.text)
        elif kind == "float":
            found = float(FLOAT_END.sub("", value.text))
        elif kind in RANGES:
            number = int(value.text, 0)
            found = number if number in RANGES[kind] else None
        elif value.text in VALUES[kind]:
            found = value.text
    except ValueError:
        found = None
    if found is None:
        raise ValueError(f"{name} is {value.text[:LONGEST]!r}, a {value.kind}; wanted {kind}")
    return found


def _unescaped(text: str) -> str:
    """A string with what its escapes stand for."""
    return ESCAPE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    if found[1] not in ESCAPES:
        raise ValueError(f"there is {found[0]!r} in a string")
    return ESCAPES[found[1]]
