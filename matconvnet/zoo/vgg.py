"""VGG-M, VGG-S, and the very deep VGG-VD-16 and 19, for ImageNet; VGG-F is in alexnet.py."""

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

from matconvnet.blocks.pool import Pooling
from matconvnet.nets.simplenn import SimpleNN
from matconvnet.zoo._imagenet import Block, chain, classifier

AFTER = (0, 1, 0, 1)  # pixels of padding: below and to the right only
IMAGE = 224  # pixels: height and width


def vgg_m(batch_normalization: bool = False, seed: int = 0) -> SimpleNN:
    """Build VGG-M, the medium one: 102,908,520 parameters, 1.68 G multiply-adds an image.

        block                                                  output
        conv1 7x7x3    -> 96 /2, relu, LRN, max pool 3x3 /2   109 x 109, 54 x 54
        conv2 5x5x96   -> 256 /2, pad 1, relu, LRN,            26 x 26
              max pool 3x3 /2, pad (0,1,0,1)                   13 x 13
        conv3 3x3x256  -> 512, pad 1, relu                     13 x 13
        conv4 3x3x512  -> 512, pad 1, relu                     13 x 13
        conv5 3x3x512  -> 512, pad 1, relu, max pool 3x3 /2    13 x 13, 6 x 6
        fc6   6x6x512  -> 4096, relu, dropout                   1 x 1
        fc7   1x1x4096 -> 4096, relu, dropout                   1 x 1
        fc8   1x1x4096 -> 1000                                  1 x 1
        softmaxloss

    Multipliers, arguments and weights are those of `alexnet`.

    Returns: a network for 224 x 224 x 3 x N images.
    Source: cnn_imagenet_init; Chatfield et al., "Return of the devil in the details", 2014.
    """
    pool = Pooling(3, stride=2)
    blocks = [
        Block("conv1", (7, 7, 3, 96), stride=2, lrn=True, pool=pool),
        Block("conv2", (5, 5, 96, 256), stride=2, pad=1, lrn=True, pool=replace(pool, pad=AFTER)),
        Block("conv3", (3, 3, 256, 512), pad=1),
        Block("conv4", (3, 3, 512, 512), pad=1),
        Block("conv5", (3, 3, 512, 512), pad=1, pool=pool),
        *classifier(6, 512),
    ]
    return chain(blocks, IMAGE, batch_normalization, seed, batch_size=196)


def vgg_s(batch_normalization: bool = False, seed: int = 0) -> SimpleNN:
    """Build VGG-S, the slow one: 102,908,520 parameters, 2.64 G multiply-adds an image.

        block                                                  output
        conv1 7x7x3    -> 96 /2, relu, LRN,                   109 x 109
              max pool 3x3 /3, pad (0,2,0,2)                   37 x 37
        conv2 5x5x96   -> 256, relu, LRN,                      33 x 33
              max pool 2x2 /2, pad (0,1,0,1)                   17 x 17
        conv3 3x3x256  -> 512, pad 1, relu                     17 x 17
        conv4 3x3x512  -> 512, pad 1, relu                     17 x 17
        conv5 3x3x512  -> 512, pad 1, relu,                    17 x 17
              max pool 3x3 /3, pad (0,1,0,1)                    6 x 6
        fc6   6x6x512  -> 4096, relu, dropout                   1 x 1
        fc7   1x1x4096 -> 4096, relu, dropout                   1 x 1
        fc8   1x1x4096 -> 1000                                  1 x 1
        softmaxloss

    Multipliers, arguments and weights are those of `alexnet`.

    Returns: a network for 224 x 224 x 3 x N images.
    Source: cnn_imagenet_init; Chatfield et al., "Return of the devil in the details", 2014.
    """
    pool1 = Pooling(3, stride=3, pad=(0, 2, 0, 2))
    blocks = [
        Block("conv1", (7, 7, 3, 96), stride=2, lrn=True, pool=pool1),
        Block("conv2", (5, 5, 96, 256), lrn=True, pool=Pooling(2, stride=2, pad=AFTER)),
        Block("conv3", (3, 3, 256, 512), pad=1),
        Block("conv4", (3, 3, 512, 512), pad=1),
        Block("conv5", (3, 3, 512, 512), pad=1, pool=Pooling(3, stride=3, pad=AFTER)),
        *classifier(6, 512),
    ]
    return chain(blocks, IMAGE, batch_normalization, seed, batch_size=128)


def vgg_vd_16(batch_normalization: bool = False, seed: int = 0) -> SimpleNN:
    """Build VGG-VD-16, the very deep one: 138,357,544 parameters, 15.47 G multiply-adds an image.

        convolutions 3x3, pad 1, each followed by relu                   output
        conv1_1 -> 64,  conv1_2 -> 64,                  max pool 2x2 /2  112 x 112
        conv2_1 -> 128, conv2_2 -> 128,                 max pool 2x2 /2   56 x 56
        conv3_1 -> 256, conv3_2 -> 256, conv3_3 -> 256, max pool 2x2 /2   28 x 28
        conv4_1 -> 512, conv4_2 -> 512, conv4_3 -> 512, max pool 2x2 /2   14 x 14
        conv5_1 -> 512, conv5_2 -> 512, conv5_3 -> 512, max pool 2x2 /2    7 x 7
        fc6 7x7x512  -> 4096, relu, dropout                                1 x 1
        fc7 1x1x4096 -> 4096, relu, dropout                                1 x 1
        fc8 1x1x4096 -> 1000                                               1 x 1
        softmaxloss

    Multipliers and arguments are those of `alexnet`. Weights are N(0, sqrt(2 / (FH*FW*K))), those
    of fc8 a tenth: with those of `alexnet`, hardly a derivative comes through so many layers.

    Returns: a network for 224 x 224 x 3 x N images.
    Source: cnn_imagenet_init with weightInitMethod "xavierimproved"; Simonyan, Zisserman, "Very
        deep convolutional networks", 2015; He et al., "Delving deep into rectifiers", 2015.
    """
    return _very_deep((2, 2, 3, 3, 3), batch_normalization, seed, batch_size=32)


def vgg_vd_19(batch_normalization: bool = False, seed: int = 0) -> SimpleNN:
    """Build VGG-VD-19, the deepest: 143,667,240 parameters, 19.63 G multiply-adds an image.

    It is `vgg_vd_16` with a fourth convolution in each of the groups 3, 4 and 5.
    """
    return _very_deep((2, 2, 4, 4, 4), batch_normalization, seed, batch_size=24)


def _very_deep(
    lengths: Sequence[int], batch_normalization: bool, seed: int, batch_size: int
) -> SimpleNN:
    """lengths: convolutions in each of the five groups, which have 64 to 512 filters."""
    blocks, c = [], 3
    for group, (length, k) in enumerate(zip(lengths, (64, 128, 256, 512, 512), strict=True), 1):
        for i in range(1, length + 1):
            pool = Pooling(2, stride=2) if i == length else None
            blocks.append(Block(f"conv{group}_{i}", (3, 3, c, k), pad=1, pool=pool))
            c = k
    blocks += classifier(7, c)
    *blocks, last = [replace(block, deviation=_deviation(block)) for block in blocks]
    blocks.append(replace(last, deviation=last.deviation / 10))
    return chain(blocks, IMAGE, batch_normalization, seed, batch_size)


def _deviation(block: Block) -> float:
    """That of derivatives is kept from layer to layer."""
    fh, fw, _, k = block.size
    return sqrt(2 / (fh * fw * k))
