"""Networks of the literature, built from their published tables with fresh weights."""

from collections.abc import Callable
from functools import partial

from matconvnet.nets.simplenn import SimpleNN
from matconvnet.zoo.alexnet import alexnet, vgg_f
from matconvnet.zoo.cifar import cifar_lenet, cifar_nin
from matconvnet.zoo.fashion import fashion
from matconvnet.zoo.lenet import lenet

NETWORKS: dict[str, Callable[..., SimpleNN]] = {
    "alexnet": alexnet,
    "alexnet-bnorm": partial(alexnet, batch_normalization=True),
    "cifar-lenet": cifar_lenet,
    "cifar-nin": cifar_nin,
    "fashion": fashion,
    "lenet": lenet,
    "lenet-bnorm": partial(lenet, batch_normalization=True),
    "vgg-f": vgg_f,
    "vgg-f-bnorm": partial(vgg_f, batch_normalization=True),
}
"""What builds each network, by its name; all take `seed`, that of the random weights."""
