"""Which version of the format a file has, and what is wrong with one that has none."""

import os
from io import FileIO
from typing import NoReturn

from matconvnet.errors import MatFileError
from matconvnet.interop.mat import elements as e
from matconvnet.interop.mat.reader5 import read5
from matconvnet.values import Struct

HDF5 = b"\x89HDF\r\n\x1a\n"
HDF5_PLACES = (0, 512)

BUDGET, BUDGET_RATIO = 1 << 30, 32

SIGNATURES = {
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a rar archive: unpack it first",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself, `git lfs pull`",
    b"%PDF": "a PDF document",
    b"\x80\x02": "a Python pickle",
    b"# Created by Octave": "Octave's text format: save it with `save -v7`",
    b"Octave-1": "Octave's binary format: save it with `save -v7`",
}


def read_mat(path: str | os.PathLike[str], *, budget: int | None = None) -> Struct:
    """Read all variables of a `.mat` file of version 5, 6, 7 or 7.3.

    The arrays own their memory, in Fortran order. What only MATLAB can use is an `Opaque`.

    Args:
        path: the file.
        budget: bytes that its values may take in memory; by default 1 GiB, or 32 times the size of
            the file if that is more. Compressed data grow up to 1032 times.

    Returns: the variables by name, in the order of the file, in the forms that
        `matconvnet.values` lists.
    Raises: MatFileError, naming the place in the file, what is there, what was wanted and the
        likely cause; OSError, if the file cannot be opened or read.
    """
    name = os.fspath(path)
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if budget is None:
            budget = max(BUDGET, BUDGET_RATIO * size)
        head = file.read(1024)
        file.seek(0)
        if not any(head.startswith(HDF5, at) for at in HDF5_PLACES):
            _check_header(head, name)
            return _read5(file, name, budget)
    from matconvnet.interop.mat.reader73 import read73

    return read73(path, budget)


def _read5(file: FileIO, name: str, budget: int) -> Struct:
    try:
        return read5(file, name, budget)
    except MemoryError:
        raise MatFileError(f"{name}: the memory does not suffice for its values") from None
    except RecursionError:
        raise MatFileError(f"{name}: arrays nested too deep for the calls that led here") from None


def _check_header(head: bytes, name: str) -> None:
    """Raise MatFileError unless the first bytes of a file are a header of version 5."""
    if head[126:128] not in (b"IM", b"MI"):
        _fail_unknown(head, name)
    version = int.from_bytes(head[124:126], "little" if head[126:128] == b"IM" else "big")
    if version == e.VERSION_73:
        raise MatFileError(
            f"{name}: at byte 512: no HDF5 data; wanted them, as the header says version 7.3 "
            "(was the download cut short?)"
        )
    if version != e.VERSION:
        raise MatFileError(
            f"{name}: at byte 124: version {version:#06x}; wanted 0x0100 or 0x0200 "
            "(is the file damaged?)"
        )


def _fail_unknown(head: bytes, name: str) -> NoReturn:
    wanted = "wanted the header of a .mat file of version 5 to 7.3"
    raise MatFileError(f"{name}: at byte 0: {head[:16]!r}; {wanted} ({_guess(head)})")


def _guess(head: bytes) -> str:
    """What a file without the header of a .mat file probably is."""
    if not head:
        return "the file is empty: did the download fail?"
    for signature, what in SIGNATURES.items():
        if head.startswith(signature):
            return what
    if head.startswith(b"MATLAB 5.0") or head.startswith(b"MATLAB 7.3"):
        return "was the download cut short?" if len(head) < e.HEADER_SIZE else "a damaged header"
    if not any(head):
        return "zeros: did the download or the disk fail?"
    if _is_version4(head):
        return "a file of MATLAB 4: load it in MATLAB or Octave and save it with '-v7'"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            "a web page saved as .mat: the link asks for a login or is dead; open it in a browser"
        )
    if all(32 <= c < 127 or c in b"\t\r\n" for c in head):
        return "text, perhaps an error message of the server"
    return "no .mat file, or an encrypted one"


def _is_version4(head: bytes) -> bool:
    """True, if the file begins like a matrix of MATLAB 4, which had no header of the file."""
    for order in ("little", "big"):
        words = [int.from_bytes(head[i : i + 4], order) for i in range(0, 20, 4)]
        kind, is_complex, name_length = words[0], words[3], words[4]
        m, o, p, t = kind // 1000, kind // 100 % 10, kind // 10 % 10, kind % 10
        if m <= 4 and o == 0 and p <= 5 and t <= 2 and is_complex <= 1 and 0 < name_length <= 64:
            return True
    return False
