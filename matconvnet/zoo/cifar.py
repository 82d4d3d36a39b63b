"""Networks for the 32 x 32 colour images of CIFAR-10."""

from math import sqrt

import torch

from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.values import Struct
from matconvnet.zoo._layers import entry, gaussian

AFTER = (0, 1, 0, 1)  # pixels of padding: below and to the right only
IMAGE = [32, 32, 3]


def cifar_lenet(seed: int = 0) -> SimpleNN:
    """Build the "quick" network of cuda-convnet for CIFAR-10: 145,578 parameters.

        layer                              output   deviation  learning rates
        conv     5x5x3  -> 32, pad 2       32 x 32  0.01       0.1   2
        max pool 3x3 /2, pad (0,1,0,1)     16 x 16
        relu
        conv     5x5x32 -> 32, pad 2       16 x 16  0.05       0.1   2
        relu
        avg pool 3x3 /2, pad (0,1,0,1)      8 x 8
        conv     5x5x32 -> 64, pad 2        8 x 8   0.05       0.1   2
        relu
        avg pool 3x3 /2, pad (0,1,0,1)      4 x 4
        conv     4x4x64 -> 64               1 x 1   0.05       0.1   2
        relu
        conv     1x1x64 -> 10               1 x 1   0.05       0.01  0.2
        softmaxloss

    Learning rates are multipliers for (filters, biases). Biases are zero.

    Args:
        seed: of the weights, normal with the deviations above.

    Returns: a network for 32 x 32 x 3 x N images, less their mean image, best whitened.
    Source: cnn_cifar_init.
    """
    generator = torch.Generator().manual_seed(seed)

    def conv(*size: int, pad: int = 0, deviation: float = 0.05, rates=(0.1, 2.0)) -> Struct:
        return entry(
            Conv(pad=pad), weights=gaussian(size, deviation, generator), learning_rate=rates
        )

    layers = [
        conv(5, 5, 3, 32, pad=2, deviation=0.01),
        entry(Pooling(3, stride=2, pad=AFTER)),
        entry(ReLU()),
        conv(5, 5, 32, 32, pad=2),
        entry(ReLU()),
        entry(Pooling(3, stride=2, pad=AFTER, method="avg")),
        conv(5, 5, 32, 64, pad=2),
        entry(ReLU()),
        entry(Pooling(3, stride=2, pad=AFTER, method="avg")),
        conv(4, 4, 64, 64),
        entry(ReLU()),
        conv(1, 1, 64, 10, rates=(0.01, 0.2)),
        entry(SoftmaxLoss()),
    ]
    return _network(layers, [0.05] * 30 + [0.005] * 10 + [0.0005] * 5, weight_decay=0.0001)


def cifar_nin(seed: int = 0) -> SimpleNN:
    """Build the Network in Network for CIFAR-10.

        layers, each conv followed by relu                                output
        conv1 5x5x3   -> 192, pad 2; cccp1 1x1 -> 160; cccp2 1x1 -> 96    32 x 32
        pool1 max 3x3 /2; dropout 0.5                                     15 x 15
        conv2 5x5x96  -> 192, pad 2; cccp3 1x1 -> 192; cccp4 1x1 -> 192   15 x 15
        pool2 avg 3x3 /2; dropout 0.5                                      7 x 7
        conv3 3x3x192 -> 192, pad 1; cccp5 1x1 -> 192;
        cccp6 1x1 -> 10, without relu                                      7 x 7
        pool3 avg 7x7                                                      1 x 1
        softmaxloss

    Learning rates of (filters, biases) are multiplied by (1, 10), those of cccp6 by (0.001, 0.01).

    Args:
        seed: of the weights, N(0, sqrt(2 / (FH*FW*FC))), those of cccp6 a tenth; biases are zero.

    Returns: a network for 32 x 32 x 3 x N images, less their mean image, best whitened.
    Source: cnn_cifar_init_nin; Lin, Chen, Yan, "Network in network", 2014.
    """
    generator = torch.Generator().manual_seed(seed)

    def conv(name: str, *size: int, pad: int = 0, scale: float = 1.0, rates=(1, 10)) -> Struct:
        deviation = scale * sqrt(2 / (size[0] * size[1] * size[2]))
        weights = gaussian(size, deviation, generator)
        return entry(Conv(pad=pad), name, weights, learning_rate=rates)

    def block(number: int, size: int, depths: tuple[int, int, int, int], pad: int) -> list[Struct]:
        first, second, third = (f"conv{number}", f"cccp{2 * number - 1}", f"cccp{2 * number}")
        c, k1, k2, k3 = depths
        last = number == 3
        options = {"scale": 0.1, "rates": (0.001, 0.01)} if last else {}
        entries = [
            conv(first, size, size, c, k1, pad=pad),
            entry(ReLU(), f"relu{number}"),
            conv(second, 1, 1, k1, k2),
            entry(ReLU(), f"relu_{second}"),
            conv(third, 1, 1, k2, k3, **options),
        ]
        return entries if last else [*entries, entry(ReLU(), f"relu_{third}")]

    layers = [
        *block(1, 5, (3, 192, 160, 96), pad=2),
        entry(Pooling(3, stride=2), "pool1"),
        entry(Dropout(0.5), "dropout1"),
        *block(2, 5, (96, 192, 192, 192), pad=2),
        entry(Pooling(3, stride=2, method="avg"), "pool2"),
        entry(Dropout(0.5), "dropout2"),
        *block(3, 3, (192, 192, 192, 10), pad=1),
        entry(Pooling(7, method="avg"), "pool3"),
        entry(SoftmaxLoss(), "loss"),
    ]
    rates = [0.002, 0.01, 0.02, *[0.04] * 80, *[0.004] * 10, *[0.0004] * 10]
    return _network(layers, rates, weight_decay=0.0005)


def _network(layers: list[Struct], rates: list[float], weight_decay: float) -> SimpleNN:
    options = {
        "learningRate": rates,
        "numEpochs": len(rates),
        "batchSize": 100,
        "weightDecay": weight_decay,
    }
    return SimpleNN(layers, {"inputSize": IMAGE, "trainOpts": options})
