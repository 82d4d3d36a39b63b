"""MATLAB 7.3 files made with h5py alone, for tests of their reader."""

import zlib

import numpy as np
import pytest

from matconvnet.interop.mat.writer73 import HEADER, USERBLOCK

h5py = pytest.importorskip("h5py")


def made(path, fill):
    """A file whose objects `fill` makes with h5py alone."""
    with h5py.File(path, "w", userblock_size=USERBLOCK) as file:
        fill(file)
    with path.open("r+b") as raw:
        raw.write(HEADER)
    return path


def mark(found, kind, **attributes):
    """Add a MATLAB_class and other attributes."""
    found.attrs["MATLAB_class"] = np.bytes_(kind)
    for key, value in attributes.items():
        found.attrs[key] = value
    return found


def put(group, name, data, kind, **options):
    """A data set with a MATLAB_class; other options that begin with MATLAB are attributes too."""
    attributes = {key: options.pop(key) for key in list(options) if key.startswith("MATLAB")}
    return mark(group.create_dataset(name, data=data, **options), kind, **attributes)


def zeros(file, name, shape, chunk, every=1):
    """Zeros of which each chunk, or the first of `every`, stands in the file, packed."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk(chunk)
    plan.set_deflate(9)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape, (h5py.h5s.UNLIMITED,))
    found = h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_U8LE, space, plan)
    packed = zlib.compress(bytes(chunk[0]), 9)
    for i in range(0, shape[0], chunk[0] * every):
        found.write_direct_chunk((i,), packed)
    return mark(h5py.Dataset(found), "uint8")
