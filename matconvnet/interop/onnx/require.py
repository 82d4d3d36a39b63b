"""Packages that only ONNX files need."""

import importlib
from typing import Any


def require(name: str) -> Any:
    """The package `name`; raises ImportError, saying how to install it, if there is none."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"ONNX files need the package {name}: pip install 'matconvnet[onnx]'"
        ) from error
