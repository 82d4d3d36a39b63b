"""The manners of the vl_ functions: how they are called, what they count from 1."""

import importlib
import inspect

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.compat import vl
from matconvnet.compat.simplenn import labels_from_one
from tests.helpers import randn

BLOCKS = {
    "vl_nnbilinearsampler": ("sampler", "bilinear_sampler"),
    "vl_nnbnorm": ("bnorm", "bnorm"),
    "vl_nnconcat": ("concat", "concat"),
    "vl_nnconv": ("conv", "conv"),
    "vl_nnconvt": ("convt", "convt"),
    "vl_nncrop": ("crop", "crop"),
    "vl_nndropout": ("dropout", "dropout"),
    "vl_nnloss": ("loss", "loss"),
    "vl_nnnoffset": ("noffset", "noffset"),
    "vl_nnnormalize": ("lrn", "lrn"),
    "vl_nnnormalizelp": ("lpnorm", "lpnorm"),
    "vl_nnpdist": ("pdist", "pdist"),
    "vl_nnpool": ("pool", "pool"),
    "vl_nnrelu": ("relu", "relu"),
    "vl_nnroipool": ("roipool", "roipool"),
    "vl_nnsigmoid": ("sigmoid", "sigmoid"),
    "vl_nnsoftmax": ("softmax", "softmax"),
    "vl_nnsoftmaxloss": ("softmaxloss", "softmaxloss"),
    "vl_nnspnorm": ("spnorm", "spnorm"),
}
# The defaults of the original; blocks without options are not listed.
ORIGINAL = {
    "vl_nnbnorm": {"epsilon": 1e-4},
    "vl_nnconcat": {"dim": 3},
    "vl_nnconv": {"stride": 1, "pad": 0, "dilate": 1},
    "vl_nnconvt": {"upsample": 1, "crop": 0, "num_groups": 1},
    "vl_nndropout": {"rate": 0.5},
    "vl_nnloss": {"loss": "softmaxlog", "threshold": 0, "top_k": 5},
    "vl_nnnormalizelp": {"exponent": 2, "epsilon": 1e-2, "dimensions": (3,), "spatial": False},
    "vl_nnpdist": {"no_root": False, "epsilon": 1e-6, "aggregate": False},
    "vl_nnpool": {"stride": 1, "pad": 0, "method": "max"},
    "vl_nnrelu": {"leak": 0},
    "vl_nnroipool": {"method": "max", "subdivisions": (1, 1), "transform": 1},
}
X, F, B = randn((5, 4, 2, 3)), randn((2, 2, 2, 3)), randn((3,))
P = randn((4, 3, 3, 3))


def block(name):
    module, function = BLOCKS[name]
    return getattr(importlib.import_module(f"matconvnet.blocks.{module}"), function)


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def equal(got, want):
    got, want = (v if isinstance(v, tuple) else (v,) for v in (got, want))
    return len(got) == len(want) and all(map(torch.equal, got, want))


def test_every_block_has_its_name():
    assert {name for name in dir(vl) if name.startswith("vl_")} == BLOCKS.keys()


@pytest.mark.parametrize("name", BLOCKS)
def test_name_and_docstring(name):
    function = getattr(vl, name)
    assert function.__name__ == function.__qualname__ == name
    assert function.__module__ == "matconvnet.compat.vl"
    for part in (inspect.getdoc(block(name)).splitlines()[0], f"{name}(", "dzdy", "None and []"):
        assert part in function.__doc__


@pytest.mark.parametrize("name", BLOCKS)
def test_defaults_differ_from_the_block_only_where_the_table_says_so(name):
    ours, inner = defaults(getattr(vl, name)), defaults(block(name))
    differ = {k: v for k, v in ours.items() if k in inner and inner[k] != v}
    renamed = {"dimensions"} & ours.keys()
    assert differ | {k: ours[k] for k in renamed} == vl.DEFAULTS.get(name, {})


@pytest.mark.parametrize("name", ORIGINAL)
def test_defaults_are_those_of_the_original(name):
    ours = defaults(getattr(vl, name))
    assert {k: ours[k] for k in ORIGINAL[name]} == ORIGINAL[name]


