"""What derivative checking can check: blocks, pairs of functions, layers, networks.

Each becomes a Subject: named float64 tensors, a forward and a backward function of them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matconvnet import executor
from matconvnet.blocks.loss import Regression
from matconvnet.graph import Graph, Node, build
from matconvnet.layer import Context, Layer
from matconvnet.layout import to_tensor
from matconvnet.nets.example import example_inputs
from matconvnet.nets.network import Network

Tensors = dict[str, Tensor]


class Subject(NamedTuple):
    """Something to check: its tensors by name, and its forward and backward functions."""

    tensors: Tensors
    evaluate: Callable[[Tensors], list[Tensor]]
    differentiate: Callable[[Tensors, list[Tensor]], Mapping[str, Tensor]]


def describe(
    subject: Any,
    args: Sequence[Any],
    options: dict[str, Any],
    training: bool,
    generator: torch.Generator,
) -> Subject:
    """Make a Subject of a block, a pair of functions, a layer or a network."""
    if isinstance(subject, Network):
        inputs = (
            args[0]
            if args
            else example_inputs(subject, labels=True, dtype=torch.float64, generator=generator)
        )
        params = {name: p.value for name, p in subject.params.items()}
        frozen = {n for n, p in subject.params.items() if p.train_method == "average"}
        return _from_graph(subject.graph, inputs, params, frozen, training)
    if isinstance(subject, Layer):
        return _from_layer(subject, args, list(options.get("params", ())), training)
    if isinstance(subject, tuple) and len(subject) == 2 and all(map(callable, subject)):
        return _from_functions(*subject, args, options)
    if callable(subject):
        return _from_functions(subject, _derivative_of(subject), args, options)
    raise TypeError(
        f"subject is {type(subject).__name__}; wanted a block, a pair (f, f_backward), "
        "a Layer or a network"
    )


def _double(value: Any) -> Any:
    """Floats as float64; anything else as it is."""
    tensor = to_tensor(value)
    is_float = isinstance(tensor, Tensor) and tensor.is_floating_point()
    return tensor.detach().double() if is_float else tensor


def _derivative_of(block: Any) -> Callable[..., Any]:
    name = getattr(block, "__name__", "")
    if name.startswith("vl_"):
        return block
    found = getattr(sys.modules.get(getattr(block, "__module__", "")), f"{name}_backward", None)
    if found is None:
        raise TypeError(f"{name or block!r} has no {name}_backward beside it; "
                        "pass the pair (f, f_backward)")  # fmt: skip
    return found


def _from_functions(f: Any, f_backward: Any, args: Sequence[Any], options: Any) -> Subject:
    args = [_double(a) for a in args]
    options = {key: _double(value) for key, value in options.items()}
    is_float = [isinstance(a, Tensor) and a.is_floating_point() for a in args]
    names = [f"input {i}" for i in range(len(args))]
    names[: len(args)] = _argument_names(f, names)
    tensors = {n: a for n, a, is_f in zip(names, args, is_float, strict=True) if is_f}
    if not tensors:
        raise ValueError("there is no tensor of floats among the arguments; wanted at least one")
    # MatConvNet's functions take dzdy after all inputs; ours after the tensors, before the rest.
    last = len(args) if f is f_backward else 1 + max(
        i for i, a in enumerate(args) if isinstance(a, Tensor) or a is None
    )  # fmt: skip

    def full(values: Tensors) -> list[Any]:
        return [values.get(n, a) for n, a in zip(names, args, strict=True)]

    def evaluate(values: Tensors) -> list[Tensor]:
        y = f(*full(values), **options)
        return [y[0] if isinstance(y, tuple) else y]

    def differentiate(values: Tensors, projections: list[Tensor]) -> Mapping[str, Tensor]:
        given = full(values)
        ders = f_backward(*given[:last], projections[0], *given[last:], **options)
        ders = ders if isinstance(ders, (tuple, list)) else (ders,)
        places = [i for i, a in enumerate(args[:last]) if isinstance(a, Tensor) or a is None]
        found = dict(zip(places, ders, strict=False))
        return {names[i]: found[i] for i in places if is_float[i] and found.get(i) is not None}

    return Subject(tensors, evaluate, differentiate)


def _argument_names(f: Any, fallback: list[str]) -> list[str]:
    code = getattr(getattr(f, "__wrapped__", f), "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code else ()
    return [*names[: len(fallback)], *fallback[len(names) :]]


def _from_layer(layer: Layer, args: Sequence[Any], params: list[Any], training: bool) -> Subject:
    inputs = {f"input {i}" if len(args) > 1 else "x": _double(a) for i, a in enumerate(args)}
    known = layer.param_names
    names = [known[i] if i < len(known) else f"parameter {i}" for i in range(len(params))]
    values = {n: _double(p) for n, p in zip(names, params, strict=True)}
    graph = build([Node("layer", layer, tuple(inputs), ("y",), tuple(values))])
    return _from_graph(graph, inputs, values, set(layer.averaged_params), training)


def _from_graph(
    graph: Graph,
    inputs: Mapping[str, Any],
    params: Mapping[str, Tensor | None],
    averaged: set[str],
    training: bool,
) -> Subject:
    fixed = {name: _double(value) for name, value in inputs.items()}
    weights = {n: None if p is None else _double(p) for n, p in params.items()}
    losses = [n for n in graph.nodes if n.layer.label_inputs]
    labels = {v for n in losses for v in n.inputs[2 if isinstance(n.layer, Regression) else 1 :]}
    tensors = {n: t for n, t in fixed.items() if t.is_floating_point() and n not in labels}
    tensors |= {n: w for n, w in weights.items() if w is not None and n not in averaged}

    def record(values: Tensors, derivative: bool) -> executor.Record:
        given, learned = {**fixed, **{n: values[n] for n in fixed if n in values}}, dict(weights)
        learned.update({n: values[n] for n in weights if n in values})
        generator = torch.Generator().manual_seed(0)  # the same dropout masks at every evaluation
        return executor.forward(
            graph, learned, given, ctx=Context(training, generator), derivative=derivative
        )

    def evaluate(values: Tensors) -> list[Tensor]:
        return [record(values, False).values[v] for v in graph.outputs]

    def differentiate(values: Tensors, projections: list[Tensor]) -> Mapping[str, Tensor]:
        made = record(values, True)
        ders = dict(zip(graph.outputs, projections, strict=True))
        executor.backward(graph, weights, made, ders)
        return {**made.ders, **made.param_ders}

    return Subject(tensors, evaluate, differentiate)
