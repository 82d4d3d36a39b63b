"""Caffe networks: losses, options, and what cannot be imported."""

import warnings

import pytest
import torch

import matconvnet as mcn
from matconvnet.blocks import Conv, Loss
from tests.helpers import assert_close, randn
from tests.interop import caffe_rules as caffe
from tests.interop.caffe_text import (
    DOUBLE,
    LENET,
    LENET_WEIGHTS,
    OLD_LENET,
    RESIDUAL,
    RESIDUAL_WEIGHTS,
    data,
    floats,
    layer,
    lenet,
    run,
)

LOSS = data(2, 4, 1, 1) + data(2, name="label") + layer("loss", "SoftmaxWithLoss", "data label")


def test_a_loss_is_a_sum_over_the_batch(caffe_net):
    net = caffe_net(LOSS)
    x, c = randn((5, 4, 1, 1)), torch.tensor([0, 2, 1, 2, 3])
    mean = torch.nn.functional.cross_entropy(x.flatten(1), c)
    net.eval({"data": x.permute(2, 3, 1, 0), "label": c}, {"loss": 1})
    assert_close(net.vars["loss"].value, 5 * mean, DOUBLE)
    assert net.layers["loss"].block == Loss()


def test_a_loss_says_what_training_must_know(caffe_net):
    said = "loss_weight: 0.3 loss_param { ignore_label: 255 }"
    with pytest.warns(UserWarning, match=r"label 255: here that is -1(.|\n)*loss_weight \[0.3\]"):
        caffe_net(LOSS.replace('top: "loss"', f'top: "loss" {said}'))


def test_losses_can_be_left_out(caffe_net):
    text = LENET + data(2, name="label") + (
        layer("loss", "SoftmaxWithLoss", "ip2 label")
        + layer("other", "EuclideanLoss", "ip1 label")
        + layer("top5", "Accuracy", "ip2 label")
    )  # fmt: skip
    net = caffe_net(text, LENET_WEIGHTS, remove_loss=True)
    assert list(net.layers)[-1] == "prob"
    with pytest.raises(mcn.FormatError, match=r"layer 'other' \(EuclideanLoss\)"):
        caffe_net(text, LENET_WEIGHTS)


def test_softmaxes_can_be_appended(caffe_net):
    x = randn((2, 1, 15, 13))
    net = caffe_net(LENET, LENET_WEIGHTS, append_softmax=["ip2"])
    assert net.layers["softmax"].outputs == ("probx",)
    assert_close(run(net, x, "probx"), lenet(x).softmax(1), DOUBLE)
    net = caffe_net(LENET, LENET_WEIGHTS, append_softmax=["ip1", "ip2"])
    assert net.layers["softmax_ip2"].outputs == ("prob_ip2",)
    with pytest.raises(ValueError, match=r"append_softmax names \['ip3'\]"):
        caffe_net(LENET, append_softmax=["ip3"])


def test_a_network_without_weights(caffe_net):
    net = caffe_net(RESIDUAL)
    net.init_params()
    net.to(torch.float64)
    assert run(net, randn((2, 4, 6, 5))).shape == (2, 4, 6, 5)
    net = caffe_net(LENET)
    net.init_params()
    net.to(torch.float64)
    assert run(net, randn((2, 1, 15, 13))).shape == (2, 3, 1, 1)


def test_rates_and_shared_parameters(caffe_net):
    spec = 'param { name: "w" lr_mult: 2 decay_mult: 0.5 } param { lr_mult: 0.1 }'
    body = "convolution_param { num_output: 2 kernel_size: 3 pad: 1 }"
    text = data(1, 2, 4, 4) + (
        layer("one", "Convolution", "data", None, spec + body)
        + layer("two", "Convolution", "one", None, spec + body)
    )
    weights = {"one": [floats(2, 2, 3, 3), floats(2)], "two": [floats(2, 2, 3, 3), floats(2)]}
    net = caffe_net(text, weights)
    assert list(net.params) == ["w", "one_bias", "two_bias"]
    assert (net.params["w"].learning_rate, net.params["w"].weight_decay) == (2, 0.5)
    assert (net.params["two_bias"].learning_rate, net.params["two_bias"].weight_decay) == (0.1, 1)
    weights["two"][0] = 2 * weights["two"][0]
    with pytest.raises(mcn.FormatError, match=r"layer 'two' .*shares parameter 'w'"):
        caffe_net(text, weights)


def test_rates_of_old_files(caffe_net):
    text = OLD_LENET.replace(
        'top: "ip1"', 'top: "ip1" blobs_lr: 3 blobs_lr: 0 weight_decay: 0.5', 1
    )
    params = caffe_net(text, LENET_WEIGHTS, old=True).params
    rates = [(params[f"ip1_{n}"].learning_rate, params[f"ip1_{n}"].weight_decay)
             for n in ("filter", "bias")]  # fmt: skip
    assert rates == [(3, 0.5), (0, 1)]


