"""Evaluation in another precision than that of the parameters, which stay the masters.

The parameters that training updates keep their type, float32 as a rule. An evaluation reads copies
of them in the type of the layers that use them (`casts`), made once after each update, and hands
out their derivatives in the type of the masters. (Programs, in `evaluator`, read the masters.)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from matconvnet.executor import OnParam, Record
from matconvnet.fast.casts import Casts, with_casts
from matconvnet.fast.loss_scale import LossScale
from matconvnet.layout import to_tensor
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""fp32: as the network is. tf32: products of 10 binary digits on a GPU. bf16, fp16: half types."""

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}

REUSED_BYTES = 1 << 20
"""From this size on, memory for derivatives is kept: writing to fresh memory takes time."""


class Evaluator(Protocol):
    """What evaluates a network: the network itself, or one that shares its parameters."""

    @property
    def eval(self) -> Callable[..., Record]:
        """See `Network.eval`."""
        ...


def check_precision(precision: str) -> None:
    """Raise ValueError unless `precision` is one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; wanted one of {', '.join(PRECISIONS)}")


def with_precision(net: Network, precision: str, scale: LossScale | None = None) -> Network:
    """The network as it evaluates in a precision; it shares the parameters of `net`.

    Args:
        net: the network; its parameters are the masters.
        precision: one of PRECISIONS. "fp32" is `net` itself, in the type of its parameters.
        scale: what derivatives are multiplied by while they are computed; None: nothing.

    Raises: ValueError for any other name.
    """
    check_precision(precision)
    if precision == "fp32":
        return net
    return Tf32(net) if precision == "tf32" else Narrow(net, LOW[precision], scale)


def note(precision: str, device: torch.device | str) -> str:
    """What a user should know of a precision on a device; empty, if there is nothing."""
    if torch.device(device).type != "cpu":
        return ""
    mkldnn: Any = torch.ops.mkldnn
    if precision == "tf32":
        return "tf32 is a precision of GPUs: computing in fp32"
    if precision == "bf16" and not mkldnn._is_mkldnn_bf16_supported():
        return "bf16 is slower than fp32 on this CPU, which has no instructions for it"
    if precision == "fp16" and not mkldnn._is_mkldnn_fp16_supported():
        return "fp16 is much slower than fp32 on this CPU, which has no instructions for it"
    return ""


class View(Network):
    """A network that evaluates another one in its own way, with the same parameters."""

    def __init__(self, net: Network):
        super().__init__(net.meta, net.extra, net.beside)
        self.net = net

    @property
    def graph(self):
        """The structure."""
        return self.net.graph

    @property
    def params(self):
        """The parameters, the masters."""
        return self.net.params

    @property
    def input(self):
        """The variable that takes the data."""
        return self.net.input

    @property
    def data_inputs(self):
        """See `Network.data_inputs`."""
        return self.net.data_inputs

    @property
    def prediction(self):
        """See `Network.prediction`."""
        return self.net.prediction

    @property
    def precious(self) -> Iterable[str]:
        """Variables that are never freed."""
        return self.net.precious

    def to_struct(self):
        """The network as a struct."""
        return self.net.to_struct()

    def _evaluated(self, record: Record) -> None:
        self.net._evaluated(record)


class Tf32(View):
    """Evaluates a network with the tensor cores of a GPU; elsewhere as it is."""

    def eval(self, inputs: Any, ders: Any = None, **options: Any) -> Record:
        """See `Network.eval`."""
        with tf32():
            return self.net.eval(inputs, ders, **options)

    def predict(self, images: Any, **options: Any):
        """See `Network.predict`."""
        with tf32():
            return self.net.predict(images, **options)


class Narrow(View):
    """Evaluates a network in a half type, with the derivatives of the masters' type.

    Args:
        net: the network.
        low: torch.bfloat16 or torch.float16.
        scale: what derivatives are multiplied by while they are computed; None: nothing.
    """

    def __init__(self, net: Network, low: torch.dtype, scale: LossScale | None = None):
        super().__init__(net)
        self.low, self.scale = low, scale
        self._casts: Casts | None = None
        self._copies: dict[str, tuple[Tensor, int | None, Tensor]] = {}
        self._spare: dict[str, Tensor] = {}

    @property
    def casts(self) -> Casts:
        """The graph with casts; made again, when the network has another structure."""
        if self._casts is None or self._casts.origin is not self.net.graph:
            self._casts = with_casts(self.net.graph, self.low)
        return self._casts

    @property
    def graph(self):
        """The structure, with casts."""
        return self.casts.graph

    def values(self) -> dict[str, Tensor | None]:
        """The parameters in the types that layers read; converted where a master has changed.

        A change is told by the tensor's version: what writes to a parameter without torch has to
        call `torch.autograd.graph.increment_version`.
        """
        types = self.casts.params
        return {
            name: value if value is None else self._copy(name, value, types.get(name, value.dtype))
            for name, value in self.net.values().items()
        }

    def predict(self, images: Any, **options: Any):
        """See `Network.predict`; the outputs are float32."""
        found = super().predict(images, **options)
        return replace(found, outputs=tuple(output.float() for output in found.outputs))

    def eval(
        self,
        inputs: Mapping[str, Any],
        ders: Mapping[str, Any] | None = None,
        *,
        record: Record | None = None,
        depth: int | None = None,
        accumulate: bool = False,
        on_param: OnParam | None = None,
        out: Mapping[str, Tensor] | None = None,
        **options: Any,
    ) -> Record:
        """See `Network.eval`. Sub-batches are added in the type of the masters."""
        casts = self.casts
        if isinstance(self.net, DagNN):
            self.net.record = Record()  # or its values would outlive the evaluation
        older = dict(record.param_ders) if accumulate and record is not None else {}
        done: dict[str, Tensor] = {}
        give = done.__setitem__ if on_param is None else on_param

        def receive(name: str, der: Tensor) -> None:
            give(name, self._widened(name, der, older.pop(name, None), (out or {}).get(name)))

        made = super().eval(
            {v: _as_type(value, casts.types.get(v)) for v, value in inputs.items()},
            None if ders is None else {v: self._scaled(v, der) for v, der in ders.items()},
            depth=casts.depth(depth), on_param=receive, out=self._spare, **options,
        )  # fmt: skip
        for name, der in older.items():  # nothing was added to these
            (done.__setitem__ if ders is None else give)(name, der)
        made.param_ders = done
        made.ders = {v: self._unscaled(der) for v, der in made.ders.items()}
        _fold(made, casts)
        if isinstance(self.net, DagNN):
            self.net.record = made
        return made

    def _copy(self, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        """A parameter in another type, made again only if it has changed."""
        if value.dtype == dtype:
            return value
        version = None if value.is_inference() else value._version
        master, seen, copy = self._copies.get(name, (None, None, None))
        if copy is None or copy.dtype != dtype or copy.shape != value.shape:
            copy = torch.empty_like(value, dtype=dtype)
        elif master is value and seen == version and version is not None:
            return copy
        self._copies[name] = value, version, copy.copy_(value)
        return copy

    def _scaled(self, variable: str, der: Any) -> Any:
        """An output derivative in the type of its variable, times the scale."""
        scale = 1.0 if self.scale is None else self.scale.value
        der = to_tensor(der)
        if not isinstance(der, Tensor) or scale != 1:
            der = der * scale
        return _as_type(der, self.casts.types.get(variable))

    def _unscaled(self, der: Tensor) -> Tensor:
        if self.scale is None:
            return der
        return der.to(torch.promote_types(der.dtype, torch.float32)) / self.scale.value

    def _widened(
        self, name: str, der: Tensor, older: Tensor | None, spare: Tensor | None
    ) -> Tensor:
        """The derivative of a parameter in the type of the master, without the scale."""
        value = self.net.params[name].value
        assert value is not None
        share = 1.0
        if self.scale is not None and name not in self._averaged:
            share = 1 / self.scale.value
        if der.dtype != value.dtype and der.nbytes >= REUSED_BYTES:
            self._spare[name] = der
        if older is not None:
            return torch.add(older, der.to(older.dtype), alpha=share)
        if der.dtype == value.dtype:  # it may be a tensor of the user's, not to be changed
            return der if share == 1 else der * share
        if spare is None or spare.shape != der.shape or spare.dtype != value.dtype:
            spare = torch.empty_like(der, dtype=value.dtype)
        wide = spare.copy_(der)
        return wide if share == 1 else wide.mul_(share)

    @property
    def _averaged(self) -> set[str]:
        """Parameters whose "derivative" is what they are the average of, which has no scale."""
        return {
            p
            for node in self.graph.nodes
            for p, kind in zip(node.params, node.layer.param_names, strict=False)
            if kind in node.layer.averaged_params
        }


def _fold(record: Record, casts: Casts) -> None:
    """Leave nothing of the casts in a record but their time, in that of the layer behind."""
    for name, reader in casts.readers.items():
        for found in (record.values, record.ders, record.saved):
            found.pop(name, None)
        record.skipped.discard(name)
        for times in (record.forward_time, record.backward_time):
            seconds = times.pop(name, 0.0)
            if reader in times:
                times[reader] += seconds


def _as_type(value: Any, dtype: torch.dtype | None) -> Any:
    """A tensor of floats in a type; anything else as it is."""
    value = to_tensor(value)
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_float and dtype is not None else value


@contextmanager
def tf32() -> Iterator[None]:
    """Let products and convolutions of float32 on a GPU round to tf32 for a while."""
    cudnn: Any = torch.backends.cudnn
    settings = torch.backends.cuda.matmul, cudnn.conv
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
