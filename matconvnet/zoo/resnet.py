"""Residual networks: of 50, 101 and 152 layers for ImageNet, of 20 for CIFAR-10."""

import torch

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sum import Sum
from matconvnet.layout import channels_last
from matconvnet.nets.dagnn import DagNN
from matconvnet.zoo._imagenet import CLASSES, FULL_SIZE

IMAGE = 224  # pixels: height and width of an input
PIXEL_SCALE = 100  # of the inputs, roughly: colours of 0..255 are not divided by their deviation


def resnet_50(seed: int = 0) -> DagNN:
    """Build ResNet-50: 25,557,032 parameters, 4.09 G multiply-adds an image.

        layers                                                       output
        conv1   7x7x3 -> 64 /2, pad 3; max pool 3x3 /2, pad 1        112 x 112, 56 x 56
        conv2_1 to conv2_3   1x1 -> 64,  3x3 -> 64,  1x1 -> 256       56 x 56
        conv3_1 to conv3_4   1x1 -> 128, 3x3 -> 128, 1x1 -> 512       28 x 28
        conv4_1 to conv4_6   1x1 -> 256, 3x3 -> 256, 1x1 -> 1024      14 x 14
        conv5_1 to conv5_3   1x1 -> 512, 3x3 -> 512, 1x1 -> 2048       7 x 7
        prediction   avg pool 7x7; 1x1x2048 -> 1000, with biases       1 x 1
        objective, top1error, top5error

    Each row of three convolutions is a residual block: its input is added to its output. All
    convolutions but the last have no biases and are normalised; relu follows, for the third of a
    block after the sum. The first block of a section adapts its input by a 1 x 1 convolution; it
    has stride 2 from section 3 on, as has the 3 x 3 one. Unit X has layers X_conv, X_bn and X_relu,
    parameters X_f, X_bn_w, X_bn_b and X_bn_m.

    Moments are averaged at rate 0.3. The first filters are divided by 100 and their learning rate
    by 100^2, as the images, less their average, have a deviation of about 60.

    Args:
        seed: of the weights, N(0, sqrt(2 / (FH*FW*FC))); biases are zero, multipliers one.

    Returns: a network for 224 x 224 x 3 x N images in the variable `input`, labels in `label`.
    Source: cnn_imagenet_init_resnet; He et al., "Deep residual learning", 2015, but for the place
        of the strides.
    """
    return _for_imagenet((3, 4, 6, 3), seed)


def resnet_101(seed: int = 0) -> DagNN:
    """Build ResNet-101: 44,549,160 parameters, 7.80 G multiply-adds an image.

    It is `resnet_50` with 23 blocks in section 4.
    """
    return _for_imagenet((3, 4, 23, 3), seed)


def resnet_152(seed: int = 0) -> DagNN:
    """Build ResNet-152: 60,192,808 parameters, 11.51 G multiply-adds an image.

    It is `resnet_50` with 8 blocks in section 3 and 36 in section 4.
    """
    return _for_imagenet((3, 8, 36, 3), seed)


def resnet_20(seed: int = 0) -> DagNN:
    """Build ResNet-20 for CIFAR-10: 269,722 parameters, 40.6 M multiply-adds an image.

        layers                                          output
        conv1   3x3x3 -> 16, pad 1                      32 x 32
        conv2_1 to conv2_3   3x3 -> 16, 3x3 -> 16       32 x 32
        conv3_1 to conv3_3   3x3 -> 32, 3x3 -> 32       16 x 16
        conv4_1 to conv4_3   3x3 -> 64, 3x3 -> 64        8 x 8
        prediction   avg pool 8x8; 1x1x64 -> 10          1 x 1
        objective, top1error, top5error

    Units are those of `resnet_50`. The first convolution of sections 3 and 4 has stride 2; their
    blocks' inputs lose every other pixel, and zeros take the place of the channels they lack: a
    1 x 1 convolution whose filters, ones and zeros, are not trained. Neither these nor their
    0.26 M multiply-adds are counted above.

    Args:
        seed: of the weights, N(0, sqrt(2 / (FH*FW*FC))); biases are zero, multipliers one.

    Returns: a network for 32 x 32 x 3 x N images, less their mean image, in the variable `input`.
    Source: He et al., "Deep residual learning", 2015, section 4.2, shortcuts of type A.
    """
    net = DagNN()
    x = _unit(net, "conv1", "input", (3, 3, 3, 16))
    c = 16
    for section, d in zip((2, 3, 4), (16, 32, 64), strict=True):
        for i in range(3):
            x = _plain(net, f"conv{section}_{i + 1}", x, c, d)
            c = d
    _head(net, x, (8, 8), c, classes=10)
    net.init_params(seed)
    for name, param in net.params.items():
        if name.endswith("_adapt_f"):
            assert param.value is not None
            param.value = channels_last(torch.eye(*param.value.shape[2:])[None, None])
            param.train_method, param.learning_rate, param.weight_decay = "none", 0.0, 0.0
    net.meta["inputSize"] = ["input", [32, 32, 3, 128]]
    net.meta["augmentation"] = {"flip": True, "shift": 4}
    net.meta["trainOpts"] = {
        "learningRate": [0.1] * 82 + [0.01] * 41 + [0.001] * 41,  # 32, 48, 64 thousand updates
        "numEpochs": 164,
        "batchSize": 128,
        "weightDecay": 0.0001,
    }
    return net


