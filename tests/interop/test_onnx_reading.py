"""Networks in ONNX files of any origin: those of torch, and our own."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from matconvnet.blocks import BatchNorm, Conv, Dropout, Pooling, ReLU, Sum
from matconvnet.errors import FormatError
from matconvnet.interop.onnx import load_onnx, save_onnx, verify_onnx
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.simplenn import SimpleNN
from tests.helpers import assert_close, randn
from tests.onnx_files import FREE, FULL, PADS, F, X, array, evaluate, run, to_hwcn, to_nchw, write
from tests.tolerances import REFERENCE

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOLERANCE = REFERENCE[torch.float32]


class Residual(nn.Module):
    """Two convolutions with batch normalisation, beside a projection."""

    def __init__(self, channels, filters, stride):
        super().__init__()
        self.first = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.beside = nn.Conv2d(channels, filters, 1, stride)
        self.norms = nn.ModuleList(nn.BatchNorm2d(filters) for _ in range(2))
        for norm in self.norms:
            for value in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(value)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x):
        y = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(y)) + self.beside(x))


class View(nn.Module):
    def forward(self, x):
        return x.view(x.size(0), -1)


class Denoise(nn.Module):
    def __init__(self):
        super().__init__()
        self.noise = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x - 0.5 * self.noise(x)


MODULES = {
    "alexnet": (
        nn.Sequential(
            nn.Conv2d(3, 8, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(8, 12, 5, padding=2, groups=2), nn.LeakyReLU(0.2),
            nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(), nn.Flatten(),
            nn.Linear(12 * 3 * 5, 20), nn.ReLU(), nn.Dropout(0.3), nn.Linear(20, 7), nn.Softmax(1),
        ),
        (3, 67, 91),
    ),
    "vgg": (
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
            nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(4, 5, 3, dilation=2),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True), View(), nn.Linear(5 * 4 * 4, 3),
            nn.BatchNorm1d(3), nn.Sigmoid(),
        ),
        (3, 15, 21),
    ),
    "resnet": (
        nn.Sequential(
            nn.Conv2d(3, 6, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1), Residual(6, 8, 2),
            Residual(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        ),
        (3, 45, 61),
    ),
    "decoder": (
        nn.Sequential(
            nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1), nn.ReLU(),
            nn.ConvTranspose2d(4, 6, 2, 3, 0, output_padding=(1, 2), groups=2),
        ),
        (3, 7, 6),
    ),
    "denoiser": (Denoise(), (3, 8, 9)),
}  # fmt: skip


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_networks_of_torch(name, dynamo, tmp_path):
    if dynamo:
        pytest.importorskip("onnxscript")
    module, size = MODULES[name]
    x, path = randn((2, *size), 1, torch.float32), tmp_path / "net.onnx"
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(module, (x,), str(path), dynamo=dynamo, verbose=False)
    net = load_onnx(path, external_data=True)
    assert isinstance(net, DagNN)
    (output,) = net.get_outputs()
    got = evaluate(net, {net.input: to_hwcn(x)})[output]
    with torch.no_grad():
        want = module(x)
    assert_close(to_nchw(got).reshape(want.shape), want, TOLERANCE)
    assert verify_onnx(net, path)[output] <= TOLERANCE


def read(tmp_path, nodes, inputs=None, weights=None, **options):
    """The network of the operators given."""
    return load_onnx(write(tmp_path / "net.onnx", nodes, inputs or X, weights), **options)


def kinds(net):
    return [type(layer.block) for layer in net.layers.values()]


def test_names_of_variables_and_parameters_are_kept(tmp_path):
    net = read(tmp_path, [("Conv", "x f b", "a"), ("Relu", "a", "y")], weights=F)
    assert list(net.vars) == ["x", "a", "y"]
    assert list(net.params) == ["f", "b"]
    assert (net.input, net.prediction) == ("x", "y")
    assert_close(net.params["f"].value.numpy(), F["f"].transpose(2, 3, 1, 0), 0)


def test_filters_that_are_used_twice_are_one_parameter(tmp_path):
    weights = {"f": array(4, 4, 1, 1)}
    net = read(tmp_path, [("Conv", "x f", "a"), ("Conv", "a f", "y")], weights=weights)
    assert [layer.params for layer in net.layers.values()] == [("f",), ("f",)]


def test_moments_are_deviations_with_epsilon(tmp_path):
    weights = {"g": array(4), "b": array(4), "m": array(4), "v": array(4) ** 2}
    nodes = [("BatchNormalization", "x g b m v", "y", {"epsilon": 0.25})]
    net = read(tmp_path, nodes, weights=weights)
    moments = net.params["y/moments"]
    assert net.layers[0].block == BatchNorm(0.25, num_channels=4)
    want = np.stack((weights["m"], np.sqrt(weights["v"] + 0.25)), 1)
    assert_close(moments.value, want, TOLERANCE)
    assert moments.train_method == "average"


def test_dropout_stays_dropout(tmp_path):
    nodes = [("Dropout", "x r", "a"), ("Relu", "a", "y")]
    net = read(tmp_path, nodes, weights={"r": np.float32(0.3)})
    assert net.layers[0].block == Dropout(0.3)


def test_helpers_are_not_trained(tmp_path):
    nodes = [("Pad", "x pads", "a"), ("Sub", "c a", "y")]
    net = read(tmp_path, nodes, weights=PADS | {"c": np.float32(2)})
    methods = {name: param.train_method for name, param in net.params.items()}
    assert methods == {"x/padded/ones": "none", "y/a": "none", "y/b": "gradient"}


def test_padding_is_merged_into_the_layer_behind(tmp_path):
    nodes = [("Pad", "x pads", "a"), ("Conv", "a f b", "y", {"pads": [0, 1, 1, 0]})]
    net = read(tmp_path, nodes, weights=F | PADS)
    assert [layer.block.pad for layer in net.layers.values()] == [(1, 3, 1, 3)]


def test_products_are_convolutions_that_cover_the_map(tmp_path):
    nodes = [("Flatten", "x", "a"), ("Gemm", "a w b", "y", {"transB": 1})]
    net = load_onnx(write(tmp_path / "n.onnx", nodes, X, FULL, (("y", 2),)))
    assert kinds(net) == [Conv]
    assert tuple(net.params["w"].value.shape) == (9, 7, 4, 5)


def test_two_outputs_of_one_value(tmp_path):
    nodes = [("Relu", "x", "a"), ("Identity", "a", "y"), ("Identity", "a", "z")]
    path = write(tmp_path / "net.onnx", nodes, X, None, (("y", 4), ("z", 4), ("a", 4)))
    net = load_onnx(path)
    assert set(verify_onnx(net, path)) == {"y", "z", "a"}
    path = write(tmp_path / "net.onnx", nodes, X, None, (("y", 4), ("z", 4)))
    net = load_onnx(path)
    assert kinds(net) == [ReLU, Sum]
    assert set(verify_onnx(net, path)) == {"y", "z"}


def test_sizes_can_stay_free(tmp_path):
    nodes = [("Conv", "x f b", "a"), ("MaxPool", "a", "y", {"kernel_shape": [2, 2]})]
    path = write(tmp_path / "net.onnx", nodes, FREE, F)
    net = load_onnx(path)
    x = array(3, 4, 12, 17)
    assert_close(
        to_nchw(evaluate(net, {"x": to_hwcn(x)})["y"]), run(path, {"x": x})["y"], TOLERANCE
    )


@pytest.mark.parametrize("sizes", [{"x": (9, 7, 4, None)}, (9, 7, None, None)])
def test_sizes_that_are_needed_can_be_given(sizes, tmp_path):
    path = write(tmp_path / "net.onnx", [("GlobalAveragePool", "x", "y")], FREE)
    with pytest.raises(FormatError, match="size of its input is not known; wanted input_sizes"):
        load_onnx(path)
    net = load_onnx(path, input_sizes=sizes)
    assert net.layers[0].block == Pooling((9, 7), method="avg")
    with pytest.raises(KeyError, match=r"input_sizes names \['z'\]; the inputs are \['x'\]"):
        load_onnx(path, input_sizes={"z": (9, 7, 4, 1)})


def chain(meta=None):
    """A chain whose layers all have operators of their own."""
    filters = [randn(s, 3, torch.float32) for s in ((3, 4, 2, 8), (8,), (2, 2, 4, 6), (6,))]
    moments = torch.rand(6, 2, generator=torch.Generator().manual_seed(0)) + 0.5
    return SimpleNN(
        [
            (Conv(pad=(1, 0, 2, 1), stride=2), filters[:2]),
            ReLU(leak=0.1),
            Pooling(3, stride=2, pad=(0, 1, 0, 1), method="avg"),
            (Conv(), filters[2:]),
            (BatchNorm(1e-4), [filters[3], filters[3] + 1, moments]),
            Dropout(),
            ReLU(),
        ],
        meta,
    )


def test_what_we_write_we_read(tmp_path):
    mean = np.arange(3, dtype=np.float32).reshape(1, 1, 3)
    meta = {"normalization": {"averageImage": mean}, "classes": ["a", "b"], "nan": float("nan")}
    net, path = chain(meta), tmp_path / "net.onnx"
    save_onnx(net, path)
    back = load_onnx(path)
    x = randn((21, 18, 2, 3), 0, torch.float32)
    assert_close(evaluate(back, {"x0": x})["x7"], evaluate(net, {"x0": x})["x7"], TOLERANCE)
    assert set(back.params) == set(net.params)
    for name, param in net.params.items():
        assert_close(back.params[name].value, param.value, TOLERANCE)
        assert back.params[name].train_method == param.train_method
    assert back.layers[0].block.pad == (1, 0, 2, 1)
    image = back.meta["normalization"]["averageImage"]
    assert image.dtype == mean.dtype
    np.testing.assert_array_equal(image, mean)
    assert back.meta["classes"] == ["a", "b"]
    assert np.isnan(back.meta["nan"])


def test_meta_data_of_others_are_left_alone(tmp_path):
    path = write(tmp_path / "net.onnx", [("Relu", "x", "y")], X)
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"author": "somebody, not JSON"})
    onnx.save(model, str(path))
    assert load_onnx(path).meta == {}
