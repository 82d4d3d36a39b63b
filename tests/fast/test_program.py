"""Programs compute what the explicit executor does: values, derivatives, modes, what is kept."""

import pytest
import torch

from matconvnet.blocks.bnorm import BatchNorm
from matconvnet.blocks.concat import Concat
from matconvnet.blocks.conv import Conv
from matconvnet.blocks.convt import ConvTranspose
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.lrn import LRN
from matconvnet.blocks.pdist import PDist
from matconvnet.blocks.pool import Pooling
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.blocks.spnorm import SpNorm
from matconvnet.blocks.sum import Sum
from matconvnet.fast.evaluator import FastEvaluator
from matconvnet.fast.native import missing
from matconvnet.layout import channels_last
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.simplenn import SimpleNN
from tests.fast.test_rewrite import CHANNELS, random_graph, values_of
from tests.helpers import assert_close, randn
from tests.tolerances import REWRITTEN

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there are kernels")

SINGLE = torch.float32


def dag_of(graph, values):
    net = DagNN()
    for node in graph.nodes:
        params = [p for p in node.params if values[p] is not None]
        net.add_layer(node.name, node.layer, list(node.inputs), list(node.outputs), params)
    for name, param in net.params.items():
        value = values[name]
        param.value = channels_last(value) if value.dim() == 4 else value
    return net


def agree(explicit, fast, net, absent=(), exact=None):
    """The fast record has what the explicit one has, and the same numbers.

    exact: the explicit record in float64, for networks in which rounding errors grow: the fast one
    may then be ten times as far from it as the explicit one in float32.
    """
    for kind in ("values", "ders", "param_ders"):
        wanted, found = getattr(explicit, kind), getattr(fast, kind)
        if kind == "values":  # both may have the inputs, too
            found = {v: x for v, x in found.items() if v in net.graph.producer}
            wanted = {v: x for v, x in wanted.items() if v in net.graph.producer}
        assert found.keys() == wanted.keys() - set(absent), kind
        for name, value in found.items():
            assert value.shape == wanted[name].shape, (kind, name)
            tolerance, want = REWRITTEN[SINGLE], wanted[name].double()
            if exact is not None:
                want = getattr(exact, kind)[name].double()
                error = (wanted[name].double() - want).abs().max() / want.abs().max().clamp(0.01)
                tolerance = max(tolerance, 10 * float(error))
            assert_close(value.double(), want, tolerance, (kind, name))
    assert fast.forward_time.keys() == explicit.forward_time.keys()
    assert fast.skipped == explicit.skipped


def both(net, inputs, ders, evaluator=None, **options):
    options = {"conserve_memory": True, **options}
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    explicit = net.eval(inputs, ders, generator=generators[0], **options)
    evaluator = evaluator or FastEvaluator(net)
    fast = evaluator.eval(inputs, ders, generator=generators[1], **options)
    assert evaluator.programs.made, evaluator.report
    return explicit, fast


@pytest.mark.parametrize("mode", ["normal", "test"])
@pytest.mark.parametrize("seed", range(30))
def test_random_graphs(seed, mode):
    graph = random_graph(seed)
    net = dag_of(graph, values_of(graph, SINGLE))
    inputs = {"x": randn((6, 5, CHANNELS, 3), 99).float(), "label": torch.tensor([0, 2, 1])}
    evaluator = FastEvaluator(net)
    wanted = None if seed % 2 else ()
    precious = [f"v{i}" for i in range(seed % 4)]
    options = {"mode": mode, "wanted_inputs": wanted, "precious": precious}
    double = dag_of(graph, values_of(graph, SINGLE)).to(torch.float64)
    exact = double.eval(
        {**inputs, "x": inputs["x"].double()}, {"objective": 1.5}, conserve_memory=True,
        generator=torch.Generator().manual_seed(5), **options,
    )  # fmt: skip
    for recompute in (False, True, False):
        records = both(
            net, inputs, {"objective": 1.5}, evaluator, recompute=recompute, **options
        )  # fmt: skip
        agree(*records, net, exact=exact)
    agree(*both(net, inputs, None, evaluator, mode=mode), net)


def chain(*layers):
    return SimpleNN(list(layers), seed=3)


