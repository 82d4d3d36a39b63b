"""How fast networks in `.mat` files are loaded, beside what zlib and the disk alone need.

    python benchmarks/mat.py [--megabytes 500] [--repeats 5] [--folder FOLDER]

A network of random weights is written compressed (version 7) and not (version 6). Loading is timed
in turn with what cannot be avoided: inflating the same bytes with zlib, in pieces that are thrown
away or kept in fresh memory (which some machines are slow to give), and reading the file into
memory. Times are medians; peak memory is that of a process of its own, as a multiple of the
weights, beside what it takes before (Linux only).
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

from matconvnet.interop.mat import write_mat
from matconvnet.interop.mat.networks import load_mat

PEAK = """
import sys
from pathlib import Path
from matconvnet.interop.mat.networks import load_mat

def peak(): return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10
before = peak()
load_mat(sys.argv[1])
print(peak() - before)
"""


def network(megabytes: int, count: int = 10) -> dict[str, list]:
    rng = np.random.default_rng(0)
    size = (megabytes << 20) // 4 // count // (9 * 256)
    filters = (rng.standard_normal((size, 256, 3, 3), np.float32).T for _ in range(count))
    return {
        "layers": [{"type": "conv", "weights": [f, np.zeros((size, 1), "f4")]} for f in filters]
    }


def inflate(path: Path, keep: bool = False) -> None:
    """Inflate the only variable of a file; `keep` puts what comes out into one array."""
    inflate, done = zlib.decompressobj(), 0
    content = np.empty(2 * path.stat().st_size if keep else 0, np.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(136)  # behind the header, and the variable's tag
        while piece := file.read(1 << 14):
            piece = inflate.decompress(piece)
            if keep:
                content.data[done : done + len(piece)] = piece
                done += len(piece)


def inflate_and_keep(path: Path) -> None:
    inflate(path, keep=True)


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
        rivals = (("7", inflate), ("7", inflate_and_keep), ("6", read_bytes))
        for version, alone in rivals:
            path, ours, theirs = files[version], [], []
            for _ in range(args.repeats):
                theirs.append(seconds(alone, path))
                ours.append(seconds(load_mat, path))
            a, b = statistics.median(ours), statistics.median(theirs)
            command = [sys.executable, "-c", PEAK, str(path)]
            peak = int(subprocess.run(command, capture_output=True, check=True).stdout)
            print(
                f"version {version}: loaded in {a:.2f} s, {alone.__name__} {b:.2f} s, "
                f"ratio {a / b:.2f}; peak memory {peak / weights:.2f} times the weights"
            )


if __name__ == "__main__":
    main()
