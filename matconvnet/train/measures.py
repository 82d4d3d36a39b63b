"""What is measured of every evaluation: objectives and errors, and what each is divided by."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matconvnet.blocks import Loss, SoftmaxLoss
from matconvnet.executor import Record
from matconvnet.layout import as4d
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.network import Network
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.train.inputs import LABEL
from matconvnet.train.meters import error_function
from matconvnet.train.options import TrainOptions

CLASS_KINDS = ("classerror", "softmaxlog", "log")
"""Losses that compare scores of classes with one class."""


class Measured(NamedTuple):
    """Sums over an evaluation, one per name of statistic, and the counts that they are over."""

    sums: Tensor
    counts: list[float]


def objectives(net: Network, given: Mapping[str, float] | None) -> dict[str, float]:
    """The variables to differentiate, with their weights.

    given: option `der_outputs`.

    Raises: ValueError, if there is none, or a name is no output of the network.
    """
    if given is not None:
        found = dict(given)
    elif isinstance(net, SimpleNN):
        found = {net.output: 1.0}
    elif "objective" in net.graph.producer:
        found = {"objective": 1.0}
    else:
        found = {
            node.outputs[0]: 1.0
            for node in net.graph.nodes
            if node.layer.is_loss and not getattr(node.layer, "is_error", False)
        }
    unknown = [name for name in found if name not in net.graph.producer]
    if unknown:
        raise ValueError(
            f"der_outputs names {unknown[0]!r}; wanted variables among {list(net.graph.producer)}"
        )
    if not found:
        raise ValueError("der_outputs is empty, and the network has no loss to differentiate")
    return found


def prediction_of(net: SimpleNN) -> str:
    """The variable that holds the predictions: what the last layer, the objective, reads."""
    return net.graph.producer[net.output].inputs[0]


class ChainMeasures:
    """Objective and errors of a SimpleNN, per image.

    objective = sum of the output of the last layer / images,  error = its sum / images
    """

    def __init__(self, net: SimpleNN, options: TrainOptions):
        self.names = ("objective", *options.errors)
        self.objectives = {"objective"}
        self.output = net.output
        self.prediction: str | None = prediction_of(net)
        self.precious = {self.prediction}
        self.error_of = error_function(options, self.prediction)
        is_classifier = options.error_function == "multiclass" and LABEL in net.graph.inputs
        self.compared = (self.prediction, LABEL) if is_classifier else None

    def __call__(self, record: Record, inputs: Mapping[str, Any], images: int) -> Measured:
        """Measure an evaluation of some images."""
        objective = record.values[self.output].sum(dtype=torch.float64).reshape(1)
        labels: Any = inputs.get("label")  # None: the last layer is a custom one
        errors = self.error_of(labels, record).to(objective.device)
        sums = torch.cat((objective, errors))
        return Measured(sums, [images] * len(sums))


class GraphMeasures:
    """Values of all losses of a DagNN, each per pixel of the map that it reads.

        statistic = sum of the value of the loss / sum of H * W * N

    Names are those of the losses' output variables. Losses whose file says `ignoreAverage` are left
    out.
    """

    def __init__(self, net: DagNN, _options: TrainOptions):
        losses = [
            node
            for node in net.graph.nodes
            if node.layer.is_loss and not net.layers[node.name].extra.get("ignoreAverage")
        ]
        self.losses = {node.outputs[0]: node.inputs[0] for node in losses}
        self.objectives = {
            node.outputs[0] for node in losses if not getattr(node.layer, "is_error", False)
        }
        self.names = tuple(self.losses)
        self.precious = set(self.losses.values())
        read = list(dict.fromkeys(self.losses.values()))
        self.prediction: str | None = read[-1] if read else None
        of_classes = [node for node in losses if _is_of_classes(node.layer)]
        self.compared = of_classes[-1].inputs[:2] if of_classes else None

    def __call__(self, record: Record, _inputs: Mapping[str, Any], _images: int) -> Measured:
        """Measure an evaluation of some images."""
        there = {out: read for out, read in self.losses.items() if out in record.values}
        sums = [record.values[out].sum(dtype=torch.float64) for out in there]
        counts = []
        for read in there.values():
            h, w, _, n = as4d(record.values[read], read).shape
            counts.append(h * w * n)
        if len(there) < len(self.losses):
            lacking = [out for out in self.losses if out not in there]
            raise ValueError(f"{lacking} were not evaluated: get_batch did not give their inputs")
        return Measured(torch.stack(sums) if sums else torch.zeros(0), counts)


Measures = ChainMeasures | GraphMeasures


def measures_of(net: Network, options: TrainOptions) -> Measures:
    """What to measure of a network, which is a SimpleNN or a DagNN."""
    if isinstance(net, DagNN):
        return GraphMeasures(net, options)
    if isinstance(net, SimpleNN):
        return ChainMeasures(net, options)
    raise TypeError(f"net is {type(net).__name__}; wanted a SimpleNN or a DagNN")


def _is_of_classes(layer: Any) -> bool:
    return isinstance(layer, SoftmaxLoss) or (isinstance(layer, Loss) and layer.loss in CLASS_KINDS)
