"""Two workers on one core each against one worker on one core, and what hides of their traffic.

    torchrun --nproc-per-node=2 benchmarks/parallel.py [--network cifar-lenet] [--batch 100]
        [--steps 20] [--pairs 7] [--bucket-kb 25600]

The workers are gloo processes with one thread each. In turn, rank 0 alone trains on whole batches
while the others wait, and all train on their shares of the same batches: forward, backward, sums of
derivatives and of statistics, update. Before anything is timed, the derivatives of the two ways are
compared in float64. Times are medians over pairs; speed-up = time alone / time together. Also
printed: the bytes that a worker hands to the exchange in a step, the milliseconds for which sums
were under way, those for which a step waited, and the overlap, 1 - waited / under way (waiting for
a slower worker counts as both). A machine that does other things makes all of them worse.
"""

import argparse
import platform
import statistics
import time
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from matconvnet.layout import channels_last, hwcn
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.parallel.server import LocalServer, ParameterServer, Traffic
from matconvnet.parallel.world import World, join
from matconvnet.train.options import TrainOptions
from matconvnet.train.update import Updater
from matconvnet.zoo import NETWORKS

RATE = 1e-6
AGREEMENT = 1e-12  # of the largest derivative, in float64


class Side:
    """A network in training on some of the images of a batch."""

    def __init__(self, net: SimpleNN, server: ParameterServer, x: Tensor, labels: Tensor):
        self.net, self.inputs = net, {net.input: channels_last(x), "label": labels}
        options = TrainOptions(momentum=0.9, weight_decay=5e-4, exp_dir=None, progress=False)
        self.updater = Updater(net, options, server).__enter__()

    def derivatives(self, mode: Literal["normal", "test"] = "normal") -> dict[str, Tensor]:
        """Of all parameters, summed over the workers; and the objective."""
        record = self.net.eval(
            self.inputs, {self.net.output: 1}, mode=mode, on_param=self.updater.push,
            conserve_memory=True, wanted_inputs=(), out=self.updater.spare,
        )  # fmt: skip
        self.objective = record.values[self.net.output].item()
        return self.updater.pull()

    def step(self, world: World, batch: int) -> None:
        """One step, as the trainer takes it: statistics are added up too."""
        ders = self.derivatives()
        world.sum(np.array([self.objective, batch, 0.0]))
        self.updater.update(ders, batch, RATE)


def sides(world: World, args: argparse.Namespace, dtype: torch.dtype) -> tuple[Side, Side]:
    """Rank 0 alone with the whole batch, and all workers with their shares of it."""
    nets = [NETWORKS[args.network](seed=0).to(dtype) for _ in range(2)]
    h, w, c = (int(v) for v in nets[0].meta["inputSize"][:3])
    torch.manual_seed(0)
    x = hwcn(torch.randn(args.batch, c, h, w, dtype=dtype))
    labels = torch.randint(0, 10, (args.batch,))
    share = slice(world.rank, None, world.size)
    server = world.server(args.bucket_kb << 10)
    alone = Side(nets[0], LocalServer(), x, labels)
    return alone, Side(nets[1], server, x[..., share], labels[share])


def compare(world: World, args: argparse.Namespace) -> None:
    """Stop unless both ways compute the same derivatives, in float64 and without dropout."""
    alone, together = sides(world, args, torch.float64)
    got, want = together.derivatives("test"), alone.derivatives("test")
    assert got.keys() == want.keys()
    for name, der in want.items():
        error = float((got[name] - der).abs().max() / der.abs().max())
        assert error < AGREEMENT, f"the derivative of {name} differs by {error:.1e}"


def seconds(side: Side, world: World, args: argparse.Namespace) -> float:
    """Time of a step, over a row of steps."""
    start = time.perf_counter()
    for _ in range(args.steps):
        side.step(world, args.batch)
    return (time.perf_counter() - start) / args.steps


def race(world: World, args: argparse.Namespace) -> tuple[list[tuple[float, float]], Traffic]:
    """Seconds of a step (alone, together), one pair a round; what travelled meanwhile."""
    alone, together = sides(world, args, torch.float32)
    server, pairs = together.updater.server, []
    for round_ in range(args.pairs + 1):
        world.barrier()
        single = seconds(alone, World(), args) if world.rank == 0 else 0.0
        world.barrier()
        pair = single, seconds(together, world, args)
        if round_:
            pairs.append(pair)
        else:  # the first warms up
            server.traffic = Traffic()
    return pairs, server.traffic


def report(args: argparse.Namespace, world: World, pairs: list[tuple[float, float]],
           traffic: Traffic) -> None:  # fmt: skip
    """Print the medians."""
    ratios = sorted(alone / together for alone, together in pairs)
    alone, together = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {world.size} workers of "
          f"one thread, {torch.backends.cpu.get_cpu_capability()}")  # fmt: skip
    print(f"{args.network}, batch {args.batch}: one worker {alone:.1f} ms, together "
          f"{together:.1f} ms a step; speed-up {statistics.median(ratios):.2f} "
          f"(from {ratios[0]:.2f} to {ratios[-1]:.2f} in {len(pairs)} pairs)")  # fmt: skip
    under_way, waited = (t / traffic.steps * 1e3 for t in (traffic.under_way, traffic.waited))
    print(f"{traffic.bytes / traffic.steps / 1e6:.3f} MB a step and worker, {under_way:.2f} ms "
          f"under way, {waited:.2f} ms waited: overlap {traffic.overlap:.0%}")  # fmt: skip


def main() -> None:
    """Run the race, and print its result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="cifar-lenet", choices=NETWORKS)
    parser.add_argument("--batch", type=int, default=100, help="images, over all workers")
    parser.add_argument("--steps", type=int, default=20, help="steps in a row")
    parser.add_argument("--pairs", type=int, default=7, help="how often each side runs")
    parser.add_argument("--bucket-kb", type=int, default=25 << 10, help="bytes in a bucket / 1024")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with join() as world:
        if world.size == 1:
            parser.error("there is one worker; start several: torchrun --nproc-per-node=2 ...")
        compare(world, args)
        pairs, traffic = race(world, args)
        if world.rank == 0:
            report(args, world, pairs, traffic)


if __name__ == "__main__":
    main()
