"""Inception, version 3 but for its auxiliary classifier, for the 1000 classes of ImageNet."""

from collections.abc import Mapping, Sequence

import torch

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.concat import Concat
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.layer import Layer
from matconvnet.nets.dagnn import DagNN
from matconvnet.zoo._imagenet import CLASSES

IMAGE, FULL_SIZE = 299, 310  # pixels: of an input, and of the images that it is cropped from

Step = tuple[int, int, int] | Layer
"""(FH, FW, K) of a convolution, or another layer."""

AVERAGE = Pooling(3, pad=1, method="avg")
DOWN = Pooling(3, stride=2)
FIVE: dict[str, list[Step]] = {
    "a": [(1, 1, 64)],
    "b": [(1, 1, 48), (5, 5, 64)],
    "c": [(1, 1, 64), (3, 3, 96), (3, 3, 96)],
    "d": [AVERAGE, (1, 1, 64)],
}
FIVE_DOWN: dict[str, list[Step]] = {
    "a": [(3, 3, 384)],
    "b": [(1, 1, 64), (3, 3, 96), (3, 3, 96)],
    "c": [DOWN],
}
SIX: dict[str, list[Step]] = {
    "a": [(1, 1, 192)],
    "b": [(1, 1, 160), (1, 7, 160), (7, 1, 192)],
    "c": [(1, 1, 160), (7, 1, 160), (1, 7, 160), (7, 1, 160), (1, 7, 192)],
    "d": [AVERAGE, (1, 1, 192)],
}
SIX_DOWN: dict[str, list[Step]] = {
    "a": [(1, 1, 192), (3, 3, 320)],
    "b": [(1, 1, 192), (1, 7, 192), (7, 1, 192), (3, 3, 192)],
    "c": [DOWN],
}
SEVEN: dict[str, list[Step]] = {
    "a": [(1, 1, 320)],
    "b": [(1, 1, 384), (1, 3, 384), (3, 1, 384)],
    "c": [(1, 1, 448), (3, 3, 384), (1, 3, 384), (3, 1, 384)],
    "d": [AVERAGE, (1, 1, 192)],
}
MODULES = {
    **{f"inception5_{i}": FIVE for i in (1, 2, 3)},
    "inception5_4": FIVE_DOWN,
    **{f"inception6_{i}": SIX for i in (1, 2, 3, 4)},
    "inception6_5": SIX_DOWN,
    **{f"inception7_{i}": SEVEN for i in (1, 2)},
}


