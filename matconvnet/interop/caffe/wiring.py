"""Layers of a file wired as ours: every variable is written once, and names are identifiers."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matconvnet.errors import FormatError
from matconvnet.interop.caffe.reader import Entry
from matconvnet.interop.caffe.schema import Message


class Step(NamedTuple):
    """A layer of the file in its place.

    name, inputs, outputs: its name and those of its variables, as ours. entry: what the file says.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    entry: Entry

    @property
    def type(self) -> str:
        """The type, in Caffe's current word."""
        return self.entry.type

    @property
    def options(self) -> Message:
        """The message of the layer."""
        return self.entry.options


class Wired(NamedTuple):
    """The steps in order.

    readers: how many times a variable is read, wanted outputs included. taken: names of variables,
    for `unique`.
    """

    steps: list[Step]
    readers: Counter[str]
    taken: dict[str, str]


def wire(entries: Sequence[Entry], path: Path, wanted: Sequence[str] = ()) -> Wired:
    """Name variables and layers, and drop the layers that `wanted` outputs do not need.

    A layer that works in place writes a variable of its own, with an `x` after the name of the one
    it reads. What is no letter or digit in a name becomes `_`; names met twice get an `x`.

    Args:
        entries: the layers.
        path: their file, for messages.
        wanted: Caffe's names of the outputs; none at all: every layer is kept.

    Raises: FormatError, if a layer reads what no layer above it writes, or if two write one blob;
        ValueError, if `wanted` names what none writes.
    """
    variables: dict[str, str] = {}
    taken: dict[str, str] = {}
    names: dict[str, str] = {}
    steps = []
    for entry in entries:
        missing = [blob for blob in entry.bottoms if blob not in variables]
        again = [t for t in entry.tops if t in variables and t not in entry.bottoms]
        if missing or again:
            raise FormatError(
                f"{path}: layer {entry.name!r} reads {missing or 'nothing'} that no layer above it "
                f"writes, and writes {again or 'nothing'} that one does"
            )
        inputs = tuple(variables[blob] for blob in entry.bottoms)
        # A loss without a top has one all the same.
        tops = entry.tops or ((entry.name,) if entry.type.lower().endswith("loss") else ())
        for top in tops:
            variables[top] = unique(variables.get(top, top), taken)
        outputs = tuple(variables[top] for top in tops)
        steps.append(Step(unique(entry.name, names), inputs, outputs, entry))
    unknown = [blob for blob in wanted if blob not in variables]
    if unknown:
        raise ValueError(f"outputs names {unknown}; wanted among {list(variables)}")
    outputs = [variables[blob] for blob in wanted]
    steps = _needed(steps, outputs) if outputs else steps
    readers = Counter(v for step in steps for v in step.inputs) + Counter(outputs)
    return Wired(steps, readers, taken)


def unique(name: str, taken: dict[str, str]) -> str:
    """An identifier made of a name, and a new one.

    Args:
        name: any string.
        taken: the names there are, each with the last that was made of it; extended by the new one.
    """
    made = re.sub(r"\W", "_", name, flags=re.ASCII) or "x"
    made = base = made if made[0].isalpha() else f"x{made}"
    while made in taken:
        made = f"{taken[base]}x"
        taken[base] = made
    taken[made] = made
    return made


def _needed(steps: list[Step], outputs: list[str]) -> list[Step]:
    """The steps that the outputs follow from."""
    needed, kept = set(outputs), []
    for step in reversed(steps):
        if needed.intersection(step.outputs):
            needed.update(step.inputs)
            kept.append(step)
    return kept[::-1]
