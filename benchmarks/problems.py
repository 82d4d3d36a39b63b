"""What the races are about: networks of the zoo at two batch sizes, with data of their kind."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from matconvnet.blocks.dropout import Dropout
from matconvnet.geometry import variable_sizes
from matconvnet.layout import channels_last, hwcn
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.zoo import NETWORKS

RATE, MOMENTUM, DECAY = 1e-9, 0.9, 5e-4
"""Of the update; the rate is so small that the weights stay what they were compared with."""

CALIBRATION = 4  # images whose moments a fresh network takes for its running averages


class Kind(NamedTuple):
    """A network: size of an image, number of classes (0: the target is a map), deviation of the
    pixels, and the batches to race at on a CPU and on a GPU.
    """

    size: tuple[int, int, int]
    classes: int
    deviation: float
    batches: tuple[int, int]
    gpu_batches: tuple[int, int]


KINDS: Mapping[str, Kind] = {
    "lenet": Kind((28, 28, 1), 10, 50, (10, 100), (100, 1000)),
    "cifar-lenet": Kind((32, 32, 3), 10, 50, (10, 100), (100, 1000)),
    "cifar-nin": Kind((32, 32, 3), 10, 50, (10, 100), (100, 1000)),
    "alexnet": Kind((227, 227, 3), 1000, 50, (4, 32), (32, 256)),
    "vgg-f": Kind((224, 224, 3), 1000, 50, (4, 32), (32, 256)),
    "vgg-vd-16": Kind((224, 224, 3), 1000, 50, (1, 8), (8, 64)),
    "resnet-20": Kind((32, 32, 3), 10, 50, (8, 128), (128, 1024)),
    "resnet-50": Kind((224, 224, 3), 1000, 50, (1, 8), (32, 256)),
    "dncnn": Kind((256, 256, 1), 0, 0.3, (1, 4), (4, 32)),
}


@dataclass(frozen=True)
class Problem:
    """A network with a batch: images H x W x C x N, and labels or a target map."""

    net: Network
    x: Tensor
    target: Tensor
    label: str

    @property
    def batch(self) -> int:
        """Images."""
        return self.x.shape[3]

    @property
    def output(self) -> str:
        """The variable of the objective."""
        return self.net.graph.outputs[-1]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """All variables from outside."""
        return {self.net.input: self.x, self.label: self.target}

    @property
    def first(self) -> str:
        """The first filters: every derivative of the network goes into theirs."""
        return self.net.graph.nodes[0].params[0]

    def to(self, target: torch.dtype | torch.device | str) -> "Problem":
        """On another device, or of another type."""
        labels = self.target.is_floating_point() or not isinstance(target, torch.dtype)
        moved = self.target.to(target) if labels else self.target
        return replace(self, net=self.net.to(target), x=self.x.to(target), target=moved)

    def sizes(self) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...] | None]]:
        """Sizes of all variables; shapes of all parameters."""
        shapes = {n: None if v is None else tuple(v.shape) for n, v in self.net.values().items()}
        given = {name: tuple(value.shape) for name, value in self.inputs.items()}
        sizes = variable_sizes(self.net.graph, given, shapes)
        return {v: tuple(int(s) for s in size) for v, size in sizes.items()}, shapes

    def work(self, task: str) -> int:
        """Multiply-adds of a step; training does them three times, but for the derivative with
        respect to the images.
        """
        sizes, shapes = self.sizes()
        each = [
            node.layer.multiply_adds(
                [sizes[v] for v in node.inputs], [shapes[p] for p in node.params]
            )
            for node in self.net.graph.nodes
            if not node.layer.is_loss
        ]
        return 3 * sum(each) - each[0] if task == "train" else sum(each)


def has_dropout(network: str) -> bool:
    """Whether two training steps of the network differ by chance."""
    return any(isinstance(node.layer, Dropout) for node in NETWORKS[network]().graph.nodes)


def problem(network: str, batch: int, *, dropout: bool = True) -> Problem:
    """The same network, weights and data whenever it is called.

    dropout: False for a network that drops nothing, whose steps can be compared.
    """
    kind, net = KINDS[network], NETWORKS[network](seed=0)
    if isinstance(net, DagNN):
        # Errors are not differentiated, and the peers do not compute them.
        net.remove_layer([n.name for n in net.graph.nodes if n.name.endswith("error")])
    elif isinstance(net, SimpleNN) and not dropout:
        for link in net.layers:
            if isinstance(link.layer, Dropout):
                link.layer = replace(link.layer, rate=0.0)
        net = SimpleNN(net.layers, net.meta)
    h, w, c = kind.size
    generator = torch.Generator().manual_seed(0)
    x = channels_last(hwcn(torch.randn(batch, c, h, w, generator=generator))) * kind.deviation
    if kind.classes:
        target = torch.randint(0, kind.classes, (batch,), generator=generator)
    else:
        target = 0.1 * torch.randn(x.shape, generator=generator)
    label = next(v for v in net.graph.inputs if v != net.input)
    made = Problem(net, x, target, label)
    calibrate(made)
    return made


def calibrate(made: Problem) -> None:
    """Give batch normalisation running moments, which are zero in a fresh network: those of the
    first images.
    """
    averaged = {n: p for n, p in made.net.params.items() if p.train_method == "average"}
    if not averaged:
        return
    few = min(CALIBRATION, made.batch)
    inputs = {made.net.input: made.x[..., :few], made.label: made.target[..., :few]}
    ders: dict[str, Tensor] = {}
    made.net.eval(inputs, {made.output: 1}, conserve_memory=True, wanted_inputs=(),
                  on_param=ders.__setitem__)  # fmt: skip
    for name, param in averaged.items():
        param.value = ders[name] / few
