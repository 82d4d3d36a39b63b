"""Real networks through every format and back."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.interop.mat import read_mat
from matconvnet.values import Cell
from tests import models

every_network = pytest.mark.parametrize("name", models.NETWORKS)


def differences(a, b, place="", more=False):
    """Where two values of files differ; `more`: b may have fields that a lacks."""
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        a, b = (np.asarray(v) for v in (a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if set(a) - set(b) or (not more and set(b) - set(a)):
            yield f"{place}: fields {sorted(a)} and {sorted(b)}"
        for key in a.keys() & b.keys():
            yield from differences(a[key], b[key], f"{place}.{key}", more)
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b) or getattr(a, "shape", 0) != getattr(b, "shape", 0):
            yield f"{place}: {len(a)} and {len(b)} elements"
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f"{place}{{{i}}}", more)
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape or not np.array_equal(a, b, equal_nan=True):
            yield f"{place}: {a.dtype} {a.shape} and {b.dtype} {b.shape}"
    elif type(a) is not type(b) or not (a == b or (a != a and b != b)):
        yield f"{place}: {a!r} and {b!r}"


@every_network
def test_saved_as_mat_it_is_equal_field_by_field(name, tmp_path):
    net = mcn.load(models.path(name))
    mcn.save(net, tmp_path / "again.mat")
    back = mcn.load(tmp_path / "again.mat")
    assert type(back) is type(net)
    for kind in ("meta", "extra", "beside"):
        assert list(differences(getattr(net, kind), getattr(back, kind), kind)) == []
    assert list(differences(net.to_struct(), back.to_struct())) == []
    assert list(net.params) == list(back.params)


@every_network
def test_no_field_of_somebody_elses_file_is_lost(name, tmp_path):
    path = models.path(name)
    mcn.save(mcn.load(path), tmp_path / "again.mat")
    before, after = read_mat(path), read_mat(tmp_path / "again.mat")
    lost = [where for where in differences(_renewed(before), after, more=True) if "fields" in where]
    assert lost == []


def _renewed(variables):
    """Old files, with filters and biases called weights."""
    net = variables.get("net", variables)
    for layer in net["layers"]:
        if "filters" in layer:
            layer["weights"] = Cell([layer.pop("filters"), layer.pop("biases")])
    return variables


@every_network
def test_as_safetensors_it_is_bit_equal(name, tmp_path):
    net = mcn.load(models.path(name))
    mcn.save(net, tmp_path / "net.safetensors")
    back = mcn.load(tmp_path / "net.safetensors")
    assert type(back) is type(net)
    for key, value in net.values().items():
        other = back.values()[key]
        assert (value is None) == (other is None)
        if value is not None:
            assert value.dtype == other.dtype
            assert torch.equal(value, other), key
    for link in getattr(net, "layers", ()) if isinstance(net, mcn.SimpleNN) else ():
        link.extra.pop("class", None)  # labels of the last batch
    assert list(differences(net.to_struct(), back.to_struct())) == []
    assert list(differences(net.beside or {}, back.beside or {})) == []
