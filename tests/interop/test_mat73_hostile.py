"""MATLAB 7.3 files that are damaged or made to do harm end in MatFileError, and nothing else."""

import time

import numpy as np
import pytest

from matconvnet.errors import MatFileError
from matconvnet.interop.mat.reader73 import read73
from matconvnet.interop.mat.writer73 import HEADER, USERBLOCK, write73
from matconvnet.values import Cell, Sparse, Struct, StructArray
from tests.interop.mat73_files import made, mark, put, zeros

h5py = pytest.importorskip("h5py")

BUDGET = 1 << 26


def references(file, name, targets, kind="cell"):
    refs = np.array([[t.ref] for t in targets], h5py.ref_dtype)
    return put(file, name, refs, kind)


def soft_link(file):
    put(file, "a", 1.0, "double")
    file["b"] = h5py.SoftLink("/a")


def external_link(file):
    file["b"] = h5py.ExternalLink("/etc/passwd", "/a")


def link_in_a_struct(file):
    group = mark(file.create_group("s"), "struct")
    group["x"] = h5py.ExternalLink("other.mat", "/a")


def virtual(file):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("other.mat", "a", (4,))
    mark(file.create_virtual_dataset("v", layout), "double")


def external_storage(file):
    mark(file.create_dataset("v", (4,), "f8", external=[("/etc/hostname", 0, 32)]), "double")


def shape_bomb(file):
    mark(file.create_dataset("v", (1 << 40,), "u1", chunks=(1 << 16,)), "uint8")


def late_bomb(file):
    mark(file.create_dataset("v", (1 << 20,), "u1"), "uint8")  # never written


def deflate_bomb(file):
    zeros(file, "v", (1 << 27,), (1 << 20,))


def sum_of_bombs(file):
    for i in range(20):
        zeros(file, f"v{i}", (1 << 22,), (1 << 20,))


def thin_bomb(file):
    zeros(file, "v", (1 << 25,), (1 << 16,), every=64)


def huge_chunk(file):
    zeros(file, "v", (4,), (1 << 25,))


def cells_of_one_bomb(file):
    references(file, "c", [zeros(file, "v", (1 << 22,), (1 << 20,))] * 40)


def cycle(file):
    cell = mark(file.create_dataset("c", (1, 1), h5py.ref_dtype), "cell")
    cell[0, 0] = cell.ref


def cycle_over_a_group(file):
    group = mark(file.create_group("s"), "struct")
    references(group, "c", [group])


def group_in_itself(file):
    group = mark(file.create_group("s"), "struct")
    group["x"] = group


def doubling(file):
    below = [put(file, "leaf", 1.0, "double")] * 2
    for i in range(40):
        below = [references(file, f"c{i}", below)] * 2


def nothing_referred_to(file):
    mark(file.create_dataset("c", (2, 2), h5py.ref_dtype), "cell")[...] = h5py.Reference()


def reference_to_a_type(file):
    file["#refs#/kind"] = np.dtype("f8")
    references(file, "c", [mark(file["#refs#/kind"], "double")])


def committed_type(file):
    file["#refs#/kind"] = np.dtype("f8")
    put(file, "v", np.ones((2, 2)), "double", dtype=file["#refs#/kind"])


def region_reference(file):
    data = put(file, "a", np.ones((2, 2)), "double")
    refs = np.array([[data.regionref[:1, :1]]], h5py.regionref_dtype)
    put(file, "c", refs, "cell")


def deep(file):
    group = file
    for _ in range(150):
        group = mark(group.create_group("s"), "struct")
    put(group, "x", 1.0, "double")


def wrong_class(file):
    put(file, "v", np.ones((2, 2)), "dooble")


def class_of_another_type(file):
    put(file, "v", np.ones((2, 2), np.uint8), "double")


def group_of_a_number(file):
    mark(file.create_group("v"), "double")


def class_of_any_length(file):
    file.create_dataset("v", data=1.0).attrs["MATLAB_class"] = "double"


def class_that_is_long(file):
    file.create_dataset("v", data=1.0).attrs["MATLAB_class"] = np.bytes_(b"d" * 60_000)


def no_class(file):
    file["v"] = np.ones((2, 2))


def words(file):
    put(file, "v", ["a", "b"], "char")


def lists(file):
    lists = np.empty(1, object)
    lists[0] = np.ones(3)
    put(file, "v", lists, "double", dtype=h5py.vlen_dtype(np.dtype("f8")))


def enumeration(file):
    put(file, "v", np.array([[True]]), "logical")


def pairs(file):
    put(file, "v", np.zeros((2, 2), [("x", "f8"), ("y", "f8")]), "double")


