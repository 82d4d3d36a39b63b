"""Functions and torch modules as layers: evaluated, differentiated, trained, stored."""

import numpy as np
import pytest
import torch
from torch import nn

import matconvnet as mcn
from matconvnet import executor
from matconvnet.graph import Node, build
from matconvnet.layout import hwcn, nchw
from matconvnet.nets.own import FunctionLayer, ModuleLayer, as_layer
from matconvnet.nets.registry import TYPES
from tests.helpers import assert_close, randn
from tests.tolerances import AUTOGRAD, REFERENCE

X = randn((5, 6, 3, 2))
LABELS = torch.tensor([0, 2])
SINGLE = REFERENCE[torch.float32]


def square(x):
    return x * x


def square_backward(x, dzdy):
    return 2 * x * dzdy


def affine(x, a, b):
    return x * a[:, None] + b[:, None]


def affine_backward(x, a, b, dzdy):
    return dzdy * a[:, None], (dzdy * x).sum((0, 1, 3)), dzdy.sum((0, 1, 3))


AFFINE = {"a": randn((3,), 1), "b": randn((3,), 2)}


def evaluate(layer, *inputs, dzdy=None, params=(), training=True):
    """Outputs, derivatives of the inputs and of the parameters of one layer."""
    names = tuple(f"i{k}" for k in range(len(inputs)))
    given = {f"p{k}": p for k, p in enumerate(params)}
    net = build([Node("layer", layer, names, ("y",), tuple(given))])
    ctx = mcn.Context(training)
    record = executor.forward(
        net, given, dict(zip(names, inputs, strict=True)), ctx=ctx, derivative=True
    )
    if dzdy is None:
        dzdy = randn(record.values["y"].shape, 9)
    executor.backward(net, given, record, {"y": dzdy})
    return record.values["y"], [record.ders.get(v) for v in names], list(
        map(record.param_ders.get, given)
    )  # fmt: skip


TRAINING = mcn.TrainOptions(
    exp_dir=None, num_epochs=2, batch_size=10, learning_rate=0.01, progress=False
)


def some_images():
    images = np.random.default_rng(0).standard_normal((8, 8, 1, 40)).astype(np.float32)
    return mcn.Imdb(images, np.arange(40) % 3, np.ones(40, int), tuple("abc"))


# what stands for a layer


def test_what_is_a_layer():
    relu = mcn.ReLU()
    assert as_layer(relu) is relu
    assert as_layer(square) == as_layer(square) or as_layer(square).function is square
    assert as_layer((square, square_backward)).derivative is square_backward
    assert isinstance(as_layer(nn.ReLU()), ModuleLayer)
    assert as_layer(nn.ReLU()).type_name == "ReLU"
    assert as_layer(square).type_name == as_layer(square).dag_type == "square"


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (mcn.ReLU, "the class ReLU"),
        (nn.ReLU, "the class ReLU"),
        (3, "int"),
        ((square, 3), "tuple"),
        ((square, square, square), "tuple"),
        ((nn.ReLU(), nn.ReLU()), "tuple"),
    ],
)
def test_what_is_no_layer(item, found):
    with pytest.raises(TypeError, match=f"{found} is no layer; wanted a Layer"):
        as_layer(item)


def test_own_layers_are_equal_if_they_are_one():
    layer = FunctionLayer(square)
    assert layer == layer
    assert len({layer, FunctionLayer(square), FunctionLayer(affine)}) == 3


# functions


def test_a_pair_is_evaluated_as_the_block_it_is():
    mine = mcn.SimpleNN([mcn.Conv(size=(3, 3, 3, 4)), (mcn.relu, mcn.relu_backward)])
    ours = mcn.SimpleNN([mcn.Conv(size=(3, 3, 3, 4)), mcn.ReLU()])
    p = torch.randn(3, 4, 4, 2)
    a, b = (net.eval({"x0": X.float()}, {"x2": p}) for net in (mine, ours))
    for name in ("values", "ders", "param_ders"):
        assert getattr(a, name).keys() == getattr(b, name).keys()
        assert all(torch.equal(getattr(a, name)[k], v) for k, v in getattr(b, name).items())


@pytest.mark.parametrize("derivative", [None, affine_backward])
def test_derivatives_are_right_with_and_without_a_derivative(derivative):
    layer = FunctionLayer(affine, derivative, params=AFFINE)
    report = mcn.check_derivatives(layer, X, params=list(AFFINE.values()))
    assert report.ok, f"\n{report}"