def test_forward_or_derivative():
    y = vl.vl_nnconv(X, F, B)
    assert y.shape == P.shape
    for empty in (None, [], (), torch.empty(0), torch.empty(0, 0)):
        assert equal(vl.vl_nnconv(X, F, B, empty), y)
        assert equal(vl.vl_nnconv(X, F, B, dzdy=empty), y)
    ders = vl.vl_nnconv(X, F, B, P)
    assert [der.shape for der in ders] == [X.shape, F.shape, B.shape]
    assert equal(vl.vl_nnconv(X, F, B, dzdy=P), ders)
    assert equal(vl.vl_nnconv(x=X, f=F, b=B, dzdy=P), ders)


@pytest.mark.parametrize(
    "call",
    [
        lambda: vl.vl_nnconv(X, F, B, "stride", (2, 1), "PAD", 1),
        lambda: vl.vl_nnconv(X, F, B, "Stride", [2, 1], pad=1),
        lambda: vl.vl_nnconv(X, F, B, [], {"stride": (2, 1)}, "pad", (1, 1, 1, 1)),
        lambda: vl.vl_nnconv(X, F, B, Stride=np.array([2, 1]), Pad=torch.tensor(1)),
        lambda: vl.vl_nnconv(X, F, B, "verbose", "Cudnn", "stride", (2, 1), "pad", 1),
        lambda: vl.vl_nnconv(
            X, F, B, "NoCuDNN", "CudnnWorkspaceLimit", 2**30, "stride", (2, 1), pad=1
        ),
        lambda: vl.vl_nnconv(X, F, B, stride=(2, 1), pad=1, verbose=True, no_cudnn=True),
    ],
)
def test_options_are_pairs_or_keywords(call):
    got = call()
    got = torch.from_numpy(got) if isinstance(got, np.ndarray) else got
    assert equal(got, block("vl_nnconv")(X, F, B, stride=(2, 1), pad=1))


@pytest.mark.parametrize(
    "ders",
    [
        lambda: vl.vl_nnconv(X, F, B, P, "NoDerData", "NoDerBiases"),
        lambda: vl.vl_nnconv(X, F, B, P, "noderdata", True, "NODERBIASES"),
        lambda: vl.vl_nnconv(X, F, B, P, no_der_data=True, NoDerBiases=True),
        lambda: vl.vl_nnconv(X, F, B, P, "NoDerFilters", False, der_data=False, der_biases=False),
    ],
)
def test_unwanted_derivatives(ders):
    dzdx, dzdf, dzdb = ders()
    assert dzdx is None
    assert torch.equal(dzdf, vl.vl_nnconv(X, F, B, P)[1])
    assert dzdb is None


def test_empty_filters_and_biases():
    assert equal(vl.vl_nnconv(X, [], [], "stride", 2), X[::2, ::2])
    assert equal(vl.vl_nnconv(X, F, []), block("vl_nnconv")(X, F))
    assert vl.vl_nnconv(X, F, [], P)[2] is None


