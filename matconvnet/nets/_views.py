"""Layers, variables and parameters of a DagNN: by name and by position, with what was computed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from torch import Tensor

from matconvnet.executor import Record
from matconvnet.graph import Node
from matconvnet.layer import Layer
from matconvnet.nets._camel import CamelCase, hint
from matconvnet.nets.network import Param
from matconvnet.nets.own import as_layer

T = TypeVar("T")


@dataclass
class Latest:
    """Where a network and the views of it find its last evaluation."""

    record: Record = field(default_factory=Record)


@dataclass(eq=False)
class DagLayer(CamelCase):
    """A layer in its place.

    extra: fields of its block in a file that no layer reads. `inputs`, `outputs` and `params` are
    changed by methods of the network; another `block`, as `add_layer` takes it, may be assigned.
    """

    node: Node
    extra: dict[str, Any] = field(default_factory=dict)
    latest: Latest = field(default_factory=Latest, repr=False)

    @property
    def name(self) -> str:
        """The name of the layer."""
        return self.node.name

    @property
    def block(self) -> Layer:
        """What is computed."""
        return self.node.layer

    @block.setter
    def block(self, block: Any) -> None:
        self.node = self.node._replace(layer=as_layer(block))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the variables that the layer reads."""
        return self.node.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the variables that the layer writes."""
        return self.node.outputs

    @property
    def params(self) -> tuple[str, ...]:
        """Names of its parameters."""
        return self.node.params

    @property
    def forward_time(self) -> float:
        """Seconds that the layer took in the last evaluation; 0, if it took no part."""
        return self.latest.record.forward_time.get(self.name, 0.0)

    @property
    def backward_time(self) -> float:
        """Seconds that its derivative took."""
        return self.latest.record.backward_time.get(self.name, 0.0)


@dataclass(eq=False)
class Var(CamelCase):
    """A variable; `value` and `der` show the last evaluation, and values are set by `eval` alone.

    precious: its value and derivative are never freed. fanin: how many layers write it (1 or 0);
    fanout: how many times it is read.
    """

    name: str
    precious: bool = False
    fanin: int = 0
    fanout: int = 0
    latest: Latest = field(default_factory=Latest, repr=False)

    @property
    def value(self) -> Tensor | None:
        """Its value in the last evaluation; None, if there is none or it was freed."""
        return self.latest.record.values.get(self.name)

    @property
    def der(self) -> Tensor | None:
        """Its derivative in the last evaluation; None, if there is none or it was freed."""
        return self.latest.record.ders.get(self.name)


@dataclass(eq=False)
class DagParam(CamelCase, Param):
    """A parameter that shows its derivative in the last evaluation.

    fanout: how many times layers use it.
    """

    fanout: int = 0
    latest: Latest = field(default_factory=Latest, repr=False)

    @property
    def der(self) -> Tensor | None:
        """Its derivative in the last evaluation; None, if it has none."""
        return self.latest.record.param_ders.get(self.name)


def by_name(pairs: Any, what: str) -> dict[str, Any]:
    """A dictionary of a dictionary, or of a flat list of name, value, name, value, ...

    Raises: TypeError, ValueError for anything else; `what` names it.
    """
    if isinstance(pairs, Mapping):
        return dict(pairs)
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        raise TypeError(
            f"{what} is {type(pairs).__name__}; "
            "wanted a dictionary, or a list of name, value, name, value, ..."
        )
    if len(pairs) % 2 or not all(isinstance(name, str) for name in pairs[::2]):
        raise ValueError(f"{what} is a list that is not name, value, name, value, ...")
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


class Named(Mapping[str, T]):
    """Records in order, by name or by position: `net.vars["x1"]`, `net.vars[0]`, `net.vars[-1]`."""

    def __init__(self, kind: str, records: Mapping[str, T]):
        self._kind, self._records = kind, records

    @overload
    def __getitem__(self, which: str | int) -> T: ...
    @overload
    def __getitem__(self, which: slice | Sequence[str | int]) -> list[T]: ...
    def __getitem__(self, which: Any) -> Any:
        """The record of a name or position; the list of them, for a list or slice."""
        if isinstance(which, str):
            if which not in self._records:
                raise KeyError(f"there is no {self._kind} {which!r}; {hint(which, self._records)}")
            return self._records[which]
        if isinstance(which, (list, tuple)):
            return [self[one] for one in which]
        return list(self._records.values())[which]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"{len(self)} {self._kind}s: {', '.join(self)}"