CHAINS = {
    "conv": [Conv(size=(3, 3, 5, 20), pad=1), ReLU(), Conv(size=(4, 4, 20, 3), stride=2)],
    "groups": [Conv(size=(3, 3, 2, 6), pad=(1, 0, 2, 1), stride=2), Conv(size=(1, 1, 3, 8))],
    "wide": [Conv(size=(3, 3, 5, 64), pad=1), ReLU(), Conv(size=(3, 3, 64, 48), pad=1)],
    "pools": [Pooling(3, stride=2, pad=(0, 1, 0, 1)), ReLU(), Pooling(2, stride=2, method="avg")],
    "relu, pool": [Conv(size=(3, 3, 5, 7)), ReLU(), Pooling(2, stride=2), Pooling(2)],
    "lrn": [Conv(size=(3, 3, 5, 16)), ReLU(), LRN(), Pooling(3, stride=2), LRN((4, 2, 0.1, 0.5))],
    "bnorm": [Conv(size=(3, 3, 5, 9)), BatchNorm(num_channels=9), ReLU(), Pooling(2)],
    "leak": [Conv(size=(3, 3, 5, 9)), ReLU(0.1), Conv(size=(1, 1, 9, 4)), Sigmoid()],
    "dropout": [Conv(size=(3, 3, 5, 9)), ReLU(), Dropout(0.5), Conv(size=(1, 1, 9, 4))],
    "others": [SpNorm(), ConvTranspose(size=(2, 2, 3, 5)), ReLU(), Pooling(2)],
    "twice rectified": [Conv(size=(3, 3, 5, 9)), ReLU(), ReLU(), Pooling(2), ReLU()],
    "no bias": [Conv(size=(3, 3, 5, 9), has_bias=False), ReLU(), Conv(size=(1, 1, 9, 4))],
}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", CHAINS)
def test_chains(name, batch):
    body = chain(*CHAINS[name])
    x = randn((11, 9, 5 if name != "groups" else 4, batch), 1).float()
    end = body.eval({"x0": x}).values[body.output].shape
    layers = [*CHAINS[name], Conv(size=(*end[:3], 6)), Loss()]
    net = chain(*layers)
    for link in net.layers:
        if isinstance(link.layer, BatchNorm):
            link.params[2].value = torch.tensor([[0.5, 2.0]]).repeat(9, 1)
    labels = torch.arange(batch) % 6
    for wanted in (None, ()):
        inputs = {"x0": x, "label": labels}
        agree(*both(net, inputs, {net.output: 1}, wanted_inputs=wanted), net)
        agree(*both(net, inputs, {net.output: 1}, mode="test"), net)


def residual_net(*, rectified=True, join=Sum):
    """Two branches that are joined twice; one branch is the input itself."""
    net = DagNN()
    net.add_layer("c1", Conv(size=(3, 3, 5, 8), pad=1), "x", "a", ["f1", "b1"])
    net.add_layer("r1", ReLU(), "a", "ar")
    net.add_layer("c2", Conv(size=(3, 3, 8, 8), pad=1), "ar", "b", ["f2", "b2"])
    net.add_layer("n2", BatchNorm(num_channels=8), "b", "bn", ["g2", "o2", "m2"])
    net.add_layer("s", join(), ["bn", "ar"], "s")
    last = "s"
    if rectified:
        net.add_layer("rs", ReLU(), "s", "sr")
        last = "sr"
    channels = 16 if join is Concat else 8
    net.add_layer("c3", Conv(size=(1, 1, channels, 8)), last, "c", ["f3", "b3"])
    net.add_layer("c4", Conv(size=(1, 1, channels, 8)), last, "d", ["f4", "b4"])
    net.add_layer("s2", Sum(), ["c", "d"], "e")
    net.add_layer("p", Pooling((7, 6), method="avg"), "e", "f")
    net.add_layer("loss", Loss(), ["f", "label"], "objective")
    net.add_layer("err", Loss("classerror"), ["f", "label"], "error")
    net.add_layer("top", Loss("topkerror", top_k=2), ["f", "label"], "top2")
    net.init_params(0)
    net.params["m2"].value = torch.tensor([[0.5, 2.0]]).repeat(8, 1)
    return net


@pytest.mark.parametrize("join", [Sum, Concat])
@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("precious", [(), ("s",), ("ar",), ("bn", "sr"), ("f",), ("e", "c")])
def test_branches(rectified, precious, join):
    net = residual_net(rectified=rectified, join=join)
    inputs = {"x": randn((7, 6, 5, 3), 2).float(), "label": torch.tensor([1, 0, 7])}
    precious = [v for v in precious if rectified or v != "sr"]
    for wanted in (None, ()):
        for mode in ("normal", "test"):
            agree(
                *both(net, inputs, {"objective": 0.5}, mode=mode, precious=precious,
                      wanted_inputs=wanted), net,
            )  # fmt: skip
            agree(
                *both(net, inputs, {"objective": 0.5}, mode=mode, precious=precious,
                      wanted_inputs=wanted, recompute=True), net,
            )  # fmt: skip


def small():
    net = chain(*CHAINS["relu, pool"], Conv(size=(3, 2, 7, 6)), Loss())
    return net, {"x0": randn((11, 9, 5, 4), 1).float(), "label": torch.tensor([0, 1, 5, 2])}