def test_numpy_in_numpy_out():
    y = vl.vl_nnconv(X.numpy(), F.numpy(), B.numpy())
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(y, vl.vl_nnconv(X, F, B).numpy())
    ders = vl.vl_nnpdist(X.numpy(), X.numpy() + 1, 2, 1, aggregate=True)
    assert all(isinstance(der, np.ndarray) for der in ders)


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
@pytest.mark.parametrize("one", [1, 1.0, [1], [[1]], np.float32(1), np.float64(1)])
def test_scalar_projections(kind, one):
    x, c = kind(np.ones((1, 1, 3, 2), np.float32)), kind(np.array([1, 2]))
    for function in (vl.vl_nnloss, vl.vl_nnsoftmaxloss):
        der = function(x, c, one)
        assert type(der) is type(x)
        assert der.dtype == x.dtype
        np.testing.assert_allclose(np.asarray(der)[0, 0, :, 0], [-2 / 3, 1 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vl.vl_nnconv(X, F), r"vl_nnconv lacks b; wanted \(x, f, b, ...\)"),
        (lambda: vl.vl_nnconv(), r"vl_nnconv lacks x, f, b"),
        (lambda: vl.vl_nnnormalize(X), r"vl_nnnormalize lacks param; wanted \(x, param, ...\)"),
        (lambda: vl.vl_nnconv(X, F, B, x=X), r"vl_nnconv got x twice"),
        (lambda: vl.vl_nnconv(X, F, B, P, 3), r"found 3 in place of an option name"),
        (
            lambda: vl.vl_nnconv(X, F, B, "strides", 3),
            r"Unknown parameter 'strides'; wanted one of",
        ),
        (lambda: vl.vl_nnconv(X, F, B, "stride"), r"option 'stride' has no value"),
        (lambda: vl.vl_nnconv(X, F, B, size=3), r"Unknown parameter 'size'"),
        (lambda: vl.vl_nnloss(X, [1, 1, 1], "type", "log"), r"Unknown parameter 'type'"),
        (lambda: vl.vl_nnpool(X, size=3), r"vl_nnpool lacks pool"),
        (lambda: vl.vl_nnnormalizelp(X, dims=2), r"Unknown parameter 'dims'"),
        (lambda: vl.vl_nnpool(None, 2), r"x is NoneType; wanted a tensor"),
    ],
)
def test_errors_of_calls(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_pool():
    assert equal(
        vl.vl_nnpool(X, [2, 1], "method", "AVG"), block("vl_nnpool")(X, (2, 1), method="avg")
    )
    y = vl.vl_nnpool(X, 2)
    assert vl.vl_nnpool(X, 2, y, stride=1).shape == X.shape
    assert equal(vl.vl_nnpool(X, pool=2), y)


def test_classes_count_from_one_and_zero_is_ignored():
    x, inner = randn((1, 1, 4, 3)), block("vl_nnloss")
    for c in (np.array([1, 4, 0]), torch.tensor([1, 4, 0]), [1, 4, 0], torch.tensor([1.0, 4, 0])):
        assert float(vl.vl_nnloss(x, c)) == inner(x, torch.tensor([0, 3, -1])).item()
        assert float(vl.vl_nnsoftmaxloss(x, c)) == inner(x, torch.tensor([0, 3, -1])).item()
    for dtype in (torch.uint8, torch.int8, torch.int32):
        assert equal(
            vl.vl_nnloss(x, torch.tensor([1, 4, 0], dtype=dtype)), vl.vl_nnloss(x, [1, 4, 0])
        )


def test_pairs_of_channels_are_classes_from_one_and_weights():
    x, inner = randn((2, 3, 4, 3)), block("vl_nnloss")
    classes, weights = torch.tensor([[1, 4, 0], [2, 2, 3]]), torch.tensor([[1, 2, 1], [0.5, 1, 3]])
    given = torch.stack((classes, weights), 1).reshape(1, 1, 4, 3).double()
    kept = given.clone()
    want = inner(x, torch.stack((classes - 1, weights), 1).reshape(1, 1, 4, 3))
    for function in (vl.vl_nnloss, vl.vl_nnsoftmaxloss):
        assert float(function(x, given.numpy())) == want.item()
        assert torch.equal(given, kept)


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (
            [1, 5, 0],
            r"c holds labels between 0 and 5; wanted whole numbers from 0 to 4 \(0 = ignore\)",
        ),
        ([1, -1, 0], r"c holds labels between -1 and 1"),
        ([1, 1.5, 0], r"c holds labels between 0 and 1.5"),
    ],
)
def test_classes_out_of_range(c, message):
    x = randn((1, 1, 4, 3))
    for kind in ("softmaxlog", "ClassError"):
        with pytest.raises(ValueError, match=message):
            vl.vl_nnloss(x, c, loss=kind)
    with pytest.raises(ValueError, match=message):
        vl.vl_nnloss(x, c, 1)


@pytest.mark.parametrize("layer", [mcn.Loss(), mcn.Loss(loss="log"), mcn.SoftmaxLoss()])
def test_labels_of_layers_too_keep_the_weights_of_pairs(layer):
    labels = torch.tensor([[1.0, 0], [0.5, 2], [3, 2], [7, 8]])
    for given in (labels[None, None], labels[None, None, :, :1]):
        want = given - torch.tensor([1, 0, 1, 0])[:, None]
        assert torch.equal(labels_from_one(layer, given), want)
    assert torch.equal(labels_from_one(layer, labels[:, 0]), labels[:, 0] - 1)


def test_softmaxloss_ignores_negative_labels():
    x = randn((2, 1, 4, 3))
    assert equal(vl.vl_nnsoftmaxloss(x, [1, -1, -7]), vl.vl_nnsoftmaxloss(x, [1, 0, 0]))
    with pytest.raises(ValueError, match=r"c holds labels between 0 and 5; wanted .* 0 to 4"):
        vl.vl_nnsoftmaxloss(x, [1, -1, 5])


