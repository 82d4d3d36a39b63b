"""DnCNN, which finds the noise in a grey image."""

from math import sqrt

import torch

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.pdist import PDist
from matconvnet.blocks.relu import ReLU
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Struct
from matconvnet.zoo._layers import entry, gaussian, new_moments

DEPTH = 17  # convolutions
CHANNELS = 64
DEVIATION = sqrt(2 / (9 * CHANNELS))  # of all filters
LEAST = 0.025  # magnitude of a multiplier of normalisation


def dncnn(seed: int = 0) -> SimpleNN:
    """Build DnCNN-S: 556,097 parameters, 554,112 multiply-adds a pixel, 0.89 G a 40 x 40 patch.

        layers, all convolutions 3x3, pad 1                    output
        conv1  3x3x1 -> 64, with biases; relu                  H x W x 64
        conv2  3x3x64 -> 64; bnorm; relu                       H x W x 64
        ...                                                    H x W x 64
        conv16 3x3x64 -> 64; bnorm; relu                       H x W x 64
        conv17 3x3x64 -> 1, with biases                        H x W x 1
        pdist  sum of squares / 2, of the difference from the label

    The label is the noise, a map of the size of the image: the restored image is the image less
    what the network predicts (residual learning). No weight but filters is decayed.

    Args:
        seed: of the weights. Filters are N(0, sqrt(2 / (9*64))), and so are the multipliers of
            normalisation, but for those nearer to 0 than 0.025, which are moved there.

    Returns: a network for H x W x 1 x N images, values 0 to 1, such as 40 x 40 patches with
        Gaussian noise of deviation 25/255. Its meta data tell no size, so that `predict` keeps that
        of an image.
    Source: Zhang et al., "Beyond a Gaussian denoiser", 2017, and its training code, from which the
        recipe is; convolutions before a normalisation have no biases here, frozen zeros there.
    """
    generator = torch.Generator().manual_seed(seed)

    def conv(number: int, c: int, k: int, biases: bool) -> Struct:
        weights = gaussian((3, 3, c, k), DEVIATION, generator, biases)
        return entry(Conv(pad=1), f"conv{number}", weights, weight_decay=(1, 0))

    def bnorm(number: int) -> Struct:
        _, b, moments = new_moments(CHANNELS)
        drawn = DEVIATION * torch.randn(CHANNELS, generator=generator)
        g = drawn.abs().clamp(min=LEAST).copysign(drawn)
        return entry(BatchNorm(), f"bn{number}", (g, b, moments), (1, 1, 0.1), (0, 0))

    layers = [conv(1, 1, CHANNELS, biases=True), entry(ReLU(), "relu1")]
    for i in range(2, DEPTH):
        layers.append(conv(i, CHANNELS, CHANNELS, biases=False))
        layers += [bnorm(i), entry(ReLU(), f"relu{i}")]
    layers.append(conv(DEPTH, CHANNELS, 1, biases=True))
    half_square = PDist(2, no_root=True, aggregate=True, instance_weights=0.5)
    layers.append(entry(half_square, "loss"))
    options = {
        "learningRate": [1e-3] * 30 + [1e-4] * 20,
        "numEpochs": 50,
        "batchSize": 128,
        "numSubBatches": 2,
        "weightDecay": 0,
        "solver": "adam",
        "errorFunction": "none",
    }
    return SimpleNN(layers, {"trainOpts": options})