def test_autograd_and_the_derivative_agree():
    params = list(AFFINE.values())
    a = evaluate(FunctionLayer(affine, affine_backward, params=AFFINE), X, params=params)
    b = evaluate(FunctionLayer(affine, params=AFFINE), X, params=params)
    for one, other in zip([a[0], *a[1], *a[2]], [b[0], *b[1], *b[2]], strict=True):
        assert_close(one, other, AUTOGRAD)


def test_values_carry_no_graph():
    record = mcn.SimpleNN([square]).eval({"x0": X}, {"x1": X})
    tensors = [*record.values.values(), *record.ders.values()]
    assert not any(t.requires_grad for t in tensors)


def test_parameters_are_copied_or_drawn():
    given = np.ones(3)
    params = {"a": given, "b": lambda generator: torch.randn(3, generator=generator)}
    net = mcn.SimpleNN([FunctionLayer(affine, params=params)], seed=5)
    assert list(net.params) == ["l1_1", "l1_2"]
    drawn = torch.randn(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(net.params["l1_2"].value, drawn)
    net.params["l1_1"].value.zero_()
    assert given.all()


def test_weights_beside_a_function_are_its_parameters():
    net = mcn.SimpleNN([((affine, affine_backward), list(AFFINE.values()))])
    record = net.eval({"x0": X}, {"x1": X})
    assert torch.equal(record.values["x1"], affine(X, *AFFINE.values()))
    assert record.param_ders["l1_2"].shape == (3,)


def test_a_network_of_functions_trains_as_one_of_blocks():
    imdb = some_images()
    fresh = mcn.SimpleNN([mcn.Conv(size=(8, 8, 1, 3)), mcn.SoftmaxLoss()])
    f, b = (fresh.params[name].value for name in ("l1_1", "l1_2"))
    mine = FunctionLayer(mcn.conv, params={"filters": f, "biases": b})
    loss = FunctionLayer(mcn.softmaxloss, is_loss=True)
    nets = [fresh, mcn.SimpleNN([mine, loss])]
    for net in nets:
        mcn.Trainer(net, imdb, options=TRAINING).run()
    assert not torch.equal(nets[1].params["l1_1"].value, f)
    for name in ("l1_1", "l1_2"):
        assert_close(nets[1].params[name].value, nets[0].params[name].value, SINGLE)


def test_a_loss_reads_labels_in_a_chain():
    def loss(x, c):
        return mcn.loss(x, c)

    def loss_backward(x, c, dzdy):
        return mcn.loss_backward(x, c, dzdy), None

    ours = mcn.SimpleNN([mcn.Conv(size=(5, 6, 3, 4)), mcn.Loss()]).to(torch.float64)
    for derivative in (None, loss_backward):
        layer = FunctionLayer(loss, derivative, is_loss=True)
        mine = mcn.SimpleNN([mcn.Conv(size=(5, 6, 3, 4)), layer]).to(torch.float64)
        assert mine.prediction == "x1"
        a, b = (net.eval({"x0": X, "label": LABELS}, {"x2": 1}) for net in (mine, ours))
        assert torch.equal(a.values["x2"], b.values["x2"])
        assert_close(a.ders["x0"], b.ders["x0"], AUTOGRAD)


def test_several_inputs_and_outputs_in_a_dag():
    def mix(x, y, w):
        return x * y, x + w * y

    net = mcn.DagNN()
    net.add_layer("mix", FunctionLayer(mix, params={"w": randn((1,))}), ["x", "y"], ["p", "s"], "w")
    net.add_layer("square", (square, square_backward), "p", "q")
    net.init_params()
    report = mcn.check_derivatives(net, {"x": X, "y": randn(X.shape, 4)})
    assert report.ok, f"\n{report}"
    assert {row.name for row in report.rows} >= {"x", "y", "w"}


@pytest.mark.parametrize(
    ("ders", "error", "message"),
    [
        (lambda x, a, d: d, ValueError, "returned 1 tensors; wanted 2: 1 for inputs, 1 for param"),
        (lambda x, a, d: (d, d), ValueError, r"for parameter 0 has shape \(5, 6, 3, 2\); wanted"),
        (lambda x, a, d: (d[0], a), ValueError, r"for input 0 has shape \(6, 3, 2\); wanted \(5,"),
        (lambda x, a, d: (d.float(), a), TypeError, "for input 0 holds torch.float32; wanted"),
        (lambda x, a, d: (d.numpy(), a), TypeError, "for input 0 is ndarray; wanted a tensor"),
    ],
)
def test_wrong_derivatives_are_told(ders, error, message):
    def scaled(x, a):
        return a * x

    with pytest.raises(error, match=f"the derivative of scaled.*{message}|{message}") as caught:
        evaluate(FunctionLayer(scaled, ders), X, params=[torch.ones(1, dtype=torch.float64)])
    assert "in layer 'layer' (FunctionLayer)" in caught.value.__notes__[0]


def test_wrong_values_are_told():
    with pytest.raises(TypeError, match="returned int; wanted a tensor"):
        mcn.SimpleNN([lambda x: 3]).eval({"x0": X})
    with pytest.raises(ValueError, match=r"forward gave 2 values; wanted \('x1',\)"):
        mcn.SimpleNN([lambda x: (x, x)]).eval({"x0": X})


def test_what_autograd_cannot_follow_is_told():
    net = mcn.SimpleNN([lambda x: x.detach() * 2])
    net.eval({"x0": X})
    with pytest.raises(ValueError, match=r"autograd cannot follow.*\(function, derivative\)"):
        net.eval({"x0": X}, {"x1": X})
    net.eval({"x0": X}, {"x1": X}, wanted_inputs=())  # nobody wants it


def test_what_was_not_used_has_no_derivative():
    _, (dzdx, dzdy), (dzdw,) = evaluate(
        FunctionLayer(lambda x, y, w: 2 * x), X, X, params=[torch.ones(1)]
    )
    assert_close(dzdx, 2 * randn(X.shape, 9), AUTOGRAD)
    assert dzdy is None
    assert dzdw is None


def test_a_record_is_differentiated_again_and_again():
    net = mcn.SimpleNN([square, nn.Conv2d(3, 2, 3, dtype=torch.float64)])
    record = net.eval({"x0": X}, {"x2": randn((3, 4, 2, 2))})
    first = dict(record.ders)
    executor.backward(net.graph, net.values(), record, {"x2": randn((3, 4, 2, 2))})
    assert all(torch.equal(record.ders[v], der) for v, der in first.items())
    record.saved.clear()  # as if it had not been kept: evaluated again
    executor.backward(net.graph, net.values(), record, {"x2": randn((3, 4, 2, 2))})
    assert all(torch.equal(record.ders[v], der) for v, der in first.items())


def test_sizes_are_known_without_values():
    net = mcn.SimpleNN(
        [square, nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(90, 7)), lambda x: x[0]]
    )
    sizes = mcn.DagNN.from_simplenn(net).get_var_sizes({"x0": (5, 6, 3, 2)})
    assert sizes["x1"] == (5, 6, 3, 2)
    assert sizes["x2"] == (1, 1, 7, 2)
    assert sizes["x3"] == (1, 7, 2, 1)