def test_parameters_that_are_given_another_place_are_read_there():
    net, inputs = small()
    evaluator = FastEvaluator(net)
    both(net, inputs, {net.output: 1}, evaluator)
    for param in net.params.values():
        param.value = param.value * 1.5
    inputs = {v: x.clone() for v, x in inputs.items()}
    inputs["x0"] += 1
    agree(*both(net, inputs, {net.output: 1}, evaluator), net)
    assert len(evaluator.programs.made) == 1


def test_sub_batches_add_up():
    net, inputs = small()
    evaluator = FastEvaluator(net)
    records = []
    for one in (net, evaluator):
        record = one.eval(inputs, {net.output: 1}, conserve_memory=True)
        record = one.eval(
            inputs, {net.output: 1}, conserve_memory=True, record=record, accumulate=True
        )
        records.append(record)
    agree(*records, net)


def test_on_param_hears_of_every_derivative_once_from_the_last_layer_to_the_first():
    net, inputs = small()
    heard = {}
    record = FastEvaluator(net).eval(
        inputs, {net.output: 1}, on_param=lambda p, der: heard.setdefault(p, der.clone())
    )
    assert record.param_ders == {}
    assert list(heard) == ["l5_1", "l5_2", "l1_1", "l1_2"]
    wanted = net.eval(inputs, {net.output: 1}).param_ders
    for p, der in heard.items():
        assert_close(der, wanted[p], REWRITTEN[SINGLE])


def test_frozen_parameters_get_no_derivative():
    net, inputs = small()
    net.params["l1_1"].train_method = "none"
    explicit, fast = both(net, inputs, {net.output: 1})
    agree(explicit, fast, net, absent=["l1_1"])


def test_softmaxloss_with_ignored_labels():
    net = chain(Conv(size=(11, 9, 5, 6)), SoftmaxLoss())
    inputs = {"x0": randn((11, 9, 5, 4), 1).float(), "label": torch.tensor([0, -1, 5, -1])}
    agree(*both(net, inputs, {net.output: 1}), net)


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("size", [(11, 9), (1, 1)])
def test_distances_one_or_a_map_of_them(size, aggregate):
    net = DagNN()
    net.add_layer("c", Conv(size=(3, 3, 5, 6), pad=1), "x", "y", ["f", "b"])
    net.add_layer("dist", PDist(2, aggregate=aggregate), ["y", "target"], "z")
    net.init_params(0)
    x, target = (randn((*size, channels, 1), 1).float() for channels in (5, 6))
    record = net.eval({"x": x, "target": target})
    der = torch.ones_like(record.values["z"])
    explicit, fast = both(net, {"x": x, "target": target}, {"z": der})
    assert fast.values["z"].numel() == explicit.values["z"].numel()
    explicit.values["z"] = explicit.values["z"].reshape(fast.values["z"].shape)
    agree(explicit, fast, net)


def test_a_label_per_pixel():
    net = chain(Conv(size=(3, 3, 5, 6)), Loss())
    labels = torch.randint(-1, 6, (9, 7, 1, 4))
    inputs = {"x0": randn((11, 9, 5, 4), 1).float(), "label": labels}
    agree(*both(net, inputs, {net.output: 1}), net)


@pytest.mark.parametrize("label", [6, -2])
def test_labels_out_of_range_are_refused_as_the_blocks_refuse_them(label):
    net, inputs = small()
    evaluator = FastEvaluator(net)
    evaluator.eval(inputs, {net.output: 1})
    inputs["label"][2] = label
    with pytest.raises(ValueError, match=str(label)):
        evaluator.eval(inputs, {net.output: 1})


def test_what_programs_do_not_serve_is_evaluated_explicitly_and_told():
    net, inputs = small()
    evaluator = FastEvaluator(net)
    record = evaluator.eval(inputs, {net.output: 1}, depth=2)
    assert record.param_ders.keys() == net.eval(inputs, {net.output: 1}, depth=2).param_ders.keys()
    assert not evaluator.programs.made
    assert "depth" in evaluator.report[0][1]
    evaluator.eval(inputs, {net.output: 1})
    assert evaluator.report[0] == ("layer1", "kernels, as one with layer2")
    net.to(torch.float64)
    double = {v: x.double() if x.is_floating_point() else x for v, x in inputs.items()}
    evaluator.eval(double, {net.output: 1})
    assert "float64" in evaluator.report[0][1]


def test_without_kernels_everything_is_explicit(monkeypatch):
    net, inputs = small()
    monkeypatch.setattr("matconvnet.fast.evaluator.missing", lambda: "no kernels today")
    evaluator = FastEvaluator(net)
    evaluator.eval(inputs, {net.output: 1})
    assert evaluator.report == [("", "no kernels today")]
    assert not evaluator.programs.made