def test_everything_that_cannot_be_imported_is_told_at_once(caffe_net):
    text = LENET + (
        layer("slow", "MVN", "conv1")
        + layer("after", "ReLU", "slow")
        + layer("far", "ArgMax", "after")
        + layer("within", "LRN", "conv1", None, "lrn_param { norm_region: WITHIN_CHANNEL }")
        + layer("even", "LRN", "conv1", None, "lrn_param { local_size: 4 }")
    )
    with pytest.raises(mcn.FormatError) as caught:
        caffe_net(text)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("net.prototxt cannot be imported:")
    assert [line.split(":")[0].strip() for line in lines[1:5]] == [
        "layer 'slow' (MVN)", "layer 'far' (ArgMax)", "layer 'within' (LRN)", "layer 'even' (LRN)",
    ]  # fmt: skip
    net = caffe_net(text, LENET_WEIGHTS, outputs=["ip2"])
    assert (list(net.layers)[-1], net.prediction) == ("ip2", "ip2")
    with pytest.raises(
        ValueError, match=r"outputs names \['none'\]; wanted among \['data', 'conv1'"
    ):
        caffe_net(text, outputs=["none"])


def test_unknown_layers_of_old_files(caffe_net):
    text = OLD_LENET + 'layers { name: "m" type: MVN bottom: "ip1" top: "m" }'
    with pytest.raises(mcn.FormatError, match=r"layer 'm' \(Mvn\): no layer here does this"):
        caffe_net(text)


def test_the_log_tells_what_became_of_each_layer(caffe_net):
    lines = []
    text = RESIDUAL + layer("drop", "Dropout", "sum") + layer("top1", "Accuracy", "sum sum")
    caffe_net(text, RESIDUAL_WEIGHTS, remove_dropout=True, log=lines.append)
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


def test_a_network_that_says_all_is_read_without_a_warning(caffe_net):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caffe_net(LENET, LENET_WEIGHTS)


def test_what_the_network_ignores_is_told(caffe_net):
    text = LENET.replace(
        "negative_slope: 0.25", "negative_slope: 0.25\n slope_of: 3\nengine: CAFFE"
    )
    text = f"mystery {{ a: 1 b {{ c: 2 }} }}\n{text}"
    with pytest.warns(UserWarning, match="not part of the network") as caught:
        caffe_net(text, {k: v for k, v in LENET_WEIGHTS.items() if k != "ip2"})
    assert str(caught[0].message).split(":\n")[1].splitlines() == [
        "  mystery (line 1)",
        "  layer.relu_param.slope_of (line 9)",
        "  the caffemodel has no weights of layers ['ip2']: draw or set them",
    ]


def test_weights_must_fit(caffe_net):
    wrong = {**LENET_WEIGHTS, "ip1": [floats(6, 31), floats(6)]}
    with pytest.raises(
        mcn.FormatError, match=r"'ip1' .*blob 0 has shape \(6, 31\); wanted \(6, 30\)"
    ):
        caffe_net(LENET, wrong)
    with pytest.raises(mcn.FormatError, match=r"'conv1' .*1 blobs of it are .*; wanted 2"):
        caffe_net(LENET, {**LENET_WEIGHTS, "conv1": LENET_WEIGHTS["conv1"][:1]})
    with pytest.raises(mcn.FormatError, match=r"no weights of any layer .*'conv1', 'conv2'"):
        caffe_net(LENET, {"other": [floats(3)]})


def test_the_size_of_the_data_must_be_known_where_it_matters(caffe_net):
    text = 'layer { name: "data" type: "Data" top: "data" top: "label" }'
    text += layer("conv", "Convolution", "data", None,
                  "convolution_param { num_output: 2 kernel_size: 3 }")  # fmt: skip
    weights = {"conv": [floats(2, 3, 3, 3), floats(2)]}
    x = randn((1, 3, 5, 6))
    want = caffe.conv(x, *weights["conv"])
    assert_close(run(caffe_net(text, weights), x.flip(1)), want, DOUBLE)
    wanted = Conv(has_bias=True, pad=(0, 0, 0, 0), stride=(1, 1), dilate=(1, 1))
    assert caffe_net(text).layers["conv"].block == wanted
    text += layer("fc", "InnerProduct", "conv", None, "inner_product_param { num_output: 3 }")
    with pytest.raises(mcn.FormatError, match=r"'fc' .*: the size of 'conv' is not known; tell"):
        caffe_net(text, weights)
    weights["fc"] = [floats(3, 18), floats(3)]
    for options in ("transform_param", "data_param"):
        sized = text.replace('top: "label"', f'top: "label" {options} {{ crop_size: 5 }}')
        assert caffe_net(sized, weights).params["fc_filter"].value.shape == (3, 3, 2, 3)


def test_what_a_data_layer_does_to_images_is_told(caffe_net):
    text = ('layer { name: "mnist" type: "Data" top: "data" top: "label" '
            "transform_param { scale: 0.00390625 mean_value: 104 } }")  # fmt: skip
    with pytest.warns(UserWarning, match=r"multiplies images by 0.00390625(.|\n)*subtracts a mean"):
        caffe_net(text + layer("relu", "ReLU", "data"))


def test_it_can_be_saved_and_loaded(caffe_net, tmp_path):
    net = caffe_net(RESIDUAL, RESIDUAL_WEIGHTS).to(torch.float32)
    mcn.save(net, tmp_path / "net.mat")
    again = mcn.load(tmp_path / "net.mat")
    again.mode = "test"
    x = randn((2, 4, 6, 5), dtype=torch.float32)
    net.eval({"data": x.permute(2, 3, 1, 0)})
    again.eval({"data": x.permute(2, 3, 1, 0)})
    assert torch.equal(again.vars["sum"].value, net.vars["sum"].value)
