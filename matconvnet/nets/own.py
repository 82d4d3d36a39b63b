"""Layers of your own: plain functions, and torch modules, in the place of a block."""

# Facts of a layer class (its name, its parameters) are here facts of each instance:
# pyright: reportIncompatibleVariableOverride=false, reportAssignmentType=false

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from matconvnet.blocks._checks import check_projection
from matconvnet.geometry import UNKNOWN
from matconvnet.layer import Context, Layer, Size4, Tensors
from matconvnet.layout import hwcn, nchw, to_tensor


def as_layer(item: Any) -> Layer:
    """The layer that `item` stands for.

    Args:
        item: a Layer, which is itself; a function, see `FunctionLayer`; a pair (function, its
            derivative); or a torch.nn.Module, see `ModuleLayer`.

    Raises: TypeError, for anything else.
    """
    if isinstance(item, Layer):
        return item
    if isinstance(item, nn.Module):
        return ModuleLayer(item)
    functions = item if isinstance(item, tuple) else (item,)
    if len(functions) in (1, 2) and all(map(_is_function, functions)):
        return FunctionLayer(*functions)
    found = f"the class {item.__name__}" if isinstance(item, type) else type(item).__name__
    raise TypeError(
        f"{found} is no layer; wanted a Layer, a function, a pair (function, derivative), "
        "or a torch.nn.Module"
    )


def _is_function(item: Any) -> bool:
    return callable(item) and not isinstance(item, (type, nn.Module))


class Tape(NamedTuple):
    """One evaluation that autograd recorded: the inputs and parameters it read, and its outputs."""

    leaves: Tensors
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Own(Layer):
    """A layer that is made of somebody's code; unless that says otherwise, autograd derives it.

    The graph that autograd records is what forward saves. Two of them are equal if they are one.
    """

    num_inputs, needs = None, frozenset()
    __eq__, __hash__ = object.__eq__, object.__hash__

    @abstractmethod
    def answer(self, inputs: Tensors, params: Tensors, training: bool) -> tuple[Tensor, ...]:
        """Evaluate the code."""

    @property
    def label_inputs(self) -> int:
        """One, of a loss."""
        return int(self.is_loss)

    def forward(self, inputs, params, ctx) -> tuple[tuple[Tensor, ...], Any]:
        """See `answer`; what autograd recorded is saved."""
        if torch.compiler.is_exporting():  # what is traced here will not be differentiated
            return self.answer(inputs, params, ctx.training), None
        tape = self._record(inputs, params, ctx)
        return tuple(y.detach() for y in tape.outputs), tape

    def backward(self, call, der_outputs):
        """Derivatives by autograd; None for an input or parameter that was not used."""
        tape = call.saved or self._record(call.inputs, call.params, call.ctx)
        count = len(call.inputs)
        wanted = (*call.wanted, *(True for _ in call.params))
        targets = [
            i for i, t in enumerate(tape.leaves) if t is not None and t.requires_grad and wanted[i]
        ]
        followed = [
            (y, check_projection(dzdy, y.shape, y))
            for y, dzdy in zip(tape.outputs, der_outputs, strict=True)
            if y.requires_grad
        ]
        if targets and not followed:
            raise ValueError(
                f"autograd cannot follow the outputs of {self.type_name} to its inputs (detach, "
                "argmax or NumPy cut them off); wanted a derivative too, (function, derivative)"
            )
        ders: list[Tensor | None] = [None] * len(tape.leaves)
        if targets:
            found = torch.autograd.grad(
                [y for y, _ in followed], [tape.leaves[i] for i in targets],
                [dzdy for _, dzdy in followed], retain_graph=True, allow_unused=True,
            )  # fmt: skip
            for i, der in zip(targets, found, strict=True):
                ders[i] = der
        return tuple(ders[:count]), tuple(ders[count:])

    def _record(self, inputs: Tensors, params: Tensors, ctx: Context) -> Tape:
        with torch.enable_grad():
            leaves = [_leaf(t) for t in (*inputs, *params)]
            outputs = self.answer(
                tuple(leaves[: len(inputs)]), tuple(leaves[len(inputs) :]), ctx.training
            )
        return Tape(tuple(leaves), outputs)

    def output_sizes(self, sizes, param_shapes) -> tuple[Any, ...]:
        """Those of the answer to tensors without values; nan, if the code needs values."""
        if self.is_loss:
            return ((1, 1, 1, 1),)
        try:
            outputs = self.answer(_empty(sizes), _empty(param_shapes), False)
        except Exception:  # whatever somebody's code may raise
            return (UNKNOWN,)
        return tuple(_size4(y.shape) for y in outputs)

    def receptive_field(self, param_shapes):
        """None: nobody knows."""


