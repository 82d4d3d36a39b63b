"""How well a classifier does on a set of a database."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from matconvnet.blocks.loss import loss
from matconvnet.cli.sources import file_source
from matconvnet.data.imdb import Imdb
from matconvnet.data.lists import Database, ImageList
from matconvnet.data.pipeline import Pipeline
from matconvnet.fast.inference import Compiled, compile_for_inference
from matconvnet.layout import to_numpy, to_tensor
from matconvnet.nets.network import Network
from matconvnet.nets.predict import Prediction
from matconvnet.train.confusion import Confusion

if TYPE_CHECKING:
    from rich.table import Table

SETS = {"train": 1, "val": 2, "test": 3}
BATCH = 200
FILE_BATCH = 32


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

    @property
    def confusion(self) -> Confusion:
        """Which classes were taken for which."""
        names = [self.prediction.name(label) for label in range(self.probabilities.shape[1])]
        found = Confusion(names)
        found.add(self.probabilities.T[None, None], self.labels)
        return found


def evaluate_set(net: Network, imdb: Database, name: str, precision: str = "fp32") -> Evaluation:
    """Classify the labelled images of the set `name`: "train", "val" or "test".

    Files that cannot be read are left out.
    """
    indices = np.flatnonzero((imdb.set == SETS[name]) & (imdb.labels >= 0))
    if not indices.size:
        raise ValueError(f"set {name!r} of the database has no labelled images")
    start = time.perf_counter()
    ready = compile_for_inference(net, precision=precision)
    if isinstance(imdb, Imdb):
        prediction = ready.predict(imdb.images[..., indices], batch_size=BATCH)
    else:
        prediction, indices = _predict_files(ready, imdb, indices)
    seconds = time.perf_counter() - start
    labels = imdb.labels[indices]
    kind = "log" if prediction.is_probability else "softmaxlog"
    total = float(loss(prediction.scores[None, None], to_tensor(labels), loss=kind))
    probabilities = to_numpy(prediction.probabilities.T)
    return Evaluation(indices, labels, prediction, probabilities, total / indices.size, seconds)


def held_out_set(imdb: Database) -> str:
    """The set that tells how well a network does: "test", or else "val", or else "train"."""
    return next((name for name in ("test", "val") if SETS[name] in imdb.set), "train")


def _predict_files(
    ready: Compiled, imdb: ImageList, indices: np.ndarray
) -> tuple[Prediction, np.ndarray]:
    """What a network makes of files, and which of them could be read."""
    source = file_source(ready.net, subtract_average=0.0)
    predictions: list[Prediction] = []
    read: list[np.ndarray] = []
    parts = [indices[first : first + FILE_BATCH] for first in range(0, indices.size, FILE_BATCH)]
    batches = Pipeline(source).batches(imdb, parts, phase="val", seed=0)
    for part, (x, _) in zip(parts, batches, strict=True):
        whole = ~source.ignored(imdb, part)
        if whole.any():
            images = x[..., torch.from_numpy(whole)]
            predictions.append(ready.predict(images, batch_size=FILE_BATCH))
            read.append(part[whole])
    if not read:
        raise ValueError("none of the files can be read")
    outputs = tuple(output for found in predictions for output in found.outputs)
    return replace(predictions[0], outputs=outputs), np.concatenate(read)


def confusion_table(evaluation: Evaluation) -> "Table":
    """The worst confusions by name, with their share of the images of the class."""
    from rich.table import Table

    table = Table(title="Most frequent confusions", title_justify="left")
    for heading in ("true class", "taken for"):
        table.add_column(heading)
    for heading in ("images", "of the class"):
        table.add_column(heading, justify="right")
    found = evaluation.confusion
    for label, guess, images in found.worst():
        share = 100 * images / found.counts[label].sum()
        table.add_row(found.classes[label], found.classes[guess], str(images), f"{share:.1f} %")
    return table
