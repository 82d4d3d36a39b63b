"""MATLAB 7.3 files: what is written is read again; what others wrote is read as h5py reads it."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from matconvnet.errors import MatFileError
from matconvnet.interop.mat import protocol73, writer73
from matconvnet.interop.mat.reader73 import read73
from matconvnet.interop.mat.writer73 import USERBLOCK, write73
from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray
from tests import models
from tests.interop.mat73_files import made, put

h5py = pytest.importorskip("h5py")

BUDGET = 1 << 28
CLASSES = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "b1", "c8", "c16"]


def assert_same(found, wanted):
    """Equal in type, class, shape, order of fields, and value."""
    assert type(found) is type(wanted)
    assert getattr(found, "shape", None) == getattr(wanted, "shape", None)
    if isinstance(wanted, Struct):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            assert_same(found[key], value)
    elif isinstance(wanted, (list, tuple)):
        assert getattr(found, "fields", None) == getattr(wanted, "fields", None)
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            assert_same(a, b)
    elif isinstance(wanted, (np.ndarray, np.generic)):
        assert found.dtype == wanted.dtype
        assert found.tobytes() == wanted.tobytes()
    else:
        assert repr(found) == repr(wanted)  # also of not a number


def scalar(array):
    """What an array is read as; one without elements is never complex."""
    if not array.size:
        array = array.real
    if array.shape != (1, 1):
        return np.asfortranarray(array)
    return array.item() if array.dtype.char in "?dD" else array[0, 0]


SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=3)
NAMES = st.from_regex("[A-Za-z][A-Za-z0-9_]{0,9}", fullmatch=True)
ARRAYS = st.sampled_from(CLASSES).flatmap(lambda kind: hnp.arrays(kind, SHAPES).map(scalar))
TEXTS = st.text(st.characters(codec="utf-16"), max_size=5)
LETTERS = hnp.arrays("U1", (2, 3), elements=st.characters(min_codepoint=1, max_codepoint=0xFFFF))


def sparse(mask):
    columns, rows = np.nonzero(mask.T)
    return Sparse(mask.shape, rows, columns, mask[rows, columns])


SPARSE = st.sampled_from(["?", "d", "D"]).flatmap(
    lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=2, max_dims=2, max_side=4)).map(sparse)
)


def holders(values):
    fields = st.lists(NAMES, max_size=3, unique=True)
    return st.one_of(
        st.tuples(SHAPES, st.data()).map(lambda pair: fill_cell(*pair, values)),
        st.dictionaries(NAMES, values, max_size=4).map(Struct),
        st.tuples(SHAPES, fields, st.data()).map(lambda parts: fill_structs(*parts, values)),
        st.builds(Opaque, st.sampled_from(["object", "function", "opaque"]), TEXTS, values),
    )


def fill_cell(shape, data, values):
    count = int(np.prod(shape))
    return Cell(data.draw(st.lists(values, min_size=count, max_size=count)), shape)


def fill_structs(shape, fields, data, values):
    count = int(np.prod(shape)) if shape != (1, 1) else 0
    shape = shape if shape != (1, 1) else (0, 1)
    rows = [Struct({name: data.draw(values) for name in fields}) for _ in range(count)]
    return StructArray(rows, shape, fields)


VALUES = st.recursive(ARRAYS | TEXTS | LETTERS | SPARSE, holders, max_leaves=8)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(variables=st.dictionaries(NAMES, VALUES, max_size=3))
def test_what_is_written_is_read_again(tmp_path_factory, variables):
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    write73(path, variables)
    found = read73(path, BUDGET)
    assert sorted(found) == sorted(variables)
    assert_same(found, Struct((name, variables[name]) for name in found))


def by_h5py(file, found):
    """A value as plain h5py sees it."""
    kind = found.attrs.get("MATLAB_class", b"").decode()
    if isinstance(found, h5py.Group):
        names = [b"".join(name).decode() for name in found.attrs["MATLAB_fields"]]
        columns = [found[name] for name in names]
        if "MATLAB_class" in columns[0].attrs:
            return Struct((name, by_h5py(file, found[name])) for name in names)
        items = zip(
            *([by_h5py(file, file[r]) for r in c[()].ravel()] for c in columns), strict=True
        )
        shape = columns[0].shape[::-1]
        return StructArray([Struct(zip(names, i, strict=True)) for i in items], shape)
    if found.attrs.get("MATLAB_empty"):
        shape = tuple(map(int, found[()]))
        if kind == "struct":
            return Struct()
        return {"char": "", "cell": Cell((), shape)}.get(kind, np.zeros(shape))
    if kind == "cell":
        return Cell([by_h5py(file, file[r]) for r in found[()].ravel()], found.shape[::-1])
    if kind == "char":
        return "".join(map(chr, found[()].ravel()))
    data = found[()].T
    if kind == "gpuArray":
        return Opaque("opaque", kind, data)
    return scalar(data.astype(bool) if kind == "logical" else data)


@pytest.mark.parametrize("name", ["dncnn_s25_bnorm", "dncnn_dagnn_epoch50"])
def test_files_of_matlab_are_read_as_plain_h5py_reads_them(name):
    path = models.path(name)
    found = read73(path, BUDGET)
    with h5py.File(path) as file:
        assert list(found) == ["net"]
        assert_same(found.net, by_h5py(file, file["net"]))


@pytest.mark.parametrize("name", ["dncnn_s25_bnorm", "dncnn_dagnn_epoch50"])
def test_files_of_matlab_are_written_without_loss(name, tmp_path):
    found = read73(models.path(name), BUDGET)
    write73(tmp_path / "a.mat", found)
    assert_same(read73(tmp_path / "a.mat", BUDGET), found)


def read_made(path, fill):
    return read73(made(path, fill), BUDGET)


def test_numbers_are_read_whatever_way_they_are_stored(tmp_path):
    numbers = np.arange(60, dtype=np.float32).reshape(3, 4, 5)

    def fill(file):
        put(file, "zipped", numbers, "single", chunks=(2, 3, 2), compression="gzip", shuffle=True)
        put(file, "checked", numbers, "single", chunks=(3, 1, 5), fletcher32=True)
        put(file, "growing", numbers, "single", chunks=(2, 4, 7), maxshape=(None, None, None))
        put(file, "big_endian", numbers.astype(">f4"), "single")
        put(file, "big_zipped", numbers.astype(">f4"), "single", chunks=True)
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(numbers.shape)
        kind = h5py.h5t.IEEE_F32LE
        compact = h5py.Dataset(h5py.h5d.create(file.id, b"compact", kind, space, plan))
        compact[...] = numbers
        compact.attrs["MATLAB_class"] = np.bytes_("single")
        put(file, "one_axis", np.arange(3.0), "double")
        put(file, "no_axis", 7.0, "double")

    found = read_made(tmp_path / "a.mat", fill)
    assert_same(found.pop("one_axis"), np.arange(3.0).reshape(3, 1))
    assert_same(found.pop("no_axis"), 7.0)
    assert len(found) == 6
    for value in found.values():
        assert_same(value, numbers.T)


def test_blocks_that_are_no_piece_of_the_array_go_to_their_place(tmp_path, monkeypatch):
    numbers = np.random.default_rng(0).standard_normal((700, 1100, 5))

    def fill(file):
        put(file, "a", numbers, "double", chunks=(350, 550, 2), compression="gzip")

    assert protocol73.whole_chunks(numbers.shape, (350, 550, 2), 8)[:2] == [350, 550]
    assert_same(read_made(tmp_path / "a.mat", fill).a, numbers.T)


def test_complex_numbers(tmp_path):
    def pairs(kind):
        return np.array([[(1, 2), (3, 4)]], dtype=[("real", kind), ("imag", kind)])

    def fill(file):
        put(file, "single", pairs("<f4"), "single")
        put(file, "double", pairs("<f8")[:, :1], "double")
        put(file, "int16", pairs("<i2"), "int16")

    found = read_made(tmp_path / "a.mat", fill)
    assert_same(found.single, np.array([[1 + 2j], [3 + 4j]], np.complex64))
    assert_same(found.double, 1 + 2j)
    assert_same(found.int16, np.array([[1 + 2j], [3 + 4j]]))


def test_objects_and_functions_are_placeholders(tmp_path):
    def fill(file):
        function = file.create_group("f")
        function.attrs["MATLAB_class"] = np.bytes_("function_handle")
        function.attrs["MATLAB_object_decode"] = np.int32(1)
        inner = function.create_group("function_handle")
        inner.attrs["MATLAB_class"] = np.bytes_("struct")
        text = np.frombuffer(b"sf%0@(x)x+1", np.uint8).astype("u2").reshape(-1, 1)
        put(inner, "function", text, "char", MATLAB_int_decode=np.int32(2))
        old = file.create_group("old")
        old.attrs["MATLAB_class"] = np.bytes_("inline")
        old.attrs["MATLAB_object_decode"] = np.int32(2)
        put(old, "a", [[1.0]], "double")
        put(file, "new", np.arange(6, dtype="u4").reshape(1, 6), "string", MATLAB_object_decode=3)
        put(file["#refs#"] if "#refs#" in file else file.create_group("#refs#"), "x", 1.0, "double")
        refs = np.array([[file["#refs#/x"].ref]], h5py.ref_dtype)
        put(file, "cells", refs, "FileWrapper__", MATLAB_object_decode=3)

    found = read_made(tmp_path / "a.mat", fill)
    inner = Struct(function_handle=Struct(function="sf%0@(x)x+1"))
    assert_same(found.f, Opaque("function", "@(x)x+1", inner))
    assert_same(found.old, Opaque("object", "inline", Struct(a=1.0)))
    assert_same(found.new, Opaque("opaque", "string", np.arange(6, dtype="u4").reshape(6, 1)))
    assert_same(found.cells, Opaque("opaque", "FileWrapper__", Cell([1.0])))


def test_empties_and_fields_of_matlab(tmp_path):
    def fill(file):
        one = np.uint8(1)
        put(file, "none", np.array([0, 0], "u8"), "canonical empty", MATLAB_empty=one)
        put(file, "struct_", np.array([2, 1], "u8"), "struct", MATLAB_empty=one)
        group = file.create_group("unordered")
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        put(group, "b", [[1.0]], "double")
        put(group, "a", [[2.0]], "double")

    found = read_made(tmp_path / "a.mat", fill)
    assert_same(found.none, np.zeros((0, 0)))
    assert_same(found.struct_, StructArray([Struct(), Struct()], (2, 1)))
    assert_same(found.unordered, Struct(a=2.0, b=1.0))


def test_long_lists_of_fields_keep_their_order(tmp_path):
    names = [f"field_{i:05d}" for i in np.random.default_rng(0).permutation(700)]
    assert sum(map(len, names)) > writer73.LONGEST_FIELDS
    wanted = Struct(s=Struct((name, float(i)) for i, name in enumerate(names)))
    write73(tmp_path / "a.mat", wanted)
    assert_same(read73(tmp_path / "a.mat", BUDGET), wanted)


def test_the_file_looks_like_one_of_matlab(tmp_path):
    path = tmp_path / "a.mat"
    write73(path, {"w": np.ones((2, 3), np.float32), "s": {"b": "x", "a": True}, "c": [1.0, "x"]})
    head = path.read_bytes()[: USERBLOCK + 8]
    assert head[:19] == b"MATLAB 7.3 MAT-file"
    assert head[124:USERBLOCK] == b"\x00\x02IM" + bytes(USERBLOCK - 128)
    assert head[USERBLOCK:] == b"\x89HDF\r\n\x1a\n"
    with h5py.File(path) as file:
        assert file["w"].shape == (3, 2)
        assert file["w"].dtype == "<f4"
        assert file["w"].attrs["MATLAB_class"] == b"single"
        assert [b"".join(n) for n in file["s"].attrs["MATLAB_fields"]] == [b"b", b"a"]
        assert file["s/b"].attrs["MATLAB_int_decode"] == 2
        assert file["s/b"].dtype == "<u2"
        assert file["s/a"].attrs["MATLAB_class"] == b"logical"
        assert file["s/a"].attrs["MATLAB_int_decode"] == 1
        assert file["c"].attrs["MATLAB_class"] == b"cell"
        assert file["c"].shape == (2, 1)
        assert file[file["c"][1, 0]].name.startswith("/#refs#/")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"a": object()}, "x"], r"v\[0\]\.a is object; wanted numbers"),
        ({"2nd": 1}, "has the field '2nd'; wanted a letter"),
        (np.array([["\U0001f600"], ["a"]]), r"v has characters above U\+FFFF"),
    ],
)
def test_values_that_do_not_fit_leave_the_old_file(tmp_path, value, message):
    path = tmp_path / "a.mat"
    path.write_bytes(b"old")
    with pytest.raises((TypeError, ValueError), match=message):
        write73(path, {"v": value})
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.mat"]


def test_nesting_has_the_same_bound_written_and_read(tmp_path):
    value = 1.0
    for _ in range(100):
        value = Struct(a=value)
    write73(tmp_path / "a.mat", {"v": value})
    assert_same(read73(tmp_path / "a.mat", BUDGET).v, value)
    with pytest.raises(ValueError, match="is nested 101 deep; wanted 100 at most"):
        write73(tmp_path / "a.mat", {"v": Struct(a=value)})


def test_the_budget_covers_values_and_their_number(tmp_path):
    write73(tmp_path / "a.mat", {"v": np.zeros(100_000)})
    assert read73(tmp_path / "a.mat", 900_000).v.size == 100_000
    with pytest.raises(
        MatFileError, match=r"at /v: values of 80\d\d\d\d bytes .* budget of 700000"
    ):
        read73(tmp_path / "a.mat", 700_000)
    write73(tmp_path / "a.mat", {"v": ["x"] * 1000})
    with pytest.raises(MatFileError, match="budget of 700000 bytes"):
        read73(tmp_path / "a.mat", 700_000)