def plugin_filter(file):
    put(file, "v", np.zeros((20, 20)), "double", chunks=(10, 10), compression="lzf")


def missing_field(file):
    group = mark(file.create_group("s"), "struct")
    names = np.empty(1, object)
    names[0] = np.array([b"a"], "S1")
    group.attrs.create("MATLAB_fields", names, dtype=h5py.vlen_dtype(np.dtype("S1")))


def uneven_columns(file):
    leaf = put(file.create_group("#refs#"), "x", 1.0, "double")
    group = mark(file.create_group("s"), "struct")
    for name, count in (("a", 2), ("b", 3)):
        group[name] = np.array([[leaf.ref]] * count, h5py.ref_dtype)


def half_a_struct_array(file):
    leaf = put(file.create_group("#refs#"), "x", 1.0, "double")
    group = mark(file.create_group("s"), "struct")
    group["a"] = np.array([[leaf.ref]] * 2, h5py.ref_dtype)
    put(group, "b", 1.0, "double")


def empty_that_is_not(file):
    mark(put(file, "v", np.array([3, 4], "u8"), "double"), "double", MATLAB_empty=np.uint8(1))


def endless_empty(file):
    size = np.array([0, 1 << 60], "u8")
    mark(put(file, "v", size, "double"), "double", MATLAB_empty=np.uint8(1))


def empty_structs(file):
    size = np.array([1 << 40, 1], "u8")
    mark(put(file, "v", size, "struct"), "struct", MATLAB_empty=np.uint8(1))


def sparse_outside(file):
    group = mark(file.create_group("v"), "double", MATLAB_sparse=np.uint64(2))
    group["jc"] = np.array([0, 1], "u8")
    group["ir"] = np.array([5], "u8")
    group["data"] = np.array([1.0])


def sparse_backwards(file):
    group = mark(file.create_group("v"), "double", MATLAB_sparse=np.uint64(2))
    group["jc"] = np.array([0, 1 << 63, 1], "u8")
    group["ir"] = np.array([0], "u8")
    group["data"] = np.array([1.0])


def unknown_object(file):
    mark(put(file, "v", 1.0, "thing"), "thing", MATLAB_object_decode=np.int32(9))


HOSTILE = {
    soft_link: r"at /: 'b', a link of the soft kind; wanted hard links",
    external_link: r"at /: 'b', a link of the external kind",
    link_in_a_struct: r"at /s: 'x', a link of the external kind",
    virtual: r"at /v: a virtual data set; wanted data in this file",
    external_storage: r"at /v: data in another file; wanted data in this file",
    shape_bomb: r"at /v: values of \d+ bytes or more; wanted at most the budget of 67108864",
    late_bomb: r"at /v: 0 bytes of data; wanted the 1048576 bytes of its shape",
    deflate_bomb: r"at /v: values of 1342\d+ bytes or more",
    sum_of_bombs: r"at /v\d+: values of 67\d+ bytes or more",
    thin_bomb: r"at /v: \d+ bytes of data; wanted enough for the 33554432 bytes of its shape",
    huge_chunk: r"at /v: chunks of \(33554432,\); wanted chunks no larger than the data",
    cells_of_one_bomb: r"at /c\{16\}: values of 67\d+ bytes or more",
    cycle: r"at /c\{1\}: a value that stands in two places",
    cycle_over_a_group: r"at /s/c\{1\}: a value that stands in two places",
    group_in_itself: r"at /s/x: a value that stands in two places",
    doubling: r"at /c1\{1\}: a value that stands in two places",
    nothing_referred_to: r"at /c: a reference to nothing; wanted a reference to an object",
    reference_to_a_type: r"at /c\{1\}: a TypeFloatID; wanted a group or a data set",
    committed_type: r"at /v: a data type with a name of its own; wanted a plain type",
    region_reference: r"at /c: data that are no references",
    deep: r"at (/s){102}: a value nested 101 deep; wanted at most 100",
    wrong_class: r"at /v: a data set of class 'dooble'",
    class_of_another_type: r"at /v: u1 data in a value of class 'double'; wanted f8",
    group_of_a_number: r"at /v: a group of class 'double'; wanted a struct",
    class_of_any_length: r"at /v: MATLAB_class that is no text of fixed length",
    class_that_is_long: r"at /v: MATLAB_class of 60000 bytes; wanted at most 256",
    no_class: r"at /v: an object without MATLAB_class; .* another program than MATLAB",
    words: r"at /v: data of the HDF5 type TypeStringID; wanted numbers",
    lists: r"at /v: data of the HDF5 type TypeVlenID",
    enumeration: r"at /v: data of the HDF5 type TypeEnumID",
    pairs: r"at /v: a compound of \[b'x', b'y'\]",
    plugin_filter: r"at /v: the HDF5 filter 32000; wanted deflate, shuffle or fletcher32",
    missing_field: r"at /s: no field 'a'; wanted all fields in MATLAB_fields",
    uneven_columns: r"at /s: fields of the shapes \[\(2, 1\), \(3, 1\)\]; wanted one shape",
    half_a_struct_array: r"at /s/b: one value; wanted a reference for each element",
    empty_that_is_not: r"at /v: an empty double of size \[3, 4\]; wanted a size with a zero",
    empty_structs: r"at /v: values of \d+ bytes or more",
    sparse_outside: r"at /v: a sparse matrix of 1 data.*; wanted rows in order, below 2",
    sparse_backwards: r"at /v: a sparse matrix",
    endless_empty: r"at /v: an array of size \[0, 1152921504606846976\]; wanted fewer than",
    unknown_object: r"at /v: MATLAB_object_decode 9; wanted one of \[1, 2, 3\]",
}


