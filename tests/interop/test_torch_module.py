"""A network as a torch.nn.Module: gradients bit for bit, torch.func, copies, real networks."""

import copy
import gc
import io

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, stack_module_state, vjp, vmap

import matconvnet as mcn
from matconvnet.interop.autograd import Run
from matconvnet.interop.torch_module import to_module
from matconvnet.layout import hwcn, nchw
from matconvnet.nets.own import as_layer
from matconvnet.nets.registry import TYPES
from tests import models
from tests.helpers import assert_close, randn
from tests.interop.test_real_networks import SubP, linear_combination
from tests.tolerances import AUTOGRAD, REFERENCE

STRANGE = {
    "SubP": SubP,
    "concat": as_layer(lambda x: torch.cat((x, torch.full_like(x[:, :, :1], 0.1)), 2)),
    "upsmpl": as_layer(lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 1)),
    "chnLinComb": as_layer(linear_combination),
}
"""Types that strangers added to MatConvNet."""

X = randn((3, 2, 7, 6))  # N C H W
LABELS = torch.tensor([0, 4, 2])


def chain(dropout=0.0):
    layers = [
        mcn.Conv(size=(3, 3, 2, 4), pad=(1, 0, 2, 1)), mcn.BatchNorm(num_channels=4), mcn.ReLU(0.1),
        mcn.LRN((3, 1, 0.5, 0.75)), mcn.Pooling(3, stride=2, pad=(0, 1, 0, 1)),
        mcn.Dropout(dropout), mcn.Conv(size=(3, 3, 4, 5)), mcn.SoftmaxLoss(),
    ]  # fmt: skip
    net = mcn.SimpleNN(layers).to(torch.float64)
    net.params["l2_3"].value.copy_(torch.stack((randn((4,)), randn((4,), 1).abs() + 0.5), 1))
    return net


def dag():
    """Shared filters, fan-out, a module of the user's, and an error beside the objective."""
    torch.manual_seed(0)
    net = mcn.DagNN()
    net.add_layer("a", mcn.Conv(size=(3, 3, 2, 2), pad=1), "x", "a", ["f", "b"])
    net.add_layer("b", mcn.Conv(size=(3, 3, 2, 2), pad=1), "a", "b", ["f", "b"])
    net.add_layer("sum", mcn.Sum(), ["a", "b", "x"], "sum")
    net.add_layer("own", nn.Conv2d(2, 5, (7, 6)), "sum", "scores", ["w.f", "w.b"])
    net.add_layer("loss", mcn.Loss(), ["scores", "label"], "objective")
    net.add_layer("error", mcn.Loss("classerror"), ["scores", "label"], "error")
    net.init_params()
    return net.to(torch.float64)


every_net = pytest.mark.parametrize("make", [chain, dag])


def explicit(net, x, labels, training):
    """What the network itself makes of a batch: the objective, and its record."""
    objective = "objective" if "objective" in net.graph.producer else net.output
    record = net.eval(
        {net.input: hwcn(x), "label": labels}, {objective: 1},
        mode="normal" if training else "test", conserve_memory=False,
    )  # fmt: skip
    return record.values[objective], record


def tensors(module, net):
    """The module's parameters with the names they have in the network."""
    return {
        name: dict(module.named_parameters()).get(name.replace(".", "_")) for name in net.params
    }


@every_net
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_the_network_bit_for_bit(make, training):
    net = make()
    want, record = explicit(net, X, LABELS, training)
    module = to_module(net).train(training)
    x = X.clone().requires_grad_()
    value = module(x, LABELS)
    value.backward()
    assert torch.equal(value, want)
    assert torch.equal(hwcn(x.grad), record.ders[net.input])
    for name, tensor in tensors(module, net).items():
        if tensor is not None:
            assert torch.equal(tensor.grad, record.param_ders[name]), name
    assert sum(t is not None for t in tensors(module, net).values()) >= 4


@every_net
def test_the_prediction_and_its_derivatives(make):
    net = make()
    module = to_module(net)
    p = randn((3, 5, 1, 1), 5)
    record = net.eval(
        {net.input: hwcn(X)}, {net.prediction: hwcn(p)}, mode="test", conserve_memory=False
    )
    x = X.clone().requires_grad_()
    y = module(x)
    assert torch.equal(hwcn(y), record.values[net.prediction])
    y.backward(p)
    assert torch.equal(hwcn(x.grad), record.ders[net.input])
    with torch.no_grad():
        assert torch.equal(module(X), y)


