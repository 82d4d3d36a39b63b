"""Layers of Caffe one by one: each computes what Caffe's rules, in `caffe_rules`, say."""

import numpy as np
import pytest
import torch

import matconvnet as mcn
from tests.helpers import assert_close, randn
from tests.interop import caffe_rules as caffe
from tests.interop.caffe_text import (
    DOUBLE,
    NORM,
    RESIDUAL,
    RESIDUAL_WEIGHTS,
    SINGLE,
    data,
    floats,
    layer,
    run,
)


def test_eltwise(caffe_net):
    text = data(2, 3, 4, 5) + data(2, 3, 4, 5, name="b") + data(2, 3, 4, 5, name="c") + (
        layer("sum", "Eltwise", "data b c", None, "eltwise_param { coeff: 1 coeff: -1 coeff: 0.5 }")
        + layer("product", "Eltwise", "sum b c", None, "eltwise_param { operation: PROD }")
    )  # fmt: skip
    a, b, c = (randn((2, 3, 4, 5), seed) for seed in range(3))
    others = {"b": b.permute(2, 3, 1, 0), "c": c.permute(2, 3, 1, 0)}
    net = caffe_net(text)
    assert_close(run(net, a, "product", **others), (a - b + c / 2) * b * c, DOUBLE)
    assert net.params["sum_coeff2"].learning_rate == 0
    with pytest.raises(mcn.FormatError, match=r"layer 'product' \(Eltwise\): it takes the maximum"):
        caffe_net(text.replace("PROD", "MAX"))


@pytest.mark.parametrize(
    ("options", "shape"),
    [("axis: 1", (3, 1, 1)), ("axis: 1 num_axes: 2", (3, 4, 1)), ("axis: 2", (4, 1)),
     ("axis: 3", (5,)), ("axis: 1 num_axes: -1", (3, 4, 5)), ("axis: 1 num_axes: 0", (1, 1, 1))],
)  # fmt: skip
def test_scale(caffe_net, options, shape):
    sizes = tuple(n for n in shape if n > 1)
    weights = {"y": [floats(*sizes), floats(*sizes, seed=1)]}
    text = data(2, 3, 4, 5) + layer(
        "y", "Scale", "data", None, f"scale_param {{ {options} bias_term: true }}"
    )
    x = randn((2, 3, 4, 5))
    a, b = (torch.from_numpy(v).double().reshape(shape) for v in weights["y"])
    assert_close(run(caffe_net(text, weights, color_format="rgb"), x), x * a + b, DOUBLE)
    got = run(caffe_net(text, weights), x.flip(1))
    assert_close(got.flip(1), x * a + b, DOUBLE)


def test_scale_by_another_map(caffe_net):
    """Squeeze and excitation: a factor for every channel of every image."""
    text = data(2, 4, 3, 3) + (
        layer("pool", "Pooling", "data", None, "pooling_param { pool: AVE global_pooling: true }")
        + layer("fc", "InnerProduct", "pool", None, "inner_product_param { num_output: 4 }")
        + layer("gate", "Sigmoid", "fc", "fc")
        + layer("y", "Scale", "data fc", None, "scale_param { axis: 0 }")
    )
    weights = {"fc": [floats(4, 4), floats(4, seed=1)]}
    x = randn((2, 4, 3, 3))
    gate = caffe.inner_product(x.mean((2, 3), keepdim=True), *weights["fc"]).sigmoid()
    assert_close(run(caffe_net(text, weights), x), x * gate, DOUBLE)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("transpose", [True, False])
def test_concat(caffe_net, axis, transpose):
    text = data(2, 4, 3, 5) + data(2, 4, 3, 5, name="b")
    text += layer("y", "Concat", "data b", None, f"concat_param {{ axis: {axis} }}")
    a, b = randn((2, 4, 3, 5)), randn((2, 4, 3, 5), 1)
    x, other = (a, b) if transpose else (a.mT, b.mT)
    got = run(caffe_net(text, transpose=transpose), x, "y", b=other.permute(2, 3, 1, 0))
    assert_close(got if transpose else got.mT, torch.cat((a, b), axis), DOUBLE)