def test_tables_name_the_function_and_the_module(capsys):
    mcn.vl_simplenn_display(mcn.SimpleNN([square, nn.Conv2d(3, 4, 1)]), inputSize=(5, 6, 3, 2))
    text = capsys.readouterr().out
    assert "square" in text
    assert "Conv2d" in text


def test_sizes_of_what_needs_values_are_unknown():
    net = mcn.SimpleNN([(lambda x: torch.from_numpy(2 * x.numpy()), square_backward)])
    assert torch.equal(net.eval({"x0": X}).values["x1"], 2 * X)
    size = mcn.DagNN.from_simplenn(net).get_var_sizes({"x0": X.shape})["x1"]
    assert all(np.isnan(size))


# torch modules


def module():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Linear(48, 5),
    ).double()  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
def test_a_module_is_differentiated_as_torch_does(training):
    alone, inside = module().train(training), module()
    x, p = nchw(X).clone().requires_grad_(), randn((2, 5), 3)
    y = alone(x)
    (y * p).sum().backward()
    layer = as_layer(inside)
    got, (dzdx,), ders = evaluate(
        layer, X, dzdy=hwcn(p[:, :, None, None]), params=layer.init_params(), training=training
    )
    assert got.shape == (1, 1, 5, 2)
    assert_close(got[0, 0].T, y, AUTOGRAD)
    assert_close(nchw(dzdx), x.grad, AUTOGRAD)
    for der, param in zip(ders, alone.parameters(), strict=True):
        assert_close(der, param.grad, AUTOGRAD)
    for mine, theirs in zip(inside.buffers(), alone.buffers(), strict=True):
        assert_close(mine.double(), theirs.double(), AUTOGRAD)
    assert inside[1].training == training


def test_maps_of_a_module_are_maps():
    conv = nn.Conv2d(3, 4, (2, 3), stride=(2, 1), padding=1).double()
    net = mcn.SimpleNN([conv])
    f = hwcn(conv.weight.detach())
    want = mcn.conv(X, f, conv.bias.detach(), stride=(2, 1), pad=1)
    assert_close(net.eval({"x0": X}).values["x1"], want, AUTOGRAD)


