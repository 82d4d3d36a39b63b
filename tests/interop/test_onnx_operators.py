"""Every ONNX operator that we read becomes layers that compute what onnxruntime does."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from matconvnet.interop.onnx import load_onnx, verify_onnx
from tests.helpers import assert_close
from tests.onnx_files import (
    FREE,
    FULL,
    PADS,
    F,
    T,
    X,
    array,
    evaluate,
    run,
    to_hwcn,
    to_nchw,
    write,
)
from tests.tolerances import REFERENCE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOLERANCE = REFERENCE[torch.float32]
INF = np.float32(np.inf)


class Case(NamedTuple):
    """Operators, the shape of their input x (and others), weights, and axes of the output y."""

    name: str
    nodes: Any
    inputs: Any = {"x": (2, 4, 9, 7)}
    weights: Any = {}
    rank: int = 4
    opset: int = 17


def conv_case(name, **attributes):
    return Case(name, [("Conv", "x f b", "y", attributes)], weights=F)


def pool_case(kind, size, inputs=X, **attributes):
    name = f"{kind} {size} {attributes}" + (" free" if inputs is FREE else "")
    return Case(name, [(kind, "x", "y", {"kernel_shape": size, **attributes})], inputs)


CASES = (
    conv_case("conv"),
    conv_case("conv with pads", pads=[1, 2, 0, 3], strides=[2, 3], dilations=[1, 2]),
    *(
        conv_case(f"conv {how} {strides}", auto_pad=how, strides=strides)
        for how in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides in ([1, 1], [2, 3])
    ),
    Case("conv of groups", [("Conv", "x f", "y", {"group": 2})], weights={"f": array(6, 2, 3, 3)}),
    Case(
        "conv twice with the same filters",
        [("Conv", "x f", "a", {"pads": [1] * 4}), ("Conv", "a f", "y")],
        weights={"f": array(4, 4, 3, 3)},
    ),
    *(
        Case(f"convt {attributes}", [("ConvTranspose", "x f b", "y", attributes)], weights=T)
        for attributes in (
            {},
            {"strides": [2, 3], "pads": [1, 0, 2, 1]},
            {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
            {"strides": [3, 4], "output_padding": [2, 1]},
        )
    ),
    Case("convt of groups", [("ConvTranspose", "x f", "y", {"group": 2})], weights={"f": T["f"]}),
    *(
        pool_case(kind, size, inputs, **attributes)
        for kind in ("MaxPool", "AveragePool")
        for inputs in (X, FREE)
        for size, attributes in (
            ([3, 2], {}),
            ([3, 3], {"strides": [2, 2], "pads": [1, 0, 0, 1]}),
            ([3, 3], {"strides": [2, 3], "ceil_mode": 1}),
            ([3, 4], {"strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
        )
    ),
    *(
        pool_case("MaxPool", [2, 2], strides=[s, s], pads=[1, 1, 1, 1], ceil_mode=1)
        for s in (2, 3)
    ),
    *(
        pool_case(
            "AveragePool", [3, 2], count_include_pad=1, pads=[1, 1, 2, 0], strides=[2, s],
            ceil_mode=ceil,
        )
        for s in (1, 3)
        for ceil in (0, 1)
    ),
    Case("global average", [("GlobalAveragePool", "x", "y")]),
    Case("global maximum", [("GlobalMaxPool", "x", "y")]),
    *(
        Case(
            f"mean over pixels {keep}",
            [("ReduceMean", "x", "y", {"axes": [2, -1], "keepdims": keep})],
            rank=4 if keep else 2,
        )
        for keep in (0, 1)
    ),
    Case(
        "mean over pixels, axes given",
        [("ReduceMean", "x axes", "y")], weights={"axes": np.array([-2, 3])}, opset=18,
    ),
    Case("relu", [("Relu", "x", "y")]),
    Case("leaky relu", [("LeakyRelu", "x", "y", {"alpha": 0.3})]),
    Case("leaky relu of its own", [("LeakyRelu", "x", "y")]),
    Case("clip", [("Clip", "x low", "y")], weights={"low": np.float32(0)}),
    Case(
        "clip to infinity",
        [("Clip", "x low high", "y")],
        weights={"low": np.float32(0), "high": np.float32(np.finfo(np.float32).max)},
    ),
    Case("clip of old", [("Clip", "x", "y", {"min": 0.0})], opset=9),
    Case("sigmoid", [("Sigmoid", "x", "y")]),
    Case("softmax", [("Softmax", "x", "y", {"axis": -3})]),
    Case(
        "softmax of old", [("GlobalMaxPool", "x", "a"), ("Softmax", "a", "y")], opset=11
    ),
    Case("softmax of rows", [("Softmax", "x", "y")], {"x": (3, 5)}, rank=2),
    Case("lrn", [("LRN", "x", "y", {"size": 3, "alpha": 2.0, "beta": 0.6, "bias": 1.5})]),
    Case("lrn of its own", [("LRN", "x", "y", {"size": 5})]),
    Case(
        "batch norm",
        [("BatchNormalization", "x g b m v", "y", {"epsilon": 0.01})],
        weights={"g": array(4), "b": array(4, seed=1), "m": array(4, seed=2), "v": array(4) ** 2},
    ),
    Case(
        "batch norm of rows",
        [("BatchNormalization", "x g b m v", "y")],
        {"x": (3, 4)},
        {"g": array(4), "b": array(4, seed=1), "m": array(4, seed=2), "v": array(4) ** 2},
        rank=2,
    ),
    Case("sum", [("Relu", "x", "a"), ("Sum", "x a x", "y")]),
    Case("sum of one", [("Sum", "x", "y")]),
    Case("add maps", [("Relu", "x", "a"), ("Add", "x a", "y")]),
    Case("subtract maps", [("Relu", "x", "a"), ("Sub", "a x", "y")]),
    Case("multiply maps", [("Sigmoid", "x", "a"), ("Mul", "x a", "y")]),
    Case("multiply by channels", [("GlobalMaxPool", "x", "a"), ("Mul", "a x", "y")]),
    *(
        Case(f"{kind} {names} {size}", [(kind, names, "y")], weights={"c": array(*size) + 3})
        for size in ((), (1, 4, 1, 1), (4, 1, 1), (7,), (4, 9, 7))
        for kind, names in (
            ("Add", "x c"), ("Add", "c x"), ("Sub", "x c"), ("Sub", "c x"), ("Mul", "x c"),
            ("Mul", "c x"), ("Div", "x c"),
        )
    ),
    Case(
        "add to flattened pixels",
        [("Flatten", "x", "a"), ("Add", "a c", "z"), ("Gemm", "z w b", "y", {"transB": 1})],
        weights=FULL | {"c": array(4 * 9 * 7)},
        rank=2,
    ),
    *(
        Case(f"concat {axis}", [("Relu", "x", "a"), ("Concat", "x a x", "y", {"axis": axis})])
        for axis in (0, 1, 2, -1)
    ),
    Case(
        "concat of rows",
        [("Concat", "x z", "y", {"axis": -1})], {"x": (2, 3), "z": (2, 4)}, rank=2,
    ),
    Case(
        "flatten and gemm",
        [("Flatten", "x", "a"), ("Gemm", "a w b", "y", {"transB": 1})], weights=FULL, rank=2,
    ),
    Case(
        "gemm with factors",
        [("Flatten", "x", "a"), ("Gemm", "a w b", "y", {"alpha": 0.7, "beta": 1.3})],
        weights={"w": FULL["w"].T, "b": np.float32(0.5)},
        rank=2,
    ),
    Case(
        "reshape and matmul",
        [("Reshape", "x s", "a"), ("MatMul", "a w", "c"), ("Add", "c b", "y")],
        weights={"w": FULL["w"].T, "b": FULL["b"], "s": np.array([-1, 252])},
        rank=2,
    ),
    Case(
        "matmul with turned weights",
        [
            ("Reshape", "x s", "a"), ("Transpose", "w", "v", {"perm": [1, 0]}),
            ("MatMul", "a v", "y"),
        ],
        weights={"w": FULL["w"], "s": np.array([0, -1])},
        rank=2,
    ),
    Case(
        "two products",
        [
            ("Flatten", "x", "a"), ("Gemm", "a w b", "c", {"transB": 1}), ("Relu", "c", "d"),
            ("MatMul", "d v", "y"),
        ],
        weights=FULL | {"v": array(5, 3)},
        rank=2,
    ),
    Case("rows and a product", [("MatMul", "x v", "y")], {"x": (3, 5)}, {"v": array(5, 3)}, rank=2),
    Case(
        "shape, gather and concat",
        [
            ("Shape", "x", "s"),
            ("Gather", "s zero", "n"),
            ("Unsqueeze", "n first", "m"),
            ("Concat", "m rest", "t", {"axis": 0}),
            ("Reshape", "x t", "a"),
            ("MatMul", "a w", "y"),
        ],
        {"x": ("n", 4, 9, 7)},
        {
            "w": FULL["w"].T,
            "zero": np.array(0),
            "first": np.array([0]),
            "rest": np.array([-1]),
        },
        rank=2,
    ),
    Case(
        "squeeze and unsqueeze",
        [
            ("GlobalAveragePool", "x", "a"), ("Squeeze", "a ax", "b"), ("Sigmoid", "b", "c"),
            ("Unsqueeze", "c ax", "d"), ("Mul", "x d", "y"),
        ],
        weights={"ax": np.array([2, 3])},
    ),
    Case(
        "reshape to a pixel",
        [
            ("GlobalAveragePool", "x", "a"), ("Flatten", "a", "b"), ("Reshape", "b s", "c"),
            ("Mul", "x c", "y"),
        ],
        weights={"s": np.array([0, 4, 1, 1])},
    ),
    Case(
        "identity, dropout and cast",
        [
            ("Identity", "x", "a"),
            ("Dropout", "a", "b"),
            ("Cast", "b", "c", {"to": 1}),
            ("Relu", "c", "y"),
        ],
    ),
    Case("identity alone", [("Identity", "x", "y")]),
    Case("a flattened end", [("Relu", "x", "a"), ("Flatten", "a", "y")], rank=2),
    Case("dropout of a rate", [("Dropout", "x r", "y")], weights={"r": np.float32(0.3)}),
    *(
        Case(f"pad and {kind}", [("Pad", names, "a"), (kind, "a f", "y", more)], weights=weights)
        for kind, names, more, weights in (
            ("Conv", "x pads", {"pads": [0, 1, 1, 0]}, F | PADS),
            ("Conv", "x pads", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, F | PADS),
            ("ConvTranspose", "x pads", {}, T | PADS),
        )
    ),
    *(
        Case(f"pad{names} and {kind}", [("Pad", "x pads" + names, "a"), (kind, "a", "y", more)],
             weights=PADS | {"low": -INF})
        for kind, names, more in (
            ("AveragePool", "", {"kernel_shape": [3, 3]}),
            ("MaxPool", "", {"kernel_shape": [3, 4]}),
            ("MaxPool", " low", {"kernel_shape": [3, 4], "strides": [2, 2], "pads": [1, 0, 0, 0]}),
            ("Relu", "", {}),
        )
    ),
    Case("pad twice", [("Pad", "x pads", "a"), ("Pad", "a pads", "b"), ("Conv", "b f", "y")],
         weights=PADS | {"f": F["f"]}),
    Case("pad for several", [("Pad", "x pads", "a"), ("Relu", "a", "b"), ("Add", "a b", "y")],
         weights=PADS),
    Case(
        "pad with zeros, then with minus infinity",
        [
            ("Pad", "x pads", "a"),
            ("Pad", "a pads low", "b"),
            ("MaxPool", "b", "y", {"kernel_shape": [3, 4]}),
        ],
        weights=PADS | {"low": -INF},
    ),
    Case(
        "constants of another shape",
        [("Reshape", "c s", "d"), ("Mul", "x d", "y")],
        weights={"c": array(1, 4), "s": np.array([0, -1, 1, 1])},
    ),
    Case("pad alone", [("Pad", "x pads", "y")], weights=PADS),
    Case("pad along axes", [("Pad", "x p - ax", "y")],
         weights={"p": np.array([1, 2]), "ax": np.array([-1])}, opset=18),
    Case("pad of old", [("Pad", "x", "y", {"pads": [0, 0, 1, 2, 0, 0, 0, 1]})], opset=9),
    Case(
        "constants",
        [
            ("Constant", "", "c", {"value_float": 2.0}),
            ("Mul", "x c", "a"),
            ("Constant", "", "d", {"value": onnx.numpy_helper.from_array(array(1, 4, 1, 1))}),
            ("Neg", "d", "e"),
            ("Add", "a e", "y"),
        ],
    ),
    Case(
        "ones of a shape",
        [
            ("ConstantOfShape", "s", "p", {"value": onnx.numpy_helper.from_array(np.array([1]))}),
            ("Pad", "x p - ax", "y"),
        ],
        weights={"s": np.array([4]), "ax": np.array([2, 3])},
        opset=18,
    ),
)  # fmt: skip


def random_inputs(shapes):
    free = (2, 4, 9, 7)
    return {
        name: array(*(n if isinstance(n, int) else m for n, m in zip(shape, free, strict=False)))
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operators_become_layers_that_compute_the_same(case, tmp_path):
    if case.name == "zeros of a shape":
        pytest.skip("pads images too")
    path = write(
        tmp_path / "net.onnx",
        case.nodes,
        case.inputs,
        case.weights,
        (("y", case.rank),),
        case.opset,
    )
    inputs = random_inputs(case.inputs)
    net = load_onnx(path)
    got = evaluate(net, {name: to_hwcn(x) for name, x in inputs.items()})["y"]
    want = run(path, inputs)["y"]
    assert_close(to_nchw(got).reshape(want.shape), want, TOLERANCE)
    assert verify_onnx(net, path)["y"] <= TOLERANCE