def test_flattened_maps_are_read_by_inner_products_alone(caffe_net):
    text = data(2, 2, 3, 4) + (
        layer("flat", "Flatten", "data")
        + layer("again", "Reshape", "flat", None, "reshape_param { shape { dim: 0 dim: -1 } }")
        + layer("relu", "ReLU", "again", "again")
        + layer("same", "Split", "again", "one two")
        + layer("fc", "InnerProduct", "two", None, "inner_product_param { num_output: 3 }")
    )
    weights = {"fc": [floats(3, 24), floats(3, seed=1)]}
    x = randn((2, 2, 3, 4))
    want = caffe.inner_product(x.relu(), *weights["fc"])
    assert_close(run(caffe_net(text, weights), x), want, DOUBLE)
    with pytest.raises(mcn.FormatError, match=r"layer 'p' \(Softmax\).*'one'.* flattened"):
        caffe_net(text + layer("p", "Softmax", "one"), weights)


def test_reshaping_that_changes_nothing(caffe_net):
    text = data(2, 2, 3, 4) + layer(
        "y", "Reshape", "data", None, "reshape_param { shape { dim: 2 dim: 0 dim: 3 dim: -1 } }"
    )
    net = caffe_net(text + layer("relu", "ReLU", "y", "y"))
    assert net.layers["relu"].inputs == ("data",)
    bad = text.replace("dim: 2 dim: 0 dim: 3 dim: -1", "dim: 0 dim: 3 dim: 2 dim: 4")
    with pytest.raises(mcn.FormatError, match=r"'y' \(Reshape\): it turns \(2, 2, 3, 4\)"):
        caffe_net(bad + layer("relu", "ReLU", "y", "y"))


def test_grey_images_and_their_filters_stay(caffe_net):
    text = data(1, 1, 5, 5) + layer(
        "y", "Convolution", "data", None, "convolution_param { num_output: 3 kernel_size: 3 }"
    )
    weights = {"y": [floats(3, 1, 3, 3), floats(3, seed=1)]}
    x = randn((2, 1, 5, 5))
    assert_close(run(caffe_net(text, weights), x), caffe.conv(x, *weights["y"]), DOUBLE)


def test_colours_are_turned_through_whatever_reads_the_image_first(caffe_net):
    """Normalisation of the image, then a sum with another image, a deconvolution, and filters."""
    text = data(1, 3, 4, 4) + data(1, 3, 4, 4, name="b") + (
        layer("bn", "BatchNorm", "data")
        + layer("scale", "Scale", "bn", "bn", "scale_param { bias_term: true }")
        + layer("pool", "Pooling", "bn", None, "pooling_param { kernel_size: 2 }")
        + layer("sum", "Eltwise", "data b")
        + layer("up", "Deconvolution", "sum", None,
                "convolution_param { num_output: 2 kernel_size: 2 bias_term: false }")
        + layer("fc", "InnerProduct", "pool", None, "inner_product_param { num_output: 2 }")
    )  # fmt: skip
    weights = {
        "bn": [floats(3), floats(3, seed=1) ** 2, np.float32([1])],
        "scale": [floats(3, seed=2), floats(3, seed=3)],
        "up": [floats(3, 2, 2, 2, seed=4)],
        "fc": [floats(2, 27, seed=5), floats(2, seed=6)],
    }
    x, b = randn((2, 3, 4, 4)), randn((2, 3, 4, 4), 1)
    y = caffe.scale(caffe.batch_norm(x, *weights["bn"]), *weights["scale"])
    want = caffe.inner_product(caffe.pool(y, (2, 2)), *weights["fc"])
    net = caffe_net(text, weights)
    assert_close(run(net, x.flip(1), "fc", b=b.flip(1).permute(2, 3, 1, 0)), want, SINGLE)
    up = net.vars["up"].value.permute(3, 2, 0, 1)
    assert_close(up, caffe.deconv(x + b, *weights["up"]), DOUBLE)


def test_vectors_of_three_are_no_colours(caffe_net):
    text = data(2, 3, name="data") + layer(
        "y", "InnerProduct", "data", None, "inner_product_param { num_output: 2 transpose: true }"
    )
    weights = {"y": [floats(3, 2), floats(2, seed=1)]}
    x = randn((2, 3, 1, 1))
    want = caffe.inner_product(x, weights["y"][0].T, weights["y"][1])
    assert_close(run(caffe_net(text, weights), x), want, DOUBLE)


