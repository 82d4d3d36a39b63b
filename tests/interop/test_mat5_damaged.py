"""Files that are damaged, hostile, or no MAT files: one MatFileError that says where and why."""

import gzip
import os
import struct
import sys
import time
import zlib

import numpy as np
import pytest

from matconvnet.errors import FormatError, MatFileError
from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.values import Opaque
from scripts.fuzz_mat import array, compressed, element, example

HEADER = b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + b"\x00\x01IM"
NUMBER = array(6, (1, 1), element(9, bytes(8)), name=b"x")


def words(*numbers):
    return struct.pack(f"<{len(numbers)}I", *numbers)


def read(tmp_path, content, **options):
    path = tmp_path / "net.mat"
    path.write_bytes(content)
    return read_mat(path, **options)


def refused(tmp_path, content, match, **options):
    with pytest.raises(MatFileError, match=match) as caught:
        read(tmp_path, content, **options)
    assert str(caught.value).startswith(str(tmp_path / "net.mat"))
    assert isinstance(caught.value, FormatError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "the file is empty: did the download fail"),
        (HEADER[:100], "was the download cut short"),
        (HEADER[:124] + b"xxxx" + NUMBER, "a damaged header"),
        (bytes(500), "zeros: did the download or the disk fail"),
        (b"\n <!DOCTYPE html><html>", "a web page saved as .mat"),
        (b"\xef\xbb\xbf<HTML>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"404: Not Found", "text, perhaps an error message"),
        (b"PK\x03\x04abc", "a zip archive"),
        (gzip.compress(HEADER, mtime=0), "a gzip archive"),
        (struct.pack("<5i", 0, 1, 1, 0, 2) + b"x\0" + bytes(8), "a file of MATLAB 4: load it"),
        (struct.pack(">5i", 1000, 1, 1, 0, 2) + b"x\0" + bytes(8), "a file of MATLAB 4"),
        (b"# Created by Octave 7.3.0, Mon", "Octave's text format"),
        (b"\x80\x02}q\x00.", "a Python pickle"),
        (bytes(range(1, 256)) * 4, "no .mat file, or an encrypted one"),
    ],
)
def test_what_is_no_mat_file(tmp_path, content, cause):
    message = refused(tmp_path, content, cause)
    assert "at byte 0: " in message
    assert "wanted the header of a .mat file" in message


def test_versions_that_do_not_exist(tmp_path):
    refused(tmp_path, HEADER[:124] + b"\0\3IM", "at byte 124: version 0x0300; wanted 0x0100")
    refused(tmp_path, HEADER[:124] + b"\2\0MI", "at byte 512: no HDF5 data; wanted them")


def test_a_file_without_variables(tmp_path):
    assert read(tmp_path, HEADER) == {}


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_mat(tmp_path / "none.mat")
    with pytest.raises(IsADirectoryError):
        read_mat(tmp_path)
    if hasattr(os, "mkfifo"):
        reader, writer = os.pipe()
        os.write(writer, HEADER)
        os.close(writer)
        with pytest.raises(OSError, match="seek"):
            read_mat(f"/dev/fd/{reader}")
        os.close(reader)


FIELD = element(5, words(2)), element(1, b"a\0")

