"""Computational blocks: pure functions with their derivatives, one block a file.

`LAYERS` lists their layer forms, in alphabetical order: whatever handles layers in general
(networks, files, tables, tests) reads it, and nothing else names them all.
"""

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.concat import Concat
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.crop import Crop
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.lpnorm import LpNorm
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.noffset import NormOffset
from matconvnet.blocks.pdist import PDist
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.roipool import RoiPool
from matconvnet.blocks.sampler import BilinearSampler
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmax import Softmax
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.blocks.spnorm import SpNorm
from matconvnet.layer import Layer

LAYERS: tuple[type[Layer], ...] = (
    BatchNorm,
    BilinearSampler,
    Concat,
    Conv,
    ConvTranspose,
    Crop,
    Dropout,
    Loss,
    LpNorm,
    LRN,
    NormOffset,
    PDist,
    Pooling,
    ReLU,
    RoiPool,
    Sigmoid,
    Softmax,
    SoftmaxLoss,
    SpNorm,
)
