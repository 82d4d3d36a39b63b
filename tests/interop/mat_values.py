"""Equality of MATLAB values, with each other and with what SciPy reads."""

import warnings

import numpy as np
import scipy.io
import scipy.sparse

from matconvnet.interop.mat import read_mat
from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray


def same(a, b):
    """True, if two values have the same form, class, shape, order of fields, and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        bits = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return bits and b.flags.f_contiguous and b.flags.writeable and b.flags.owndata
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, (float, complex)):
        return np.array(a).tobytes() == np.array(b).tobytes()
    if isinstance(a, (Opaque, Sparse)):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (Cell, StructArray)):
        fields = [v.fields for v in (a, b) if isinstance(v, StructArray)]
        return a.shape == b.shape and len(set(fields)) < 2 and same(tuple(a), tuple(b))
    if isinstance(a, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def agrees(ours, theirs, with_class):
    """True, if SciPy reads the same.

    It reads classes right with the option mat_dtype only, and then drops imaginary parts; without
    it numbers have the class in which they are stored.
    """
    if isinstance(ours, Struct):
        return list(theirs.dtype.names or ()) == list(ours) and all(
            agrees(ours[name], theirs[name][0, 0], with_class) for name in ours
        )
    if isinstance(ours, StructArray):
        names = theirs.dtype.names or ()
        records = list(theirs.ravel("F"))
        return ours.shape == theirs.shape and ours.fields == names and all(
            agrees(item[name], record[name], with_class)
            for item, record in zip(ours, records, strict=True) for name in names
        )  # fmt: skip
    if isinstance(ours, Cell):
        pairs = zip(ours, theirs.ravel("F"), strict=True)
        return ours.shape == theirs.shape and all(agrees(a, b, with_class) for a, b in pairs)
    if isinstance(ours, str):
        return "".join(theirs.ravel()) == ours
    if isinstance(ours, Sparse):
        parts = (ours.data, (ours.rows, ours.columns))
        return np.array_equal(scipy.sparse.csc_array(parts, ours.shape).todense(), theirs.todense())
    if isinstance(ours, Opaque):
        if ours.kind == "function":
            return isinstance(theirs, scipy.io.matlab.MatlabFunction)
        return theirs.classname == ours.class_name and agrees(ours.content, theirs, with_class)
    array = np.asarray(ours)
    array = array.reshape(1, 1) if array.ndim == 0 else array
    if array.dtype.kind == "U" or (array.dtype.kind == "c" and with_class):
        return array.shape == theirs.shape and (
            array.dtype.kind == "c" or bool((array == theirs).all())
        )
    stored = theirs.dtype.newbyteorder("=")
    if with_class:
        return array.dtype == stored and np.array_equal(array, theirs, equal_nan=True)
    return np.array_equal(array, theirs.astype(array.dtype), equal_nan=True)


def check_against_scipy(path):
    """Fail unless SciPy reads the same variables in the file."""
    ours = read_mat(path)
    for with_class in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            theirs = scipy.io.loadmat(path, mat_dtype=with_class, chars_as_strings=False)
        names = [name for name in theirs if not name.startswith("__")]
        assert list(ours) == names
        for name in names:
            assert agrees(ours[name], theirs[name], with_class), name
