"""From a network, a database and what was asked for, to how it is trained."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from matconvnet.data.augment import ArraySource
from matconvnet.data.imdb import TEST, TRAIN, VAL, Imdb
from matconvnet.data.mixing import Mix
from matconvnet.data.pipeline import Pipeline
from matconvnet.nets.fields import camel_case, is_empty, to_list
from matconvnet.nets.head import check_classifier, count_classes, replace_head
from matconvnet.nets.network import Network
from matconvnet.train.options import TrainOptions
from matconvnet.train.schedules import parse_schedule

if TYPE_CHECKING:
    from matconvnet.data.lists import Database

DIGITS_RECIPE = {"learningRate": [0.002] * 8 + [0.0002] * 2, "numEpochs": 10, "batchSize": 50}
"""For the 8,000 digits of the package, where the networks' own recipes are for 60,000 images.

Chosen on a fifth of the training set. Test errors with seeds 0, 1, 2: lenet 2.15, 2.35, 2.25 %;
lenet-bnorm 1.65, 1.80, 1.95 %.
"""
FOR_ARRAYS = ("shift", "cutout")
"""Augmentation that files do not take."""
STATISTICS_IMAGES = 1000
"""The average colour of files is taken over this many of them."""


def training_options(
    net: Network, given: Mapping[str, Any], *, is_packaged: bool = False
) -> TrainOptions:
    """The recipe in the network's meta data, with what was given in place of its options.

    given: options of TrainOptions; None stands for what the recipe says.
    """
    told = net.meta.get("trainOpts")
    recipe = {
        **(told if isinstance(told, Mapping) else {}),
        **(DIGITS_RECIPE if is_packaged else {}),
    }
    names = {camel_case(field.name): field.name for field in fields(TrainOptions)}
    options = {names[key]: value for key, value in recipe.items() if key in names}
    options |= {name: value for name, value in given.items() if value is not None}
    if isinstance(options.get("learning_rate"), str):
        options["learning_rate"] = parse_schedule(options["learning_rate"])
    return TrainOptions(**options)


def augmentation(net: Network, imdb: "Database", given: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to the images of training: `meta.augmentation`, and what was given.

    What the meta data say for arrays alone does not count for files; these have `jitterLocation`.
    """
    told = net.meta.get("augmentation")
    names = ("flip", "mixup", "label_smoothing", *(FOR_ARRAYS if isinstance(imdb, Imdb) else ()))
    found: dict[str, Any] = {}
    if isinstance(told, Mapping):
        for name in names:
            value = told.get(camel_case(name))
            if not is_empty(value):
                found[name] = to_list(value)[0]
    return found | {name: value for name, value in given.items() if value is not None}


def make_pipeline(
    net: Network, imdb: "Database", augment: Mapping[str, Any], files: Mapping[str, Any]
) -> Pipeline:
    """What loads the batches of training.

    Args:
        net: whose meta data tell what its images are like.
        imdb: the database.
        augment: flip, shift and cutout of arrays; mixup and label_smoothing of all.
        files: options of FileSource, for a list of files.
    """
    from matconvnet.cli.sources import file_source

    mixing = {name: augment.get(name, 0.0) for name in ("label_smoothing", "mixup")}
    mix = Mix(len(imdb.classes), **mixing) if any(mixing.values()) else None
    if isinstance(imdb, Imdb):
        arrays = {name: augment[name] for name in ("flip", *FOR_ARRAYS) if name in augment}
        return Pipeline(ArraySource(**arrays), mix=mix)
    wrong = [name for name in FOR_ARRAYS if augment.get(name)]
    if wrong:
        raise ValueError(f"{wrong[0]} is for arrays; files are jittered as meta.augmentation tells")
    if "flip" in augment:
        files = {**files, "jitter_flip": augment["flip"]}
    return Pipeline(file_source(net, **files), mix=mix)


def fit_head(net: Network, imdb: "Database", *, new_head: bool, seed: int) -> None:
    """Make the network give one score per class of the database.

    new_head: draw the last convolution anew, if the numbers differ.

    Raises: ValueError, if they differ otherwise, or the network is none of classes.
    """
    found, wanted = count_classes(net), len(imdb.classes)
    if wanted:
        check_classifier(net)
    if not wanted or found is None or (found == wanted and not new_head):
        return
    if new_head:
        replace_head(net, wanted, seed)
    elif found < wanted:
        raise ValueError(
            f"the network has {found} classes, the data {wanted}; --new-head draws its last "
            "layer anew"
        )


def describe_data(net: Network, imdb: "Database") -> None:
    """Write into the meta data what `predict` reads there: names of classes, and the average."""
    names = list(imdb.classes)
    normalization = dict(net.meta.get("normalization") or {})
    if isinstance(imdb, Imdb):
        normalization.pop("averageImage", None)
        if imdb.mean is not None:
            normalization["averageImage"] = imdb.mean
    elif is_empty(normalization.get("averageImage")):
        normalization["averageImage"] = _average_colour(net, imdb)
    count = count_classes(net)
    if names and (count is None or count == len(names)):
        net.meta["classes"] = {"name": names}
    net.meta["normalization"] = normalization


def _average_colour(net: Network, imdb: "Database") -> np.ndarray:
    """The mean colour of files of the training set, evenly spread."""
    from matconvnet.cli.sources import file_source
    from matconvnet.data.statistics import image_statistics

    train = np.flatnonzero(imdb.set == TRAIN)
    chosen = train[:: -(-train.size // STATISTICS_IMAGES)]
    source = file_source(net, subtract_average=0.0, bad_files="replace")
    found = image_statistics(imdb, chosen, source=source)
    return found.mean.astype(np.float32)[None, None]


def held_out(imdb: "Database") -> np.ndarray:
    """Indices of the validation set; of the test set, if there is none."""
    return np.flatnonzero(imdb.set == (VAL if VAL in imdb.set else TEST))


def with_progress(options: TrainOptions, *, is_first: bool, is_terminal: bool) -> TrainOptions:
    """A bar on a terminal, a line per epoch elsewhere; other workers than the first are silent."""
    print_epoch = None if is_terminal or not is_first else _print_epoch
    return replace(options, progress=is_first and is_terminal, post_epoch_fn=print_epoch)


def _print_epoch(_net: Network, _options: Any, epoch: Any) -> None:
    """Print one line on an epoch: a file keeps what a progress bar would overwrite."""
    parts = []
    for phase in ("train", "val"):
        stats = epoch.stats[phase][-1]
        values = ", ".join(f"{k} {v:.4f}" for k, v in stats.items() if k not in ("num", "time"))
        parts.append(f"{phase} {values} ({stats['time']:.1f} s)")
    print(f"epoch {epoch.epoch:3d}: {'; '.join(parts)}", flush=True)
