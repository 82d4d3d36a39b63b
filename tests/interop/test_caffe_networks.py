"""Caffe networks of known kinds: each computes what Caffe's rules, in `caffe_rules`, say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import matconvnet as mcn
from matconvnet.blocks import BatchNorm, Dropout, Scale
from matconvnet.interop.caffe import load_caffe
from tests.helpers import assert_close, randn
from tests.interop import caffe_rules as caffe
from tests.interop.caffe_text import (
    DOUBLE,
    LENET,
    LENET_WEIGHTS,
    OLD_LENET,
    RESIDUAL,
    RESIDUAL_WEIGHTS,
    SINGLE,
    data,
    floats,
    layer,
    lenet,
    run,
)


@pytest.mark.parametrize(("text", "old"), [(LENET, False), (OLD_LENET, True)], ids=["now", "2014"])
def test_lenet(caffe_net, text, old):
    net = caffe_net(text, LENET_WEIGHTS, old)
    x = randn((3, 1, 15, 13))
    assert_close(run(net, x, "ip2"), lenet(x), DOUBLE)
    assert_close(run(net, x), lenet(x).softmax(1), DOUBLE)
    assert list(net.vars) == [
        "data",
        "conv1",
        "pool1",
        "conv2",
        "pool2",
        "ip1",
        "ip1x",
        "ip2",
        "prob",
    ]
    assert list(net.params) == [
        "conv1_filter", "conv1_bias", "conv2_filter", "ip1_filter", "ip1_bias", "ip2_filter",
        "ip2_bias",
    ]  # fmt: skip
    assert net.params["ip1_filter"].value.shape == (3, 2, 5, 6)
    assert net.meta["inputs"] == [{"name": "data", "size": [15, 13, 1, 2]}]


def test_alexnet_with_groups_lrn_and_colours(caffe_net):
    body = "convolution_param { num_output: 6 kernel_size: 5 stride: 2 pad_h: 2 pad_w: 1 }"
    text = data(1, 3, 21, 19) + (
        layer("conv/1-a", "Convolution", "data", None, body)
        + layer("relu1", "ReLU", "conv/1-a", "conv/1-a")
        + layer("norm1", "LRN", "conv/1-a", None, "lrn_param { local_size: 3 alpha: 0.9 k: 2 }")
        + layer("conv2", "Convolution", "norm1", None,
                "convolution_param { num_output: 4 kernel_size: 3 group: 2 dilation: 2 }")
        + layer("fc", "InnerProduct", "conv2", None, "inner_product_param { num_output: 3 }")
        + layer("drop", "Dropout", "fc", "fc", "dropout_param { dropout_ratio: 0.25 }")
    )  # fmt: skip
    weights = {
        "conv/1-a": [floats(6, 3, 5, 5), floats(6, seed=1)],
        "conv2": [floats(4, 3, 3, 3, seed=2), floats(4, seed=3)],
        "fc": [floats(3, 4 * 7 * 5, seed=4), floats(3, seed=5)],
    }
    net = caffe_net(text, weights)
    bgr = randn((2, 3, 21, 19))
    y = caffe.conv(bgr, *weights["conv/1-a"], stride=2, pad=(2, 1)).relu()
    y = caffe.conv(caffe.lrn(y, 3, 0.9, k=2), *weights["conv2"], dilation=2, group=2)
    want = caffe.inner_product(y, *weights["fc"])
    assert_close(run(net, bgr.flip(1)), want, DOUBLE)
    assert list(net.layers) == ["conv_1_a", "relu1", "norm1", "conv2", "fc", "drop"]
    assert net.layers["drop"].block == Dropout(0.25)
    assert_close(run(caffe_net(text, weights, color_format="rgb"), bgr), want, DOUBLE)
    without = caffe_net(text, weights, remove_dropout=True)
    assert (list(without.layers)[-1], without.prediction) == ("fc", "fc")


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from(["MAX", "AVE"]),
    st.booleans(),
)
def test_pooling_is_that_of_caffe(tmp_path_factory, size, kernel, stride, pad, method, floor):
    pad = tuple(min(p, k - 1) for p, k in zip(pad, kernel, strict=True))
    if any(n + 2 * p < k for n, p, k in zip(size, pad, kernel, strict=True)):
        return
    x = randn((2, 2, *size))
    body = (
        f"pool: {method} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} "
        f"stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]}"
        + (" round_mode: FLOOR" if floor else "")
    )
    path = tmp_path_factory.mktemp("pool") / "net.prototxt"
    path.write_text(
        data(2, 2, *size) + layer("y", "Pooling", "data", None, f"pooling_param {{ {body} }}")
    )
    beyond = not any(pad) and not floor and any(
        -(-(n - k) // s) * s >= n for n, k, s in zip(size, kernel, stride, strict=True)
    )  # fmt: skip
    if beyond:
        with pytest.raises(mcn.FormatError, match=r"layer 'y' \(Pooling\): its last window"):
            load_caffe(path)
        return
    net = load_caffe(path).to(torch.float64)
    want = caffe.pool(x, kernel, stride, pad, method, floor)
    assert_close(run(net, x, "y"), want, DOUBLE)
    assert net.get_var_sizes({"data": (*size, 2, 2)})["y"] == (*want.shape[2:], 2, 2)


def test_means_over_padding_hold_for_other_sizes_too(caffe_net):
    body = "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"
    net = caffe_net(data(1, 2, 8, 8) + layer("y", "Pooling", "data", None, body))
    for h, w in [(8, 8), (7, 6), (5, 11)]:
        x = randn((1, 2, h, w))
        assert_close(run(net, x), caffe.pool(x, (3, 3), (2, 2), (1, 1), "AVE"), DOUBLE)
    assert net.params["y_pad_filter"].learning_rate == 0
    assert net.params["y_pad_filter"].weight_decay == 0


def test_global_pooling(caffe_net):
    body = "pooling_param { pool: AVE global_pooling: true }"
    x = randn((2, 3, 4, 5))
    net = caffe_net(data(1, 3, 4, 5) + layer("y", "Pooling", "data", None, body))
    assert_close(run(net, x), x.mean((2, 3), keepdim=True), DOUBLE)


@pytest.mark.parametrize("simplify", [True, False])
def test_a_residual_block(caffe_net, simplify):
    net, w = caffe_net(RESIDUAL, RESIDUAL_WEIGHTS, simplify=simplify), RESIDUAL_WEIGHTS
    x = randn((2, 4, 6, 5))
    main = caffe.scale(
        caffe.batch_norm(caffe.conv(x, *w["conv"], pad=1), *w["bn"], 0.01), *w["scale"]
    )
    short = caffe.scale(caffe.batch_norm(x, *w["bn2"]), *w["scale2"])
    # Moments and what follows from them are stored as float32.
    assert_close(run(net, x), main.relu() + short, SINGLE)
    kinds = [type(record.block) for record in net.layers.values()]
    assert (kinds.count(BatchNorm), kinds.count(Scale)) == (2, 0 if simplify else 2)
    rates = {name: param.learning_rate for name, param in net.params.items()}
    if simplify:
        assert (rates["bn_mult"], rates["bn_bias"], rates["bn2_mult"]) == (1, 1, 1)
        assert rates["bn2_bias"] == 0
        assert "scale_mult" not in rates
    else:
        assert (rates["bn_mult"], rates["bn_bias"], rates["scale_mult"]) == (0, 0, 1)
    assert net.params["bn_moments"].train_method == "average"


def test_a_scale_stays_where_others_read_the_norm(caffe_net):
    text = data(1, 2, 3, 3) + (
        layer("bn", "BatchNorm", "data")
        + layer("scale", "Scale", "bn")
        + layer("sum", "Eltwise", "bn scale")
    )
    ones = np.ones(2, np.float32)
    weights = {"bn": [0 * ones, ones, ones[:1]], "scale": [2 * ones]}
    x = randn((1, 2, 3, 3))
    assert_close(run(caffe_net(text, weights), x), 3 * x / np.sqrt(1 + 1e-5), SINGLE)


FCN = data(1, 2, 9, 8) + (
    layer("conv", "Convolution", "data", None,
          "convolution_param { num_output: 4 kernel_size: 3 pad: 5 }")
    + layer("pool", "Pooling", "conv", None, "pooling_param { kernel_size: 2 stride: 2 }")
    + layer("up", "Deconvolution", "pool", None,
            "convolution_param { num_output: 6 kernel_size: 4 stride: 2 group: 2 pad: 1 }")
    + layer("score", "Crop", "up data", None, "{crop}")
)  # fmt: skip
FCN_WEIGHTS = {
    "conv": [floats(4, 2, 3, 3), floats(4, seed=1)],
    "up": [floats(4, 3, 4, 4, seed=2), floats(6, seed=3)],
}


@pytest.mark.parametrize(
    ("crop", "offset"),
    [("crop_param { axis: 2 offset: 3 offset: 2 }", (3, 2)), ("crop_param { offset: 4 }", (4, 4)),
     ("crop_param {}", (0, 0)), ("", (4, 4))],
)  # fmt: skip
def test_a_fully_convolutional_network(caffe_net, crop, offset):
    net = caffe_net(FCN.replace("{crop}", crop), FCN_WEIGHTS, preproc="fcn")
    x = randn((2, 2, 9, 8))
    y = caffe.pool(caffe.conv(x, *FCN_WEIGHTS["conv"], pad=5), (2, 2), (2, 2))
    y = caffe.deconv(y, *FCN_WEIGHTS["up"], stride=2, pad=1, group=2)
    assert_close(run(net, x), caffe.crop(y, x, offset), DOUBLE)


def test_crop_without_offset_starts_at_0_unless_told_otherwise(caffe_net):
    with pytest.warns(UserWarning, match=r"'score' crops from 0.*preproc='fcn'.*\(4, 4\)"):
        net = caffe_net(FCN.replace("{crop}", ""), FCN_WEIGHTS)
    assert net.layers["score"].block.crop == (0, 0)


def test_offsets_of_fcn_8s(caffe_net):
    """Published files of FCN-8s name the offsets 5, 9 and 31 that its fork worked out."""

    def conv(name, bottom, kernel, pad=0, outputs=2):
        body = f"num_output: {outputs} kernel_size: {kernel} pad: {pad}"
        return layer(name, "Convolution", bottom, None, f"convolution_param {{ {body} }}")

    def up(name, bottom, kernel, stride):
        body = f"num_output: 2 kernel_size: {kernel} stride: {stride} bias_term: false"
        return layer(name, "Deconvolution", bottom, None, f"convolution_param {{ {body} }}")

    text, last = data(1, 3, 500, 480), "data"
    for i, convs in enumerate((2, 2, 3, 3, 3), 1):
        for j in range(1, convs + 1):
            text += conv(f"conv{i}_{j}", last, 3, 100 if (i, j) == (1, 1) else 1)
            last = f"conv{i}_{j}"
        text += layer(
            f"pool{i}", "Pooling", last, None, "pooling_param { kernel_size: 2 stride: 2 }"
        )
        last = f"pool{i}"
    text += conv("fc6", last, 7) + conv("score_fr", "fc6", 1)
    text += up("upscore2", "score_fr", 4, 2) + conv("score_pool4", "pool4", 1)
    text += layer("score_pool4c", "Crop", "score_pool4 upscore2")
    text += layer(
        "fuse4", "Eltwise", "upscore2 score_pool4c", None, "eltwise_param { operation: SUM }"
    )
    text += up("upscore4", "fuse4", 4, 2) + conv("score_pool3", "pool3", 1)
    text += layer("score_pool3c", "Crop", "score_pool3 upscore4")
    text += layer("fuse3", "Eltwise", "upscore4 score_pool3c")
    text += up("upscore8", "fuse3", 16, 8) + layer("score", "Crop", "upscore8 data")
    net = caffe_net(text, preproc="fcn")
    offsets = {
        name: net.layers[name].block.crop for name in ("score_pool4c", "score_pool3c", "score")
    }
    assert offsets == {"score_pool4c": (5, 5), "score_pool3c": (9, 9), "score": (31, 31)}


def test_fast_rcnn(caffe_net):
    text = data(1, 3, 20, 24) + data(4, 5, name="rois") + (
        layer("conv", "Convolution", "data", None,
              "convolution_param { num_output: 2 kernel_size: 3 stride: 2 pad: 1 }")
        + layer("roi", "ROIPooling", "conv rois", None,
                "roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.5 }")
        + layer("fc", "InnerProduct", "roi", None, "inner_product_param { num_output: 3 }")
        + layer("relu", "ReLU", "fc", "fc")
    )  # fmt: skip
    weights = {
        "conv": [floats(2, 3, 3, 3), floats(2, seed=1)],
        "fc": [floats(3, 2 * 3 * 2, seed=2), floats(3, seed=3)],
    }
    net = caffe_net(text, weights)
    rois = torch.tensor(
        [[0, 0, 0, 23, 19], [1, 3, 5, 9, 8], [0, 12, 2, 13, 18], [1, 20, 15, 30, 26]]
    ).double()
    x = randn((2, 3, 20, 24))
    maps = caffe.conv(x, *weights["conv"], stride=2, pad=1)
    want = caffe.inner_product(caffe.roi_pool(maps, rois, (3, 2), 0.5), *weights["fc"]).relu()
    assert_close(run(net, x.flip(1), rois=rois.t()), want, DOUBLE)
    assert net.meta["inputs"][1] == {"name": "rois", "size": [5, 4, 1, 1]}