def inception(seed: int = 0) -> DagNN:
    """Build Inception: 22,008,168 parameters, 5.65 G multiply-adds an image.

        layers                                                              output
        conv 3x3 -> 32 /2; conv1 3x3 -> 32; conv2 3x3 -> 64, pad 1          147 x 147 x 64
        pool max 3x3 /2; conv3 1x1 -> 80; conv4 3x3 -> 192; pool1 the same   35 x 35 x 192
        inception5_1 to inception5_3                                         35 x 35 x 288
        inception5_4, /2                                                     17 x 17 x 768
        inception6_1 to inception6_4                                         17 x 17 x 768
        inception6_5, /2                                                      8 x 8 x 1280
        inception7_1 to inception7_2                                          8 x 8 x 1280
        pool_2 avg 8x8; dropout 0.2; prediction 1x1x1280 -> 1000              1 x 1 x 1000
        prediction_loss, prediction_top1error, prediction_top5error

    The tables above, by letter of the branch, are those of the modules: branches read the same map,
    each step the one before, and the last steps are concatenated. Convolutions in modules keep
    the size of a map; the last steps of branches of the modules with /2 halve it, without padding.
    Convolution X writes X_conv, its normalisation X_bn, relu X; all have biases.

    Args:
        seed: of the weights, N(0, sqrt(2 / (FH*FW*FC))); biases are zero, multipliers one.

    Returns: a network for 299 x 299 x 3 x N images in the variable `input`, labels in `label`.
    Source: cnn_imagenet_init_inception; Szegedy et al., "Rethinking the Inception architecture",
        2015. Jitter is given by the names that readers of images know; there it is not.
    """
    net = DagNN()
    x, c = _conv(net, "conv", "input", 3, (3, 3, 32), stride=2, pad=0)
    x, c = _conv(net, "conv1", x, c, (3, 3, 32), pad=0)
    x, c = _conv(net, "conv2", x, c, (3, 3, 64))
    x = _pool(net, "pool", x, DOWN)
    x, c = _conv(net, "conv3", x, c, (1, 1, 80))
    x, c = _conv(net, "conv4", x, c, (3, 3, 192), pad=0)
    x = _pool(net, "pool1", x, DOWN)
    for name, branches in MODULES.items():
        x, c = _module(net, name, x, c, branches)
    x = _pool(net, "pool_2", x, Pooling(8, method="avg"))
    net.add_layer("prediction_dropout", Dropout(0.2), x, "prediction_dropout")
    conv, params = Conv(size=(1, 1, c, CLASSES)), ("prediction_f", "prediction_b")
    net.add_layer("prediction", conv, "prediction_dropout", "prediction", params)
    losses = {
        "loss": Loss("softmaxlog"),
        "top1error": Loss("classerror"),
        "top5error": Loss("topkerror", top_k=5),
    }
    for what, loss in losses.items():
        name = f"prediction_{what}"
        net.add_layer(name, loss, ("prediction", "label"), name)
    net.init_params(seed)
    net.meta["inputSize"] = ["input", [IMAGE, IMAGE, 3, 32]]
    net.meta["normalization"] = {"imageSize": [IMAGE, IMAGE, 3], "cropSize": IMAGE / FULL_SIZE}
    net.meta["augmentation"] = {
        "jitterLocation": True,
        "jitterFlip": True,
        "jitterSaturation": 0.4,
        "jitterContrast": 0.4,
    }
    net.meta["trainOpts"] = {
        "learningRate": torch.logspace(-1, -3, 60, dtype=torch.float64).tolist(),
        "numEpochs": 60,
        "batchSize": 256,
        "numSubBatches": 3,
        "weightDecay": 0.0001,
    }
    return net


def _module(
    net: DagNN, name: str, x: str, c: int, branches: Mapping[str, Sequence[Step]]
) -> tuple[str, int]:
    """Add the branches of a module, and their concatenation; returns it, and its channels."""
    is_down = branches["c"] == [DOWN]
    ends, channels = [], 0
    for letter, steps in branches.items():
        y, d = x, c
        for i, step in enumerate(steps, 1):
            if isinstance(step, Layer):
                y = _pool(net, f"{name}_{letter}{i}", y, step)
            elif is_down and i == len(steps):
                y, d = _conv(net, f"{name}_{letter}{i}", y, d, step, stride=2, pad=0)
            else:
                y, d = _conv(net, f"{name}_{letter}{i}", y, d, step)
        ends.append(y)
        channels += d
    net.add_layer(name, Concat(), ends, name)
    return name, channels


def _conv(
    net: DagNN,
    name: str,
    x: str,
    c: int,
    size: tuple[int, int, int],
    stride: int = 1,
    pad: int | None = None,
) -> tuple[str, int]:
    """Add a convolution of c channels, normalisation, relu; returns the last, and its channels.

    size: (FH, FW, K). pad: None keeps the size of the map.
    """
    fh, fw, k = size
    y, x_pad = (fh - 1) // 2, (fw - 1) // 2
    pads = (y, y, x_pad, x_pad) if pad is None else pad
    conv = Conv(size=(fh, fw, c, k), stride=stride, pad=pads)
    net.add_layer(name, conv, x, f"{name}_conv", (f"{name}_f", f"{name}_b"))
    bnorm, params = BatchNorm(num_channels=k), [f"{name}_bn_{letter}" for letter in "wbm"]
    net.add_layer(f"{name}_bn", bnorm, f"{name}_conv", f"{name}_bn", params)
    net.add_layer(f"{name}_relu", ReLU(), f"{name}_bn", name)
    return name, k


def _pool(net: DagNN, name: str, x: str, layer: Layer) -> str:
    net.add_layer(name, layer, x, f"{name}_pool")
    return f"{name}_pool"
