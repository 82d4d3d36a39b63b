"""The public surface: one sorted list, every name of it real and documented."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import matconvnet as mcn

STUB = Path(mcn.__file__).with_name("__init__.pyi")
BLOCKS = [
    "bilinearsampler", "bnorm", "concat", "conv", "convt", "crop", "dropout", "loss", "noffset",
    "normalize", "normalizelp", "pdist", "pool", "relu", "roipool", "sigmoid", "softmax",
    "softmaxloss", "spnorm",
]  # fmt: skip
DAG_ONLY = ["add", "affine_grid", "scale", "smooth_l1", "uniform_grid"]
"""Blocks that are layers of DagNN in the original, and no functions."""


def test_exports_are_sorted_and_importable():
    assert list(mcn.__all__) == sorted(mcn.__all__, key=str.casefold)
    for name in mcn.__all__:
        assert getattr(mcn, name) is not None
    stub = ast.parse(STUB.read_text())
    imports = [(node.module, alias.name) for node in stub.body for alias in node.names]
    assert imports == sorted(imports)


def test_every_block_has_both_names():
    assert len(BLOCKS) == 19
    assert all(f"vl_nn{name}" in mcn.__all__ for name in BLOCKS)
    functions = {name for name in mcn.__all__ if name.endswith("_backward")}
    assert len(functions) == 19 + len(DAG_ONLY)
    assert {f"{name}_backward" for name in DAG_ONLY} <= functions
    assert all(name.removesuffix("_backward") in mcn.__all__ for name in functions)


def test_every_public_function_and_class_is_documented():
    for name in mcn.__all__:
        thing = getattr(mcn, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            text = inspect.getdoc(thing)
            assert text, name
            assert text.splitlines()[0].endswith((".", ";", ":")) or "\n" in text, name


def test_docstrings_of_blocks_tell_formula_shapes_and_source():
    for name in mcn.__all__:
        if f"{name}_backward" in mcn.__all__:
            text = getattr(mcn, name).__doc__
            for part in ("Args:", "Returns:", "Source:"):
                assert part in text, f"{name} lacks {part}"
            assert " = " in text, f"{name} lacks its formula"


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, matconvnet; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "matplotlib", "rich", "typer"} & set(run.stdout.split())
