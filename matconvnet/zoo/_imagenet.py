"""Chains for ImageNet: up to nineteen blocks of weights, the last three of them a classifier."""

from collections.abc import Sequence
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

CLASSES = 1000
FULL_SIZE = 256  # pixels: the shorter side of the images from which inputs are cropped


@dataclass(frozen=True)
class Block:
    """A convolution and what follows it.

    name: of the convolution, "conv3_1"; the layers after it are "relu3_1" and so on. size: (FH, FW,
    FC, K). deviation: of the filters.
    """

    name: str
    size: tuple[int, int, int, int]
    stride: int = 1
    pad: int = 0
    lrn: bool = False
    pool: Pooling | None = None
    dropout: bool = False
    deviation: float = 0.01


def classifier(size: int, channels: int) -> list[Block]:
    """The last three blocks, of which the first covers a map of size x size x channels."""
    return [
        Block("fc6", (size, size, channels, 4096), dropout=True),
        Block("fc7", (1, 1, 4096, 4096), dropout=True),
        Block("fc8", (1, 1, 4096, CLASSES)),
    ]


def chain(
    blocks: Sequence[Block], image: int, batch_normalization: bool, seed: int, batch_size: int = 256
) -> SimpleNN:
    """Chain blocks, and end in a loss; the last block is a convolution only.

    Learning rates of (filters, biases) are multiplied by (1, 2), their weight decay by (1, 0).

    Args:
        blocks: from the first to the last.
        image: height and width of the input in pixels.
        batch_normalization: normalise after each convolution but the last, in place of LRN and
            dropout.
        seed: of the weights.
        batch_size: of the recipe.

    Source: cnn_imagenet_init.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for block in blocks:
        layers.append(
            entry(
                Conv(stride=block.stride, pad=block.pad),
                block.name,
                gaussian(block.size, block.deviation, generator),
                learning_rate=(1, 2),
                weight_decay=(1, 0),
            )
        )
        if block is not blocks[-1]:
            layers += _after(block, batch_normalization)
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
            "batchSize": batch_size,
            "weightDecay": 0.0005,
        },
    }
    return SimpleNN(layers, meta)


def _after(block: Block, batch_normalization: bool) -> list[Struct]:
    """What follows the convolution of a block; a pooling is named for its group of blocks."""
    number = block.name.removeprefix("conv").removeprefix("fc")
    layers = []
    if batch_normalization:
        moments = new_moments(block.size[3])
        bnorm = BatchNorm(epsilon=1e-4)
        layers.append(entry(bnorm, f"bn{number}", moments, (2, 1, 0.1), (0, 0)))
    layers.append(entry(ReLU(), f"relu{number}"))
    if block.lrn and not batch_normalization:
        layers.append(entry(LRN((5, 1, 0.0001 / 5, 0.75)), f"norm{number}"))
    if block.pool is not None:
        layers.append(entry(block.pool, f"pool{number.split('_')[0]}"))
    if block.dropout and not batch_normalization:
        layers.append(entry(Dropout(0.5), f"dropout{number}"))
    return layers
