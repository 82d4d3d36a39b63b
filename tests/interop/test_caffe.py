"""Caffe networks: each computes here what Caffe's rules, written down in `caffe_rules`, say."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import matconvnet as mcn
from matconvnet.blocks import BatchNorm, Conv, Dropout, Loss, Scale
from matconvnet.interop.caffe import load_caffe
from tests.helpers import assert_close, randn
from tests.interop import caffe_rules as caffe
from tests.interop.caffe_files import caffemodel
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


@pytest.fixture
def load(tmp_path):
    """Write files of a network, and read them: the network, in float64 and test mode."""

    def made(text, weights=None, old=False, **options):
        (tmp_path / "net.prototxt").write_text(text)
        model = None
        if weights is not None:
            model = tmp_path / "net.caffemodel"
            model.write_bytes(caffemodel(weights, old))
        net = load_caffe(tmp_path / "net.prototxt", model, **options).to(torch.float64)
        net.mode, net.conserve_memory = "test", False
        return net

    return made


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


@pytest.mark.parametrize(("text", "old"), [(LENET, False), (OLD_LENET, True)], ids=["now", "2014"])
def test_lenet(load, text, old):
    net = load(text, LENET_WEIGHTS, old)
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


def test_alexnet_with_groups_lrn_and_colours(load):
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
    net = load(text, weights)
    bgr = randn((2, 3, 21, 19))
    y = caffe.conv(bgr, *weights["conv/1-a"], stride=2, pad=(2, 1)).relu()
    y = caffe.conv(caffe.lrn(y, 3, 0.9, k=2), *weights["conv2"], dilation=2, group=2)
    want = caffe.inner_product(y, *weights["fc"])
    assert_close(run(net, bgr.flip(1)), want, DOUBLE)
    assert list(net.layers) == ["conv_1_a", "relu1", "norm1", "conv2", "fc", "drop"]
    assert net.layers["drop"].block == Dropout(0.25)
    assert_close(run(load(text, weights, color_format="rgb"), bgr), want, DOUBLE)
    without = load(text, weights, remove_dropout=True)
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


def test_means_over_padding_hold_for_other_sizes_too(load):
    body = "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"
    net = load(data(1, 2, 8, 8) + layer("y", "Pooling", "data", None, body))
    for h, w in [(8, 8), (7, 6), (5, 11)]:
        x = randn((1, 2, h, w))
        assert_close(run(net, x), caffe.pool(x, (3, 3), (2, 2), (1, 1), "AVE"), DOUBLE)
    assert net.params["y_pad_filter"].learning_rate == 0
    assert net.params["y_pad_filter"].weight_decay == 0


def test_global_pooling(load):
    body = "pooling_param { pool: AVE global_pooling: true }"
    x = randn((2, 3, 4, 5))
    net = load(data(1, 3, 4, 5) + layer("y", "Pooling", "data", None, body))
    assert_close(run(net, x), x.mean((2, 3), keepdim=True), DOUBLE)


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


@pytest.mark.parametrize("simplify", [True, False])
def test_a_residual_block(load, simplify):
    net, w = load(RESIDUAL, RESIDUAL_WEIGHTS, simplify=simplify), RESIDUAL_WEIGHTS
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


def test_a_scale_stays_where_others_read_the_norm(load):
    text = data(1, 2, 3, 3) + (
        layer("bn", "BatchNorm", "data")
        + layer("scale", "Scale", "bn")
        + layer("sum", "Eltwise", "bn scale")
    )
    ones = np.ones(2, np.float32)
    weights = {"bn": [0 * ones, ones, ones[:1]], "scale": [2 * ones]}
    x = randn((1, 2, 3, 3))
    assert_close(run(load(text, weights), x), 3 * x / np.sqrt(1 + 1e-5), SINGLE)


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
def test_a_fully_convolutional_network(load, crop, offset):
    net = load(FCN.replace("{crop}", crop), FCN_WEIGHTS, preproc="fcn")
    x = randn((2, 2, 9, 8))
    y = caffe.pool(caffe.conv(x, *FCN_WEIGHTS["conv"], pad=5), (2, 2), (2, 2))
    y = caffe.deconv(y, *FCN_WEIGHTS["up"], stride=2, pad=1, group=2)
    assert_close(run(net, x), caffe.crop(y, x, offset), DOUBLE)


def test_crop_without_offset_starts_at_0_unless_told_otherwise(load):
    with pytest.warns(UserWarning, match=r"'score' crops from 0.*preproc='fcn'.*\(4, 4\)"):
        net = load(FCN.replace("{crop}", ""), FCN_WEIGHTS)
    assert net.layers["score"].block.crop == (0, 0)


def test_offsets_of_fcn_8s(load):
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
    net = load(text, preproc="fcn")
    offsets = {
        name: net.layers[name].block.crop for name in ("score_pool4c", "score_pool3c", "score")
    }
    assert offsets == {"score_pool4c": (5, 5), "score_pool3c": (9, 9), "score": (31, 31)}


def test_fast_rcnn(load):
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
    net = load(text, weights)
    rois = torch.tensor(
        [[0, 0, 0, 23, 19], [1, 3, 5, 9, 8], [0, 12, 2, 13, 18], [1, 20, 15, 30, 26]]
    ).double()
    x = randn((2, 3, 20, 24))
    maps = caffe.conv(x, *weights["conv"], stride=2, pad=1)
    want = caffe.inner_product(caffe.roi_pool(maps, rois, (3, 2), 0.5), *weights["fc"]).relu()
    assert_close(run(net, x.flip(1), rois=rois.t()), want, DOUBLE)
    assert net.meta["inputs"][1] == {"name": "rois", "size": [5, 4, 1, 1]}


def test_eltwise(load):
    text = data(2, 3, 4, 5) + data(2, 3, 4, 5, name="b") + data(2, 3, 4, 5, name="c") + (
        layer("sum", "Eltwise", "data b c", None, "eltwise_param { coeff: 1 coeff: -1 coeff: 0.5 }")
        + layer("product", "Eltwise", "sum b c", None, "eltwise_param { operation: PROD }")
    )  # fmt: skip
    a, b, c = (randn((2, 3, 4, 5), seed) for seed in range(3))
    others = {"b": b.permute(2, 3, 1, 0), "c": c.permute(2, 3, 1, 0)}
    net = load(text)
    assert_close(run(net, a, "product", **others), (a - b + c / 2) * b * c, DOUBLE)
    assert net.params["sum_coeff2"].learning_rate == 0
    with pytest.raises(mcn.FormatError, match=r"layer 'product' \(Eltwise\): it takes the maximum"):
        load(text.replace("PROD", "MAX"))


@pytest.mark.parametrize(
    ("options", "shape"),
    [("axis: 1", (3, 1, 1)), ("axis: 1 num_axes: 2", (3, 4, 1)), ("axis: 2", (4, 1)),
     ("axis: 3", (5,)), ("axis: 1 num_axes: -1", (3, 4, 5)), ("axis: 1 num_axes: 0", (1, 1, 1))],
)  # fmt: skip
def test_scale(load, options, shape):
    sizes = tuple(n for n in shape if n > 1)
    weights = {"y": [floats(*sizes), floats(*sizes, seed=1)]}
    text = data(2, 3, 4, 5) + layer(
        "y", "Scale", "data", None, f"scale_param {{ {options} bias_term: true }}"
    )
    x = randn((2, 3, 4, 5))
    a, b = (torch.from_numpy(v).double().reshape(shape) for v in weights["y"])
    assert_close(run(load(text, weights, color_format="rgb"), x), x * a + b, DOUBLE)
    got = run(load(text, weights), x.flip(1))
    assert_close(got.flip(1), x * a + b, DOUBLE)


def test_scale_by_another_map(load):
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
    assert_close(run(load(text, weights), x), x * gate, DOUBLE)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("transpose", [True, False])
def test_concat(load, axis, transpose):
    text = data(2, 4, 3, 5) + data(2, 4, 3, 5, name="b")
    text += layer("y", "Concat", "data b", None, f"concat_param {{ axis: {axis} }}")
    a, b = randn((2, 4, 3, 5)), randn((2, 4, 3, 5), 1)
    x, other = (a, b) if transpose else (a.mT, b.mT)
    got = run(load(text, transpose=transpose), x, "y", b=other.permute(2, 3, 1, 0))
    assert_close(got if transpose else got.mT, torch.cat((a, b), axis), DOUBLE)


def test_flattened_maps_are_read_by_inner_products_alone(load):
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
    assert_close(run(load(text, weights), x), want, DOUBLE)
    with pytest.raises(mcn.FormatError, match=r"layer 'p' \(Softmax\).*'one'.* flattened"):
        load(text + layer("p", "Softmax", "one"), weights)


def test_reshaping_that_changes_nothing(load):
    text = data(2, 2, 3, 4) + layer(
        "y", "Reshape", "data", None, "reshape_param { shape { dim: 2 dim: 0 dim: 3 dim: -1 } }"
    )
    net = load(text + layer("relu", "ReLU", "y", "y"))
    assert net.layers["relu"].inputs == ("data",)
    bad = text.replace("dim: 2 dim: 0 dim: 3 dim: -1", "dim: 0 dim: 3 dim: 2 dim: 4")
    with pytest.raises(mcn.FormatError, match=r"'y' \(Reshape\): it turns \(2, 2, 3, 4\)"):
        load(bad + layer("relu", "ReLU", "y", "y"))


def test_grey_images_and_their_filters_stay(load):
    text = data(1, 1, 5, 5) + layer(
        "y", "Convolution", "data", None, "convolution_param { num_output: 3 kernel_size: 3 }"
    )
    weights = {"y": [floats(3, 1, 3, 3), floats(3, seed=1)]}
    x = randn((2, 1, 5, 5))
    assert_close(run(load(text, weights), x), caffe.conv(x, *weights["y"]), DOUBLE)


def test_colours_are_turned_through_whatever_reads_the_image_first(load):
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
    net = load(text, weights)
    assert_close(run(net, x.flip(1), "fc", b=b.flip(1).permute(2, 3, 1, 0)), want, SINGLE)
    up = net.vars["up"].value.permute(3, 2, 0, 1)
    assert_close(up, caffe.deconv(x + b, *weights["up"]), DOUBLE)


def test_vectors_of_three_are_no_colours(load):
    text = data(2, 3, name="data") + layer(
        "y", "InnerProduct", "data", None, "inner_product_param { num_output: 2 transpose: true }"
    )
    weights = {"y": [floats(3, 2), floats(2, seed=1)]}
    x = randn((2, 3, 1, 1))
    want = caffe.inner_product(x, weights["y"][0].T, weights["y"][1])
    assert_close(run(load(text, weights), x), want, DOUBLE)


def test_lrn_where_the_file_gives_no_numbers(load):
    x = 2 * randn((1, 7, 2, 3))
    net = load(data(1, 7, 2, 3) + layer("y", "LRN", "data"))
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
def test_bad_moments(load, blobs, message):
    with pytest.raises(mcn.FormatError, match=r"layer 'bn' \(BatchNorm\): .*" + message):
        load(RESIDUAL, {**RESIDUAL_WEIGHTS, "bn": blobs})


def test_moments_of_nothing_are_0(load):
    text = data(1, 2, 3, 3) + layer("bn", "BatchNorm", "data", None, NORM)
    weights = {"bn": [floats(2), np.ones(2), np.zeros(1)]}
    x = randn((1, 2, 3, 3))
    assert_close(run(load(text, weights), x), x / 0.1, SINGLE)
    with pytest.warns(UserWarning, match="'bn' says use_global_stats: false"):
        load(text.replace("true", "false"), weights)


@pytest.mark.parametrize(
    "joined",
    [layer("y", "Concat", "data data"), layer("y", "Eltwise", "data conv"),
     layer("y", "Convolution", "data", None,
           "convolution_param { num_output: 3 group: 3 kernel_size: 1 }"),
     layer("y", "SoftmaxWithLoss", "data conv")],
)  # fmt: skip
def test_what_would_mix_up_colours_is_refused(load, joined):
    text = data(1, 3, 4, 4) + layer(
        "conv", "Convolution", "data", None, "convolution_param { num_output: 3 kernel_size: 1 }"
    )
    weights = {
        "conv": [floats(3, 3, 1, 1), floats(3)],
        "y": [floats(3, 1, 1, 1), floats(3)],
    }
    with pytest.raises(mcn.FormatError, match=r"layer 'y' .*color_format='rgb'"):
        load(text + joined, weights)
    load(text + joined, weights, color_format="rgb")


def test_networks_of_transposed_images(load):
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
    want = run(load(text, weights), x)
    y = caffe.conv(x, *weights["conv"], stride=(1, 2), pad=(2, 0), dilation=(1, 2))
    pooled = caffe.pool(y, (3, 2), (2, 1), (1, 0), "AVE")
    y = pooled * torch.from_numpy(weights["scale"][0]).double()
    y = caffe.deconv(y, *weights["up"], stride=(2, 1), pad=(1, 0))
    y = caffe.crop(y, pooled, (2, 1))
    assert_close(want, caffe.inner_product(y, *weights["fc"]), DOUBLE)
    turned = load(text, weights, transpose=False, full_image_size=(22, 10))
    assert_close(run(turned, x.mT), want, DOUBLE)
    assert_close(turned.vars["crop"].value.permute(3, 2, 1, 0), y, DOUBLE)
    assert turned.meta["normalization"]["imageSize"] == [9, 11, 2]
    assert turned.meta["normalization"]["cropSize"] == [9 / 10, 0.5]


LOSS = data(2, 4, 1, 1) + data(2, name="label") + layer("loss", "SoftmaxWithLoss", "data label")


def test_a_loss_is_a_sum_over_the_batch(load):
    net = load(LOSS)
    x, c = randn((5, 4, 1, 1)), torch.tensor([0, 2, 1, 2, 3])
    mean = torch.nn.functional.cross_entropy(x.flatten(1), c)
    net.eval({"data": x.permute(2, 3, 1, 0), "label": c}, {"loss": 1})
    assert_close(net.vars["loss"].value, 5 * mean, DOUBLE)
    assert net.layers["loss"].block == Loss()


def test_a_loss_says_what_training_must_know(load):
    said = "loss_weight: 0.3 loss_param { ignore_label: 255 }"
    with pytest.warns(UserWarning, match=r"label 255: here that is -1(.|\n)*loss_weight \[0.3\]"):
        load(LOSS.replace('top: "loss"', f'top: "loss" {said}'))


def test_losses_can_be_left_out(load):
    text = LENET + data(2, name="label") + (
        layer("loss", "SoftmaxWithLoss", "ip2 label")
        + layer("other", "EuclideanLoss", "ip1 label")
        + layer("top5", "Accuracy", "ip2 label")
    )  # fmt: skip
    net = load(text, LENET_WEIGHTS, remove_loss=True)
    assert list(net.layers)[-1] == "prob"
    with pytest.raises(mcn.FormatError, match=r"layer 'other' \(EuclideanLoss\)"):
        load(text, LENET_WEIGHTS)


def test_softmaxes_can_be_appended(load):
    x = randn((2, 1, 15, 13))
    net = load(LENET, LENET_WEIGHTS, append_softmax=["ip2"])
    assert net.layers["softmax"].outputs == ("probx",)
    assert_close(run(net, x, "probx"), lenet(x).softmax(1), DOUBLE)
    net = load(LENET, LENET_WEIGHTS, append_softmax=["ip1", "ip2"])
    assert net.layers["softmax_ip2"].outputs == ("prob_ip2",)
    with pytest.raises(ValueError, match=r"append_softmax names \['ip3'\]"):
        load(LENET, append_softmax=["ip3"])


def test_a_network_without_weights(load):
    net = load(RESIDUAL)
    net.init_params()
    net.to(torch.float64)
    assert run(net, randn((2, 4, 6, 5))).shape == (2, 4, 6, 5)
    net = load(LENET)
    net.init_params()
    net.to(torch.float64)
    assert run(net, randn((2, 1, 15, 13))).shape == (2, 3, 1, 1)


def test_rates_and_shared_parameters(load):
    spec = 'param { name: "w" lr_mult: 2 decay_mult: 0.5 } param { lr_mult: 0.1 }'
    body = "convolution_param { num_output: 2 kernel_size: 3 pad: 1 }"
    text = data(1, 2, 4, 4) + (
        layer("one", "Convolution", "data", None, spec + body)
        + layer("two", "Convolution", "one", None, spec + body)
    )
    weights = {"one": [floats(2, 2, 3, 3), floats(2)], "two": [floats(2, 2, 3, 3), floats(2)]}
    net = load(text, weights)
    assert list(net.params) == ["w", "one_bias", "two_bias"]
    assert (net.params["w"].learning_rate, net.params["w"].weight_decay) == (2, 0.5)
    assert (net.params["two_bias"].learning_rate, net.params["two_bias"].weight_decay) == (0.1, 1)
    weights["two"][0] = 2 * weights["two"][0]
    with pytest.raises(mcn.FormatError, match=r"layer 'two' .*shares parameter 'w'"):
        load(text, weights)


def test_rates_of_old_files(load):
    text = OLD_LENET.replace(
        'top: "ip1"', 'top: "ip1" blobs_lr: 3 blobs_lr: 0 weight_decay: 0.5', 1
    )
    params = load(text, LENET_WEIGHTS, old=True).params
    rates = [(params[f"ip1_{n}"].learning_rate, params[f"ip1_{n}"].weight_decay)
             for n in ("filter", "bias")]  # fmt: skip
    assert rates == [(3, 0.5), (0, 1)]


def test_everything_that_cannot_be_imported_is_told_at_once(load):
    text = LENET + (
        layer("slow", "MVN", "conv1")
        + layer("after", "ReLU", "slow")
        + layer("far", "ArgMax", "after")
        + layer("within", "LRN", "conv1", None, "lrn_param { norm_region: WITHIN_CHANNEL }")
        + layer("even", "LRN", "conv1", None, "lrn_param { local_size: 4 }")
    )
    with pytest.raises(mcn.FormatError) as caught:
        load(text)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("net.prototxt cannot be imported:")
    assert [line.split(":")[0].strip() for line in lines[1:5]] == [
        "layer 'slow' (MVN)", "layer 'far' (ArgMax)", "layer 'within' (LRN)", "layer 'even' (LRN)",
    ]  # fmt: skip
    net = load(text, LENET_WEIGHTS, outputs=["ip2"])
    assert (list(net.layers)[-1], net.prediction) == ("ip2", "ip2")
    with pytest.raises(
        ValueError, match=r"outputs names \['none'\]; wanted among \['data', 'conv1'"
    ):
        load(text, outputs=["none"])


def test_unknown_layers_of_old_files(load):
    text = OLD_LENET + 'layers { name: "m" type: MVN bottom: "ip1" top: "m" }'
    with pytest.raises(mcn.FormatError, match=r"layer 'm' \(Mvn\): no layer here does this"):
        load(text)


def test_the_log_tells_what_became_of_each_layer(load):
    lines = []
    text = RESIDUAL + layer("drop", "Dropout", "sum") + layer("top1", "Accuracy", "sum sum")
    load(text, RESIDUAL_WEIGHTS, remove_dropout=True, log=lines.append)
    assert lines == [
        "data (Input) -> input data",
        "conv (Convolution) -> conv (Conv)",
        "bn (BatchNorm) -> bn (BatchNorm)",
        "scale (Scale) -> bn (BatchNorm)",
        "relu (ReLU) -> relu (ReLU)",
        "bn2 (BatchNorm) -> bn2 (BatchNorm)",
        "scale2 (Scale) -> bn2 (BatchNorm)",
        "sum (Eltwise) -> sum (Sum)",
        "drop (Dropout) -> nothing",
        "top1 (Accuracy) -> nothing",
    ]


def test_a_network_that_says_all_is_read_without_a_warning(load):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(LENET, LENET_WEIGHTS)


def test_what_the_network_ignores_is_told(load):
    text = LENET.replace(
        "negative_slope: 0.25", "negative_slope: 0.25\n slope_of: 3\nengine: CAFFE"
    )
    text = f"mystery {{ a: 1 b {{ c: 2 }} }}\n{text}"
    with pytest.warns(UserWarning, match="not part of the network") as caught:
        load(text, {k: v for k, v in LENET_WEIGHTS.items() if k != "ip2"})
    assert str(caught[0].message).split(":\n")[1].splitlines() == [
        "  mystery (line 1)",
        "  layer.relu_param.slope_of (line 9)",
        "  the caffemodel has no weights of layers ['ip2']: draw or set them",
    ]


def test_weights_must_fit(load):
    wrong = {**LENET_WEIGHTS, "ip1": [floats(6, 31), floats(6)]}
    with pytest.raises(
        mcn.FormatError, match=r"'ip1' .*blob 0 has shape \(6, 31\); wanted \(6, 30\)"
    ):
        load(LENET, wrong)
    with pytest.raises(mcn.FormatError, match=r"'conv1' .*1 blobs of it are .*; wanted 2"):
        load(LENET, {**LENET_WEIGHTS, "conv1": LENET_WEIGHTS["conv1"][:1]})
    with pytest.raises(mcn.FormatError, match=r"no weights of any layer .*'conv1', 'conv2'"):
        load(LENET, {"other": [floats(3)]})


def test_the_size_of_the_data_must_be_known_where_it_matters(load):
    text = 'layer { name: "data" type: "Data" top: "data" top: "label" }'
    text += layer("conv", "Convolution", "data", None,
                  "convolution_param { num_output: 2 kernel_size: 3 }")  # fmt: skip
    weights = {"conv": [floats(2, 3, 3, 3), floats(2)]}
    x = randn((1, 3, 5, 6))
    want = caffe.conv(x, *weights["conv"])
    assert_close(run(load(text, weights), x.flip(1)), want, DOUBLE)
    assert load(text).layers["conv"].block == Conv(has_bias=True, pad=(0, 0, 0, 0), stride=(1, 1),
                                                   dilate=(1, 1))  # fmt: skip
    text += layer("fc", "InnerProduct", "conv", None, "inner_product_param { num_output: 3 }")
    with pytest.raises(mcn.FormatError, match=r"'fc' .*: the size of 'conv' is not known; tell"):
        load(text, weights)
    weights["fc"] = [floats(3, 18), floats(3)]
    for options in ("transform_param", "data_param"):
        sized = text.replace('top: "label"', f'top: "label" {options} {{ crop_size: 5 }}')
        assert load(sized, weights).params["fc_filter"].value.shape == (3, 3, 2, 3)


def test_what_a_data_layer_does_to_images_is_told(load):
    text = ('layer { name: "mnist" type: "Data" top: "data" top: "label" '
            "transform_param { scale: 0.00390625 mean_value: 104 } }")  # fmt: skip
    with pytest.warns(UserWarning, match=r"multiplies images by 0.00390625(.|\n)*subtracts a mean"):
        load(text + layer("relu", "ReLU", "data"))


def test_it_can_be_saved_and_loaded(load, tmp_path):
    net = load(RESIDUAL, RESIDUAL_WEIGHTS).to(torch.float32)
    mcn.save(net, tmp_path / "net.mat")
    again = mcn.load(tmp_path / "net.mat")
    again.mode = "test"
    x = randn((2, 4, 6, 5), dtype=torch.float32)
    net.eval({"data": x.permute(2, 3, 1, 0)})
    again.eval({"data": x.permute(2, 3, 1, 0)})
    assert torch.equal(again.vars["sum"].value, net.vars["sum"].value)
