"""Read damaged and hostile `.mat` files by the thousand; what is neither value nor error is kept.

    python scripts/fuzz_mat.py [--count 20000] [--seed 0] [--processes 1] [--format 5|7.3]

Every mutant must become values within the budget, or a MatFileError, within the time, without more
memory than the budget. Mutants are read in processes of their own, whose memory and time are
limited, so that a crash or a hang is a finding like any other. Mutant N of a seed is the same on
every run; findings are written to the folder `--keep`. Wants a POSIX system.
"""

import argparse
import importlib
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from matconvnet.errors import MatFileError
from matconvnet.interop.mat import write_mat
from matconvnet.values import Cell, Opaque, Sparse, Struct, StructArray

BUDGET = 32 << 20
SLACK = 96 << 20
"""Bytes beside the budget: those of Python, and of what is read ahead."""

HEADER = 128
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
"""Bytes of a number, by type of data element."""

SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 255, 1 << 16, 1 << 24, 1 << 30, (1 << 31) - 1, 1 << 31,
         (1 << 32) - 8, (1 << 32) - 1)  # fmt: skip
TYPES = (*range(22), 200, 255, 0xFFFF, 0x10001, 0x40001, 0x80005, 0xFFFFFFFF)

Random = random.Random


def example() -> dict[str, Any]:
    """A small network with a value of every kind."""
    numbers = np.arange(24.0).reshape(2, 3, 4, order="F")
    handle = Struct(function_handle=Struct(function="@(x) x + 1", type="anonymous"))
    layers = [
        Struct(type="conv", name="c1", weights=Cell([numbers.astype("f4"), np.ones((4, 1), "f4")]),
               pad=[1, 1, 0, 0], stride=1.0, precious=False, opts=Cell(), rate=[]),
        Struct(type="relu", name="r1", leak=0.0, note="größer", f=Opaque("function", "", handle)),
    ]  # fmt: skip
    ints = {f"i{t}": numbers[:1, :2].astype(t) for t in ("i1", "u1", "i2", "u2", "i4", "u4", "i8")}
    sparse = Sparse((3, 4), np.array([0, 2, 1]), np.array([0, 0, 3]), np.array([1.0, 2, 3]))
    records = [Struct(name="a", value=1j * numbers[0]), Struct(name="", value=np.uint64(7))]
    return {
        "net": {"layers": Cell(layers), "meta": ints | {"old": StructArray(records), "s": sparse}},
        "stats": np.array([["a", "b"], ["c", "d"]]),
        "flags": numbers[0] > 5,
    }


class Tag(NamedTuple):
    """A data element: where its tag and its data begin, its type and its size."""

    at: int
    data: int
    kind: int
    size: int


def tags(content: bytes, start: int, end: int) -> Iterator[Tag]:
    """All data elements of healthy, little-endian, uncompressed content, nested ones included."""
    while start < end:
        kind, size = struct.unpack_from("<II", content, start)
        is_small = kind > 0xFFFF
        tag = Tag(start, start + 4, kind & 0xFFFF, kind >> 16) if is_small else Tag(
            start, start + 8, kind, size
        )  # fmt: skip
        yield tag
        if tag.kind == 14:
            yield from tags(content, tag.data, tag.data + size)
        start = start + 8 if is_small else tag.data + (size + 7 & ~7)


