"""The numbers recorded from the original toolbox: `tests/golden`, see README.md there."""

import functools
import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"


@functools.cache
def manifest():
    """What `manifest.json` says."""
    return json.loads((GOLDEN / "manifest.json").read_text())


def cases(*blocks):
    """Return the cases of these blocks, in order; without names, all cases."""
    return [case for case in manifest()["cases"] if not blocks or case["block"] in blocks]


def arrays(case):
    """Return the case with every array in place of its key, however deep it is nested."""
    return _filled(case, _archive(case["file"]))


def assert_close(got, want, tol, name="value"):
    """Compare by the rule of the README: max|got - want| <= tol * max(max|want|, 0.01)."""
    got = np.asarray(got.detach().cpu() if isinstance(got, torch.Tensor) else got, float)
    want = np.asarray(want, float)
    assert got.size == want.size, f"{name} has shape {got.shape}; wanted {want.shape}"
    if want.size == 0:
        return
    deviation = np.abs(got.reshape(want.shape) - want).max()
    bound = tol * max(np.abs(want).max(), 0.01)
    assert deviation <= bound, f"{name} is {deviation:.3g} off; allowed are {bound:.3g}"


@functools.cache
def _archive(name):
    with np.load(GOLDEN / name) as archive:
        return {key: archive[key] for key in archive.files}


def _filled(value, archive):
    if isinstance(value, dict):
        return {key: _filled(item, archive) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, archive) for item in value]
    if isinstance(value, str) and value in archive:
        return archive[value].copy()
    return value
