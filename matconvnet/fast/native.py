"""The CPU kernels: which library fits this machine, and calls of its functions.

The kernels are written in C (`kernels/`) and compiled when the package is built. Where there are
none, `kernels()` is None, `missing()` says why, and everything is computed with torch alone.
"""

import contextlib
import ctypes
import functools
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "kernels"
LEVELS = {"AVX512": ("avx512", "avx2", "base"), "AVX2": ("avx2", "base")}
"""Libraries that a machine can run, the fastest first, by what torch finds of its instructions."""

HALF_LEVEL = "avx512_bf16"
"""The one before them, for machines that multiply numbers of type bfloat16."""

Address = Tensor | int | None


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The library for this machine; None, if there is none.

    The environment's MATCONVNET_KERNELS asks for one level ("avx512_bf16", "avx512", "avx2",
    "base") or "off".
    """
    asked = os.environ.get("MATCONVNET_KERNELS", "")
    levels = LEVELS.get(torch.backends.cpu.get_cpu_capability(), ("base",))
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    for level in (HALF_LEVEL, *levels) if has_bf16 else levels:
        if asked not in ("", level):
            continue
        path = FOLDER / f"kernels-{level}.so"
        if path.exists():
            with contextlib.suppress(OSError, ValueError):  # of another system, or of no stamp
                library = ctypes.CDLL(str(path))
                if ctypes.c_int64.in_dll(library, "stamp").value == _stamp():
                    return library
    return None


def missing() -> str:
    """Why there are no kernels; empty, if there are."""
    if kernels() is not None:
        return ""
    if asked := os.environ.get("MATCONVNET_KERNELS"):
        return f"MATCONVNET_KERNELS is {asked!r}"
    if any(FOLDER.glob("*.so")):
        return "the kernels are older than their source, or of another system; reinstall matconvnet"
    return "the kernels were not compiled; reinstall matconvnet where there is a C compiler"


def _stamp() -> int:
    """A number that changes with the source of the kernels; see hatch_build.py."""
    return zlib.crc32(b"".join(p.read_bytes() for p in sorted(FOLDER.glob("*.[ch]"))))


@functools.cache
def multiplies_halves() -> bool:
    """Whether the library that is loaded multiplies numbers of type bfloat16."""
    library = kernels()
    return library is not None and Path(library._name).stem.endswith(HALF_LEVEL)


@functools.cache
def lanes() -> int:
    """Numbers in a vector of the library that is loaded: 16, 8 or 4."""
    library = kernels()
    if library is None:
        raise RuntimeError(missing())
    return ctypes.c_int64.in_dll(library, "lanes").value


def of_maps(name: str, x: Tensor) -> str:
    """The kernel `name` for maps of the type of `x`: float32 or bfloat16."""
    return f"{name}_bf16" if x.dtype == torch.bfloat16 else name


class CallStruct(ctypes.Structure):
    """A call as `run` in kernels/run.c reads it."""

    _fields_ = (
        ("function", ctypes.c_void_p),
        ("p", ctypes.c_void_p),
        ("n", ctypes.c_void_p),
        ("s", ctypes.c_void_p),
    )


class Call:
    """A kernel with its arguments, ready to run any number of times.

    Tensors are kept alive, and must stay where they are in memory. `addresses`, `numbers` and
    `scalars` may be changed in place between runs. Scalars that are an array of float64 are not
    copied: several calls may share them.
    """

    def __init__(
        self,
        name: str,
        addresses: Sequence[Address],
        numbers: Sequence[int] = (),
        scalars: Sequence[float] | np.ndarray = (),
    ):
        library = kernels()
        if library is None:
            raise RuntimeError(f"kernel {name!r}: {missing()}")
        self.name = name
        self.tensors = [a for a in addresses if isinstance(a, Tensor)]
        self.addresses = np.array([_address(a) for a in addresses], np.uint64)
        self.numbers = np.array(numbers, np.int64)
        self.scalars = np.ascontiguousarray(scalars, np.float64)
        self.function: Any = getattr(library, name)
        pointers = (a.ctypes.data for a in (self.addresses, self.numbers, self.scalars))
        self.pointers = tuple(ctypes.c_void_p(pointer) for pointer in pointers)

    def __repr__(self) -> str:
        return f"{self.name}({self.numbers.tolist()}, {self.scalars.tolist()})"

    def __call__(self) -> None:
        """Run the kernel."""
        self.function(*self.pointers)


class Tape:
    """Calls that run one after the other, without Python in between.

    seconds: of each call, as far as they were timed.
    """

    def __init__(self, calls: Sequence[Call], seconds: np.ndarray | None = None):
        """seconds: where to keep the times, a float64 for each call; None: in a new array."""
        self.calls = list(calls)
        library: Any = kernels()
        self._run = library.run
        structs = [
            CallStruct(ctypes.cast(c.function, ctypes.c_void_p), *c.pointers) for c in self.calls
        ]
        self._structs = (CallStruct * len(structs))(*structs)
        self._count = ctypes.c_int64(len(structs))
        self.seconds = np.zeros(len(structs)) if seconds is None else seconds
        self._seconds = ctypes.c_void_p(self.seconds.ctypes.data)

    def __call__(self, timed: bool = False) -> None:
        """Run them all. timed: add the time of each to `seconds`."""
        self._run(self._structs, self._count, self._seconds if timed else None)


def _address(a: Address) -> int:
    if isinstance(a, Tensor):
        return a.data_ptr()
    return a or 0
