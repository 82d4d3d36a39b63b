"""Small networks to convert: one of ours, and one of Caffe."""

import torch

import matconvnet as mcn
from matconvnet.values import Cell
from tests.helpers import randn


def chain():
    """Convolution, batch normalisation, dropout, and a loss."""
    moments = torch.stack((randn((4,), 5), randn((4,), 6).abs() + 0.5), 1)
    return mcn.SimpleNN(
        [
            {"type": "conv", "weights": [randn((3, 3, 2, 4)), randn((4,), 1)], "pad": 1,
             "name": "conv1", "momentum": Cell([1.0, 2.0])},
            {"type": "bnorm", "weights": [randn((4,), 3), randn((4,), 4), moments], "name": "bn1"},
            {"type": "relu"},
            {"type": "dropout", "rate": 0.5, "name": "drop"},
            {"type": "conv", "weights": [randn((1, 1, 4, 3), 7), randn((3,), 8)]},
            {"type": "softmaxloss", "class": torch.tensor([1.0, 2.0]), "name": "loss"},
        ],
        {"inputSize": [6.0, 5.0, 2.0]},
    ).to(torch.float32)  # fmt: skip


LENET = """
input: "data" input_shape { dim: 1 dim: 1 dim: 8 dim: 8 }
layer { name: "c/1" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }
layer { name: "fc" type: "InnerProduct" bottom: "c" top: "fc"
        inner_product_param { num_output: 3 } }
"""
WEIGHTS = {
    "c/1": [randn((2, 1, 3, 3)).numpy(), randn((2,), 1).numpy()],
    "fc": [randn((3, 72), 2).numpy(), randn((3,), 3).numpy()],
}