def big_endian(content: bytes) -> bytes:
    """The same file as a big-endian machine writes it."""
    swapped = bytearray(content)

    def swap(at: int, width: int, count: int) -> None:
        for i in range(at, at + width * count, width):
            swapped[i : i + width] = swapped[i : i + width][::-1]

    swap(116, 8, 1)
    swap(124, 2, 2)
    for tag in tags(content, HEADER, len(content)):
        swap(tag.at, 4, (tag.data - tag.at) // 4)
        if tag.kind != 14:
            width = WIDTHS[tag.kind]
            swap(tag.data, width, tag.size // width)
    return bytes(swapped)


def compressed(content: bytes, level: int = 1) -> bytes:
    """The same file with each variable compressed; what cannot be one stays as it is."""
    pieces, at = [content[:HEADER]], HEADER
    while at + 8 <= len(content):
        size = 8 + struct.unpack_from("<I", content, at + 4)[0]
        data = zlib.compress(content[at : at + size], level)
        pieces += [struct.pack("<II", 15, len(data)), data]
        at += size
    return b"".join([*pieces, content[at:]])


class Mutator:
    """Makes mutants of the example, each from its number."""

    def __init__(self, version: str, seed: int) -> None:
        self.version = version
        self.seed = seed
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "example.mat"
            write_mat(path, example(), version="6" if version == "5" else "7.3")
            self.content = path.read_bytes()
        self.tags = list(tags(self.content, HEADER, len(self.content))) if version == "5" else []
        self.big = big_endian(self.content) if version == "5" else b""

    def mutant(self, number: int) -> bytes:
        """Mutant `number`."""
        rng = Random(f"{self.version} {self.seed} {number}")
        if self.version == "7.3":
            content = bytearray(self.content)
            for _ in range(rng.choice((1, 1, 2, 4))):
                rng.choice((flip, flip, poke, poke, poke, cut, move))(content, rng)
            return bytes(content)
        if rng.random() < 0.04:
            return rng.choice((bomb, nest, nest))(self.content[:HEADER], rng)
        is_big = rng.random() < 0.25
        content = bytearray(self.big if is_big else self.content)
        pack = struct.Struct(">I" if is_big else "<I").pack_into
        for _ in range(rng.choice((1, 1, 2, 4))):
            if rng.random() < 0.6:
                self.edit(content, rng, pack)
            else:
                rng.choice(ANYWHERE)(content, rng)
        if not is_big and rng.random() < 0.4:
            content = bytearray(compressed(bytes(content)))
            if rng.random() < 0.3:
                rng.choice(ANYWHERE)(content, rng)
        return bytes(content)

    def edit(self, content: bytearray, rng: Random, pack: Callable[..., None]) -> None:
        """Change the type, the size or a word of the data of one element."""
        tag = rng.choice(self.tags)
        what = rng.randrange(4)
        near = tag.size + rng.choice((-8, -1, 1, 8, 1 << 16))
        if what == 0:
            at, word = tag.at, rng.choice(TYPES)
        elif what == 1 and tag.data - tag.at == 8:
            at, word = tag.at + 4, rng.choice((*SIZES, near))
        elif what == 2:
            at, word = tag.data, rng.choice((*SIZES, rng.getrandbits(32)))
        else:
            words = max(1, tag.size // 4)
            at, word = tag.data + 4 * rng.randrange(words), rng.choice(SIZES)
        if at + 4 <= len(content):
            pack(content, at, word % (1 << 32))


def flip(content: bytearray, rng: Random) -> None:
    """Flip some bits."""
    for _ in range(rng.choice((1, 1, 3, 16))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def poke(content: bytearray, rng: Random) -> None:
    """Set some bytes in a row."""
    at = rng.randrange(len(content))
    for i in range(at, min(at + rng.choice((1, 2, 4, 8, 64)), len(content))):
        content[i] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def cut(content: bytearray, rng: Random) -> None:
    """End the file early."""
    del content[rng.randrange(1, len(content) + 1) :]


def move(content: bytearray, rng: Random) -> None:
    """Copy or drop a part, in steps of 8 bytes mostly, so that elements stay elements."""
    step = rng.choice((8, 8, 8, 1))
    a, b = sorted(step * rng.randrange(1 + len(content) // step) for _ in range(2))
    part = bytes(content[a : min(b, a + 4096)])
    if rng.random() < 0.5:
        del content[a : a + len(part)]
    at = step * rng.randrange(1 + len(content) // step)
    content[at:at] = part
    if not content:
        content += b"\0"


ANYWHERE = (flip, poke, cut, move)


def element(kind: int, data: bytes) -> bytes:
    """A little-endian data element."""
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(kind: int, shape: tuple[int, ...], *parts: bytes, name: bytes = b"") -> bytes:
    """A little-endian array of a class."""
    head = element(6, struct.pack("<II", kind, 0))
    head += element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    return element(14, head + b"".join(parts))


def bomb(header: bytes, rng: Random) -> bytes:
    """A few bytes that become many, or say so."""
    count = rng.choice((1 << 10, 1 << 16, 1 << 20, 1 << 22))
    content = rng.choice((
        lambda: array(9, (1, count), element(2, bytes(count)), name=b"x"),
        lambda: array(6, (1, count), element(2, bytes(count)), name=b"x"),
        lambda: array(4, (1, count), element(2, bytes(count)), name=b"x"),
        lambda: array(1, (count // 64, 1), struct.pack("<II", 14, 0) * (count // 64), name=b"x"),
        lambda: array(2, (count, 1), element(5, b"\1\0\0\0"), element(1, b""), name=b"x"),
        lambda: array(2, (1, 1), element(5, b"\4\0\0\0"), element(1, bytes(count)), name=b"x"),
        lambda: array(5, (1, count), element(5, bytes(4)), element(5, bytes(4 * count + 4)),
                      element(9, bytes(8)), name=b"x"),
        lambda: array(9, (0, 1 << 30, 1 << 30, 1 << 30), element(2, b""), name=b"x"),
    ))()  # fmt: skip
    if rng.random() < 0.2:
        content += bytes(count)
    if rng.random() < 0.2:
        content = content[: rng.randrange(8, len(content))]
    data = zlib.compress(content)
    return header + struct.pack("<II", 15, len(data)) + data


def nest(header: bytes, rng: Random) -> bytes:
    """Cells, structs or function handles inside one another."""
    content, kind = b"", rng.choice(("cell", "struct", "function"))
    for _ in range(rng.choice((10, 99, 100, 101, 102, 400))):
        if kind == "cell":
            content = array(1, (1, 1), content or element(14, b""))
        elif kind == "struct":
            names = element(5, b"\2\0\0\0") + element(1, b"a\0")
            content = array(2, (1, 1), names, content or element(14, b""))
        else:
            content = array(16, (1, 1), content or element(14, b""))
    file = header + array(1, (1, 1), content, name=b"x")
    return compressed(file) if rng.random() < 0.5 else file


def size_of(value: Any) -> int:
    """Bytes of all arrays and text in a value; TypeError where there is something foreign."""
    if isinstance(value, Opaque):
        return size_of(value.content) + size_of(value.class_name)
    if isinstance(value, Sparse):
        return sum(size_of(part) for part in value[1:])
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, (Cell, StructArray)):
        return sum(map(size_of, value))
    if isinstance(value, np.ndarray):
        if not value.flags.writeable:
            raise TypeError("an array that cannot be written to")
        return value.nbytes
    if isinstance(value, (str, float, bool, complex, np.generic)):
        return len(value) if isinstance(value, str) else 8
    raise TypeError(f"a value of {type(value)}")


def work(
    mutator: Mutator, reader: Callable[..., Any], seconds: int, numbers: range, progress: int
) -> None:
    """Read mutants in this process, limited in memory and time; report on the standard output."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.mat"
        path.write_bytes(mutator.content)
        reader(path, budget=BUDGET)  # loads what it needs before memory is limited
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + BUDGET + SLACK
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        for number in numbers:
            path.write_bytes(mutator.mutant(number))
            os.pwrite(progress, struct.pack("<q", number), 0)
            signal.alarm(seconds)  # nobody handles it: the process ends
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
            try:
                if (size := size_of(reader(path, budget=BUDGET))) > BUDGET:
                    raise MemoryError(f"{size} bytes of values")
                counts["values"] += 1
            except MatFileError as error:
                counts["errors"] += 1
                if isinstance(error.__context__, (MemoryError, RecursionError)):
                    print(f"finding {number} {error.__context__!r}", flush=True)
            except Exception:
                what = traceback.format_exc().strip().replace("\n", " | ")
                print(f"finding {number} {what[-600:]}", flush=True)
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            signal.alarm(0)
    print("counts", counts["values"], counts["errors"], flush=True)


def supervise(args: argparse.Namespace, first: int, last: int) -> tuple[Counter[str], dict]:
    """Have mutants read by processes, a new one after each that dies; their counts, findings."""
    counts, findings = Counter(), {}
    with tempfile.TemporaryFile() as progress:
        while first < last:
            progress.truncate(0)
            names = ("seed", "format", "reader", "seconds")
            options = [f"--{name}={getattr(args, name)}" for name in names]
            options.append(f"--worker={progress.fileno()},{first},{last}")
            done = subprocess.run(
                [sys.executable, __file__, *options], pass_fds=[progress.fileno()],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            for line in done.stdout.splitlines():
                if line.startswith("finding "):
                    _, number, what = line.split(" ", 2)
                    findings[int(number)] = what
                elif line.startswith("counts "):
                    _, values, errors = line.split()
                    counts += Counter(values=int(values), errors=int(errors))
            if done.returncode == 0:
                break
            if not (data := os.pread(progress.fileno(), 8, 0)):
                raise RuntimeError(f"a process died before its first mutant: {done.stderr}")
            (number,) = struct.unpack("<q", data)
            code = done.returncode
            what = signal.Signals(-code).name if code < 0 else f"exit {code}"
            findings[number] = f"the process died: {what} {done.stderr.strip()[-300:]}"
            first = number + 1
    return counts, findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--format", choices=("5", "7.3"), default="5")
    parser.add_argument("--seconds", type=int, default=60, help="time for each")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder for findings")
    parser.add_argument("--reader", default="matconvnet.interop.mat:read_mat", help="for tests")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    mutator = Mutator(args.format, args.seed)
    if args.worker:
        module, _, name = args.reader.partition(":")
        progress, first, last = map(int, args.worker.split(","))
        reader = getattr(importlib.import_module(module), name)
        work(mutator, reader, args.seconds, range(first, last), progress)
        return 0
    step = -(-args.count // args.processes)
    parts = [(i, min(i + step, args.count)) for i in range(0, args.count, step)]
    with ThreadPoolExecutor(args.processes) as pool:
        results = list(pool.map(lambda part: supervise(args, *part), parts))
    counts, findings = Counter(), {}
    for some_counts, some_findings in results:
        counts += some_counts
        findings |= some_findings
    print(f"{args.count} mutants: {counts['values']} values, {counts['errors']} errors")
    for number, what in sorted(findings.items()):
        args.keep.mkdir(parents=True, exist_ok=True)
        path = args.keep / f"{args.format}-{args.seed}-{number}.mat"
        path.write_bytes(mutator.mutant(number))
        print(f"{path}: {what}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
