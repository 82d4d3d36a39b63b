"""Predicted and measured memory of a training step, each in a process of its own.

    python benchmarks/memory.py [NETWORK ...] [--batches 1 32 100]

Measured is the peak of resident memory above that of a process that has trained a small network
before, so that libraries are loaded. Every large allocation of the child gets pages of its own,
which go back to the system when it is freed (MALLOC_MMAP_THRESHOLD_): so the peak is that of what
lives. The last column shows the peak without this setting, when the C library keeps some of what
was freed for later. A step is that of the trainer: momentum, derivatives divided by the batch, and
the derivatives of the batch before, whose memory is used again. Linux only.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from matconvnet.blocks import (
    BatchNorm,
    Concat,
    Conv,
    Loss,
    Pooling,
    ReLU,
    Sum,
)
from matconvnet.layout import empty_map
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.memory import memory_plan
from matconvnet.nets.network import Network
from matconvnet.zoo import NETWORKS

STEPS = 2  # the first one has no derivatives of a batch before
RATE = 1e-9


def branches() -> DagNN:
    """Two branches of convolutions and one of pooling, joined in depth, twice."""
    net, x, channels = DagNN(), "data", 3
    for i in (1, 2):
        parts = []
        for size in (1, 3, 5):
            v = f"b{i}_{size}"
            bank = Conv(size=(size, size, channels, 32), pad=size // 2)
            net.add_layer(f"conv{v}", bank, x, v, (f"{v}f", f"{v}b"))
            net.add_layer(f"relu{v}", ReLU(), v, f"{v}r")
            parts.append(f"{v}r")
        net.add_layer(f"pool{i}", Pooling(3, pad=1), x, f"p{i}")
        net.add_layer(f"join{i}", Concat(), [*parts, f"p{i}"], f"j{i}")
        net.add_layer(f"half{i}", Pooling(2, stride=2), f"j{i}", f"x{i}")
        x, channels = f"x{i}", channels + 96
    net.add_layer("score", Conv(size=(8, 8, channels, 10)), x, "scores", ("sf", "sb"))
    net.add_layer("loss", Loss(), ("scores", "label"), "objective")
    net.init_params()
    return net


def residual() -> DagNN:
    """Six residual blocks of two convolutions with batch normalisation, 32 x 32 x 32."""
    net = DagNN()

    def conv_bnorm(x: str, name: str, channels: int) -> str:
        bank = Conv(size=(3, 3, channels, 32), pad=1, has_bias=False)
        net.add_layer(f"{name}_conv", bank, x, f"{name}_c", (f"{name}_f",))
        moments = [f"{name}_{p}" for p in ("m", "b", "x")]
        bnorm = BatchNorm(num_channels=32)
        net.add_layer(f"{name}_bnorm", bnorm, f"{name}_c", f"{name}_n", moments)
        return f"{name}_n"

    net.add_layer("relu0", ReLU(), conv_bnorm("data", "first", 3), "x0")
    for i in range(6):
        net.add_layer(f"relu{i}a", ReLU(), conv_bnorm(f"x{i}", f"a{i}", 32), f"x{i}a")
        y = conv_bnorm(f"x{i}a", f"b{i}", 32)
        net.add_layer(f"sum{i}", Sum(), (y, f"x{i}"), f"s{i}")
        net.add_layer(f"relu{i}b", ReLU(), f"s{i}", f"x{i + 1}")
    net.add_layer("pool", Pooling(32, method="avg"), "x6", "mean")
    net.add_layer("score", Conv(size=(1, 1, 32, 10)), "mean", "scores", ("sf", "sb"))
    net.add_layer("loss", Loss(), ("scores", "label"), "objective")
    net.init_params()
    return net


BUILDERS: dict[str, Callable[[], Network]] = {
    **{name: NETWORKS[name] for name in ("lenet", "cifar-lenet", "cifar-nin", "alexnet", "vgg-f")},
    "branches": branches,
    "residual": residual,
}
SIZES = {"lenet": (28, 28, 1), "alexnet": (227, 227, 3), "vgg-f": (224, 224, 3)}


class Training:
    """A network with what its trainer keeps: the derivatives of a batch, scaled, and momentum."""

    def __init__(self, name: str):
        self.net = BUILDERS[name]()
        self.size = SIZES.get(name, (32, 32, 3))
        self.memory: dict[str, tuple[Tensor, Tensor]] = {}
        self.spare: dict[str, Tensor] = {}

    def step(self, batch: int, *, conserve_memory: bool = True, recompute: bool = False) -> None:
        """Train on a batch of noise."""
        net = self.net
        x = empty_map((*self.size, batch), torch.empty(())).uniform_(-1, 1)
        ders: dict[str, Tensor] = {}
        net.eval(
            {net.data_inputs[0]: x, "label": torch.zeros(batch, dtype=torch.int64)},
            {net.graph.outputs[-1]: 1}, conserve_memory=conserve_memory, recompute=recompute,
            wanted_inputs=(), on_param=ders.__setitem__, out=self.spare,
        )  # fmt: skip
        for name, param in net.params.items():
            assert param.value is not None
            if name not in self.memory:
                self.memory[name] = torch.zeros_like(param.value), torch.zeros_like(param.value)
            scaled, momentum = self.memory[name]
            torch.div(ders[name], batch, out=scaled)
            param.value.add_(momentum.mul_(0.9).add_(scaled), alpha=-RATE)
        self.spare = ders


def resident(kind: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))


def measure(name: str, batch: int, conserve_memory: bool, recompute: bool) -> int:
    """Bytes that the training of a network takes at most, in this process."""
    for small in ("lenet", "branches"):
        Training(small).step(2)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    training = Training(name)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    for _ in range(STEPS):
        training.step(batch, conserve_memory=conserve_memory, recompute=recompute)
    return resident("VmHWM") - before


def measured(case: tuple[str, int, bool, bool], **environment: str) -> int:
    """`measure` in a child process."""
    command = [sys.executable, __file__, "--child", json.dumps(case)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def predicted(name: str, batch: int, conserve_memory: bool, recompute: bool) -> int:
    """The peak of the plan."""
    plan = memory_plan(
        BUILDERS[name](), SIZES.get(name, (32, 32, 3)), batch,
        conserve_memory=conserve_memory, recompute=recompute,
    )  # fmt: skip
    return plan.peak


def main() -> None:
    """Print a table, a line for every case."""
    parser = argparse.ArgumentParser(
        description="Predicted and measured memory of a training step."
    )
    parser.add_argument("networks", nargs="*", default=list(BUILDERS), metavar="NETWORK")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 100])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(measure(*json.loads(args.child)))
        return
    print("network      batch conserve recompute  predicted  measured  pred/meas  default malloc")
    for name in args.networks:
        for batch in args.batches:
            for conserve, recompute in ((True, False), (True, True), (False, False), (False, True)):
                case = (name, batch, conserve, recompute)
                plan, peak = predicted(*case), measured(case, MALLOC_MMAP_THRESHOLD_="65536")
                print(
                    f"{name:12} {batch:5} {'yes' if conserve else 'no':>8} "
                    f"{'yes' if recompute else 'no':>9} {plan / 1e6:7.1f} MB {peak / 1e6:6.1f} MB "
                    f"{plan / peak:10.2f} {measured(case) / 1e6:12.1f} MB",
                    flush=True,
                )


if __name__ == "__main__":
    main()
