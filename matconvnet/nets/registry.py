"""Types of layers in files, and the layers that they stand for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matconvnet.blocks import LAYERS
from matconvnet.geometry import UNKNOWN
from matconvnet.layer import Layer
from matconvnet.nets.own import as_layer

TYPES: dict[str, Any] = {
    **{
        name: layer
        for layer in LAYERS
        if layer.num_inputs == 1
        for name in (layer.type_name, *layer.aliases)
    },
    **{f"dagnn.{layer.dag_type}": layer for layer in LAYERS},
}
"""Layer classes (or, of users, what `as_layer` takes) by the name of their type in files.

The names of DagNN classes begin with "dagnn."; the others are types of a SimpleNN.
"""


def register(name: str, layer: Any) -> None:
    """Let files name a layer of yours.

    Args:
        name: as files have it: the type of a SimpleNN layer ("SubP"), or the class of a DagNN
            layer ("dagnn.MyLayer"). A name that is taken is given to the new layer.
        layer: a Layer class, whose fields are read from the file (a field `num_groups` is
            `numGroups` there); or a layer as networks take it: an instance, a function or a pair of
            functions, a torch.nn.Module.

    Raises: TypeError, for anything else.
    """
    if not (isinstance(layer, type) and issubclass(layer, Layer)):
        layer = as_layer(layer)
    TYPES[name] = layer


@dataclass(frozen=True)
class Unknown(Layer):
    """Stands for a layer whose type nobody registered: it is kept, but cannot be evaluated.

    kind: the name of the type; num_outputs: how many variables it writes.
    """

    num_inputs = None
    kind: str = ""
    num_outputs: int = 1

    def forward(self, inputs, params, ctx):
        """Raise TypeError."""
        raise TypeError(
            f"{self.kind!r} is no layer of MatConvNet; before loading the network, register yours: "
            f"matconvnet.register({self.kind!r}, layer)"
        )

    def backward(self, call, der_outputs):
        """Raise TypeError."""
        return self.forward(call.inputs, call.params, call.ctx)

    def receptive_field(self, param_shapes):
        """None: nobody knows."""

    def output_sizes(self, sizes, param_shapes) -> tuple[Any, ...]:
        """Not known."""
        return (UNKNOWN,) * self.num_outputs


def find(name: str, options: Callable[[type[Layer]], dict[str, Any]]) -> Layer:
    """The layer of a type, a class made with `options(class)`; a placeholder if it is unknown."""
    found = TYPES.get(name, Unknown(name))
    return found(**options(found)) if isinstance(found, type) else found
