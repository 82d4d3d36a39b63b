"""A network as a classifier: from images to scores and probabilities of named classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from matconvnet.blocks.softmax import Softmax, softmax
from matconvnet.layout import to_numpy, to_tensor
from matconvnet.nets.simplenn import SimpleNN


@dataclass(frozen=True)
class Classifier:
    """A chain without its losses, and what its meta data tell about images and classes.

    kind: the loss that fits the scores: "softmaxlog", or "log" if they are probabilities.
    average: H x W x C or 1 x 1 x C float32, subtracted from every image; None for nothing.
    """

    net: SimpleNN
    kind: str
    classes: tuple[str, ...] | None
    average: np.ndarray | None

    @classmethod
    def of(cls, net: SimpleNN) -> "Classifier":
        """Read what a trained network needs to classify."""
        entries = net.to_struct()["layers"]
        kept = [e for e, link in zip(entries, net.layers, strict=True) if not link.layer.is_loss]
        chain = SimpleNN(kept, net.meta)
        if not chain.layers:
            raise ValueError("the network has no layers but losses; wanted one that scores classes")
        kind = "log" if isinstance(chain.layers[-1].layer, Softmax) else "softmaxlog"
        return cls(chain, kind, class_names(net.meta), average_image(net.meta))

    def scores(self, x: Tensor) -> Tensor:
        """Evaluate H x W x C x N images, the average subtracted; 1 x 1 x K x N scores."""
        out = self.net.eval({self.net.input: x}, mode="test", conserve_memory=True)
        scores = out.values[self.net.output]
        if scores.shape[:2] != (1, 1):
            raise ValueError(
                f"the network makes a map of {scores.shape[0]} x {scores.shape[1]} scores of "
                f"images of {x.shape[0]} x {x.shape[1]} pixels; wanted 1 x 1"
            )
        return scores

    def to_probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities of the classes, N x K, from their 1 x 1 x K x N scores."""
        return (softmax(scores) if self.kind == "softmaxlog" else scores)[0, 0].T

    def name(self, index: int) -> str:
        """The name of a class, or its number if the network names none."""
        return self.classes[index] if self.classes else str(index)


def set_data(net: SimpleNN, classes: tuple[str, ...], average: np.ndarray | None) -> None:
    """Write into the meta data what `Classifier.of` reads."""
    net.meta["classes"] = {"name": list(classes)}
    normalization = dict(net.meta.get("normalization", {}))
    normalization.pop("averageImage", None)
    if average is not None:
        normalization["averageImage"] = average
    net.meta["normalization"] = normalization


def class_names(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """`meta.classes`: a list of names, or a struct with the better of its lists."""
    classes = meta.get("classes")
    if isinstance(classes, Mapping):
        classes = classes.get("description") or classes.get("name")
    return tuple(map(str, classes)) if classes else None


def average_image(meta: Mapping[str, Any]) -> np.ndarray | None:
    """`meta.normalization.averageImage` as H x W x C; a vector is a colour."""
    average = meta.get("normalization", {}).get("averageImage")
    if average is None:
        return None
    array = np.asarray(to_numpy(to_tensor(average)), np.float32)
    if array.size == 0:
        return None
    is_colour = array.ndim == 1 or (array.ndim == 2 and 1 in array.shape)
    return array.reshape(1, 1, -1) if is_colour else np.atleast_3d(array)