def test_layout_of_the_house():
    net = chain()
    module = to_module(net, layout="hwcn")
    x = hwcn(X).clone().requires_grad_()
    assert torch.equal(nchw(module(x)), to_module(net)(X))
    module(x, LABELS).backward()
    assert torch.equal(x.grad, explicit(net, X, LABELS, False)[1].ders["x0"])


def test_labels_for_every_pixel():
    net = mcn.SimpleNN([mcn.Conv(size=(1, 1, 2, 5)), mcn.SoftmaxLoss()]).to(torch.float64)
    c = torch.randint(-1, 5, (3, 7, 6), generator=torch.Generator().manual_seed(0))
    want = net.eval({"x0": hwcn(X), "label": hwcn(c[:, None])}).values["x2"]
    module = to_module(net)
    assert module(X, c) == module(X, c[:, None]) == want


def test_only_what_is_asked_for_is_differentiated():
    net = chain()
    net.params["l1_1"].train_method = "none"
    module = to_module(net)
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["l1_1"]
    assert [name for name, _ in module.named_buffers()] == ["l2_3"]
    module(X, LABELS).backward()
    assert module.l1_1.grad is None
    assert module.l1_2.grad is not None


def test_masks_come_from_the_random_numbers_of_torch():
    net = mcn.SimpleNN([mcn.Dropout(0.5)])
    module = to_module(net).train()
    torch.manual_seed(3)
    x = torch.randn(2, 3, 4, 5).requires_grad_()
    y = module(x)
    y.sum().backward()
    assert torch.equal(x.grad * x, y)
    assert set(x.grad.unique().tolist()) == {0, 2}
    module.eval()
    assert torch.equal(module(x), x)


# training


def test_training_the_module_trains_the_network():
    net = chain()
    module = to_module(net)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    before = module(X, LABELS)
    for _ in range(3):
        optimizer.zero_grad()
        module(X, LABELS).backward()
        optimizer.step()
    assert module(X, LABELS) < before
    assert torch.equal(explicit(net, X, LABELS, False)[0], module(X, LABELS))


def test_torch_sgd_with_the_multipliers_steps_as_the_trainer():
    ours, theirs = chain(), chain()
    for net in (ours, theirs):
        for i, param in enumerate(net.params.values()):
            if param.train_method == "gradient":
                param.learning_rate, param.weight_decay = 1 + i, i % 2
    options = mcn.TrainOptions(
        exp_dir=None, num_epochs=4, batch_size=3, learning_rate=0.02, progress=False,
        train=range(3), val=[],
    )  # fmt: skip
    mcn.Trainer(ours, None, lambda imdb, indices: (hwcn(X)[..., indices], LABELS[indices]),
                options).run()  # fmt: skip
    module = to_module(theirs).train()
    groups = module.groups(lr=0.02, weight_decay=options.weight_decay)
    optimizer = torch.optim.SGD(groups, momentum=options.momentum)
    for _ in range(4):
        optimizer.zero_grad()
        (module(X, LABELS) / 3).backward()
        optimizer.step()
    for name, param in ours.params.items():
        assert_close(theirs.params[name].value, param.value, AUTOGRAD, name)


def test_moments_are_averaged_in_training_alone():
    net = chain()
    before = net.params["l2_3"].value.clone()
    module = to_module(net)
    module(X, LABELS).backward()
    module.train()
    loss = module(X, LABELS)
    assert torch.equal(module.l2_3, before)
    loss.backward(retain_graph=True)
    batch = explicit(net, X, LABELS, True)[1].param_ders["l2_3"] / 3
    assert_close(net.params["l2_3"].value, 0.9 * before + 0.1 * batch, AUTOGRAD)
    loss.backward()  # once more, though the moments have changed since
    assert_close(net.params["l2_3"].value, 0.81 * before + 0.19 * batch, AUTOGRAD)


# torch.func


def objective(module):
    return lambda params, x, c: functional_call(module, params, (x, c))


def weights(module):
    return {name: p.detach() for name, p in module.named_parameters()}


