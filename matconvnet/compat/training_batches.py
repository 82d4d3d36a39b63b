"""`getBatch` of the original for the trainer: numbers of images and labels from 1."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from matconvnet.compat.simplenn import labels_from_one
from matconvnet.executor import Record
from matconvnet.layer import Layer
from matconvnet.layout import to_numpy, to_tensor
from matconvnet.nets._views import by_name
from matconvnet.nets.custom import Custom, Entry
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.train.meters import binary, multiclass
from matconvnet.values import Struct


class ChainBatches:
    """`get_batch` of a SimpleNN: numbers from 0, and what came last in its original form."""

    def __init__(self, get_batch: Callable[..., Any], chain: SimpleNN):
        self.get_batch, self.chain = get_batch, chain
        self.prediction = f"x{len(chain.layers) - 1}"
        self.labels: Any = None
        self.in_numpy = False
        readers = [link.layer for link in chain.layers if link.layer.label_inputs]
        self.reader: Layer | None = readers[-1] if readers else None
        last = chain.layers[-1].layer
        self.custom = cast(dict[str, Any], last.struct) if isinstance(last, Custom) else None

    def __call__(self, imdb: Any, indices: np.ndarray, prefetch: bool = False) -> Any:
        """Images and labels; with prefetch, let `get_batch` begin to load them."""
        if prefetch:
            return self.get_batch(imdb, indices + 1, prefetch=True)
        im, self.labels = self.get_batch(imdb, indices + 1)
        self.in_numpy = isinstance(im, np.ndarray)
        if self.custom is not None:
            self.custom["class"] = self.labels
        labels = _tensor(self.labels)
        return im, labels if self.reader is None else labels_from_one(self.reader, labels)

    def forget_labels(self) -> None:
        """Take the labels of the last batch from the last layer, if it is a custom one."""
        if self.custom is not None:
            self.custom.pop("class", None)

    def error_function(self, function: Any, params: Struct) -> Any:
        """An error function of the original as one for the trainer."""
        if function == "multiclass":
            return lambda _options, _labels, record: multiclass(
                record.values[self.prediction], self._classes(record)
            )
        if function == "binary":
            return lambda _options, _labels, record: binary(
                record.values[self.prediction], self._tensor_like(record)
            )
        if not callable(function):
            return function  # TrainOptions explains
        return lambda _options, _labels, record: function(params, self.labels, self._res(record))

    def _tensor_like(self, record: Record) -> Tensor:
        return _tensor(self.labels).to(record.values[self.prediction].device)

    def _classes(self, record: Record) -> Tensor:
        """Classes from 0, whatever the last layer takes for labels."""
        labels = self._tensor_like(record)
        if labels.dim() == 4 and labels.shape[2] == 2:
            return torch.cat((labels[:, :, :1] - 1, labels[:, :, 1:]), 2)
        return labels - 1

    def _res(self, record: Record) -> list[Entry]:
        count = len(self.chain.layers) + 1
        values = [record.values.get(f"x{i}") for i in range(count)]
        return [Entry(x=to_numpy(value) if self.in_numpy else value) for value in values]


class DagBatches:
    """`get_batch` of a DagNN: inputs by name, those that losses compare with counted from 0.

    An input that losses of several kinds compare with is counted as the first of them counts.
    """

    def __init__(self, get_batch: Callable[..., Any], net: DagNN):
        self.get_batch = get_batch
        self.readers: dict[str, Layer] = {}
        for node in net.graph.nodes:
            if node.layer.is_loss and len(node.inputs) > 1:
                self.readers.setdefault(node.inputs[1], node.layer)

    def __call__(self, imdb: Any, indices: np.ndarray, prefetch: bool = False) -> Any:
        """Inputs by name; with prefetch, let `get_batch` begin to load them."""
        if prefetch:
            return self.get_batch(imdb, indices + 1, prefetch=True)
        inputs = by_name(self.get_batch(imdb, indices + 1), "what getBatch returned")
        return {name: self._from_zero(name, value) for name, value in inputs.items()}

    def _from_zero(self, name: str, value: Any) -> Any:
        reader = self.readers.get(name)
        return value if reader is None else labels_from_one(reader, _tensor(value))


class Extracting:
    """Option extractStatsFn: `stats = f(stats, net)`, with what it returned after the last batch.

    The statistics of a pass begin with num and time alone.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function, self.stats = function, Struct()

    def __call__(self, stats: Mapping[str, float], net: DagNN) -> Struct:
        """The statistics after a batch."""
        is_new = stats["num"] <= self.stats.get("num", 0)
        head = {"num": stats["num"], "time": stats["time"]}
        self.stats = Struct(self.function(Struct({} if is_new else self.stats, **head), net))
        return self.stats


def in_order(stats: Mapping[str, float], _net: DagNN) -> Struct:
    """Statistics as the original orders them: num, time, and those of losses."""
    return Struct({"num": stats["num"], "time": stats["time"], **stats})


def derivatives(given: Any) -> Mapping[str, float]:
    """Option derOutputs: `{'objective', 1}`, a list of names and numbers, or a dict.

    Raises: ValueError, TypeError.
    """
    ders = by_name(given, "derOutputs")
    if not ders:
        raise ValueError("derOutputs is empty; wanted output variables and their derivatives")
    numbers = {name: np.asarray(to_numpy(der), dtype=float) for name, der in ders.items()}
    for name, number in numbers.items():
        if number.size != 1:
            raise ValueError(f"derOutputs[{name!r}] has {number.size} elements; wanted a number")
    return {name: number.item() for name, number in numbers.items()}


def _tensor(labels: Any) -> Tensor:
    tensor = to_tensor(labels)
    return tensor if isinstance(tensor, Tensor) else torch.as_tensor(tensor)