FILES = {
    "an element of type 7; wanted a variable": element(7, bytes(8)),
    "an element of 64 bytes; wanted at most 56": NUMBER[:-8],
    "4 bytes left; wanted an element": NUMBER + bytes(4),
    "a second variable 'x'": NUMBER + NUMBER,
}
ARRAYS = {
    "wanted flags, 8 bytes": NUMBER.replace(words(6, 8, 6), words(9, 8, 6)),
    "flags of 4 bytes": element(14, element(6, bytes(4))),
    "an array of class 19": array(19, (1, 1)),
    "an array of class 0": array(0, (1, 1)),
    "sizes of 4 bytes": array(6, (1,)),
    r"an array of sizes \(-1, 1\)": array(6, (-1, 1)),
    r"an array of sizes \(0, 2147483647, ": array(6, (0, 2**31 - 1, 2**31 - 1, 2**31 - 1)),
    "132 bytes of type 5; wanted sizes": array(6, (1,) * 33),
    "of type 1; wanted a name, 1024 bytes": array(6, (0, 0), name=b"x" * 1025),
    "text that is no utf-8": array(6, (0, 0), name=b"\xff"),
    r"0 bytes for an array of sizes \(1, 9\)": array(6, (1, 9)),
    "8 bytes of type 9; wanted 2 numbers": array(6, (2, 1), element(9, bytes(8))),
    "16 bytes of type 9; wanted 1 numbers": array(6, (1, 1), element(9, bytes(16))),
    "16 bytes of type 14; wanted 1": array(6, (1, 1), element(14, bytes(16))),
    "8 bytes of type 8; wanted 1": array(6, (1, 1), element(8, bytes(8))),
    "numbers stored as float64; wanted such as fit into float32": array(
        7, (1, 1), element(9, bytes(8))
    ),
    "numbers stored as float32; wanted such as fit into int8": array(
        8, (1, 1), element(7, bytes(4))
    ),
    "numbers from 300 to 300; wanted such as fit into uint8": array(
        9, (1, 1), element(4, b"\x2c\1")
    ),
    "numbers from -1 to -1; wanted such as fit into uint64": array(15, (1, 1), element(1, b"\xff")),
    "16 bytes more; wanted the end of the array": array(
        6, (1, 1), element(9, bytes(8)), element(9, bytes(8))
    ),
    "a small element of 5 bytes": array(6, (1, 1), struct.pack("<HH", 1, 5) + bytes(4)),
    "3 bytes of type 4; wanted 2 characters": array(4, (1, 2), element(4, b"abc")),
    "4 bytes of type 6; wanted 1 characters": array(4, (1, 1), element(6, b"abcd")),
    "3 characters; wanted 2": array(4, (1, 2), element(16, "abé".encode())),
    "text that is no utf-32-le": array(4, (1, 1), element(18, b"\xff" * 4)),
    "text that is no UTF-8": array(4, (1, 1), element(16, b"\xff\xff")),
    "2 characters; wanted 3": array(4, (3, 1), element(16, "aé".encode())),
    r"16 bytes for an array of sizes \(1, 3\); wanted 24": array(
        1, (1, 3), array(6, (0, 0))[:8].replace(b"\x28", b"\0") * 2
    ),
    "an element of type 9; wanted an array": array(1, (1, 1), element(9, bytes(8))),
    "wanted the length of field names": array(2, (1, 1), element(1, b"a")),
    "2 bytes of type 1 for names of length 0": array(
        2, (1, 1), element(5, words(0)), element(1, b"a\0")
    ),
    "2 bytes of type 1 for names of length 1025": array(
        2, (1, 1), element(5, words(1025)), element(1, b"a\0")
    ),
    "3 bytes of type 1 for names of length 2": array(
        2, (1, 1), element(5, words(2)), element(1, b"abc")
    ),
    "two fields 'a'": array(2, (1, 1), element(5, words(2)), element(1, b"a\0a\0")),
    r"0 bytes for an array of sizes \(1000, 1\); wanted 8000": array(2, (1000, 1), *FIELD),
    r"structs without a field; wanted 65536": array(
        2, (65537, 1), element(5, words(1)), element(1, b"")
    ),
    r"a sparse array of sizes \(1, 1, 1\)": array(5, (1, 1, 1)),
    "8 bytes of type 9; wanted indices": array(5, (1, 1), element(9, bytes(8))),
    "columns that overlap": array(5, (1, 1), element(5, words(0)), element(5, words(1, 1))),
    "columns that overlap or": array(5, (1, 2), element(5, words(0)), element(5, words(0, 1, 0))),
    "columns that overlap or are": array(5, (1, 1), element(5, words(0)), element(5, words(0, 2))),
    "columns that overlap or are missing": array(5, (1, 9), element(5, b""), element(5, words(0))),
    "rows up to 1; wanted 0 to 0": array(5, (1, 1), element(5, words(1)), element(5, words(0, 1))),
    "rows that do not grow": array(5, (2, 1), element(5, words(1, 0)), element(5, words(0, 2))),
    "8 bytes of type 9; wanted 2 numbers or more": array(
        5, (2, 1), element(5, words(0, 1)), element(5, words(0, 2)), element(9, bytes(8))
    ),
}


@pytest.mark.parametrize("match", FILES | ARRAYS)
def test_hostile_elements(tmp_path, match):
    content = HEADER + (FILES | ARRAYS)[match]
    message = refused(tmp_path, content, match)
    place = int(message.split("at byte ")[1].split(":")[0])
    assert 128 <= place <= len(content)


@pytest.mark.parametrize("match", ARRAYS)
def test_hostile_arrays_in_compressed_data(tmp_path, match):
    message = refused(tmp_path, compressed(HEADER + ARRAYS[match]), match)
    assert "of what the data compressed at byte 136 hold: " in message


def test_places_within_compressed_data(tmp_path):
    content = compressed(HEADER + NUMBER + array(6, (2, 1), element(9, bytes(8)), name=b"y"))
    at = 136 + struct.unpack_from("<I", content, 132)[0] + 8
    refused(tmp_path, content, f"at byte 64 of what the data compressed at byte {at} hold: 8 bytes")


def test_every_truncated_file_is_refused(tmp_path):
    for version in ("6", "7"):
        write_mat(tmp_path / "whole.mat", example(), version=version)
        content = (tmp_path / "whole.mat").read_bytes()
        starts = [128]
        while starts[-1] < len(content):
            starts.append(starts[-1] + 8 + struct.unpack_from("<I", content, starts[-1] + 4)[0])
        for length in set(range(129, len(content), 7)) - set(starts):
            refused(tmp_path, content[:length], "cut short")


