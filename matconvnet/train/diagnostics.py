"""How far updates move the filters, and how large values are: signs of a bad learning rate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.executor import Record
from matconvnet.nets.network import Network

KINDS = (Conv, ConvTranspose)
PARTS = ("filters", "biases")


@dataclass
class Diagnostics:
    """Measurements of one update of the convolutions, in the order of the layers.

        power     = mean of y^2, y the output of a layer
        variation = learning rate * mean |momentum| / base
        base      = mean of f^2 for filters f, sqrt(power) for biases

    labels name the parameters of `variation`, power_labels the layers of `power`.
    """

    labels: list[str] = field(default_factory=list)
    variation: list[float] = field(default_factory=list)
    power_labels: list[str] = field(default_factory=list)
    power: list[float] = field(default_factory=list)


def outputs(net: Network) -> list[str]:
    """The variables that `diagnose` reads."""
    return [node.outputs[0] for node in net.graph.nodes if isinstance(node.layer, KINDS)]


def diagnose(
    net: Network, record: Record, state: Mapping[str, Any], learning_rate: float
) -> Diagnostics:
    """Measure the update that followed the evaluation `record`.

    Args:
        net: the network after the update.
        record: holds the `outputs` of the network.
        state: momentum by parameter; one that is frozen, or whose solver keeps none, is left out.
        learning_rate: of the update.

    Source: accumulateGradients of cnn_train.m, option plotDiagnostics.
    """
    out = Diagnostics()
    for node in net.graph.nodes:
        if not isinstance(node.layer, KINDS):
            continue
        power = float(record.values[node.outputs[0]].square().mean())
        out.power_labels.append(node.name)
        out.power.append(power)
        for part, name in zip(PARTS, node.params, strict=False):
            momentum, param = state.get(name), net.params[name]
            if not isinstance(momentum, Tensor) or param.value is None:
                continue
            base = float(param.value.square().mean()) if part == "filters" else power**0.5
            step = learning_rate * param.learning_rate * float(momentum.abs().mean())
            out.labels.append(f"{node.name}_{part}")
            out.variation.append(step / base if base else float("inf"))
    return out