@pytest.mark.parametrize("fill", HOSTILE, ids=lambda fill: fill.__name__)
def test_hostile_files_are_refused(tmp_path, fill):
    path = made(tmp_path / "a.mat", fill)
    start = time.perf_counter()
    with pytest.raises(MatFileError, match=HOSTILE[fill]) as caught:
        read73(path, BUDGET)
    assert time.perf_counter() - start < 10
    assert str(caught.value).startswith(f"{path}: at /")
    assert "?)" in str(caught.value)
    assert "survive" not in str(caught.value)


def test_plain_hdf5_is_told_from_matlab(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["v"] = 1.0
    with pytest.raises(MatFileError, match=r"HDF5 without MATLAB's header.*of another program"):
        read73(tmp_path / "a.mat", BUDGET)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a small file that has a bit of everything."""
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    rows = [Struct(q=1.0, r="a"), Struct(q=2.0, r="b")]
    write73(
        path,
        {
            "w": np.ones((3, 4, 2), np.float32),
            "s": Struct(x=1, y=Struct(), z=StructArray(rows, (2, 1))),
            "c": Cell([1.0, "xyz", True, [2, 3]], (2, 2)),
            "p": Sparse((4, 5), np.array([1, 0]), np.array([2, 3]), np.array([1.0, 2])),
            "e": np.zeros((0, 3)),
            "i": np.arange(6, dtype=np.int16).reshape(2, 3),
            "z": np.array([[1 + 2j, 3]]),
        },
    )
    with h5py.File(path, "r+") as file:
        data = np.arange(1000.0).reshape(10, 100)
        put(file, "packed", data, "double", chunks=(4, 40), compression="gzip", fletcher32=True)
    with path.open("r+b") as raw:
        raw.write(HEADER)
    assert len(read73(path, BUDGET)) == 8
    return path.read_bytes()


def outcome(path, data):
    """Whether damaged bytes are read or refused; anything else fails the test."""
    path.write_bytes(data)
    try:
        read73(path, 1 << 22)
    except MatFileError as error:
        message = str(error)
    else:
        return "read"
    assert message.startswith(f"{path}: at ")
    return "refused"


def test_truncated_files_are_refused(tmp_path, sound):
    cuts = np.unique(np.linspace(0, len(sound) - 1, 60).astype(int))
    assert {outcome(tmp_path / "a.mat", sound[:cut]) for cut in cuts} == {"refused"}


@pytest.mark.parametrize("seed", range(6))
def test_damaged_files_are_read_or_refused(tmp_path, sound, seed):
    random = np.random.default_rng(seed)
    outcomes = []
    for _ in range(50):
        data = bytearray(sound)
        for at in random.integers(USERBLOCK, len(data), random.integers(1, 4)):
            kind = random.integers(3)
            if kind == 0:
                data[at] ^= 1 << random.integers(8)
            elif kind == 1:
                data[at : at + 8] = random.bytes(8)
            else:
                data[at : at + 8] = bytes([random.choice([0, 0x7F, 0xFF])] * 8)
        outcomes.append(outcome(tmp_path / "a.mat", bytes(data)))
    assert {"read", "refused"} == set(outcomes)


def test_data_sets_that_share_bytes_are_counted_once_each(tmp_path):
    from matconvnet.interop.mat.guards73 import Budget, RefusalError

    with h5py.File(tmp_path / "a.h5", "w") as file:
        a, b = (file.create_dataset(name, data=1.0).id for name in "ab")
        budget = Budget(BUDGET, 100)
        for _ in range(3):
            budget.occupy(a, 60)
        with pytest.raises(RefusalError, match="data sets larger than the file"):
            budget.occupy(b, 60)