def test_lrn_where_the_file_gives_no_numbers(caffe_net):
    x = 2 * randn((1, 7, 2, 3))
    net = caffe_net(data(1, 7, 2, 3) + layer("y", "LRN", "data"))
    assert_close(run(net, x), caffe.lrn(x), DOUBLE)


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ([floats(4), -np.ones(4), np.ones(1)], "its means and variances are negative"),
        ([floats(4), np.ones(4), np.float32([np.nan])], "or no numbers at all"),
        ([floats(4), np.ones(3), np.ones(1)], r"blob 1 has shape \(3,\); wanted \(4"),
        ([floats(4), np.ones(4)], "2 blobs of it are in the caffemodel; wanted 3"),
    ],
)
def test_bad_moments(caffe_net, blobs, message):
    with pytest.raises(mcn.FormatError, match=r"layer 'bn' \(BatchNorm\): .*" + message):
        caffe_net(RESIDUAL, {**RESIDUAL_WEIGHTS, "bn": blobs})


def test_moments_of_nothing_are_0(caffe_net):
    text = data(1, 2, 3, 3) + layer("bn", "BatchNorm", "data", None, NORM)
    weights = {"bn": [floats(2), np.ones(2), np.zeros(1)]}
    x = randn((1, 2, 3, 3))
    assert_close(run(caffe_net(text, weights), x), x / 0.1, SINGLE)
    with pytest.warns(UserWarning, match="'bn' says use_global_stats: false"):
        caffe_net(text.replace("true", "false"), weights)


@pytest.mark.parametrize(
    "joined",
    [layer("y", "Concat", "data data"), layer("y", "Eltwise", "data conv"),
     layer("y", "Convolution", "data", None,
           "convolution_param { num_output: 3 group: 3 kernel_size: 1 }"),
     layer("y", "SoftmaxWithLoss", "data conv")],
)  # fmt: skip
def test_what_would_mix_up_colours_is_refused(caffe_net, joined):
    text = data(1, 3, 4, 4) + layer(
        "conv", "Convolution", "data", None, "convolution_param { num_output: 3 kernel_size: 1 }"
    )
    weights = {
        "conv": [floats(3, 3, 1, 1), floats(3)],
        "y": [floats(3, 1, 1, 1), floats(3)],
    }
    with pytest.raises(mcn.FormatError, match=r"layer 'y' .*color_format='rgb'"):
        caffe_net(text + joined, weights)
    caffe_net(text + joined, weights, color_format="rgb")


def test_networks_of_transposed_images(caffe_net):
    """With transpose=False a network reads and writes maps whose rows are columns."""
    text = data(1, 2, 11, 9) + (
        layer("conv", "Convolution", "data", None,
              "convolution_param { num_output: 3 kernel_size: 3 kernel_size: 2 stride: 1 stride: 2 "
              "pad: 2 pad: 0 dilation: 1 dilation: 2 }")
        + layer("pool", "Pooling", "conv", None,
                "pooling_param { pool: AVE kernel_h: 3 kernel_w: 2 "
                "stride_h: 2 stride_w: 1 pad_h: 1 }")
        + layer("scale", "Scale", "pool", None, "scale_param { num_axes: 3 }")
        + layer("up", "Deconvolution", "scale", None,
                "convolution_param { num_output: 2 kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1 "
                "pad_h: 1 pad_w: 0 }")
        + layer("crop", "Crop", "up pool", None, "crop_param { offset: 2 offset: 1 }")
        + layer("fc", "InnerProduct", "crop", None, "inner_product_param { num_output: 3 }")
    )  # fmt: skip
    weights = {
        "conv": [floats(3, 2, 3, 2), floats(3, seed=1)],
        "scale": [floats(3, 7, 3, seed=2)],
        "up": [floats(3, 2, 3, 2, seed=3), floats(2, seed=4)],
        "fc": [floats(3, 2 * 7 * 3, seed=5), floats(3, seed=6)],
    }
    x = randn((2, 2, 11, 9))
    want = run(caffe_net(text, weights), x)
    y = caffe.conv(x, *weights["conv"], stride=(1, 2), pad=(2, 0), dilation=(1, 2))
    pooled = caffe.pool(y, (3, 2), (2, 1), (1, 0), "AVE")
    y = pooled * torch.from_numpy(weights["scale"][0]).double()
    y = caffe.deconv(y, *weights["up"], stride=(2, 1), pad=(1, 0))
    y = caffe.crop(y, pooled, (2, 1))
    assert_close(want, caffe.inner_product(y, *weights["fc"]), DOUBLE)
    turned = caffe_net(text, weights, transpose=False, full_image_size=(22, 10))
    assert_close(run(turned, x.mT), want, DOUBLE)
    assert_close(turned.vars["crop"].value.permute(3, 2, 1, 0), y, DOUBLE)
    assert turned.meta["normalization"]["imageSize"] == [9, 11, 2]
    assert turned.meta["normalization"]["cropSize"] == [9 / 10, 0.5]
