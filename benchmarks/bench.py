"""The benchmark that decides: our training step and inference against the best of the others.

    python benchmarks/bench.py [NETWORK ...] [--full | --smoke] [--task train infer layers]
        [--batch N ...] [--side NAME ...] [--precision fp32] [--device cpu] [--malloc default]
        [--threads N] [--minutes N] [--resume] [--then NETWORK ... another one's options]
    python benchmarks/bench.py --write      put the results that lie here into docs/performance.md

Each side runs in a process of its own, all in turn, block by block; the others sleep meanwhile.
What they compute is compared before anything is timed. docs/performance.md tells how, and what the
columns mean. Each line of the table is a file of benchmarks/results, and replaces an older one.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import NamedTuple

import layers
import torch
from problems import KINDS
from race import HERE, TUNED, Course, FailedError, peaks, race
from race import layers as race_layers
from sides import SETUPS, SIDES
from table import DOCUMENT, line, render, write

from matconvnet.fast.peaks import Peaks

RESULTS = HERE / "results"
QUICK = ("lenet", "cifar-lenet", "alexnet", "resnet-20")
QUICK_SIDES = ("fast", "explicit", "eager", "channels-last", "onnxruntime", "openvino")
CPU_COMPILED = ("compile", "compile-cl", "autotune", "autotune-cl")
GPU_COMPILED = ("compile-cl", "graphs", "graphs-cl", "autotune", "autotune-cl")
FROZEN = ("freeze", "freeze-cl", "autotune-freeze-cl")
TRAIN, INFER, LAYERS = TASKS = ("train", "infer", "layers")
BUSY = 0.5  # processes that want to run: the load of the last minute
PACKAGES = ("torch", "onnxruntime", "openvino", "numpy")


class Entry(NamedTuple):
    """One line of a table, to be measured."""

    network: str
    task: str
    batch: int
    args: argparse.Namespace

    @property
    def file(self) -> Path:
        """Where the result lies."""
        args = self.args
        name = f"{args.device}-{args.precision}-{self.task}-{self.network}-{self.batch}.json"
        return RESULTS / name

    @property
    def sides(self) -> tuple[str, ...]:
        """Those that race, by the options."""
        args = self.args
        names = list(args.side or QUICK_SIDES)
        if args.precision != "fp32" and not args.side:
            names.append("fast-fp32")
        if args.full and not args.side:
            names += GPU_COMPILED if args.device == "cuda" else CPU_COMPILED
            names += (*FROZEN, "fast-lean")
        runtimes = ("onnxruntime", "openvino")
        if self.task == TRAIN:
            names = [n for n in names if n.removesuffix(TUNED) not in (*FROZEN, *runtimes)]
        elif args.device == "cuda":
            names = [n for n in names if n not in runtimes]
        if self.task == INFER:
            names = [n for n in names if n != "fast-lean"]
        torch_sides = [n for n in names if n in SETUPS]
        if args.malloc == "both":
            names += [n + TUNED for n in torch_sides]
        elif args.malloc == "tuned":
            names = [n + TUNED if n in torch_sides else n for n in names]
        return tuple(dict.fromkeys(names))

    def is_done(self) -> bool:
        """Whether there is a result with all sides; a fast one that failed may do better now."""
        if not self.file.exists():
            return False
        row = json.loads(self.file.read_text())
        if self.task == LAYERS:
            return True
        sides = row["sides"].items()
        return {*self.sides} <= {n for n, s in sides if "error" not in s or "fast" not in n}


def entries(args: argparse.Namespace) -> Iterator[Entry]:
    """What a command line asks for, in its order."""
    for network, task in product(args.networks, args.task):
        for batch in batches(network, task, args):
            yield Entry(network, task, batch, args)


def batches(network: str, task: str, args: argparse.Namespace) -> list[int]:
    """To train at a small and a large one; to infer, one image and the large one."""
    kind = KINDS[network]
    small, large = kind.gpu_batches if args.device == "cuda" else kind.batches
    named = {"small": 1 if task == INFER else small, "large": large}
    asked = args.batch or (["small", "large"] if args.full else ["large"])
    return [named[size] if size in named else int(size) for size in asked]


def about(args: argparse.Namespace) -> dict[str, object]:
    """Where and with what a race was run."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "device": device_name(args),
        "python": platform.python_version(), "versions": versions, "threads": args.threads,
        "kind": args.device, "precision": args.precision,
    }  # fmt: skip


