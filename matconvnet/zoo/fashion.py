"""A small network for 28 x 28 pictures of clothes, with a recipe of a few minutes on two cores."""

from math import sqrt

import torch

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Struct
from matconvnet.zoo._layers import entry, gaussian, new_moments


def fashion(seed: int = 0) -> SimpleNN:
    """Build a network for Fashion-MNIST: 252,138 parameters, 14.7 million multiply-adds.

        layer, each conv but the last followed by          output    multiply-adds
        its pool, if any, bnorm and relu
        conv1  3x3x1   -> 32,  pad 1; max pool 2x2 /2      14 x 14     225,792
        conv2  3x3x32  -> 64,  pad 1; max pool 2x2 /2       7 x 7    3,612,672
        conv3  3x3x64  -> 128, pad 1                        7 x 7    3,612,672
        conv4  3x3x128 -> 128, pad 1; max pool 2x2 /2       3 x 3    7,225,344
        conv5  3x3x128 -> 10                                1 x 1       11,520
        softmaxloss

    Maps are pooled before they are normalised, so that bnorm and relu work on a quarter of the
    pixels. A multiplier of bnorm that stays positive makes this the usual order: the maximum
    commutes with whatever does not decrease.

    Args:
        seed: of the weights, normal with deviation sqrt(2 / (FH*FW*FC)), that of the last
            sqrt(1 / (FH*FW*FC)); convolutions have no biases but the last, whose are zero.

    Returns: a network for 28 x 28 x 1 x N images, values 0 to 255 less their mean image. Its
        recipe is in `meta.trainOpts`, what is done to the images in `meta.augmentation`.
    Source: ours; docs/recipes.md says what each part is worth.
    """
    generator = torch.Generator().manual_seed(seed)

    def block(number: int, c: int, k: int, is_pooled: bool) -> list[Struct]:
        filters = gaussian((3, 3, c, k), sqrt(2 / (9 * c)), generator, biases=False)
        bnorm = entry(
            BatchNorm(),
            f"bn{number}",
            new_moments(k),
            learning_rate=(1, 1, 0.1),
            weight_decay=(0, 0),
        )
        pool = [entry(Pooling(2, stride=2), f"pool{number}")] if is_pooled else []
        conv = entry(Conv(pad=1), f"conv{number}", filters)
        return [conv, *pool, bnorm, entry(ReLU(), f"relu{number}")]

    last = gaussian((3, 3, 128, 10), sqrt(1 / (9 * 128)), generator)
    layers = [
        *block(1, 1, 32, is_pooled=True),
        *block(2, 32, 64, is_pooled=True),
        *block(3, 64, 128, is_pooled=False),
        *block(4, 128, 128, is_pooled=True),
        entry(Conv(), "conv5", last),
        entry(SoftmaxLoss(), "loss"),
    ]
    options = {
        "learningRate": "cosine:0.1+warmup:1",
        "numEpochs": 12,
        "batchSize": 128,
        "weightDecay": 0.0005,
        "nesterovUpdate": True,
        "average": 0.998,
    }
    augmentation = {"flip": True, "shift": 1, "labelSmoothing": 0.1}
    meta = {"inputSize": [28, 28, 1], "trainOpts": options, "augmentation": augmentation}
    return SimpleNN(layers, meta)
