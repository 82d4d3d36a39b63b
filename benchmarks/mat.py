"""How fast `.mat` files are read and written, beside what zlib and the disk alone need.

    python benchmarks/mat.py [--megabytes 500] [--repeats 5] [--folder FOLDER]

A network of random weights is written compressed (version 7) and not (version 6). Reading is timed
in turn with its part that cannot be avoided: inflating the same bytes with zlib, in pieces that are
thrown away, and reading the file into memory. Times are medians; peak memory is that of a process
of its own, as a multiple of the weights, beside what it takes before (Linux only).
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from matconvnet.interop.mat import read_mat, write_mat

PEAK = """
import sys
from pathlib import Path
from matconvnet.interop.mat import read_mat
def peak(): return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10
before = peak()
read_mat(sys.argv[1])
print(peak() - before)
"""


def network(megabytes: int, count: int = 10) -> dict[str, list]:
    rng = np.random.default_rng(0)
    size = (megabytes << 20) // 4 // count // (9 * 256)
    filters = (rng.standard_normal((size, 256, 3, 3), np.float32).T for _ in range(count))
    return {
        "layers": [{"type": "conv", "weights": [f, np.zeros((size, 1), "f4")]} for f in filters]
    }


def inflate(path: Path) -> None:
    inflate = zlib.decompressobj()
    with path.open("rb", buffering=0) as file:
        file.seek(136)  # behind the header, and the tag of the only variable
        while piece := file.read(1 << 14):
            inflate.decompress(piece)


def read_bytes(path: Path) -> None:
    content = np.empty(path.stat().st_size, np.uint8)
    with path.open("rb", buffering=0) as file:
        done = 0
        while done < len(content):
            done += file.readinto(content.data[done:])


def seconds(function: Callable[[Path], object], path: Path) -> float:
    start = time.perf_counter()
    function(path)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        files = {version: Path(folder) / f"net{version}.mat" for version in ("7", "6")}
        net = network(args.megabytes)
        for version, path in files.items():
            start = time.perf_counter()
            write_mat(path, net, version=version)
            size, taken = path.stat().st_size / 1e6, time.perf_counter() - start
            print(f"version {version}: {size:.0f} MB, written in {taken:.2f} s")
        weights = sum(weight.nbytes for layer in net["layers"] for weight in layer["weights"])
        del net
        for version, alone, what in (("7", inflate, "zlib"), ("6", read_bytes, "the disk")):
            path, ours, theirs = files[version], [], []
            for _ in range(args.repeats):
                theirs.append(seconds(alone, path))
                ours.append(seconds(read_mat, path))
            a, b = statistics.median(ours), statistics.median(theirs)
            command = [sys.executable, "-c", PEAK, str(path)]
            peak = int(subprocess.run(command, capture_output=True, check=True).stdout)
            print(
                f"version {version}: read in {a:.2f} s, {what} alone {b:.2f} s, ratio {a / b:.2f}; "
                f"peak memory {peak / weights:.2f} times the weights"
            )


if __name__ == "__main__":
    main()
