"""Any Python value through a MAT file of version 6 and 7, with SciPy as second reader."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.interop.mat import writer5 as module
from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray
from tests.interop.mat_values import check_against_scipy, same

CLASSES = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "c16", "c8", "?"]
DTYPES = st.sampled_from(CLASSES).map(np.dtype)
SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=4)
NAMES = st.text("aB1_", max_size=62).map("f".__add__)
ROWS = np.array([["a", "b"], ["c", "d"]], order="F")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def arrays(draw):
    array = draw(hnp.arrays(draw(DTYPES), draw(SHAPES.filter(lambda shape: shape != (1, 1)))))
    return np.asfortranarray(array) if draw(st.booleans()) else array


@st.composite
def sparses(draw):
    mask = draw(hnp.arrays(bool, st.tuples(st.integers(0, 4), st.integers(0, 4))))
    columns, rows = np.nonzero(mask.T)
    dtype = draw(st.sampled_from(["f8", "c16", "?"]))
    return Sparse(mask.shape, rows, columns, draw(hnp.arrays(dtype, len(rows))))


def rows_of_text():
    letters = st.sampled_from("aé€ ").map(str)
    return hnp.arrays("U1", st.tuples(st.integers(2, 3), st.integers(1, 3)), elements=letters)


def scalars():
    numpy = DTYPES.filter(lambda d: d.name not in ("float64", "complex128", "bool"))
    numpy = numpy.flatmap(lambda d: hnp.arrays(d, 1)).map(lambda a: a[0])
    return st.floats() | st.booleans() | st.complex_numbers(allow_nan=False) | numpy


@st.composite
def cells(draw, values):
    shape = tuple(draw(st.lists(st.integers(0, 3), min_size=2, max_size=3)))
    return Cell([draw(values) for _ in range(np.prod(shape))], shape)


@st.composite
def struct_arrays(draw, values):
    shape = draw(st.sampled_from([(0, 0), (1, 2), (2, 1), (2, 1, 2), (0, 3)]))
    names = draw(st.lists(NAMES, max_size=3, unique=True))
    items = [Struct((n, draw(values)) for n in names) for _ in range(np.prod(shape))]
    return StructArray(items, shape, names)


def structs(values, min_size=0):
    return st.dictionaries(NAMES, values, min_size=min_size, max_size=4).map(Struct)


def opaques(values):
    return st.builds(Opaque, st.sampled_from(["object", "opaque", "function"]), TEXT, values)


def values(leaves, *nodes):
    return st.recursive(leaves, lambda v: st.one_of(node(v) for node in nodes), max_leaves=12)


LEAVES = scalars() | arrays()
ALL = values(LEAVES | TEXT | sparses() | rows_of_text(), cells, structs, struct_arrays, opaques)
# SciPy miscounts characters above U+FFFF, and knows neither our Opaque nor structs without fields.
PLAIN = values(LEAVES | st.text("ab ", max_size=4), cells, lambda v: structs(v, 1))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file that need not survive a loss of power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield tmp_path_factory.mktemp("mat") / "x.mat"


@settings(max_examples=100, deadline=None)
@given(structs(ALL), st.sampled_from(["6", "7"]))
def test_round_trip(path, variables, version):
    write_mat(path, variables, version=version)
    assert same(variables, read_mat(path))


@settings(max_examples=40, deadline=None)
@given(structs(PLAIN), st.sampled_from(["6", "7"]))
def test_scipy_reads_what_we_write(path, variables, version):
    write_mat(path, variables, version=version)
    check_against_scipy(path)


def test_scipy_reads_the_rest(path):
    sparse = [Sparse((3, 2), [2, 0, 1], [0, 1, 1], np.array(d)) for d in ([1.0, 2, 3], [1j, 2, 3])]
    records = StructArray([Struct(a=1.0, b="x"), Struct(a=2.0, b="")], (2, 1))
    write_mat(path, {"s": Cell(sparse), "r": records, "u": "größer", "t": ROWS})
    check_against_scipy(path)


def written(tmp_path, value, version="7"):
    write_mat(tmp_path / "x.mat", {"x": value}, version=version)
    return read_mat(tmp_path / "x.mat").x


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (3, 3.0), (None, np.zeros((0, 0))), ([], np.zeros((0, 0))), ((), np.zeros((0, 0))),
        ([1, 2.5], np.array([[1, 2.5]])), ((1, 2j), np.array([[1, 2j]])), ([7], 7.0),
        ([True, False], np.array([[True, False]])), ([True, 2], np.array([[1.0, 2.0]])),
        (["a", 1], Cell(["a", 1.0])), ([[1, 2], [3]], Cell([np.array([[1.0, 2.0]]), 3.0])),
        ({"a": {}}, Struct(a=Struct())), (np.bool_(True), True), (np.float64(2), 2.0),
        (np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32)[None]),
        (np.array(5, np.uint8), np.uint8(5)), (np.array([[1.5]]), 1.5), (np.array([[True]]), True),
        (np.float16(1.5), np.float32(1.5)), (np.array([[1, 2]], ">i4"), np.array([[1, 2]], "i4")),
        (np.array([["a", "b"]]), "ab"), (Cell(), Cell()), (np.array([1, 2])[::-1], [[2, 1]]),
        (torch.arange(6.0).reshape(1, 2, 3), np.arange(6, dtype="f4").reshape(1, 2, 3)),
        (torch.ones(2, dtype=torch.bfloat16), np.ones((1, 2), "f4")),
        (torch.nn.Parameter(torch.ones(3, 2).T), np.ones((2, 3), "f4")),
        (torch.tensor(2.0), np.float32(2)), (torch.tensor([[1j, 2]]).conj(), [[-1j, 2]]),
        (StructArray([Struct(a=1.0)]), Struct(a=1.0)),
    ],
    ids=repr,
)  # fmt: skip
def test_what_python_values_become(tmp_path, value, wanted):
    found = written(tmp_path, value)
    if isinstance(wanted, list) and not isinstance(wanted, Cell):
        assert np.array_equal(found, wanted)
    else:
        assert same(wanted, found)


@pytest.mark.parametrize("version", ["6", "7"])
@pytest.mark.parametrize("dtype", ["f4", "c16", "?", ">f8", "f2"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_large_arrays_in_any_order_of_memory(tmp_path, version, dtype, axes):
    array = np.random.default_rng(0).standard_normal((71, 81, 91)).astype(dtype).transpose(axes)
    found = written(tmp_path, array, version)
    assert version == "7" or (tmp_path / "x.mat").stat().st_size % 8 == 0
    assert np.array_equal(found, array)
    assert found.dtype == array.astype("f4" if dtype == "f2" else dtype.strip(">")).dtype


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ({"y": [1, {"z": {3}}]}, TypeError, r"x\.y\[1\]\.z is set; wanted numbers"),
        ({"1a": 1}, ValueError, "x has the field '1a'; wanted a letter"),
        ({"a b": 1}, ValueError, "x has the field 'a b'"),
        ({"a\n": 1}, ValueError, "x has the field"),
        ({"é": 1}, ValueError, "x has the field 'é'"),
        ({"a" * 64: 1}, ValueError, "x has the field 'aaa"),
        ({3: 1}, ValueError, "x has the field 3"),
        (np.array([object()]), TypeError, "x is an array of object"),
        (np.array(["ab"]), TypeError, "x is an array of <U2; wanted one of"),
        (np.zeros(1, np.longdouble), TypeError, "x is an array of"),
        (b"bytes", TypeError, "x is bytes"),
        (2**53 + 1, ValueError, "x is 9007199254740993; wanted an integer that a double can hold"),
        ([1, 10**400], ValueError, "x is 1000"),
        (Cell([1], (2, 2)), ValueError, r"x has 1 elements and shape \(2, 2\)"),
        (Cell([1], (1,)), ValueError, r"x has 1 elements and shape \(1,\)"),
        (StructArray([Struct(a=1), Struct(b=1)]), ValueError, r"x\[1\] has the fields \['b'\]"),
        (Sparse((1, 1), [0, 0], [0, 0], [1.0, 1.0]), ValueError, "names an element twice"),
        (Sparse((1, 1), [1], [0], [1.0]), ValueError, "x is a sparse 1 x 1 matrix"),
        (Sparse((1, 1), [0], [0], np.float32([1])), ValueError, "data of float32"),
        (np.array([["\U0001f600"]] * 2), ValueError, r"x has characters above U\+FFFF"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_a_file_cannot_hold(tmp_path, value, error, match):
    path = tmp_path / "x.mat"
    path.write_bytes(b"old")
    with pytest.raises(error, match=match):
        write_mat(path, {"x": value})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_names_of_variables_are_checked(tmp_path):
    with pytest.raises(ValueError, match="the file has the field '_x'"):
        write_mat(tmp_path / "x.mat", {"_x": 1})
    with pytest.raises(ValueError, match=r"version is '5'; wanted '6', '7', '7\.3' or None"):
        write_mat(tmp_path / "x.mat", {}, version="5")


def test_values_that_hold_themselves_are_refused(tmp_path):
    loop = {}
    loop["a"] = loop
    with pytest.raises(ValueError, match="is nested 101 deep; wanted 100 at most"):
        write_mat(tmp_path / "x.mat", {"x": loop})


def test_the_deepest_nesting_comes_back(tmp_path):
    value = Cell(["end"])
    for _ in range(99):
        value = Cell([value])
    assert same(value, written(tmp_path, value))


def test_a_marked_struct_of_something_else_stays_a_struct(tmp_path):
    for kind, name in (("other", "a"), (1.0, "a"), ("object", 1.0)):
        value = Struct(matconvnetOpaque=kind, className=name, content=1.0)
        assert same(value, written(tmp_path, value))


def test_what_is_too_large_becomes_version_73(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.setattr(module, "LIMIT", 10_000)
    path, value = tmp_path / "x.mat", np.arange(2000.0)[None]
    with pytest.raises(ValueError, match=r"x takes 160\d\d bytes; wanted 10000 at most"):
        write_mat(path, {"x": value}, version="7")
    write_mat(path, {"x": value})
    assert path.read_bytes().startswith(b"MATLAB 7.3 MAT-file")
    assert np.array_equal(read_mat(path).x, value)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from matconvnet.interop.mat import read_mat, write_mat
def peak(): return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10
path, version = sys.argv[1:]
array = np.random.default_rng(0).standard_normal((4000, 5000), np.float32).T
array = array[:, ::-1]  # in no order that can be written as it lies
before = peak()
write_mat(path, {"x": {"y": [array, "text"]}}, version=version)
written = peak()
del array
read = read_mat(path)
print((written - before) / read.x.y[0].nbytes, (peak() - written) / read.x.y[0].nbytes)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is Linux's")
@pytest.mark.parametrize("version", ["6", "7"])
def test_memory_is_not_doubled(tmp_path, version):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "x.mat"), version]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    while_writing, while_reading = map(float, done.stdout.split())
    assert while_writing < 0.2
    assert while_reading < 1.2
