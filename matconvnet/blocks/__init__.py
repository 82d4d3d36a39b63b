"""Computational blocks: pure functions with their derivatives, one block a file.

`LAYERS` lists their layer forms, in alphabetical order: whatever handles layers in general
(networks, files, tables, tests) reads it, and nothing else names them all.
"""

from matconvnet.blocks.affine_grid import AffineGrid
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
from matconvnet.blocks.scale import Scale
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.smooth_l1 import SmoothL1
from matconvnet.blocks.softmax import Softmax
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.blocks.spnorm import SpNorm
from matconvnet.blocks.sum import Sum
from matconvnet.blocks.uniform_grid import UniformGrid
from matconvnet.layer import Layer

LAYERS: tuple[type[Layer], ...] = (
    AffineGrid,
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
    Scale,
    Sigmoid,
    SmoothL1,
    Softmax,
    SoftmaxLoss,
    SpNorm,
    Sum,
    UniformGrid,
)
