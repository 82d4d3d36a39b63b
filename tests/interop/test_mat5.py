"""MAT files of version 5 to 7: bytes built by hand, SciPy and real MATLAB files as judges."""

import importlib.util
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from matconvnet.errors import MatFileError
from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.values import Struct
from scripts.fuzz_mat import array, big_endian, compressed, element
from tests import models
from tests.interop.mat_values import check_against_scipy, same

HEADER = b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + b"\x00\x01IM"
CLASSES = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "c16", "c8", "bool"]


def read_bytes(tmp_path, content):
    path = tmp_path / "file.mat"
    path.write_bytes(content)
    return read_mat(path)


# Files that others wrote


@pytest.mark.parametrize("name", [n for n in models.NETWORKS if "dncnn" not in n])
def test_real_networks_read_as_scipy_reads_them(name):
    check_against_scipy(models.path(name))


def test_a_real_imdb_reads_as_scipy_reads_it():
    check_against_scipy(models.path("landcover_imdb"))


SCIPY_FILES = Path(importlib.util.find_spec("scipy.io.matlab").origin).parent / "tests" / "data"
REFUSED = {
    "bad_miuint32": "sizes that memory can hold",
    "corrupted_zlib_checksum": "incorrect data check",
    "corrupted_zlib_data": "more data",
    "malformed1": "an element of 658840 bytes",
    "nasty_duplicate_fieldnames": "two fields 'Station_Q'",
}
VERSION_5 = ("5.3_", "6.1_", "6.5.1_", "7.1_", "7.4_", "WIN64")


def files_of_matlab():
    files = sorted(SCIPY_FILES.glob("test*.mat"))
    return [f for f in files if any(v in f.name for v in VERSION_5) and "hdf5" not in f.name]


@pytest.mark.skipif(not files_of_matlab(), reason="SciPy was installed without its test data")
@pytest.mark.parametrize("path", files_of_matlab(), ids=lambda path: path.stem)
def test_files_of_matlab_on_solaris_linux_and_windows(path):
    check_against_scipy(path)


@pytest.mark.skipif(not files_of_matlab(), reason="SciPy was installed without its test data")
@pytest.mark.parametrize("name", REFUSED)
def test_damaged_files_in_scipys_collection_are_refused(name):
    with pytest.raises(MatFileError, match=REFUSED[name]):
        read_mat(SCIPY_FILES / f"{name}.mat")


@pytest.mark.parametrize("compress", [False, True])
def test_files_of_scipy(tmp_path, compress):
    path = tmp_path / "scipy.mat"
    cell = np.empty((2, 3), dtype=object)
    cell[:] = [[1.5, "text", np.zeros((0, 2))], [np.int8([[1, -2]]), {"a": 1.0}, True]]
    records = np.array([[(1.0, "x"), (2.0, "yz")]], dtype=[("p", object), ("q", object)])
    variables = {f"a{t}": np.arange(24).reshape(2, 3, 4).astype(t) for t in CLASSES}
    variables |= {
        "cell": cell, "records": records, "sparse": scipy.sparse.csc_array(np.eye(3)[:, :2]),
        "empty": "", "rows": np.array(["ab ", "cde"]),
    }  # fmt: skip
    scipy.io.savemat(path, variables, do_compression=compress)
    check_against_scipy(path)


# Bytes built by hand

SMALL = bytes.fromhex(
    "0e000000 38000000"  # an array of 56 bytes
    "06000000 08000000 06000000 00000000"  # flags: double
    "05000000 08000000 01000000 01000000"  # 1 x 1
    "01000100 78000000"  # a small element: the name, "x"
    "09000000 08000000 000000000000f83f"  # 1.5
)
TEXT = bytes.fromhex(
    "0e000000 30000000"
    "06000000 08000000 04000000 00000000"  # flags: char
    "05000000 08000000 01000000 02000000"  # 1 x 2
    "01000100 73000000"
    "04000400 6800e900"  # UTF-16, "hé"
)


@pytest.mark.parametrize("change", [bytes, big_endian, compressed])
def test_golden_bytes(tmp_path, change):
    found = read_bytes(tmp_path, change(HEADER + SMALL + TEXT))
    assert same(found, Struct(x=1.5, s="hé"))


