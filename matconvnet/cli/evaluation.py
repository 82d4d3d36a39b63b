"""How well a classifier does on a set of a database."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from matconvnet.blocks.loss import loss
from matconvnet.data.imdb import Imdb
from matconvnet.layout import to_numpy, to_tensor
from matconvnet.nets.network import Network
from matconvnet.nets.predict import Prediction

if TYPE_CHECKING:
    from rich.table import Table

SETS = {"train": 1, "val": 2, "test": 3}
BATCH = 200


class Confusion(NamedTuple):
    """How often images of class `label` were taken for class `guess`."""

    label: int
    guess: int
    images: int


@dataclass(frozen=True)
class Evaluation:
    """What a classifier made of N labelled images.

    indices: N, into the database; labels: N; prediction: with the names of classes;
    probabilities: N x K; objective: mean loss; seconds: that the prediction took.
    """

    indices: np.ndarray
    labels: np.ndarray
    prediction: Prediction
    probabilities: np.ndarray
    objective: float
    seconds: float

    @property
    def count(self) -> int:
        """The number of images."""
        return self.labels.size

    def mistakes(self, top: int = 1) -> int:
        """Images whose class is not among the `top` likeliest."""
        own = np.take_along_axis(self.probabilities, self.labels[:, None], axis=1)
        return int(((self.probabilities > own).sum(1) >= top).sum())

    def confusions(self, most: int = 5) -> list[Confusion]:
        """The most frequent confusions, the worst first."""
        guesses = self.probabilities.argmax(1)
        wrong = guesses != self.labels
        pairs, counts = np.unique(
            np.stack((self.labels[wrong], guesses[wrong])), axis=1, return_counts=True
        )
        order = np.argsort(-counts, kind="stable")[:most]
        return [Confusion(*map(int, (*pairs[:, i], counts[i]))) for i in order]


def evaluate_set(net: Network, imdb: Imdb, name: str) -> Evaluation:
    """Classify the labelled images of the set `name`: "train", "val" or "test"."""
    indices = np.flatnonzero((imdb.set == SETS[name]) & (imdb.labels >= 0))
    if not indices.size:
        raise ValueError(f"set {name!r} of the database has no labelled images")
    start = time.perf_counter()
    prediction = net.predict(imdb.images[..., indices], batch_size=BATCH)
    seconds = time.perf_counter() - start
    labels = imdb.labels[indices]
    kind = "log" if prediction.is_probability else "softmaxlog"
    total = float(loss(prediction.scores[None, None], to_tensor(labels), loss=kind))
    probabilities = to_numpy(prediction.probabilities.T)
    return Evaluation(indices, labels, prediction, probabilities, total / indices.size, seconds)


def confusion_table(evaluation: Evaluation) -> "Table":
    """The worst confusions by name, with their share of the images of the class."""
    from rich.table import Table

    table = Table(title="Most frequent confusions", title_justify="left")
    for heading in ("true class", "taken for"):
        table.add_column(heading)
    for heading in ("images", "of the class"):
        table.add_column(heading, justify="right")
    for label, guess, images in evaluation.confusions():
        share = 100 * images / np.count_nonzero(evaluation.labels == label)
        names = map(evaluation.prediction.name, (label, guess))
        table.add_row(*names, str(images), f"{share:.1f} %")
    return table