def test_softmaxloss_with_weights_in_the_second_channel():
    x = randn((2, 1, 4, 3))
    labels = torch.tensor([1.0, 4, 0, -2, 2, 3]).reshape(2, 1, 1, 3)
    weights = randn((2, 1, 1, 3)).abs()
    c = torch.cat((labels, weights), 2)
    want = vl.vl_nnloss(x, labels.clamp(min=0), instanceWeights=weights)
    torch.testing.assert_close(vl.vl_nnsoftmaxloss(x, c), want)
    want = vl.vl_nnloss(x, labels.clamp(min=0), 2, instanceWeights=weights)
    torch.testing.assert_close(vl.vl_nnsoftmaxloss(x, c, 2), want)


def test_attributes_are_as_they_are():
    x, c = randn((1, 1, 2, 2)), torch.tensor([[[[1, -1], [0, 1]]]])
    assert equal(vl.vl_nnloss(x, c, loss="Logistic"), block("vl_nnloss")(x, c, loss="logistic"))


def test_class_weights_have_no_effect():
    x, c = randn((1, 1, 2, 2)), [1, 2]
    with pytest.warns(UserWarning, match="class_weights has no effect in vl_nnloss") as caught:
        y = vl.vl_nnloss(x, c, "classWeights", [1, 2])
    assert caught[0].filename == __file__
    assert equal(y, vl.vl_nnloss(x, c))


def test_empty_options_are_absent():
    x = randn((1, 1, 2, 2))
    assert equal(vl.vl_nnloss(x, [1, 2], instanceWeights=[]), vl.vl_nnloss(x, [1, 2]))
    assert equal(vl.vl_nnnormalizelp(x, "norms", []), vl.vl_nnnormalizelp(x))
    with pytest.raises(ValueError, match=r"dimensions is \[\], 0 numbers"):
        vl.vl_nnnormalizelp(x, "dimensions", [])


def test_concat_counts_axes_from_one():
    parts = [X, X[:, :1]]
    assert equal(vl.vl_nnconcat([X, X]), torch.cat((X, X), 2))
    assert equal(vl.vl_nnconcat(parts, 2), torch.cat(parts, 1))
    for call in (
        lambda p: vl.vl_nnconcat(parts, 2, p),
        lambda p: vl.vl_nnconcat(parts, "dim", 2, dzdy=p),
        lambda p: vl.vl_nnconcat(parts, dim=2, dzdy=p),
        lambda p: vl.vl_nnconcat([], 2, p, "inputSizes", [(5, 4, 2, 3), (5, 1, 2, 3)]),
    ):
        p = randn((5, 5, 2, 3))
        assert equal(tuple(call(p)), (p[:, :4], p[:, 4:]))
    for dim in (0, 5):
        with pytest.raises(ValueError, match=f"dim is {dim}; wanted"):
            vl.vl_nnconcat(parts, dim)


def test_concat_of_empty_inputs():
    y = vl.vl_nnconcat([[], X, None], 3)
    assert equal(y, X)
    first, second, third = vl.vl_nnconcat([[], X, None], 3, y)
    assert first.numel() == third.numel() == 0
    assert equal(second, X)
    with pytest.raises(ValueError, match=r"inputs has 0 elements, none of them a map"):
        vl.vl_nnconcat([])


def test_crop_takes_the_size_of_its_input():
    y = vl.vl_nncrop(X, [1, 0, 0, 2])
    want = vl.vl_nncrop(X, [1, 0, 0, 2], y)
    assert equal(want[1:, :2], y)
    assert equal(vl.vl_nncrop([], [1, 0, 0, 2], y, X.shape), want)
    assert equal(vl.vl_nncrop(None, [1, 0, 0, 2], y, inputSize=list(X.shape)), want)
    assert equal(vl.vl_nncrop([], [1, 0, 0, 2], y, "inputSize", X.shape), want)


def test_bnorm_returns_moments_only_if_asked():
    g, b = randn((2,)), randn((2,))
    y, moments = block("vl_nnbnorm")(X, g, b)
    assert equal(vl.vl_nnbnorm(X, g, b), y)
    assert equal(vl.vl_nnbnorm(X, g, b, return_moments=True), (y, moments))
    ders = vl.vl_nnbnorm(X, g, b, X)
    assert len(ders) == 3
    assert equal(vl.vl_nnbnorm(X, g, b, X, return_moments=True), (*ders, moments))
    assert equal(vl.vl_nnbnorm(X, g, b, X, "Moments", moments, "Epsilon", 9), ders)