def test_compressed_data_that_are_cut_or_changed(tmp_path):
    content = HEADER + NUMBER
    data = zlib.compress(NUMBER)
    whole = HEADER + words(15, len(data)) + data
    assert read(tmp_path, whole) == {"x": 0}

    def holding(data):
        return HEADER + words(15, len(data)) + data

    refused(tmp_path, holding(data[:-5]), "the data end here; wanted|no checksum")
    refused(tmp_path, holding(data[:-1]), "no checksum; wanted one")
    refused(tmp_path, holding(data[:-1] + b"\0"), "incorrect data check")
    refused(tmp_path, holding(b"abc" + data), "incorrect header check")
    refused(tmp_path, holding(data + b"a"), "1 bytes behind compressed data; wanted none")
    refused(tmp_path, holding(data + bytes(8)), "8 bytes behind compressed data")
    refused(tmp_path, holding(zlib.compress(NUMBER * 2)), "more data; wanted the end")
    refused(tmp_path, holding(zlib.compress(NUMBER[:-4])), "the data end here; wanted 4 bytes more")
    refused(tmp_path, holding(b""), "0 bytes left; wanted an element")
    refused(tmp_path, holding(zlib.compress(content[128:][8:])), "an element of type 6; wanted an")
    inside = zlib.compress(words(15, len(data)) + data)
    refused(tmp_path, holding(inside), "an element of type 15; wanted an array")


@pytest.mark.parametrize("depth", [100, 101, 102, 10_000])
@pytest.mark.parametrize("kind", ["cell", "struct", "function", "object"])
def test_nesting_is_bounded(tmp_path, depth, kind):
    codes = {"cell": (1,), "struct": (2, *FIELD), "function": (16,)}
    code, *fields = codes.get(kind, (3, element(1, b"name"), *FIELD))
    parts, size = [NUMBER], len(NUMBER)
    for level in reversed(range(depth)):
        head = array(code, (1, 1), *fields, name=b"" if level else b"x")[8:]
        size += len(head) + 8
        parts.append(words(14, size - 8) + head)
    content = HEADER + b"".join(reversed(parts))
    if depth > 100:
        refused(tmp_path, content, "arrays nested 101 deep; wanted at most 100")
    else:
        value = read(tmp_path, content).x
        for _ in range(depth):
            value = value.content if isinstance(value, Opaque) else value
            if kind != "function":
                value = value[0] if kind == "cell" else value.a
        assert value == 0


def test_too_deep_a_stack_is_no_crash(tmp_path):
    value = "end"
    for _ in range(90):
        value = [value]
    write_mat(tmp_path / "deep.mat", {"x": value})
    limit = sys.getrecursionlimit()
    frame, used = sys._getframe(), 0
    while frame:
        frame, used = frame.f_back, used + 1
    try:
        sys.setrecursionlimit(used + 200)
        with pytest.raises(MatFileError, match="nested too deep for the calls that led here"):
            read_mat(tmp_path / "deep.mat")
    finally:
        sys.setrecursionlimit(limit)


ZEROS = 1 << 26

BOMBS = {
    "numbers": array(9, (1, ZEROS), element(2, bytes(ZEROS))),
    "wider numbers": array(6, (1, ZEROS), element(2, bytes(ZEROS))),
    "text": array(4, (1, ZEROS), element(2, bytes(ZEROS))),
    "cells": array(1, (1, ZEROS // 8), words(14, 0) * (ZEROS // 8)),
    "rows": array(5, (1, 1), element(5, bytes(ZEROS)), element(5, bytes(8))),
    "fields": array(2, (1, 0), element(5, words(16)), element(1, bytes(ZEROS))),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_before_they_take_memory(tmp_path, kind):
    content = compressed(HEADER + BOMBS[kind], 9)
    assert len(content) < ZEROS / 400
    start = time.perf_counter()
    refused(tmp_path, content, "more than the budget of 8388608", budget=8 << 20)
    assert time.perf_counter() - start < 5


def test_the_budget_is_for_all_variables(tmp_path):
    for i in range(2, 6):
        content = {f"x{k}": np.zeros(1000) for k in range(i)}
        write_mat(tmp_path / "x.mat", content)
        if 8256 * i <= 30_000:
            assert len(read_mat(tmp_path / "x.mat", budget=30_000)) == i
        else:
            with pytest.raises(MatFileError, match="more than the budget of 30000"):
                read_mat(tmp_path / "x.mat", budget=30_000)


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    """A small file that claims 4 GB: in itself, and in its compressed data."""
    size = (1 << 32) - 8
    head = element(6, words(9, 0)) + element(5, words(1 << 16, (1 << 16) - 1)) + element(1, b"x")
    body = head + words(2, size - 100)
    refused(tmp_path, HEADER + words(14, size), f"of {size} bytes; wanted at most 0, what is left")
    content = HEADER + words(14, len(body)) + body
    refused(tmp_path, content, "8 bytes for an array of sizes .*; wanted 4294901760 or more")
    data = zlib.compress(words(14, size) + body + bytes(100))
    refused(
        tmp_path, HEADER + words(15, len(data)) + data, f"an element of {size} bytes; wanted at"
    )