def test_a_network_trains_copies_of_the_parameters():
    conv = nn.Conv2d(1, 3, 8)
    before = conv.weight.detach().clone()
    imdb = some_images()
    net = mcn.SimpleNN([conv, mcn.SoftmaxLoss()])
    ours = mcn.SimpleNN(
        [(mcn.Conv(), [hwcn(before.clone()), conv.bias.detach().clone()]), mcn.SoftmaxLoss()]
    )
    for one in (net, ours):
        mcn.Trainer(one, imdb, options=TRAINING).run()
    assert torch.equal(conv.weight, before)
    assert_close(hwcn(net.params["l1_1"].value), ours.params["l1_1"].value, SINGLE)
    assert_close(net.params["l1_2"].value, ours.params["l1_2"].value, SINGLE)


def test_frozen_parameters_and_buffers_stay_and_follow():
    net = mcn.SimpleNN([module().float()])
    net.layers[0].layer.module[0].requires_grad_(False)
    assert net.layers[0].layer.param_names[0] == "1.weight"
    inside = module().float()
    inside[0].requires_grad_(False)
    net = mcn.SimpleNN([inside]).to(torch.float64)
    assert len(net.params) == 4
    record = net.eval({"x0": X}, {"x1": randn((1, 1, 5, 2))})
    assert record.values["x1"].dtype == torch.float64
    assert inside[0].weight.dtype == inside[1].running_mean.dtype == torch.float64
    assert inside[1].num_batches_tracked == 1
    report = mcn.check_derivatives(net, {"x0": X})
    assert report.ok, f"\n{report}"


def test_modules_of_several_inputs_and_outputs():
    class Split(nn.Module):
        def forward(self, x, y):
            return x * y, (x - y).sum()

    net = mcn.DagNN()
    net.add_layer("split", Split(), ["x", "y"], ["p", "s"])
    net.add_layer("conv", nn.Conv2d(3, 2, 3).double(), "p", "q")
    report = mcn.check_derivatives(net, {"x": X, "y": randn(X.shape, 4)})
    assert report.ok, f"\n{report}"


def test_a_module_can_be_the_objective():
    class CrossEntropy(nn.Module):
        def forward(self, x, c):
            return nn.functional.cross_entropy(x.flatten(1), c, reduction="sum")

    theirs = ModuleLayer(CrossEntropy(), is_loss=True)
    nets = [mcn.SimpleNN([mcn.Conv(size=(5, 6, 3, 4)), loss]).to(torch.float64)
            for loss in (theirs, mcn.SoftmaxLoss())]  # fmt: skip
    a, b = (net.eval({"x0": X, "label": LABELS}, {"x2": 1}) for net in nets)
    assert_close(a.values["x2"], b.values["x2"], AUTOGRAD)
    assert_close(a.param_ders["l1_1"], b.param_ders["l1_1"], AUTOGRAD)


def test_what_a_module_may_not_return():
    with pytest.raises(ValueError, match=r"Flatten returned shape \(2, 3, 30\); wanted N x C"):
        mcn.SimpleNN([nn.Flatten(2)]).eval({"x0": X})

    class Word(nn.Module):
        def forward(self, x):
            return "word"

    with pytest.raises(TypeError, match="Word returned str; wanted a tensor"):
        mcn.SimpleNN([Word()]).eval({"x0": X})


def test_parameters_of_a_module_are_counted():
    net = mcn.DagNN()
    net.add_layer("fc", nn.Conv2d(3, 2, 1).double(), "x", "y", [])
    with pytest.raises(ValueError, match=r"Conv2d got 0 parameters; wanted \('weight', 'bias'\)"):
        net.eval({"x": X})


# files


def test_registered_layers_come_back_from_files(tmp_path, monkeypatch):
    net = mcn.SimpleNN([mcn.Conv(size=(3, 3, 3, 4)), square, nn.Conv2d(4, 2, 1)])
    mcn.save_network(net, tmp_path / "net.safetensors")
    x = X.float()
    stranger = mcn.load_network(tmp_path / "net.safetensors")
    assert stranger.params.keys() == net.params.keys()
    with pytest.raises(TypeError, match=r"matconvnet\.register"):
        stranger.eval({"x0": x})
    monkeypatch.setitem(TYPES, "square", as_layer(square))
    monkeypatch.setitem(TYPES, "Conv2d", as_layer(nn.Conv2d(4, 2, 1)))
    again = mcn.load_network(tmp_path / "net.safetensors")
    assert torch.equal(again.eval({"x0": x}).values["x3"], net.eval({"x0": x}).values["x3"])