def device_name(args: argparse.Namespace) -> str:
    """As people would call it."""
    if args.device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            names = [text.split(":")[1].strip() for text in lines if text.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def parse(words: Sequence[str]) -> argparse.Namespace:
    """One part of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="--then: after that, another list of networks with options of its own.",
    )
    add = parser.add_argument
    add("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(KINDS)}")
    add("--full", action="store_true", help="all networks, batches and sides; takes hours")
    add("--smoke", action="store_true", help="LeNet for a moment: does everything run?")
    add("--task", nargs="+", choices=TASKS, default=[TRAIN, INFER],
        help="layers: no race, but where the time of our training step goes")  # fmt: skip
    add("--batch", nargs="+", help="images a step: a number, small or large")
    add("--side", nargs="+", metavar="SIDE", help=f"of {', '.join(SIDES)}; or one with {TUNED}")
    add("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--malloc", choices=("default", "tuned", "both"), default="default",
        help="tuned: PyTorch's sides run with a C library that keeps large blocks")  # fmt: skip
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seconds", type=float, help="that a side runs in a race, about")
    add("--budget", type=float, default=600, help="seconds to prepare a side, compile included")
    add("--minutes", type=float, default=float("inf"),
        help="after which no race begins any more; of the first list")  # fmt: skip
    add("--resume", action="store_true",
        help="leave out what has a result with all these sides; of the first list")  # fmt: skip
    add("--write", action="store_true", help=f"only write the tables of {DOCUMENT.name}")
    args = parser.parse_args(words)
    unknown = [name for name in args.networks if name not in KINDS]
    unknown += [n for n in args.side or () if n.removesuffix(TUNED) not in SIDES]
    unknown += [b for b in args.batch or () if b not in ("small", "large") and not b.isdigit()]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    args.seconds = args.seconds or (0.2 if args.smoke else 8 if args.full else 3)
    if args.smoke:
        args.networks, args.batch = ["lenet"], ["2"]
    if not args.networks:
        args.networks = list(KINDS if args.full else QUICK)
    return args


def parts(words: Sequence[str]) -> list[argparse.Namespace]:
    """The lists of a command line."""
    found: list[list[str]] = [[]]
    for word in words:
        if word == "--then":
            found.append([])
        else:
            found[-1].append(word)
    return [parse(part) for part in found]


def measure(entry: Entry, peak: dict[str, float]) -> dict[str, object]:
    """The row of an entry."""
    args = entry.args
    course = Course(
        entry.sides, args.precision, args.device, args.threads, args.seconds, args.budget
    )
    if entry.task == LAYERS:
        result = race_layers(entry.network, entry.batch, course)
    else:
        result = race(entry.network, entry.batch, entry.task, course)
    return {
        **about(args), "network": entry.network, "task": entry.task, "batch": entry.batch,
        "peaks": peak, **result,
    }  # fmt: skip


def main() -> None:
    """Run the races that the command line names, one after the other."""
    lists = parts(sys.argv[1:])
    args = lists[0]
    if args.write:
        rows = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
        write(render([row for row in rows if row["task"] != LAYERS]), "benchmark")
        write(layers.render([row for row in rows if row["task"] == LAYERS]), "layers")
        return
    end = time.monotonic() + 60 * args.minutes
    print(f"{device_name(args)}, {args.threads} threads")
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"warning: the load is {load:.1f}; an idle machine gives steadier numbers")
    RESULTS.mkdir(exist_ok=True)
    todo = [entry for part in lists for entry in entries(part)]
    known: dict[tuple[str, str, int], dict[str, float]] = {}
    measured: object = None
    for entry in todo:
        what = f"{entry.network} {entry.task} {entry.args.precision} batch {entry.batch}"
        if args.resume and entry.is_done():
            continue
        if time.monotonic() > end:
            print(f"{what}: no time left")
            continue
        print(what, flush=True)
        try:
            key = entry.args.precision, entry.args.device, entry.args.threads
            if (entry.network, key) != measured:
                now = peaks(Course((), *key, 0, entry.args.budget))
                old = known.get(key, now)
                known[key] = {name: max(value, old[name]) for name, value in now.items()}
                measured = entry.network, key
            row = measure(entry, known[key])
        except FailedError as error:
            print(f"  failed: {error}")
            continue
        print(Peaks(**known[key]))
        print(layers.render([row]) if entry.task == LAYERS else "\n".join(line(row)), flush=True)
        if not entry.args.smoke:
            entry.file.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