def _for_imagenet(lengths: tuple[int, ...], seed: int) -> DagNN:
    """lengths: blocks in each of the sections 2 to 5."""
    net = DagNN()
    x = _unit(net, "conv1", "input", (7, 7, 3, 64), stride=2)
    net.add_layer("conv1_pool", Pooling(3, stride=2, pad=1), x, "conv1")
    x, c = "conv1", 64
    for section, (length, d) in enumerate(zip(lengths, (64, 128, 256, 512), strict=True), 2):
        for i in range(length):
            stride = 2 if section > 2 and i == 0 else 1
            x = _bottleneck(net, f"conv{section}_{i + 1}", x, c, d, stride)
            c = 4 * d
    _head(net, x, (7, 7), c, CLASSES)
    net.init_params(seed)
    first = net.params["conv1_f"]
    assert first.value is not None
    first.value /= PIXEL_SCALE
    first.learning_rate /= PIXEL_SCALE**2
    for name, param in net.params.items():
        if name.endswith("_bn_m"):
            param.learning_rate = 0.3
    net.meta["inputSize"] = ["input", [IMAGE, IMAGE, 3, 32]]
    net.meta["normalization"] = {"imageSize": [IMAGE, IMAGE, 3], "cropSize": IMAGE / FULL_SIZE}
    net.meta["augmentation"] = {
        "jitterLocation": True,
        "jitterFlip": True,
        "jitterAspect": [3 / 4, 4 / 3],
        "jitterScale": [0.4, 1.1],
    }
    net.meta["trainOpts"] = {
        "learningRate": [0.1] * 30 + [0.01] * 30 + [0.001] * 30,
        "numEpochs": 90,
        "batchSize": 256,
        "numSubBatches": 4,
        "weightDecay": 0.0001,
        "momentum": 0.9,
    }
    return net


def _unit(
    net: DagNN,
    name: str,
    x: str,
    size: tuple[int, int, int, int],
    stride: int = 1,
    relu: bool = True,
) -> str:
    """Add a convolution that keeps the size but for its stride, normalisation, and relu.

    size: (FH, FW, FC, K). Returns the variable that the last of them writes.
    """
    conv = Conv(size=size, stride=stride, pad=(size[0] - 1) // 2, has_bias=False)
    net.add_layer(f"{name}_conv", conv, x, f"{name}_conv", f"{name}_f")
    bnorm, params = BatchNorm(num_channels=size[3]), [f"{name}_bn_{letter}" for letter in "wbm"]
    net.add_layer(f"{name}_bn", bnorm, f"{name}_conv", f"{name}_bn", params)
    if not relu:
        return f"{name}_bn"
    net.add_layer(f"{name}_relu", ReLU(), f"{name}_bn", f"{name}_relu")
    return f"{name}_relu"


def _bottleneck(net: DagNN, name: str, x: str, c: int, d: int, stride: int) -> str:
    """Add a residual block from c over d to 4d channels."""
    skip = x
    if c != 4 * d:
        skip = _unit(net, f"{name}_adapt_conv", x, (1, 1, c, 4 * d), stride, relu=False)
    y = _unit(net, f"{name}a", x, (1, 1, c, d))
    y = _unit(net, f"{name}b", y, (3, 3, d, d), stride)
    y = _unit(net, f"{name}c", y, (1, 1, d, 4 * d), relu=False)
    return _join(net, name, skip, y)


def _plain(net: DagNN, name: str, x: str, c: int, d: int) -> str:
    """Add a residual block from c to d channels, of half the height and width where they differ."""
    skip, stride = x, 1
    if c != d:
        skip, stride = f"{name}_adapt", 2
        conv = Conv(size=(1, 1, c, d), stride=stride, has_bias=False)
        net.add_layer(skip, conv, x, skip, f"{skip}_f")
    y = _unit(net, f"{name}a", x, (3, 3, c, d), stride)
    y = _unit(net, f"{name}b", y, (3, 3, d, d), relu=False)
    return _join(net, name, skip, y)


def _join(net: DagNN, name: str, skip: str, y: str) -> str:
    net.add_layer(f"{name}_sum", Sum(), (skip, y), f"{name}_sum")
    net.add_layer(f"{name}_relu", ReLU(), f"{name}_sum", name)
    return name


def _head(net: DagNN, x: str, size: tuple[int, int], c: int, classes: int) -> None:
    """Add what makes scores of the mean over a map of a size and c channels, and the losses."""
    net.add_layer("prediction_avg", Pooling(size, method="avg"), x, "prediction_avg")
    conv, params = Conv(size=(1, 1, c, classes)), ("prediction_f", "prediction_b")
    net.add_layer("prediction", conv, "prediction_avg", "prediction", params)
    compared = ("prediction", "label")
    net.add_layer("loss", Loss("softmaxlog"), compared, "objective")
    net.add_layer("top1error", Loss("classerror"), compared, "top1error")
    net.add_layer("top5error", Loss("topkerror", top_k=5), compared, "top5error")
