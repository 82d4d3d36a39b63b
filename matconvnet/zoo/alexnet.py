"""AlexNet and VGG-F: eight blocks of weights, for the 1000 classes of ImageNet."""

from dataclasses import dataclass

import torch

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Struct
from matconvnet.zoo._layers import entry, gaussian, new_moments

DEVIATION = 0.01  # of all filters
FULL_SIZE = 256  # pixels: the shorter side of the images from which inputs are cropped


@dataclass(frozen=True)
class Block:
    """A convolution and what follows it; `size` is (FH, FW, FC, K)."""

    name: str
    size: tuple[int, int, int, int]
    stride: int = 1
    pad: int = 0
    lrn: bool = False
    pool: Pooling | None = None
    dropout: bool = False


def alexnet(batch_normalization: bool = False, seed: int = 0) -> SimpleNN:
    """Build AlexNet with local response normalisation: 60,965,224 parameters.

        block                                                  output
        conv1 11x11x3  -> 96 /4, relu, LRN, max pool 3x3 /2    55 x 55, 27 x 27
        conv2 5x5x48   -> 256, pad 2, relu, LRN, max pool      27 x 27, 13 x 13
        conv3 3x3x256  -> 384, pad 1, relu                     13 x 13
        conv4 3x3x192  -> 384, pad 1, relu                     13 x 13
        conv5 3x3x192  -> 256, pad 1, relu, max pool 3x3 /2    13 x 13, 6 x 6
        fc6   6x6x256  -> 4096, relu, dropout                   1 x 1
        fc7   1x1x4096 -> 4096, relu, dropout                   1 x 1
        fc8   1x1x4096 -> 1000                                  1 x 1
        softmaxloss

    Learning rates of (filters, biases) are multiplied by (1, 2), their weight decay by (1, 0).

    Args:
        batch_normalization: normalise after each of the first seven convolutions, in place of LRN
            and dropout.
        seed: of the weights, N(0, 0.01); biases are zero.

    Returns: a network for 227 x 227 x 3 x N images.
    Source: cnn_imagenet_init; Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep
        convolutional neural networks", 2012.
    """
    pool = Pooling(3, stride=2)
    blocks = [
        Block("conv1", (11, 11, 3, 96), stride=4, lrn=True, pool=pool),
        Block("conv2", (5, 5, 48, 256), pad=2, lrn=True, pool=pool),
        Block("conv3", (3, 3, 256, 384), pad=1),
        Block("conv4", (3, 3, 192, 384), pad=1),
        Block("conv5", (3, 3, 192, 256), pad=1, pool=pool),
        *_classifier(),
    ]
    return _network(blocks, 227, batch_normalization, seed)


def vgg_f(batch_normalization: bool = False, seed: int = 0) -> SimpleNN:
    """Build VGG-F, the fast network of the VGG group: 60,834,536 parameters.

        block                                                  output
        conv1 11x11x3  -> 64 /4, relu, LRN,                    54 x 54
              max pool 3x3 /2, pad (0,1,0,1)                   27 x 27
        conv2 5x5x64   -> 256, pad 2, relu, LRN, max pool      27 x 27, 13 x 13
        conv3 3x3x256  -> 256, pad 1, relu                     13 x 13
        conv4 3x3x256  -> 256, pad 1, relu                     13 x 13
        conv5 3x3x256  -> 256, pad 1, relu, max pool 3x3 /2    13 x 13, 6 x 6
        fc6   6x6x256  -> 4096, relu, dropout                   1 x 1
        fc7   1x1x4096 -> 4096, relu, dropout                   1 x 1
        fc8   1x1x4096 -> 1000                                  1 x 1
        softmaxloss

    Multipliers, arguments and weights are those of `alexnet`.

    Returns: a network for 224 x 224 x 3 x N images.
    Source: cnn_imagenet_init; Chatfield et al., "Return of the devil in the details", 2014.
    """
    pool = Pooling(3, stride=2)
    blocks = [
        Block("conv1", (11, 11, 3, 64), 4, lrn=True, pool=Pooling(3, stride=2, pad=(0, 1, 0, 1))),
        Block("conv2", (5, 5, 64, 256), pad=2, lrn=True, pool=pool),
        Block("conv3", (3, 3, 256, 256), pad=1),
        Block("conv4", (3, 3, 256, 256), pad=1),
        Block("conv5", (3, 3, 256, 256), pad=1, pool=pool),
        *_classifier(),
    ]
    return _network(blocks, 224, batch_normalization, seed)


def _classifier() -> list[Block]:
    return [
        Block("fc6", (6, 6, 256, 4096), dropout=True),
        Block("fc7", (1, 1, 4096, 4096), dropout=True),
        Block("fc8", (1, 1, 4096, 1000)),
    ]


def _network(blocks: list[Block], image: int, batch_normalization: bool, seed: int) -> SimpleNN:
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for number, block in enumerate(blocks, 1):
        is_last = number == len(blocks)
        layers += _layers(block, number, is_last, batch_normalization, generator)
    layers.append(entry(SoftmaxLoss(), "loss"))
    first, epochs = (-1, 20) if batch_normalization else (-2, 60)
    meta = {
        "inputSize": [image, image, 3, 32],
        "normalization": {"imageSize": [image, image, 3], "cropSize": image / FULL_SIZE},
        "augmentation": {
            "jitterLocation": True,
            "jitterFlip": True,
            "jitterAspect": [2 / 3, 3 / 2],
        },
        "trainOpts": {
            "learningRate": torch.logspace(first, -4, epochs, dtype=torch.float64).tolist(),
            "numEpochs": epochs,
            "batchSize": 256,
            "weightDecay": 0.0005,
        },
    }
    return SimpleNN(layers, meta)


def _layers(
    block: Block, number: int, is_last: bool, batch_normalization: bool, generator: torch.Generator
) -> list[Struct]:
    """The layers of one block; the last has a convolution only."""
    layers = [
        entry(
            Conv(stride=block.stride, pad=block.pad),
            block.name,
            gaussian(block.size, DEVIATION, generator),
            learning_rate=(1, 2),
            weight_decay=(1, 0),
        )
    ]
    if is_last:
        return layers
    if batch_normalization:
        moments = new_moments(block.size[3])
        bnorm = BatchNorm(epsilon=1e-4)
        layers.append(entry(bnorm, f"bn{number}", moments, (2, 1, 0.1), (0, 0)))
    layers.append(entry(ReLU(), f"relu{number}"))
    if block.lrn and not batch_normalization:
        layers.append(entry(LRN((5, 1, 0.0001 / 5, 0.75)), f"norm{number}"))
    if block.pool is not None:
        layers.append(entry(block.pool, f"pool{number}"))
    if block.dropout and not batch_normalization:
        layers.append(entry(Dropout(0.5), f"dropout{number}"))
    return layers