def test_normalizelp_counts_axes_from_one():
    inner = block("vl_nnnormalizelp")
    assert equal(vl.vl_nnnormalizelp(X), inner(X))
    assert equal(vl.vl_nnnormalizelp(X, "dimensions", [1, 4]), inner(X, dims=(0, 3)))
    assert equal(vl.vl_nnnormalizelp(X, "P", 4), inner(X, exponent=4))
    assert equal(vl.vl_nnnormalizelp(X, exponent=4), inner(X, exponent=4))
    for args in (("Spatial",), ("spatial", True), ("spatial", "epsilon", 1e-2)):
        assert equal(vl.vl_nnnormalizelp(X, *args), inner(X, dims=(0, 1)))
    assert equal(vl.vl_nnnormalizelp(X, "spatial", False), inner(X))
    y, norms = vl.vl_nnnormalizelp(X, return_norms=True)
    assert norms.shape == (5, 4, 1, 3)
    der, again = vl.vl_nnnormalizelp(X, y, "norms", norms, return_norms=True)
    assert equal((der, again), (vl.vl_nnnormalizelp(X, y), norms))
    for axis in (0, 5):
        with pytest.raises(ValueError, match=f"dimensions is {axis}; wanted"):
            vl.vl_nnnormalizelp(X, dimensions=axis)
    with pytest.raises(ValueError, match="both spatial and dimensions are given"):
        vl.vl_nnnormalizelp(X, "spatial", dimensions=3)


def test_dropout():
    y, mask = vl.vl_nndropout(X, "rate", 0.25, generator=torch.Generator().manual_seed(0))
    assert equal(y, mask * X)
    again, same = vl.vl_nndropout(X, mask=mask)
    assert equal((again, same), (y, mask))
    assert equal(vl.vl_nndropout(X, X, "mask", mask), y)
    with pytest.raises(ValueError, match="mask is None; wanted the mask that dropout returned"):
        vl.vl_nndropout(X, X)


def test_roipool_counts_from_one():
    x = torch.arange(1.0, 49).reshape(8, 6).t().reshape(6, 8, 1, 1)
    roi = torch.tensor([[1.0, 2, 1, 6, 5]]).t()
    y = vl.vl_nnroipool(x, roi, "subdivisions", [2, 2])
    assert y[:, :, 0, 0].tolist() == [[21, 33], [23, 35]]
    y = vl.vl_nnroipool(x, roi, "subdivisions", 2, method="AVG")
    assert y[:, :, 0, 0].tolist() == [[14, 26], [16, 28]]


@pytest.mark.parametrize(
    ("roi", "options", "want"),
    [
        ([1, 1, 1, 8, 8], {"transform": 0.5, "method": "avg"}, [[19]]),
        ([1, 2, 5, 2, 5], {}, [[13]]),
        ([1, 2, 5, 3, 6], {"subdivisions": (3, 3)}, [[13, 21, 21], [14, 22, 22], [14, 22, 22]]),
        ([1, 2, 5, 2, 5], {"transform": [[0, 1, 0], [1, 0, 0]]}, [[34]]),
        ([1, 2, 5, 2, 5], {"transform": np.array([[1, 0, 2], [0, 1, -1.0]])}, [[28]]),
        ([0, 2, 5, 2, 5], {}, [[13]]),
    ],
)
def test_roipool_recorded(roi, options, want):
    x = np.arange(1.0, 65).reshape(8, 8).T.reshape(8, 8, 1, 1)
    y = vl.vl_nnroipool(x, np.array([roi], float).T, **options)
    assert y[:, :, 0, 0].tolist() == want


def test_relu_and_friends():
    assert equal(vl.vl_nnrelu(X, "leak", 0.5), block("vl_nnrelu")(X, leak=0.5))
    assert vl.vl_nnrelu(torch.zeros(1), 3, leak=0.25).item() == 0.75
    assert vl.vl_nnsigmoid(torch.zeros(1), [1]).item() == 0.25
    assert equal(vl.vl_nnsoftmax(X, []), block("vl_nnsoftmax")(X))
