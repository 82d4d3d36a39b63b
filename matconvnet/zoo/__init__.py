"""Networks of the literature, built from their published tables with fresh weights."""

from collections.abc import Callable
from functools import partial

from matconvnet.nets.network import Network
from matconvnet.zoo.alexnet import alexnet, vgg_f
from matconvnet.zoo.cifar import cifar_lenet, cifar_nin
from matconvnet.zoo.dncnn import dncnn
from matconvnet.zoo.fashion import fashion
from matconvnet.zoo.inception import inception
from matconvnet.zoo.lenet import lenet
from matconvnet.zoo.resnet import resnet_20, resnet_50, resnet_101, resnet_152
from matconvnet.zoo.vgg import vgg_m, vgg_s, vgg_vd_16, vgg_vd_19

NETWORKS: dict[str, Callable[..., Network]] = {
    "alexnet": alexnet,
    "alexnet-bnorm": partial(alexnet, batch_normalization=True),
    "cifar-lenet": cifar_lenet,
    "cifar-nin": cifar_nin,
    "dncnn": dncnn,
    "fashion": fashion,
    "inception": inception,
    "lenet": lenet,
    "lenet-bnorm": partial(lenet, batch_normalization=True),
    "resnet-20": resnet_20,
    "resnet-50": resnet_50,
    "resnet-101": resnet_101,
    "resnet-152": resnet_152,
    "vgg-f": vgg_f,
    "vgg-f-bnorm": partial(vgg_f, batch_normalization=True),
    "vgg-m": vgg_m,
    "vgg-m-bnorm": partial(vgg_m, batch_normalization=True),
    "vgg-s": vgg_s,
    "vgg-s-bnorm": partial(vgg_s, batch_normalization=True),
    "vgg-vd-16": vgg_vd_16,
    "vgg-vd-16-bnorm": partial(vgg_vd_16, batch_normalization=True),
    "vgg-vd-19": vgg_vd_19,
    "vgg-vd-19-bnorm": partial(vgg_vd_19, batch_normalization=True),
}
"""What builds each network, by its name; all take `seed`, that of the random weights."""
