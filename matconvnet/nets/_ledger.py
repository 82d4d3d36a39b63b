"""What an evaluation on meta tensors would take: the bytes of all tensors that live, op by op."""

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from matconvnet.blocks.lrn import LRN
from matconvnet.geometry import Size
from matconvnet.graph import Node
from matconvnet.layer import Call, Context
from matconvnet.nets._scratch import compiled, lrn_scratch, scratch

Phase = Literal["forward", "backward", "again"]
"""In "again" a layer is evaluated during the backward pass, see `matconvnet.recompute`."""

UNWRITTEN = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
"""Operators whose memory a CPU does not take before something is written to it."""


class Moment(NamedTuple):
    """What lives while a layer is evaluated, in bytes.

    peak: the most at a time; of it, derivatives: of parameters; scratch: of the kernel. after: what
    is left when the next layer begins.
    """

    phase: Phase
    layer: str
    peak: int
    derivatives: int
    scratch: int
    after: int

    def raised(self, more: int) -> "Moment":
        """The same moment with more bytes that live all the time."""
        return self._replace(peak=self.peak + more, after=self.after + more)


class Ledger(TorchDispatchMode):
    """Counts the bytes of meta tensors from the operator that makes them to their last reference.

    device: type of the device of the evaluation in earnest. live: bytes now; derivatives: those of
    parameters among them, as far as `mark` was told of them. moments: what layers took.
    """

    def __init__(self, device: str):
        super().__init__()
        self.device = device
        self.live = 0
        self.derivatives = 0
        self._derivatives: dict[int, int] = {}
        self.is_backward = False
        self.moments: list[Moment] = []
        self._storages: dict[int, Any] = {}
        self._unwritten: set[int] = set()
        self._kernels: dict[Any, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and count what it made."""
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution":  # of meta tensors, torch forgets the order of memory
            made = made.contiguous(memory_format=torch.channels_last)
        if self._unwritten and func._schema.is_mutable:
            for tensor in _tensors((args, kwargs)):
                self._write(tensor)
        for tensor in _tensors(made):
            self.hold(tensor, is_lazy=self.device == "cpu" and name in UNWRITTEN)
        kernel, size = compiled(name, args)
        self._kernels[kernel] = size
        self.rise(scratch(name, args))
        return made

    def hold(self, tensor: Tensor, *, is_lazy: bool = False) -> None:
        """Count the memory of a tensor, unless it is counted already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages[key] = weakref.ref(storage, lambda _: self._drop(key, size))
        if is_lazy:
            self._unwritten.add(key)
        else:
            self.live += size

    def mark(self, der: Tensor) -> None:
        """Tell that a tensor is the derivative of a parameter."""
        self.hold(der)
        storage = der.untyped_storage()
        if storage._cdata not in self._derivatives:
            self._derivatives[storage._cdata] = storage.nbytes()
            self.derivatives += storage.nbytes()

    def begin(self, layer: str, *, is_derivative: bool = False) -> None:
        """Note from here on what a layer takes."""
        self.end()
        again = self.is_backward and not is_derivative
        phase = "again" if again else "backward" if is_derivative else "forward"
        self.moments.append(Moment(phase, layer, self.live, self.derivatives, 0, self.live))

    def end(self) -> None:
        """Note what is left of what the last layer made."""
        if self.moments:
            self.moments[-1] = self.moments[-1]._replace(after=self.live)

    def rise(self, extra: int) -> None:
        """Note that kernels take `extra` bytes for a moment, beside their own code."""
        extra += sum(self._kernels.values())
        if self.moments and self.live + extra > self.moments[-1].peak:
            self.moments[-1] = self.moments[-1]._replace(
                peak=self.live + extra, derivatives=self.derivatives, scratch=extra
            )

    def _write(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._unwritten:
            self._unwritten.remove(storage._cdata)
            self.live += storage.nbytes()

    def _drop(self, key: int, size: int) -> None:
        del self._storages[key]
        self.derivatives -= self._derivatives.pop(key, 0)
        if key in self._unwritten:
            self._unwritten.remove(key)
        else:
            self.live -= size


class Watched:
    """Stands for a layer in a graph, and tells a ledger when it is called.

    A layer that does not run on meta tensors, such as one of the user's in NumPy, is taken to make
    just its outputs, and derivatives of what it reads. sizes: of the variables.
    """

    def __init__(self, node: Node, ledger: Ledger, sizes: Mapping[str, Size]):
        self._node, self._layer, self._ledger, self._sizes = node, node.layer, ledger, sizes
        self._is_estimated = ledger.device == "cpu" and isinstance(node.layer, LRN)

    @property
    def __class__(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        """That of the layer, so that isinstance tells what it is."""
        return type(self._layer)

    def __getattr__(self, name: str) -> Any:
        """All else is that of the layer."""
        return getattr(self._layer, name)

    def sparing(self) -> "Watched":
        """The sparing layer, watched as well."""
        node = self._node._replace(layer=self._layer.sparing())
        return Watched(node, self._ledger, self._sizes)

    def forward(self, inputs: tuple[Tensor, ...], params: tuple[Any, ...], ctx: Context) -> Any:
        """Evaluate the layer."""
        self._ledger.begin(self._node.name)
        if not self._is_estimated:
            try:
                return self._layer.forward(inputs, params, ctx)
            except (NotImplementedError, RuntimeError, TypeError):
                self._is_estimated = True
        made = tuple(_written(self._sizes[v], inputs[0]) for v in self._node.outputs)
        self._rise(inputs)
        return made, None

    def backward(self, call: Call, der_outputs: tuple[Any, ...]) -> Any:
        """Differentiate the layer."""
        self._ledger.begin(self._node.name, is_derivative=True)
        if not self._is_estimated:
            return self._layer.backward(call, der_outputs)
        like = der_outputs[0]
        ders = tuple(
            _written(self._sizes[v], like) if wanted else None
            for v, wanted in zip(self._node.inputs, call.wanted, strict=True)
        )
        self._rise(ders)
        return ders, tuple(None if p is None else torch.zeros_like(p) for p in call.params)

    def _rise(self, maps: tuple[Any, ...]) -> None:
        if isinstance(self._layer, LRN):
            self._ledger.rise(lrn_scratch(maps[0]))


def _written(size: Size, like: Tensor) -> Tensor:
    """A meta tensor of a size, in memory that counts."""
    h, w, c, n = map(int, size)
    return like.new_zeros((n, h, w, c)).permute(1, 2, 3, 0)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (v for v in tree_leaves(values) if isinstance(v, Tensor) and v.is_meta)
