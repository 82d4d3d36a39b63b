"""Prototxt of small networks, and their evaluation in Caffe's order of axes."""

import numpy as np
import torch

from tests.helpers import randn
from tests.interop import caffe_rules as caffe
from tests.tolerances import REFERENCE

DOUBLE, SINGLE = REFERENCE[torch.float64], REFERENCE[torch.float32]


def data(*shape, name="data"):
    dims = " ".join(f"dim: {n}" for n in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" ' + (
        f"input_param {{ shape {{ {dims} }} }} }}\n"
    )


def layer(name, kind, bottom, top=None, body=""):
    bottoms = " ".join(f'bottom: "{b}"' for b in bottom.split())
    tops = " ".join(f'top: "{t}"' for t in (name if top is None else top).split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {tops} {body} }}\n'


def floats(*shape, seed=0):
    return randn(shape, seed, torch.float32).numpy()


def run(net, x, variable=None, **others):
    """Evaluate a network on N x C x H x W; N x C x H x W of a variable, by default the last."""
    net.eval({"data": x.permute(2, 3, 1, 0), **others})
    return net.vars[variable or net.prediction].value.permute(3, 2, 0, 1)


LENET = data(2, 1, 15, 13) + (
    layer("conv1", "Convolution", "data", None,
          "convolution_param { num_output: 4 kernel_size: 3 }")
    + layer("pool1", "Pooling", "conv1", None, "pooling_param { kernel_size: 2 stride: 2 }")
    + layer("conv2", "Convolution", "pool1", None,
            "convolution_param { num_output: 5 kernel_h: 2 kernel_w: 3 bias_term: false }")
    + layer("pool2", "Pooling", "conv2", None, "pooling_param { kernel_size: 3 stride: 2 }")
    + layer("ip1", "InnerProduct", "pool2", None, "inner_product_param { num_output: 6 }")
    + layer("relu1", "ReLU", "ip1", "ip1", "relu_param { negative_slope: 0.25 }")
    + layer("ip2", "InnerProduct", "ip1", None, "inner_product_param { num_output: 3 }")
    + layer("prob", "Softmax", "ip2")
)  # fmt: skip

OLD_LENET = """
input: "data" input_dim: 2 input_dim: 1 input_dim: 15 input_dim: 13
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
         convolution_param { num_output: 4 kernel_size: 3 } }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1"
         pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { name: "conv2" type: CONVOLUTION bottom: "pool1" top: "conv2"
         convolution_param { num_output: 5 kernel_h: 2 kernel_w: 3 bias_term: false } }
layers { name: "pool2" type: POOLING bottom: "conv2" top: "pool2"
         pooling_param { kernel_size: 3 stride: 2 } }
layers { name: "ip1" type: INNER_PRODUCT bottom: "pool2" top: "ip1"
         inner_product_param { num_output: 6 } }
layers { name: "relu1" type: RELU bottom: "ip1" top: "ip1" relu_param { negative_slope: 0.25 } }
layers { name: "ip2" type: INNER_PRODUCT bottom: "ip1" top: "ip2"
         inner_product_param { num_output: 3 } }
layers { name: "prob" type: SOFTMAX bottom: "ip2" top: "prob" }
"""

LENET_WEIGHTS = {
    "conv1": [floats(4, 1, 3, 3), floats(4, seed=1)],
    "conv2": [floats(5, 4, 2, 3, seed=2)],
    "ip1": [floats(6, 5 * 3 * 2, seed=3), floats(6, seed=4)],
    "ip2": [floats(3, 6, seed=5), floats(3, seed=6)],
}


def lenet(x):
    w = LENET_WEIGHTS
    y = caffe.pool(caffe.conv(x, *w["conv1"]), (2, 2), (2, 2))
    y = caffe.pool(caffe.conv(y, *w["conv2"]), (3, 3), (2, 2))
    y = torch.nn.functional.leaky_relu(caffe.inner_product(y, *w["ip1"]), 0.25)
    return caffe.inner_product(y, *w["ip2"])


NORM = "batch_norm_param { use_global_stats: true eps: 0.01 }"

RESIDUAL = data(1, 4, 6, 5) + (
    layer("conv", "Convolution", "data", None,
          "convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false }")
    + layer("bn", "BatchNorm", "conv", "conv", NORM)
    + layer("scale", "Scale", "conv", "conv", "scale_param { bias_term: true }")
    + layer("relu", "ReLU", "conv", "conv")
    + layer("bn2", "BatchNorm", "data", "short")
    + layer("scale2", "Scale", "short", "short")
    + layer("sum", "Eltwise", "conv short")
)  # fmt: skip

RESIDUAL_WEIGHTS = {
    "conv": [floats(4, 4, 3, 3)],
    "bn": [floats(4, seed=1), floats(4, seed=2) ** 2, np.float32([2.5])],
    "scale": [floats(4, seed=3), floats(4, seed=4)],
    "bn2": [floats(4, seed=5), floats(4, seed=6) ** 2 + 1, np.float32([0.5])],
    "scale2": [floats(4, seed=7)],
}
