"""What a network makes of images: scores, probabilities of named classes, or other images."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matconvnet import executor
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmax import Softmax, softmax
from matconvnet.graph import Graph
from matconvnet.layer import Context
from matconvnet.layout import channels_last
from matconvnet.nets.fields import is_empty
from matconvnet.nets.network import Network
from matconvnet.nets.preprocess import Images, Normalization, as_list


class Guess(NamedTuple):
    """A class that an image may be of; `label` is its number, from 0."""

    name: str
    probability: float
    label: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network makes of N images.

    outputs: Y x X x K for each image, on the CPU. classes: the K names; None if the network tells
    none. is_probability: the outputs are probabilities, not scores.
    """

    outputs: tuple[Tensor, ...]
    classes: tuple[str, ...] | None = None
    is_probability: bool = False

    @property
    def is_map(self) -> bool:
        """True, if an image has more than one pixel of scores."""
        return any(out.shape[:2] != (1, 1) for out in self.outputs)

    @property
    def maps(self) -> Tensor:
        """All outputs, Y x X x K x N; ValueError, if their sizes differ."""
        sizes = {tuple(out.shape) for out in self.outputs}
        if len(sizes) != 1:
            raise ValueError(f"outputs have the sizes {sorted(sizes)}; read `outputs`, a list")
        return channels_last(torch.stack(self.outputs, 3))

    @property
    def scores(self) -> Tensor:
        """What the network ends with, before its losses, K x N; ValueError, if that is a map."""
        maps = self.maps
        if maps.shape[:2] != (1, 1):
            raise ValueError(
                f"the network makes maps of {maps.shape[0]} x {maps.shape[1]} pixels of these "
                "images: read `maps`; a classifier whose meta data lack the size of its input "
                "wants net.meta['inputSize'] = [H, W, C]"
            )
        return maps[0, 0]

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of the classes, K x N: the softmax of the scores, if need be."""
        scores = self.scores
        return scores if self.is_probability else softmax(scores[None, None])[0, 0]

    def top(self, k: int = 5) -> list[list[Guess]]:
        """The `k` likeliest classes of each image, the likeliest first.

        Raises: ValueError, if `k` is not positive, or the outputs are maps.
        """
        if k < 1:
            raise ValueError(f"k is {k}; wanted 1 or more")
        probabilities = self.probabilities
        values, labels = probabilities.topk(min(k, len(probabilities)), dim=0)
        return [
            [Guess(self.name(c), p, c) for p, c in zip(*column, strict=True)]
            for column in zip(values.T.tolist(), labels.T.tolist(), strict=True)
        ]

    def name(self, label: int) -> str:
        """The name of a class, or its number if it has none."""
        names = self.classes or ()
        return names[label] if label < len(names) else str(label)


def predict(
    net: Network,
    images: Images,
    *,
    batch_size: int = 32,
    scale: float = 1.0,
    evaluate: Callable[[Tensor], Tensor] | None = None,
) -> Prediction:
    """Evaluate a network on images, in test mode, up to its prediction.

    Losses are left out, and so are layers of unknown type that read labels or the like. Images are
    prepared as the meta data tell (see `Normalization`): resized, cropped, made grey or coloured,
    their average subtracted.

    Args:
        net: the network.
        images: one image or a list: paths of files, Pillow images, H x W or H x W x C arrays or
            tensors; or one array H x W x C x N. Bytes count from 0 to 255; floats are taken as they
            are, and should have the range that the network was trained with.
        batch_size: images evaluated at a time; without a size in the meta data, it is one.
        scale: what values are multiplied by: 1/255 for a network that was trained on values from 0
            to 1, as many that restore images are; the meta data do not tell.
        evaluate: makes the prediction of images H x W x C x N; None: the network as it is.

    Returns: scores, probabilities, class names; for a network that makes images, `maps`.
    Raises: what `read_image` does; FormatError, if the meta data make no sense; ValueError, if
        there are no images, or the network has no layers but losses or reads more than images.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; wanted 1 or more")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}; wanted a positive number, such as 1 or 1/255")
    sources = as_list(images)
    if not sources:
        raise ValueError("images is empty; wanted one or more")
    normalization = Normalization.of(net)
    graph, end = _way(net)
    values = net.values()
    like = next((value for value in values.values() if value is not None), torch.empty(0))

    def explicit(x: Tensor) -> Tensor:
        record = executor.forward(
            graph, values, {net.input: x}, ctx=Context(training=False), conserve_memory=True
        )
        return record.values[end]

    outputs: list[Tensor] = []
    step = 1 if normalization.size is None else batch_size
    for first in range(0, len(sources), step):
        x = normalization.prepare(sources[first : first + step], scale).to(like)
        outputs += (evaluate or explicit)(x).cpu().unbind(3)
    last = graph.producer[end].layer
    return Prediction(tuple(outputs), class_names(net.meta), isinstance(last, (Softmax, Sigmoid)))


def class_names(meta: Mapping[str, Any]) -> tuple[str, ...] | None:
    """`meta.classes`: a list of names, or a struct with descriptions or names."""
    classes: Any = meta.get("classes")
    if isinstance(classes, Mapping):
        lists = classes.get("description"), classes.get("name")
        classes = next((names for names in lists if not is_empty(names)), None)
    if isinstance(classes, str):
        classes = [classes] if classes else []
    return None if is_empty(classes) else tuple(map(str, classes))


def _way(net: Network) -> tuple[Graph, str]:
    """The layers that lead from images to the last variable that no loss makes, and its name.

    A layer of unknown type is taken for a loss if it reads what images do not give.
    """
    end = net.prediction
    if end not in net.graph.producer:
        raise ValueError("the network has no layers but losses; wanted one that predicts something")
    way = net.graph.leading_to([end])
    others = [variable for variable in way.inputs if variable != net.input]
    if others:
        raise ValueError(f"{end!r} reads {others} beside images; give all to net.eval")
    return way, end
