"""Our training step and inference against PyTorch, interleaved in one run.

    python benchmarks/bench.py [lenet] [cifar-lenet] [alexnet] [--repeats N] [--threads N]

Both sides have the same weights, data and arithmetic (float32), and their results are compared
before anything is timed. PyTorch runs eagerly, in its default memory order and in channels-last,
and updates with its fused SGD; our step is the trainer's, its checks of finiteness included. Each
of the two is raced against us in turn, step by step. Times are medians (ours from the race against
channels-last); a ratio above 1 says that we are faster. "of peak" is our rate of arithmetic as a
share of the fastest convolution measured in the same run.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from peers import twin
from torch import Tensor, nn

from matconvnet.geometry import variable_sizes
from matconvnet.layout import channels_last, hwcn, nchw
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.parallel.server import LocalServer
from matconvnet.train.divergence import all_finite
from matconvnet.train.options import TrainOptions
from matconvnet.train.update import Updater
from matconvnet.zoo import NETWORKS

RATE, MOMENTUM, DECAY = 1e-6, 0.9, 5e-4
AGREEMENT = 1e-9  # of the largest value: what the sides may differ in float64
Step = Callable[[], object]


class Race(NamedTuple):
    """A network of the zoo, images a batch, and how often each side runs."""

    network: str
    batch: int
    repeats: int


RACES = {r.network: r for r in (Race("lenet", 100, 80), Race("cifar-lenet", 100, 40),
                                Race("alexnet", 32, 7))}  # fmt: skip


class Ours:
    """Our network with its solver."""

    def __init__(self, net: SimpleNN, x: Tensor, labels: Tensor):
        self.net, self.inputs = net, {net.input: x, "label": labels}
        self.batch = x.shape[3]
        options = TrainOptions(momentum=MOMENTUM, weight_decay=DECAY, exp_dir=None)
        self.updater = Updater(net, options, LocalServer()).__enter__()

    def derivatives(self) -> dict[str, Tensor]:
        """Of every parameter, dropout off."""
        return self.net.eval(self.inputs, {self.net.output: 1}, mode="test").param_ders

    def train(self) -> None:
        """One step of the trainer: forward, backward, update."""
        record = self.net.eval(
            self.inputs, {self.net.output: 1}, on_param=self.updater.push, conserve_memory=True,
            precious=(self.net.prediction,), wanted_inputs=(), out=self.updater.spare,
        )  # fmt: skip
        record.values[self.net.output].item()
        ders = self.updater.pull()
        assert all_finite(ders.values())
        self.updater.update(ders, self.batch, RATE)

    def infer(self) -> Tensor:
        """Class scores, dropout off."""
        inputs = {self.net.input: self.inputs[self.net.input]}
        record = self.net.eval(inputs, mode="test", conserve_memory=True,
                               precious=(self.net.prediction,))  # fmt: skip
        return record.values[self.net.prediction]


class Peer:
    """The same network in PyTorch, in one of its memory orders."""

    def __init__(self, net: SimpleNN, x: Tensor, labels: Tensor, memory_format):
        self.model = twin(net, tuple(x.shape)).to(x.dtype).to(memory_format=memory_format)
        self.x, self.labels = nchw(x).contiguous(memory_format=memory_format), labels
        decayed, plain = [], []
        for (name, weight), param in zip(
            self.model.named_parameters(), net.params.values(), strict=True
        ):
            assert name.split(".")[-1] in ("weight", "bias")
            group = {"params": [weight], "lr": RATE * param.learning_rate,
                     "weight_decay": DECAY * param.weight_decay}  # fmt: skip
            (decayed if param.weight_decay else plain).append(group)
        groups = _merged([*decayed, *plain])
        self.solver = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, fused=True)

    def derivatives(self) -> list[Tensor]:
        """Of every parameter, dropout off."""
        self.model.eval()
        loss = F.cross_entropy(self.model(self.x), self.labels, reduction="sum")
        return list(torch.autograd.grad(loss, list(self.model.parameters())))

    def train(self) -> None:
        """One step: forward, backward, update; the mean loss, as one writes it."""
        self.model.train()
        self.solver.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.model(self.x), self.labels)
        loss.backward()
        loss.item()
        self.solver.step()

    def infer(self) -> Tensor:
        """Class scores, dropout off."""
        self.model.eval()
        with torch.inference_mode():
            return self.model(self.x)


def _merged(groups: list[dict]) -> list[dict]:
    """Parameters of the same rate and decay in one group, as few kernels as can be."""
    merged: dict[tuple[float, float], dict] = {}
    for group in groups:
        key = group["lr"], group["weight_decay"]
        merged.setdefault(key, {**group, "params": []})["params"] += group["params"]
    return list(merged.values())


def compare(network: str, size: tuple[int, int, int]) -> None:
    """Stop unless both sides compute the same scores and derivatives, in float64."""
    net = NETWORKS[network]().to(torch.float64)
    x = torch.randn(*size, 4, dtype=torch.float64)
    labels = torch.randint(0, 10, (4,))
    ours, peer = Ours(net, x, labels), Peer(net, x, labels, torch.channels_last)
    _agree("scores", nchw(ours.infer()).flatten(1), peer.infer().flatten(1))
    ders = ours.derivatives()
    for name, want in zip(net.params, peer.derivatives(), strict=True):
        got = nchw(ders[name]) if ders[name].dim() == 4 else ders[name]
        _agree(f"the derivative of {name}", got.reshape(want.shape), want)


def _agree(what: str, a: Tensor, b: Tensor) -> None:
    error = float((a - b).abs().max() / b.abs().max())
    assert error < AGREEMENT, f"{what} differs from PyTorch's by {error:.1e}"


def interleaved(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median seconds of each step, run in turn; two rounds more, first, to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if round_ >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def convolution_peak() -> float:
    """Multiply-adds a second of the fastest of a few convolutions, forward."""
    best = 0.0
    for c, k, size, h in ((64, 64, 3, 56), (256, 384, 3, 13), (96, 256, 5, 27), (256, 256, 3, 28)):
        x = torch.randn(32, c, h, h).to(memory_format=torch.channels_last)
        conv = nn.Conv2d(c, k, size, padding=size // 2).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            seconds = interleaved({"conv": lambda conv=conv, x=x: conv(x)}, 7)["conv"]
        best = max(best, 32 * h * h * c * k * size**2 / seconds)
    return best


def race(entry: Race, peak: float) -> list[str]:
    """Lines of the table for one network."""
    torch.manual_seed(0)
    net = NETWORKS[entry.network]()
    h, w, c = (int(v) for v in net.meta["inputSize"][:3])
    compare(entry.network, (h, w, c))
    x = channels_last(hwcn(torch.randn(entry.batch, c, h, w)))
    labels = torch.randint(0, 10, (entry.batch,))
    eager = Peer(net, x, labels, torch.contiguous_format)
    last = Peer(net, x, labels, torch.channels_last)
    ours = Ours(net, x, labels)
    work = _multiply_adds(net, (h, w, c, entry.batch))
    lines = []
    for task, factor in (("train", 3), ("infer", 1)):
        # In pairs: what a third side leaves to the allocator would weigh on whoever comes next.
        pairs = [
            interleaved({"ours": getattr(ours, task), "peer": getattr(peer, task)}, entry.repeats)
            for peer in (eager, last)
        ]
        times = [pairs[1]["ours"], *(pair["peer"] for pair in pairs)]
        ratios = [pair["peer"] / pair["ours"] for pair in pairs]
        lines.append(
            f"{entry.network:12} {task:6} {entry.batch:5} "
            + " ".join(f"{t * 1e3:9.2f}" for t in times)
            + " "
            + " ".join(f"{ratio:9.2f}" for ratio in ratios)
            + f" {factor * work / times[0] / peak:8.0%}"
        )
    return lines


def _multiply_adds(net: SimpleNN, size: tuple[int, int, int, int]) -> int:
    shapes = {n: None if v is None else tuple(v.shape) for n, v in net.values().items()}
    sizes = variable_sizes(net.graph, {net.input: size}, shapes)
    return sum(
        node.layer.multiply_adds(
            [tuple(int(s) for s in sizes[v]) for v in node.inputs[:1]],
            [shapes[p] for p in node.params],
        )
        for node in net.graph.nodes
        if not node.layer.is_loss
    )


def main() -> None:
    """Run the races that the command line names, and print their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(RACES), metavar="NETWORK",
                        help=f"of {', '.join(RACES)}; all, if none is named")  # fmt: skip
    parser.add_argument("--repeats", type=int, help="runs of each side")
    parser.add_argument("--threads", type=int, help="threads of both sides")
    args = parser.parse_args()
    if unknown := set(args.networks) - set(RACES):
        parser.error(f"unknown network {', '.join(sorted(unknown))}; wanted {', '.join(RACES)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    peak = convolution_peak()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, "
          f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; "
          f"convolution peak {2 * peak / 1e9:.0f} GFLOP/s")  # fmt: skip
    print("medians in ms, sides interleaved; ratio = time of PyTorch / our time")
    print(f"{'network':12} {'task':6} {'batch':>5} {'ours':>9} {'eager':>9} {'ch-last':>9} "
          f"{'r. eager':>9} {'r. ch-l.':>9} {'of peak':>8}")  # fmt: skip
    for name in args.networks:
        entry = RACES[name]
        for line in race(entry._replace(repeats=args.repeats or entry.repeats), peak):
            print(line, flush=True)


if __name__ == "__main__":
    main()