@every_net
def test_func_grad(make):
    net = make()
    module = to_module(net)
    found = grad(objective(module))(weights(module), X, LABELS)
    module(X, LABELS).backward()
    for name, p in module.named_parameters():
        assert torch.equal(found[name], p.grad)


@every_net
def test_vmap_of_grad_is_a_loop_over_samples(make):
    module = to_module(make())
    f = objective(module)

    def alone(params, x, c):
        return f(params, x[None], c[None])

    found = vmap(grad(alone), (None, 0, 0))(weights(module), X, LABELS)
    for i in range(len(X)):
        want = grad(alone)(weights(module), X[i], LABELS[i])
        assert all(torch.equal(found[name][i], want[name]) for name in want)


def test_vjp_and_jacrev_are_the_same_jacobian():
    module = to_module(chain())
    whole = jacrev(module)(X)
    assert whole.shape == (3, 5, 1, 1, *X.shape)
    p = randn((3, 5, 1, 1), 7)
    assert_close(vjp(module, X)[1](p)[0], torch.einsum("abcd,abcdnxyz->nxyz", p, whole), AUTOGRAD)
    each = vmap(jacrev(lambda x: module(x[None])[0]))(X)
    for i in range(3):
        assert_close(each[i], whole[i, ..., i, :, :, :], AUTOGRAD)


def test_vmap_of_vmap():
    module = to_module(chain())
    assert torch.equal(vmap(vmap(module))(X.expand(2, 4, *X.shape))[1, 2], module(X))


def test_an_ensemble_of_networks():
    one = to_module(chain())
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.l1_1.mul_(2)
        other.l2_3.add_(0.5)
    params, buffers = stack_module_state([one, other])

    def f(params, buffers):
        return functional_call(one, (params, buffers), (X, LABELS))

    for i, module in enumerate((one, other)):
        assert vmap(f)(params, buffers)[i] == module(X, LABELS)
        module(X, LABELS).backward()
        assert_close(vmap(grad(f))(params, buffers)["l1_1"][i], module.l1_1.grad, AUTOGRAD)


def test_vmap_leaves_moments_alone():
    module = to_module(chain()).train()
    before = module.l2_3.clone()
    f = objective(module)
    vmap(grad(f), (None, 0, 0))(weights(module), X[:, None], LABELS[:, None])
    jacrev(module)(X)
    assert torch.equal(module.l2_3, before)