def _leaf(t: Tensor | None) -> Tensor | None:
    is_float = t is not None and t.is_floating_point()
    return t.detach().requires_grad_() if t is not None and is_float else t


def _empty(shapes: Sequence[Sequence[int] | None]) -> Tensors:
    """Tensors without values; fails for a size that is not known (nan)."""
    return tuple(None if s is None else torch.empty(tuple(s), device="meta") for s in shapes)


def _size4(shape: Sequence[int]) -> Size4:
    h, w, c, n = (*shape, 1, 1, 1, 1)[:4]
    return h, w, c, n


@dataclass(frozen=True, eq=False)
class FunctionLayer(Own):
    """A function as a layer, with its derivative if there is one; else autograd derives it.

        y = function(*inputs, *params)                            (a tensor, or a tuple of them)
        dzdx, ..., dzdp, ... = derivative(*inputs, *params, dzdy)  (a dzdy for each output)

    Tensors are as networks have them, maps H x W x C x N. The derivative returns one tensor per
    input and then one per parameter, in the shape of each; None, where there is none (labels).

    Args:
        function: evaluates the layer, in training and in test mode alike.
        derivative: its backward function.
        params: the parameters by name, in the order in which the function takes them: initial
            values, or functions of a torch.Generator that draw them.
        is_loss: the output is an objective; in a SimpleNN the layer reads labels too.
    """

    function: Callable[..., Any] = field(compare=False)
    derivative: Callable[..., Any] | None = field(default=None, compare=False)
    params: Mapping[str, Any] = field(default_factory=dict, compare=False, kw_only=True)
    is_loss: bool = field(default=False, compare=False, kw_only=True)
    struct_names = dict.fromkeys(("function", "derivative", "params", "is_loss"))
    dag_names = struct_names

    @property
    def type_name(self) -> str:
        """The name of the function."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    dag_type = type_name

    @property
    def needs(self) -> frozenset[str]:
        """The inputs, if there is a derivative to be given them."""
        return frozenset({"inputs"} if self.derivative else ())

    @property
    def param_names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(self.params)

    def init_params(self, generator=None):
        """Copies of the initial values, or what is drawn from `generator`."""
        values = (to_tensor(v(generator) if callable(v) else v) for v in self.params.values())
        return [torch.as_tensor(value).detach().clone() for value in values]

    def answer(self, inputs, params, training):
        """Call the function."""
        y = self.function(*inputs, *params)
        outputs = tuple(y) if isinstance(y, (tuple, list)) else (y,)
        for y in outputs:
            if not isinstance(y, Tensor):
                raise TypeError(
                    f"{self.type_name} returned {type(y).__name__}; "
                    "wanted a tensor, or a tuple of tensors"
                )
        return outputs

    def forward(self, inputs, params, ctx):
        """Call the function."""
        if self.derivative is None:
            return super().forward(inputs, params, ctx)
        return self.answer(inputs, params, ctx.training), None

    def backward(self, call, der_outputs):
        """Call the derivative, if there is one."""
        if self.derivative is None:
            return super().backward(call, der_outputs)
        args = (*call.inputs, *call.params)
        ders = self.derivative(*args, *der_outputs)
        ders = tuple(ders) if isinstance(ders, (tuple, list)) else (ders,)
        count = len(call.inputs)
        if len(ders) != len(args):
            raise ValueError(
                f"the derivative of {self.type_name} returned {len(ders)} tensors; wanted "
                f"{len(args)}: {count} for inputs, {len(args) - count} for parameters"
            )
        for i, (der, arg) in enumerate(zip(ders, args, strict=True)):
            what = f"input {i}" if i < count else f"parameter {i - count}"
            _check_derivative(der, arg, f"the derivative of {self.type_name} for {what}")
        return ders[:count], ders[count:]


def _check_derivative(der: Any, arg: Tensor | None, what: str) -> None:
    if der is None:
        return
    if not isinstance(der, Tensor):
        raise TypeError(f"{what} is {type(der).__name__}; wanted a tensor, or None")
    if arg is None:
        raise ValueError(f"{what} has shape {tuple(der.shape)}; wanted None for what is absent")
    if der.shape != arg.shape:
        raise ValueError(f"{what} has shape {tuple(der.shape)}; wanted {tuple(arg.shape)}")
    if der.dtype != arg.dtype:
        raise TypeError(f"{what} holds {der.dtype}; wanted {arg.dtype}")


@dataclass(frozen=True, eq=False)
class ModuleLayer(Own):
    """A torch.nn.Module as a layer, differentiated by autograd.

    Maps reach the module as N x C x H x W and come back H x W x C x N; an answer of shape N x K is
    a map 1 x 1 x K x N. Other tensors (labels, numbers) pass as they are.

    The network starts with copies of the module's parameters and trains those; parameters that do
    not require gradients, and buffers (running averages), stay in the module, follow the network
    to its device and type, and are changed as the module changes them. Training and test mode are
    the module's `train()` and `eval()`. Its random numbers are torch's global ones.

    Args:
        module: the module.
        is_loss: the output is an objective; in a SimpleNN the layer reads labels too.
    """

    module: nn.Module = field(compare=False)
    is_loss: bool = field(default=False, compare=False, kw_only=True)
    struct_names = dict.fromkeys(("module", "is_loss"))
    dag_names = struct_names

    @property
    def type_name(self) -> str:
        """The class of the module."""
        return type(self.module).__name__

    dag_type = type_name

    @property
    def param_names(self) -> tuple[str, ...]:
        """The names of the module's parameters."""
        return tuple(name for name, p in self.module.named_parameters() if p.requires_grad)

    def init_params(self, generator=None):
        """Copies of the module's parameters."""
        params = [p for p in self.module.parameters() if p.requires_grad]
        return [p.detach().clone() for p in params]

    def answer(self, inputs, params, training):
        """Call the module, with `params` in the place of its own."""
        names = self.param_names
        if len(params) != len(names):
            raise ValueError(f"{self.type_name} got {len(params)} parameters; wanted {names}")
        given = dict(zip(names, params, strict=True)) | self._rest(inputs, names)
        self.module.train(training)
        maps = tuple(nchw(t) if t.dim() == 4 else t for t in inputs)
        y = functional_call(self.module, given, maps)
        outputs = y if isinstance(y, (tuple, list)) else (y,)
        return tuple(_as_map(y, self.type_name) for y in outputs)

    def _rest(self, inputs: Tensors, names: tuple[str, ...]) -> dict[str, Tensor]:
        """What stays in the module, brought to the device and the type of the inputs."""
        tensors = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        rest = {name: t for name, t in tensors.items() if name not in names}
        like = next((t for t in inputs if t.is_floating_point()), None)
        if like is None:
            return {}
        if like.device.type == "meta":
            return {name: torch.empty_like(t, device="meta") for name, t in rest.items()}
        for t in rest.values():
            kind = like.dtype if t.is_floating_point() else t.dtype
            if (t.device, t.dtype) != (like.device, kind):
                t.data = t.data.to(like.device, kind)
        return {}


def _as_map(y: Any, name: str) -> Tensor:
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} returned {type(y).__name__}; wanted a tensor, or several")
    if y.dim() == 4:
        return hwcn(y)
    if y.dim() == 2:
        return hwcn(y[:, :, None, None])
    if y.dim():
        raise ValueError(
            f"{name} returned shape {tuple(y.shape)}; wanted N x C x H x W, N x K, or one number"
        )
    return y
