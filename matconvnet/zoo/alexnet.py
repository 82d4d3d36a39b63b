"""AlexNet and VGG-F: eight blocks of weights, for the 1000 classes of ImageNet."""

from matconvnet.blocks.pool import Pooling
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.zoo._imagenet import Block, chain, classifier


def alexnet(batch_normalization: bool = False, seed: int = 0) -> SimpleNN:
    """Build AlexNet: 60,965,224 parameters, 0.72 G multiply-adds an image.

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
        *classifier(6, 256),
    ]
    return chain(blocks, 227, batch_normalization, seed)


def vgg_f(batch_normalization: bool = False, seed: int = 0) -> SimpleNN:
    """Build VGG-F, the fast one: 60,834,536 parameters, 0.72 G multiply-adds an image.

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
        *classifier(6, 256),
    ]
    return chain(blocks, 224, batch_normalization, seed)