def test_golden_bytes_of_the_writer(tmp_path):
    path = tmp_path / "x.mat"
    write_mat(path, {"x": 1.5}, version="6")
    content = path.read_bytes()
    assert content[:116] == b"MATLAB 5.0 MAT-file, written by matconvnet".ljust(116)
    assert content[116:128] == bytes(8) + b"\x00\x01IM"
    assert content[128:] == SMALL
    write_mat(path, {"x": 1.5})
    kind, size = struct.unpack_from("<II", path.read_bytes(), 128)
    assert (kind, size) == (15, path.stat().st_size - 136)  # not padded
    assert zlib.decompress(path.read_bytes()[136:]) == SMALL


@pytest.mark.parametrize(
    ("kind", "stored", "numbers"),
    [
        (6, 1, [-1, 2]), (6, 2, [0, 255]), (6, 3, [-300, 2]), (6, 4, [1, 65535]), (6, 5, [-1, 7]),
        (6, 7, [0.5, 2]), (7, 2, [3, 255]), (7, 5, [-3, 1 << 20]), (12, 2, [1, 200]),
        (14, 5, [-1, 1]), (15, 6, [1, 2]), (9, 1, [3, 127]), (11, 5, [5, 65535]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("change", [bytes, big_endian])
def test_numbers_stored_narrower_than_their_class(tmp_path, kind, stored, numbers, change):
    codes = {1: "<b", 2: "<B", 3: "<h", 4: "<H", 5: "<i", 6: "<I", 7: "<f"}
    data = b"".join(struct.pack(codes[stored], n) for n in numbers)
    content = HEADER + array(kind, (2, 1), element(stored, data), name=b"x")
    found = read_bytes(tmp_path, change(content)).x
    dtype = dict(zip(range(6, 16), CLASSES, strict=False))[kind]
    assert same(np.array(numbers, dtype).reshape(2, 1), found)


def test_many_numbers_stored_narrower(tmp_path):
    """More than are read at a time."""
    numbers = (np.arange(300_000) % 251).astype(np.uint8)
    content = HEADER + array(6, (300, 1000), element(2, numbers.tobytes()), name=b"x")
    wanted = numbers.astype(float).reshape(300, 1000, order="F")
    assert np.array_equal(read_bytes(tmp_path, content).x, wanted)
    assert np.array_equal(read_bytes(tmp_path, compressed(content)).x, wanted)


def test_many_numbers_of_the_other_byte_order(tmp_path):
    numbers = np.arange(100_000.0)
    content = HEADER + array(6, (1, 100_000), element(9, numbers.tobytes()), name=b"x")
    assert np.array_equal(read_bytes(tmp_path, big_endian(content)).x[0], numbers)


@pytest.mark.parametrize(
    ("shape", "kind", "data", "text"),
    [
        ((1, 3), 16, "aé€".encode(), "aé€"),
        ((1, 3), 17, "aé€".encode("utf-16-le"), "aé€"),
        ((1, 3), 18, "aé€".encode("utf-32-le"), "aé€"),
        ((1, 2), 4, "\U0001f600".encode("utf-16-le"), "\U0001f600"),
        ((1, 2), 16, "\U0001f600".encode(), "\U0001f600"),  # counted in units of UTF-16
        ((1, 4), 16, "\U0001f600".encode(), "\U0001f600"),  # counted in bytes
        ((1, 2), 16, b"\xe9a", "éa"),  # bytes that are no UTF-8, each a character
        ((1, 1), 4, b"\x3d\xd8", "\ud83d"),  # half a pair
        ((1, 2), 2, b"\xe9\0", "é\0"),
        ((3, 0), 4, b"", ""),
        ((1, 0), 16, b"", ""),
    ],
)
@pytest.mark.parametrize("change", [bytes, big_endian])
def test_text(tmp_path, shape, kind, data, text, change):
    content = HEADER + array(4, shape, element(kind, data), name=b"x")
    assert read_bytes(tmp_path, change(content)).x == text


@pytest.mark.parametrize(("kind", "codec"), [(2, "ascii"), (4, "utf-16-le"), (16, "utf-8")])
def test_rows_of_text(tmp_path, kind, codec):
    content = HEADER + array(4, (2, 2), element(kind, "acbd".encode(codec)), name=b"x")
    assert same(np.array([["a", "b"], ["c", "d"]], order="F"), read_bytes(tmp_path, content).x)


def test_old_logical_and_global_flags(tmp_path):
    content = HEADER + array(
        6 | 0x0200 | 0x0400, (2, 1), element(9, bytes(8) + b"\1" * 8), name=b"x"
    )
    assert same(np.array([[False], [True]]), read_bytes(tmp_path, content).x)


def test_complex_numbers_of_integers_become_doubles(tmp_path):
    parts = element(1, b"\1\2"), element(1, b"\3\xff")
    content = HEADER + array(8 | 0x0800, (1, 2), *parts, name=b"x")
    assert same(np.array([[1 + 3j, 2 - 1j]]), read_bytes(tmp_path, content).x)


def test_objects_of_matlab_and_their_subsystem(tmp_path):
    reference = array(13, (6, 1), element(6, np.arange(6, dtype="<u4").tobytes()))
    names = element(1, b"x"), element(1, b"MCOS"), element(1, b"gpuArray")
    opaque = element(14, element(6, struct.pack("<II", 17, 0)) + b"".join(names) + reference)
    content = HEADER + SMALL.replace(b"x", b"y") + opaque
    subsystem = array(9, (1, 8), element(2, b"\0\1IM\0\0\0\0"))
    header = HEADER[:116] + struct.pack("<Q", len(content)) + HEADER[124:]
    found = read_bytes(tmp_path, header + content[128:] + subsystem)
    assert list(found) == ["y", "x"]
    assert found.x[:2] == ("opaque", "gpuArray")
    assert found.x.content.system == "MCOS"
    assert found.x.content.reference.ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert found.x.content.subsystem.tobytes() == b"\0\1IM\0\0\0\0"
    write_mat(tmp_path / "again.mat", found)
    assert same(found, read_mat(tmp_path / "again.mat"))


def test_a_variable_without_a_name_is_left_out(tmp_path):
    workspace = array(9, (1, 2), element(2, b"\1\2"))
    assert list(read_bytes(tmp_path, HEADER + SMALL + workspace)) == ["x"]


@pytest.mark.parametrize("stored", ["@(x) x", "sf%0@(x) x"])  # the latter is of 2009
def test_function_handles_tell_their_text(tmp_path, stored):
    fields = element(5, b"\x11\0\0\0"), element(1, b"function_handle\0\0")
    text = array(4, (1, len(stored)), element(16, stored.encode()))
    inner = array(2, (1, 1), element(5, b"\x09\0\0\0"), element(1, b"function\0"), text)
    content = array(16, (1, 1), array(2, (1, 1), *fields, inner), name=b"x")
    found = read_bytes(tmp_path, HEADER + content).x
    assert found[:2] == ("function", "@(x) x")


def test_quirks_of_writers(tmp_path):
    """Padding left out at the end, zeros behind compressed data, sizes as unsigned integers."""
    head = element(6, struct.pack("<II", 9, 0)) + element(6, struct.pack("<II", 1, 3))
    body = head + element(2, b"x") + struct.pack("<II", 2, 3) + b"\1\2\3"
    short = HEADER + struct.pack("<II", 14, len(body)) + body
    assert read_bytes(tmp_path, short).x.tolist() == [[1, 2, 3]]
    data = zlib.compress(SMALL)
    padded = data + bytes(-len(data) % 8)
    content = HEADER + struct.pack("<II", 15, len(padded)) + padded
    assert read_bytes(tmp_path, content + SMALL.replace(b"x", b"y")) == {"x": 1.5, "y": 1.5}


def test_sparse_truth_values_are_bytes_that_matlab_calls_doubles(tmp_path):
    parts = element(5, struct.pack("<3i", 0, 0, 1)), element(5, struct.pack("<3i", 0, 1, 3))
    content = HEADER + array(5 | 0x0200, (2, 2), *parts, element(9, b"\1\1\1"), name=b"x")
    found = read_bytes(tmp_path, content).x
    assert found.shape == (2, 2)
    assert [v.tolist() for v in found[1:]] == [[0, 0, 1], [0, 1, 1], [True, True, True]]
    assert found.data.dtype == bool
