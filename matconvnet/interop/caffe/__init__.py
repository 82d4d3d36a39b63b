"""Networks of Caffe: a text file (`.prototxt`) for the layers, a binary one for the weights."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from matconvnet.interop.caffe.convert import add_softmax, convert, summary
from matconvnet.interop.caffe.importer import Importer, Options
from matconvnet.interop.caffe.meta import Images, Lines, Preparation, classes, describe
from matconvnet.interop.caffe.reader import read_structure, read_weights
from matconvnet.interop.caffe.wiring import wire
from matconvnet.nets.dagnn import DagNN

File = str | os.PathLike[str]


def load_caffe(
    prototxt: File,
    caffemodel: File | None = None,
    *,
    mean: Any = None,
    preproc: Preparation = "caffe",
    full_image_size: tuple[int, int] = (256, 256),
    color_format: Literal["bgr", "rgb"] = "bgr",
    transpose: bool = True,
    class_names: Lines | None = None,
    synsets: Lines | None = None,
    simplify: bool = True,
    remove_dropout: bool = False,
    remove_loss: bool = False,
    append_softmax: Sequence[str] = (),
    outputs: Sequence[str] = (),
    log: Callable[[str], object] | None = None,
) -> DagNN:
    """Read a network of Caffe, as it is in Caffe's phase TEST.

    Every layer becomes one that computes the same: groups, dilation, the rounding up of pooling,
    means that count the zeros of a pad, the alpha of LRN. Variables and layers have Caffe's names,
    with `_` for what is no letter or digit; a layer in place writes a variable with an `x` after
    its name. Vectors are maps of 1 x 1 pixels, regions of interest are 5 x R (image, left, top,
    right, bottom, from 0), and a loss is a sum over the batch, where Caffe's is a mean.

    Args:
        prototxt: the text file, of the current form or that of 2014 (`layers`).
        caffemodel: the weights; None: parameters have no value (`DagNN.init_params`).
        mean: what is subtracted from images: a `.binaryproto` file, an H x W x C array, or C
            numbers; colours of arrays and numbers are RGB.
        preproc: "caffe": images are squashed to full_image_size, by bicubic interpolation;
            "vgg-caffe", "fcn": they keep their aspect, bilinear. "fcn": a Crop without offset
            puts the centres of receptive fields above each other.
        full_image_size: (height, width) of the images that the input is the centre of.
        color_format: of images in Caffe; the filters that read "bgr" are turned round for RGB.
        transpose: False for a network that was trained on transposed images, and is to be kept so.
        class_names: names of the classes: a text file, or its lines.
        synsets: a text file, or its lines, such as "n01440764 tench, Tinca tinca".
        simplify: let a Scale after a BatchNorm be a part of it.
        remove_dropout, remove_loss: leave those layers out.
        append_softmax: Caffe's names of layers after which a Softmax is added.
        outputs: Caffe's names of the variables that are wanted: layers that they do not need are
            left out, known or not; none at all: every layer is read.
        log: called with a line for each layer, telling what it became.

    Returns: the network; parameters that Caffe does not train have learning rate 0. A UserWarning
        lists what the file says and the network does not do.

    Raises:
        FormatError: naming the file and every layer that is not known or not supported; files that
            are damaged, or do not belong together.
        OSError.

    Source: import-caffe; Caffe's layer catalogue and sources.
    """
    _check(preproc, get_args(Preparation), "preproc")
    _check(color_format, ("bgr", "rgb"), "color_format")
    path, is_bgr = Path(prototxt), color_format == "bgr"
    meta = classes(class_names, synsets)
    structure = read_structure(path)
    weights = None if caffemodel is None else read_weights(Path(caffemodel))
    options = Options(
        transpose, is_bgr, simplify, remove_dropout, remove_loss, align_crops=preproc == "fcn"
    )
    net = Importer(wire(structure.entries, path, outputs), options, weights)
    convert(net, path)
    add_softmax(net, append_softmax)
    meta |= describe(net.read_inputs(), Images(preproc, mean, full_image_size, is_bgr, transpose))
    ignored = [*structure.ignored, *net.notes]
    if ignored:
        warnings.warn(f"{path}: not part of the network:\n  " + "\n  ".join(ignored), stacklevel=2)
    if log is not None:
        for line in summary(net):
            log(line)
    return net.network(meta)


def _check(value: Any, wanted: Sequence[str], name: str) -> None:
    if value not in wanted:
        raise ValueError(f"{name} is {value!r}; wanted one of {', '.join(map(repr, wanted))}")
