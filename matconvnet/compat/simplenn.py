"""`vl_simplenn` and its helpers, with MATLAB manners: structs, `res` entries, labels from 1."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matconvnet import executor
from matconvnet.blocks._loss_kinds import KINDS
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss, Regression
from matconvnet.compat.options import parse_options
from matconvnet.errors import RecordError
from matconvnet.executor import Record
from matconvnet.layer import Context, Layer
from matconvnet.layout import as4d, channels_last, map_arrays, to_numpy, to_tensor
from matconvnet.nets import struct
from matconvnet.nets.custom import Entry
from matconvnet.nets.fields import is_empty
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.parallel.server import ParameterServer

OPTIONS = {
    "mode": "normal",
    "conserve_memory": False,
    "sync": False,
    "accumulate": False,
    "cudnn": True,
    "back_prop_depth": None,
    "skip_forward": False,
    "parameter_server": None,
    "hold_on": False,
    "generator": None,
}


def vl_simplenn(
    net: Any, x: Any, dzdy: Any = None, res: list[Entry] | None = None, *pairs: Any, **options: Any
) -> list[Entry]:
    """Evaluate a chain of layers, and differentiate it if `dzdy` is given.

    Args:
        net: a network struct (a dict with `layers`), or a SimpleNN. Loss layers of a struct hold
            their labels, from 1 with 0 = ignore, in the field `class`; those of a SimpleNN in
            `net.layers[i].extra["class"]`. `net` is not modified.
        x: H x W x C x N input, NumPy or torch; the answer is of the same kind.
        dzdy: derivative of the objective with respect to the output; 1 for a scalar loss. None or
            [] for a forward pass alone.
        res: what an earlier call returned, to accumulate derivatives or to skip the forward pass.
            It is not modified; what is not computed again is carried over.
        pairs, options: name, value pairs or keywords, in any case:
            mode: 'normal' or 'test'. conserveMemory: free values that nothing will read.
            backPropDepth: how many layers, from the last, to differentiate.
            accumulate: add derivatives of weights to those in `res`.
            skipForward: differentiate by the values in `res`.
            parameterServer: is pushed each derivative `l<i>_<j>` as soon as it is complete;
            holdOn: do not push yet. sync: wait for the GPU after each layer.
            cudnn: use cuDNN. generator: a torch.Generator for dropout (ours).

    Returns:
        n + 1 entries for n layers. `res[i].x` is the value before layer i (from 0), `res[-1].x` the
        output; `.dzdx` its derivative; `.dzdw` derivatives of the weights of layer i; `.aux`,
        `.stats`, `.time`, `.backward_time`.

    Raises:
        TypeError: an unknown option. ValueError: a wrong mode, backPropDepth < 1, skipForward
        without dzdy or res. FormatError: an unknown layer type. RecordError: skipForward over
        values that were freed. Errors of the blocks carry the layer they happened in.

    Source: vl_simplenn.
    """
    opts = parse_options(OPTIONS, pairs, options)
    in_numpy = isinstance(x, np.ndarray)
    chain = net if isinstance(net, SimpleNN) else chain_of(net, in_numpy)
    backward = not is_empty(dzdy)
    depth = _check(opts, backward, res)
    params = chain.values()
    ctx = Context(opts["mode"].lower() == "normal", opts["generator"])
    memory = {
        "depth": depth,
        "conserve_memory": bool(opts["conserve_memory"]),
        "precious": chain.precious,
        "sync": bool(opts["sync"]),
    }
    with cudnn_flags(bool(opts["cudnn"])):
        if opts["skip_forward"]:
            record = _recall(chain, res or [], ctx)
        else:
            data = _map(x)
            inputs = {"x0": data, **_labels(chain, data.shape[-1])}
            record = executor.forward(
                chain.graph, params, inputs, ctx=ctx, derivative=backward, **memory
            )
        saved = dict(record.saved)
        if backward:
            if opts["accumulate"]:
                record.param_ders = _weight_ders(chain, res or [])
            server = None if opts["hold_on"] else opts["parameter_server"]
            executor.backward(
                chain.graph, params, record, {chain.output: _output_der(dzdy, record, chain)},
                accumulate=bool(opts["accumulate"]),
                on_param=None if server is None else server.push, **memory,
            )  # fmt: skip
    entries = _lay_out(chain, record, saved, res, backward, bool(opts["skip_forward"]), depth)
    if in_numpy:
        for entry in entries:
            entry.x, entry.dzdx, entry.aux = map(to_numpy, (entry.x, entry.dzdx, entry.aux))
            entry.dzdw = map_arrays(entry.dzdw, to_numpy)
    return entries


def vl_simplenn_tidy(net: Any) -> Any:
    """Bring a network struct of any age into the current form; see `nets.struct.tidy`.

    A SimpleNN is returned as it is. Source: vl_simplenn_tidy.
    """
    return net if isinstance(net, SimpleNN) else struct.tidy(net)


def vl_simplenn_start_parserv(net: Any, server: ParameterServer) -> None:
    """Register every weight of `net` as `l<i>_<j>` with the server, and start it.

    Source: vl_simplenn_start_parserv.
    """
    chain = net if isinstance(net, SimpleNN) else SimpleNN.from_struct(net)
    for name, value in chain.values().items():
        if value is not None:
            server.register(name, value.shape, value.dtype, value.device)
    server.start()


def chain_of(net: Any, in_numpy: bool) -> SimpleNN:
    """The network of a struct; custom functions are given NumPy arrays, if that is what came in."""
    if in_numpy and isinstance(net, Mapping) and isinstance(net.get("layers"), (list, tuple)):
        net = {**net, "layers": [_in_numpy(layer) for layer in net["layers"]]}
    return SimpleNN.from_struct(net)


def _in_numpy(layer: Any) -> Any:
    """A custom layer whose functions are given arrays; any other entry as it is."""
    if not isinstance(layer, Mapping) or layer.get("type") != "custom":
        return layer
    functions = {key: layer[key] for key in ("forward", "backward") if callable(layer.get(key))}
    return {**layer, **{key: _with_arrays(function) for key, function in functions.items()}}


def _with_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(layer: dict[str, Any], before: Entry, after: Entry) -> Any:
        for entry in (before, after):
            entry.x, entry.dzdx, entry.aux = map(to_numpy, (entry.x, entry.dzdx, entry.aux))
        if "weights" in layer:
            layer["weights"] = map_arrays(layer["weights"], to_numpy)
        return function(layer, before, after)

    return wrapper


def _check(opts: dict[str, Any], backward: bool, res: Any) -> int | None:
    """Check the options; the number of layers to differentiate, or None."""
    if str(opts["mode"]).lower() not in ("normal", "test"):
        raise ValueError(f"Unknown mode {opts['mode']!r}; wanted 'normal' or 'test'")
    if opts["skip_forward"] and not backward:
        raise ValueError("skipForward without dzdy (simplenn:skipForwardNoBackwPass)")
    if opts["skip_forward"] and not res:
        raise ValueError("skipForward without res (simplenn:skipForwardEmptyRes)")
    depth = opts["back_prop_depth"]
    if is_empty(depth) or depth == float("inf"):
        return None
    if depth < 1 or depth != int(depth):
        raise ValueError(f"invalid backPropDepth {depth}; wanted a whole number >= 1, or inf")
    return int(depth)


def cudnn_flags(enabled: bool):
    """A context in which convolutions use cuDNN, or do not."""
    if enabled or not torch.cuda.is_available():
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=False)


def _map(x: Any) -> Tensor:
    tensor = to_tensor(x)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"x is {type(x).__name__}; wanted a tensor or an array")
    return channels_last(as4d(tensor, "x")) if tensor.is_floating_point() else tensor


def _labels(chain: SimpleNN, images: int) -> dict[str, Tensor]:
    """Labels and targets of the loss layers by variable; class labels become 0-based."""
    labels = {}
    for i, link in enumerate(chain.layers, 1):
        if not link.layer.label_inputs:
            continue
        if is_empty(link.extra.get("class")) and images:
            raise ValueError(f"layer {i} ({link.name!r}) has no labels; set its field 'class'")
        value = to_tensor(link.extra.get("class", []))
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value)
        labels[chain.label(i)] = labels_from_one(link.layer, value)
    return labels


def labels_from_one(layer: Layer, labels: Tensor) -> Tensor:
    """Class labels counted from 0 (0 becomes -1, ignored); attributes and targets as they are.

    Of labels in pairs of channels (class, weight) the weights stay as they are.
    """
    if isinstance(layer, Regression) or (
        isinstance(layer, Loss) and KINDS[layer.loss.lower()].is_attribute
    ):
        return labels
    if labels.dim() < 3 or labels.shape[2] % 2:
        return labels - 1
    shifts = torch.tensor([1, 0], device=labels.device).repeat(labels.shape[2] // 2)
    return labels - shifts.reshape(-1, *[1] * (labels.dim() - 3))


def _output_der(dzdy: Any, record: Record, chain: SimpleNN) -> Tensor:
    output = record.values.get(chain.output)
    if output is None:
        raise RecordError("skipForward: the output of the network is not in res")
    der = to_tensor(dzdy)
    if not isinstance(der, Tensor):
        der = output.new_tensor(der)
    if der.numel() == 1 and output.numel() == 1:
        return der.reshape(output.shape).to(output)
    return as4d(der, "dzdy") if output.dim() == 4 else der


def _recall(chain: SimpleNN, res: list[Entry], ctx: Context) -> Record:
    """A record of the values in `res`, as if the forward pass had just been made."""
    if len(res) != len(chain.layers) + 1:
        raise ValueError(f"res has {len(res)} entries; wanted {len(chain.layers) + 1}")
    images = next((np.shape(e.x)[-1] for e in res if np.ndim(e.x) == 4), 1)
    record = Record(_labels(chain, images), ctx=ctx)
    for i, entry in enumerate(res):
        if entry.x is not None:
            record.values[f"x{i}"] = _map(entry.x) if np.ndim(entry.x) else to_tensor(entry.x)
    for i, node in enumerate(chain.graph.nodes):
        after = res[i + 1]
        if after.aux is not None:
            record.saved[node.name] = to_tensor(after.aux)
        elif node.layer.label_inputs:
            continue  # the labels may be others now
        elif after.saved is not None and after.saved[0] is res[i].x is not None:
            record.saved[node.name] = after.saved[1]
    return record


def _weight_ders(chain: SimpleNN, res: list[Entry]) -> dict[str, Tensor]:
    """Derivatives of weights that `res` holds, by name; missing ones count as zero."""
    ders = {}
    for entry, link in zip(res, chain.layers, strict=False):
        for param, der in zip(link.params, entry.dzdw or [], strict=False):
            if not is_empty(der):
                ders[param.name] = to_tensor(der)
    return ders


def _lay_out(
    chain: SimpleNN,
    record: Record,
    saved: Mapping[str, Any],
    res: list[Entry] | None,
    backward: bool,
    skip_forward: bool,
    depth: int | None,
) -> list[Entry]:
    """The record as entries of `res`: entry i holds variable i and the derivatives of layer i."""
    count = len(chain.layers)
    entries = [copy(entry) for entry in res] if res else [Entry() for _ in range(count + 1)]
    if len(entries) != count + 1:
        raise ValueError(f"res has {len(entries)} entries; wanted {count + 1}")
    lowest = 0 if depth is None else max(count - depth, 0)
    for i, entry in enumerate(entries):
        variable = f"x{i}"
        if not skip_forward or record.spent:
            entry.x = record.values.get(variable)
        if backward and i >= lowest:
            entry.dzdx = record.ders.get(variable)
    for i, node in enumerate(chain.graph.nodes):
        entry, after = entries[i], entries[i + 1]
        entry.time = record.forward_time.get(node.name, entry.time)
        entry.backward_time = record.backward_time.get(node.name, entry.backward_time)
        kept = saved.get(node.name)
        if isinstance(kept, Entry):
            after.aux = kept.aux
        elif not skip_forward and isinstance(node.layer, Dropout) and kept is not None:
            after.aux = node.layer.mask_of(kept)
        after.saved = (entry.x, kept) if kept is not None and record.ctx.training else None
        if backward and i >= lowest:
            if node.params:
                entry.dzdw = [record.param_ders.get(param) for param in node.params]
            elif isinstance(kept, Entry):
                entry.dzdw = kept.dzdw
    return entries
