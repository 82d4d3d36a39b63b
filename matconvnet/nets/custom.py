"""Custom layers of SimpleNN: a pair of functions on the entries of `res`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any

from matconvnet.geometry import full_size
from matconvnet.layer import Layer
from matconvnet.layout import map_arrays, to_tensor
from matconvnet.nets.fields import to_list
from matconvnet.values import Struct


@dataclass
class Entry:
    """One entry of `res`: a variable, its derivative, and what belongs to the layer that reads it.

    x: the value; dzdx: the derivative of the projected output with respect to it; dzdw: those with
    respect to the weights of the layer that reads x; aux: what the layer that wrote x keeps for its
    derivative (a mask); stats: diagnostics; time, backward_time: seconds of the layer that reads x.
    """

    x: Any = None
    dzdx: Any = None
    dzdw: list[Any] | None = None
    aux: Any = None
    stats: dict[str, Any] = field(default_factory=dict)
    time: float = 0.0
    backward_time: float = 0.0
    saved: Any = field(default=None, repr=False)

    @property
    def backwardTime(self) -> float:
        """The original's name of `backward_time`."""
        return self.backward_time


@dataclass(frozen=True)
class Custom(Layer):
    """A layer whose struct holds its own functions.

    `forward(layer, before, after)` gets the entries before and after the layer and returns the one
    after, with `x` set; `backward(layer, before, after)` returns the one before, with `dzdx` set
    (and `dzdw`, a list, if the layer has weights).
    """

    struct: Mapping[str, Any]
    type_name, keeps_saved = "custom", True
    needs = frozenset({"inputs", "outputs"})

    def _call(self, name: str, params, before: Entry, after: Entry) -> Entry:
        function = self.struct.get(name)
        if not callable(function):
            raise TypeError(f"{name} of a custom layer is {function!r}; wanted a function")
        layer = Struct(self.struct, weights=list(params)) if params else Struct(self.struct)
        returned = function(layer, before, after)
        if isinstance(returned, Entry):
            return returned
        if returned is not None:
            raise TypeError(f"{name} of a custom layer returned {type(returned).__name__}; "
                            "wanted the entry it was given")  # fmt: skip
        return after if name == "forward" else before

    def forward(self, inputs, params, ctx):
        """Call the struct's `forward`."""
        entry = self._call("forward", params, Entry(x=inputs[0]), Entry())
        if entry.x is None:
            raise ValueError("forward of a custom layer left x empty; wanted the output in x")
        return (to_tensor(entry.x),), entry

    def backward(self, call, der_outputs):
        """Call the struct's `backward`."""
        aux = call.saved.aux if isinstance(call.saved, Entry) else call.saved
        after = Entry(x=call.outputs[0], dzdx=der_outputs[0], aux=aux)
        entry = self._call("backward", call.params, Entry(x=call.inputs[0]), after)
        if entry.dzdx is None and call.wanted[0]:
            raise ValueError("backward of a custom layer left dzdx empty; wanted the derivative")
        ders = map_arrays(list(entry.dzdw or []), to_tensor)
        count = len(call.params)
        if isinstance(call.saved, Entry):
            call.saved.dzdw = ders[count:] or None  # of what the function keeps in its own fields
        ders = (*ders, *(None,) * count)[:count]
        return (to_tensor(entry.dzdx),), ders

    def output_sizes(self, sizes, param_shapes) -> tuple[Any, ...]:
        """By the struct's `getForwardSize(layer, size)`, if any; else the channels are unknown."""
        function = self.struct.get("getForwardSize")
        if function is None:
            h, w, _, n = sizes[0]
            return ((h, w, nan, n),)
        size = to_list(function(Struct(self.struct), list(sizes[0])))
        return (full_size(size, "what getForwardSize returned"),)
