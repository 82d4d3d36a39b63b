"""The benchmark that decides: our training step and inference against the best of the others.

    python benchmarks/bench.py [NETWORK ...] [--full | --smoke] [--task train infer] [--batch N ...]
        [--side NAME ...] [--precision fp32] [--device cpu] [--malloc default] [--threads N]
    python benchmarks/bench.py --write      put the results that lie here into docs/performance.md

Each side runs in a process of its own, all in turn, block by block; the others sleep meanwhile.
What they compute is compared before anything is timed. docs/performance.md tells how, and what the
columns mean. Each line of the table is a file of benchmarks/results, and replaces an older one.
"""

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch
from problems import KINDS
from race import HERE, TUNED, Course, peaks, race
from sides import SETUPS, SIDES
from table import DOCUMENT, describe, line, render, write

RESULTS = HERE / "results"
QUICK = ("lenet", "cifar-lenet", "alexnet", "resnet-20")
QUICK_SIDES = ("fast", "explicit", "eager", "channels-last", "onnxruntime", "openvino")
CPU_COMPILED = ("compile", "compile-cl", "autotune", "autotune-cl")
GPU_COMPILED = ("compile-cl", "graphs", "graphs-cl", "autotune", "autotune-cl")
FROZEN = ("freeze", "freeze-cl", "autotune-freeze-cl")
BUSY = 0.5  # processes that want to run: the load of the last minute
PACKAGES = ("torch", "onnxruntime", "openvino", "numpy")


def sides_of(task: str, args: argparse.Namespace) -> tuple[str, ...]:
    """The sides of a race, by the options."""
    names = list(args.side or QUICK_SIDES)
    if args.precision != "fp32" and not args.side:
        names.append("fast-fp32")
    if args.full and not args.side:
        names += GPU_COMPILED if args.device == "cuda" else CPU_COMPILED
        names += FROZEN
    runtimes = ("onnxruntime", "openvino")
    if task == "train":
        names = [n for n in names if n.removesuffix(TUNED) not in (*FROZEN, *runtimes)]
    elif args.device == "cuda":
        names = [n for n in names if n not in runtimes]
    torch_sides = [n for n in names if n in SETUPS]
    if args.malloc == "both":
        names += [n + TUNED for n in torch_sides]
    elif args.malloc == "tuned":
        names = [n + TUNED if n in torch_sides else n for n in names]
    return tuple(dict.fromkeys(names))


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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(KINDS)}")
    add("--full", action="store_true", help="all networks, batches and sides; takes hours")
    add("--smoke", action="store_true", help="LeNet for a moment: does everything run?")
    add("--task", nargs="+", choices=("train", "infer"), default=["train", "infer"])
    add("--batch", nargs="+", type=int, help="images a step; else those of the network")
    add("--side", nargs="+", metavar="SIDE", help=f"of {', '.join(SIDES)}; or one with {TUNED}")
    add("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--malloc", choices=("default", "tuned", "both"), default="default",
        help="tuned: PyTorch's sides run with a C library that keeps large blocks")  # fmt: skip
    add("--threads", type=int, default=torch.get_num_threads())
    add("--seconds", type=float, help="that a side runs in a race, about")
    add("--budget", type=float, default=600, help="seconds to prepare a side, compile included")
    add("--write", action="store_true", help=f"only write the table of {DOCUMENT.name}")
    args = parser.parse_args()
    unknown = [name for name in args.networks if name not in KINDS]
    unknown += [n for n in args.side or () if n.removesuffix(TUNED) not in SIDES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    args.seconds = args.seconds or (0.2 if args.smoke else 8 if args.full else 3)
    if args.smoke:
        args.networks, args.batch = ["lenet"], [2]
    if not args.networks:
        args.networks = list(KINDS if args.full else QUICK)
    return args


def batches(network: str, task: str, args: argparse.Namespace) -> list[int]:
    """To train at a small and a large one; to infer, one image and the large one."""
    if args.batch:
        return args.batch
    kind = KINDS[network]
    small, large = kind.gpu_batches if args.device == "cuda" else kind.batches
    if not args.full:
        return [large]
    return [small if task == "train" else 1, large]


def main() -> None:
    """Run the races that the command line names."""
    args = parse()
    if args.write:
        write(render([json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]))
        return
    course = Course((), args.precision, args.device, args.threads, args.seconds, args.budget)
    print(f"{device_name(args)}, {args.threads} threads")
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"warning: the load is {load:.1f}; an idle machine gives steadier numbers")
    RESULTS.mkdir(exist_ok=True)
    peak: dict[str, float] = {}
    for network in args.networks:
        peak = {name: max(value, peak.get(name, 0)) for name, value in peaks(course).items()}
        print(describe(peak))
        for task in args.task:
            for batch in batches(network, task, args):
                print(f"{network} {task} batch {batch}", flush=True)
                result = race(network, batch, task, course._replace(sides=sides_of(task, args)))
                row = {
                    **about(args), "network": network, "task": task, "batch": batch, "peaks": peak,
                    **result,
                }  # fmt: skip
                print("\n".join(line(row)), flush=True)
                if not args.smoke:
                    name = f"{args.device}-{args.precision}-{task}-{network}-{batch}.json"
                    (RESULTS / name).write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
