"""read_idx: every type of the format, plain and compressed, and files that lie."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from matconvnet.data.idx import read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
LABELS = bytes.fromhex("00000801 00000003 070005")


def idx_bytes(array, code):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def file(tmp_path):
    def write(data):
        path = tmp_path / "some-idx"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("kind", CODES)
def test_reads_every_type(file, kind, pack):
    limits = np.iinfo(kind) if kind[0] in "ui" else np.finfo(kind)
    array = np.arange(24).astype(kind).reshape(2, 3, 4)
    array[0, 0, 0], array[1, 2, 3] = limits.min, limits.max
    found = read_idx(file(pack(idx_bytes(array, CODES[kind]))))
    assert found.dtype == np.dtype(kind)
    assert found.dtype.isnative
    assert found.flags.writeable
    np.testing.assert_array_equal(found, array)


def test_reads_known_bytes(file):
    np.testing.assert_array_equal(read_idx(file(LABELS)), [7, 0, 5])


def test_accepts_text_paths_and_no_elements(file):
    path = file(idx_bytes(np.zeros((0, 28, 28), "u1"), 8))
    assert read_idx(str(path)).shape == (0, 28, 28)


def test_reads_data_that_compress_as_far_as_gzip_goes(file):
    array = np.zeros((1000, 100, 100), "u1")
    path = file(gzip.compress(idx_bytes(array, 8)))
    assert path.stat().st_size < array.size / 1000
    np.testing.assert_array_equal(read_idx(path), array)


def test_reads_as_many_axes_as_an_array_can_have(file):
    array = np.arange(2, dtype="u1").reshape((1,) * 31 + (2,))
    np.testing.assert_array_equal(read_idx(file(idx_bytes(array, 8))), array)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        read_idx(tmp_path / "absent")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "some-idx: found magic number ''"),
        (b"\0\0\x08", "found magic number '00 00 08'; wanted 00 00"),
        (b"\x01" + LABELS[1:], "found magic number '01 00 08 01'"),
        (b"\0\x01" + LABELS[2:], "found magic number '00 01 08 01'"),
        (b"\0\0\x0a" + LABELS[3:], "type of 08 09 0b 0c 0d 0e"),
        (b"\0\0\x08\0" + LABELS[4:], "number of axes, 1 or more"),
        (LABELS[:6], "truncated: found 2 bytes of sizes, not 4"),
        (LABELS[:10], "truncated: found 2 bytes of data, wanted 3"),
        (LABELS + b"\0", "bytes after the 3 wanted by sizes"),
        (bytes.fromhex("00000804") + b"\xff" * 16, "truncated: sizes .* want"),
        (bytes.fromhex("00000805 00000000") + b"\xff" * 16, "no array can have the sizes"),
        (b"\0\0\x08\xff" + b"\0\0\0\x01" * 255 + b"\0", "no array can have the sizes"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_wrong_contents(file, data, message, pack):
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(file(pack(data)))
    assert "some-idx" in str(caught.value)


@pytest.mark.parametrize("length", [3, 12, 20, -9, -8, -4, -1])
def test_gzip_cut_short(file, length):
    packed = gzip.compress(LABELS, mtime=0)
    with pytest.raises(ValueError, match="some-idx: the gzip data are damaged"):
        read_idx(file(packed[:length]))


@pytest.mark.parametrize("place", [10, -8], ids=["deflate stream", "checksum"])
def test_gzip_with_a_flipped_byte(file, place):
    packed = bytearray(gzip.compress(LABELS, mtime=0))
    packed[place] ^= 0xFF
    with pytest.raises(ValueError, match="some-idx: the gzip data are damaged"):
        read_idx(file(bytes(packed)))


def test_gzip_with_rubbish_behind(file):
    with pytest.raises(ValueError, match="some-idx: the gzip data are damaged"):
        read_idx(file(gzip.compress(LABELS) + b"rubbish"))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(LABELS + bytes(30_000_000), id="more data than declared"),
        pytest.param(bytes.fromhex("00000801 40000000") + bytes(100), id="more declared than data"),
    ],
)
def test_a_lying_gzip_takes_little_memory(file, data):
    path = file(gzip.compress(data))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"bytes after|truncated"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
