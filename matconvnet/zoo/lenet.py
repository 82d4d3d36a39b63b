"""LeNet for 28 x 28 digits."""

import torch

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Struct
from matconvnet.zoo._layers import entry, gaussian, new_moments

DEVIATION = 0.01  # of all filters


def lenet(batch_normalization: bool = False, seed: int = 0) -> SimpleNN:
    """Build LeNet as MatConvNet trains it on MNIST: 431,080 parameters.

        layer                     output
        conv     5x5x1   -> 20    24 x 24
        max pool 2x2 /2           12 x 12
        conv     5x5x20  -> 50     8 x 8
        max pool 2x2 /2            4 x 4
        conv     4x4x50  -> 500    1 x 1
        relu
        conv     1x1x500 -> 10     1 x 1
        softmaxloss

    Args:
        batch_normalization: normalise after each of the first three convolutions, which then have
            no biases.
        seed: of the weights, N(0, 0.01); biases are zero.

    Returns: a network for 28 x 28 x 1 x N images, values 0 to 255 less their mean image.
    Source: cnn_mnist_init; LeCun et al., "Gradient-based learning applied to document
        recognition", 1998.
    """
    generator = torch.Generator().manual_seed(seed)

    def conv(*size: int) -> list[Struct]:
        if not batch_normalization:
            return [entry(Conv(), weights=gaussian(size, DEVIATION, generator))]
        bnorm = entry(
            BatchNorm(),
            weights=new_moments(size[3]),
            learning_rate=(1, 1, 0.05),
            weight_decay=(0, 0),
        )
        return [entry(Conv(), weights=gaussian(size, DEVIATION, generator, biases=False)), bnorm]

    layers = [
        *conv(5, 5, 1, 20),
        entry(Pooling(2, stride=2)),
        *conv(5, 5, 20, 50),
        entry(Pooling(2, stride=2)),
        *conv(4, 4, 50, 500),
        entry(ReLU()),
        entry(Conv(), weights=gaussian((1, 1, 500, 10), DEVIATION, generator)),
        entry(SoftmaxLoss()),
    ]
    options = {"learningRate": 0.001, "numEpochs": 20, "batchSize": 100, "weightDecay": 0.0005}
    return SimpleNN(layers, {"inputSize": [28, 28, 1], "trainOpts": options})