@pytest.mark.parametrize(
    "second",
    [
        lambda f: torch.autograd.grad(torch.autograd.grad(f(x := X.clone().requires_grad_()), x,
                                                          create_graph=True)[0].sum(), x),
        lambda f: grad(lambda x: grad(f)(x).sum())(X),
        lambda f: jacrev(jacrev(f))(X),
    ],
    ids=["create_graph", "grad of grad", "jacrev of jacrev"],
)  # fmt: skip
def test_there_are_no_second_derivatives(second):
    module = to_module(chain())
    with pytest.raises(RuntimeError, match="no second derivatives"):
        second(lambda x: module(x, LABELS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_there_is_no_forward_mode():
    module = to_module(chain())
    with pytest.raises(NotImplementedError, match="jvp"):
        hessian(lambda x: module(x, LABELS))(X)


def test_what_backward_reads_may_not_be_overwritten():
    module = to_module(chain())
    value = module(X, LABELS)
    with torch.no_grad():
        module.l7_1.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
    relu = to_module(mcn.SimpleNN([mcn.ReLU()]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        relu(X.clone().requires_grad_()).mul_(2).sum().backward()


def test_nothing_is_kept_once_the_graph_is_gone():
    def runs():
        return [type(o) for o in gc.get_objects()].count(Run)

    module = to_module(chain())
    gc.collect()
    gc.disable()
    try:
        before = runs()  # a failure elsewhere may have kept some
        value = module(X.clone().requires_grad_(), LABELS)
        value.backward()
        assert runs() == before + 1
        del value
        assert runs() == before
    finally:
        gc.enable()


# a module among modules


@every_net
def test_a_copy_is_on_its_own(make):
    net = make()
    module = to_module(net)
    explicit(net, X, LABELS, True)  # its record, full of graphs, cannot be copied
    twin = copy.deepcopy(module)
    before = {name: p.value.clone() for name, p in net.params.items()}
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1)
    twin.float()
    assert all(torch.equal(p.value, before[name]) for name, p in net.params.items())
    twin.load_state_dict(module.state_dict())
    assert_close(twin(X.float(), LABELS), module(X, LABELS), REFERENCE[torch.float32])
    assert twin.groups(lr=1)[0]["lr"] == 1


def test_moving_the_module_moves_the_network():
    net = chain()
    module = to_module(net).float()
    assert all(p.value.dtype == torch.float32 for p in net.params.values())
    with torch.no_grad():
        module.l1_1.zero_()
    assert not net.params["l1_1"].value.any()
    assert torch.equal(module(X.float()), nchw(
        net.eval({"x0": hwcn(X.float())}, mode="test").values["x7"]))  # fmt: skip


def test_names_are_those_of_the_network():
    assert list(to_module(chain()).state_dict()) == [
        "l1_1", "l1_2", "l2_1", "l2_2", "l7_1", "l7_2", "l2_3"
    ]  # fmt: skip
    net = mcn.DagNN()
    net.add_layer("a", mcn.Conv(size=(1, 1, 2, 3)), "x", "y", ["training", "a.b"])
    net.add_layer("b", mcn.Conv(size=(1, 1, 3, 3)), "y", "z", ["a_b", "forward"])
    net.init_params()
    module = to_module(net)
    assert list(module.state_dict()) == ["training_", "a_b", "a_b_", "forward_"]
    assert module(X.float()).shape == (3, 3, 7, 6)


def test_it_is_stored_and_read_again():
    module = to_module(chain())
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(X), module(X))


def test_it_takes_its_place_among_other_modules():
    whole = nn.Sequential(nn.Conv2d(2, 2, 1).double(), to_module(chain()), nn.Flatten())
    whole(X).sum().backward()
    assert whole[0].weight.grad.any()
    assert torch.autograd.gradcheck(whole, X.clone().requires_grad_())


def test_what_it_cannot_take():
    net = chain()
    module = to_module(net)
    with pytest.raises(ValueError, match=r"x0 has shape \(2, 7, 6\); wanted N x C x H x W"):
        module(X[0])
    with pytest.raises(TypeError, match=r"got 3 tensors; wanted \('x0', 'label'\)"):
        module(X, LABELS, LABELS)
    with pytest.raises(ValueError, match="layout is 'nhwc'; wanted 'nchw' or 'hwcn'"):
        to_module(net, layout="nhwc")
    with pytest.raises(ValueError, match="objective is 'cost'; wanted a variable among"):
        to_module(net, objective="cost")


def test_the_objective_is_named_where_there_are_several_losses():
    net = dag()
    net.rename_var("objective", "cost")
    with pytest.raises(ValueError, match="not one loss; wanted the objective of `to_module`"):
        to_module(net)(X, LABELS)
    assert to_module(net, objective="cost")(X, LABELS) == to_module(dag())(X, LABELS)
    assert to_module(net, objective="error")(X, LABELS) in (0, 1, 2, 3)


def test_parameters_must_have_values():
    net = mcn.DagNN()
    net.add_layer("a", mcn.Conv(size=(1, 1, 2, 3)), "x", "y", ["f", "b"])
    with pytest.raises(ValueError, match=r"\['f', 'b'\] have no value; call init_params first"):
        to_module(net)


# networks of strangers


@pytest.mark.parametrize("name", models.NETWORKS)
def test_gradients_of_real_networks(name, monkeypatch):
    for kind, layer in STRANGE.items():
        monkeypatch.setitem(TYPES, kind, layer)
    net = mcn.load(models.path(name))
    reference = models.reference(name)
    x = next(torch.from_numpy(reference[key]) for key in ("x", "input", "LR") if key in reference)
    module = to_module(net)
    given = nchw(x).clone().requires_grad_()
    y = module(given)
    p = randn(y.shape, dtype=torch.float32)
    y.backward(p)
    record = net.eval({net.input: x}, {net.prediction: hwcn(p)}, mode="test", conserve_memory=False)
    assert torch.equal(hwcn(y), record.values[net.prediction])
    assert torch.equal(hwcn(given.grad), record.ders[net.input])
    found = {name: p.grad for name, p in tensors(module, net).items() if p is not None}
    assert any(der is not None for der in found.values())
    for key, der in found.items():
        want = record.param_ders.get(key)
        assert der is want is None or torch.equal(der, want), key
