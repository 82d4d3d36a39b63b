"""Another number of classes: the last convolution drawn anew."""

import pytest
import torch

import matconvnet as mcn
from matconvnet.nets.head import check_classifier, count_classes, replace_head
from matconvnet.zoo import NETWORKS
from tests.helpers import randn

CLASSES = 3
HEADS = {  # name: its last convolution, how many classes it has
    "lenet": ("layer7", 10),
    "lenet-bnorm": ("layer10", 10),
    "cifar-nin": ("cccp6", 10),
    "fashion": ("conv5", 10),
    "resnet-20": ("prediction", 10),
}


def filters(net, name):
    node = next(node for node in net.graph.nodes if node.name == name)
    return [net.params[p] for p in node.params]


@pytest.mark.parametrize("name", HEADS)
def test_a_new_head(name):
    net, (layer, classes) = NETWORKS[name](seed=1), HEADS[name]
    assert count_classes(net) == classes
    before = {n: None if v is None else v.clone() for n, v in net.values().items()}
    rules = [(p.learning_rate, p.weight_decay) for p in filters(net, layer)]
    replace_head(net, CLASSES, seed=5)
    assert count_classes(net) == CLASSES
    f, b = filters(net, layer)
    assert [(p.learning_rate, p.weight_decay) for p in (f, b)] == rules
    assert f.value.shape == (*before[f.name].shape[:3], CLASSES)
    deviation = before[f.name].std()
    assert abs(f.value.std() - deviation) < 5 * deviation / (2 * f.value.numel()) ** 0.5
    assert b.value.shape == (CLASSES,)
    assert not b.value.any()
    for other, value in net.values().items():
        if other not in (f.name, b.name) and value is not None:
            assert torch.equal(value, before[other])


@pytest.mark.parametrize("name", HEADS)
def test_it_learns_and_is_saved(name, tmp_path):
    net = NETWORKS[name](seed=1)
    replace_head(net, CLASSES)
    size = (28, 28, 1, 4) if name in ("lenet", "lenet-bnorm", "fashion") else (32, 32, 3, 4)
    inputs = {net.input: randn(size, dtype=torch.float32), "label": torch.tensor([0, 1, 2, -1])}
    output = "objective" if name == "resnet-20" else net.output
    record = net.eval(inputs, {output: 1}, precious=[net.prediction])
    assert record.values[net.prediction].shape == (1, 1, CLASSES, 4)
    f, b = filters(net, HEADS[name][0])
    assert record.param_ders[f.name].any()
    assert record.param_ders[b.name].any()
    mcn.save(net, tmp_path / "net.mat")
    assert count_classes(mcn.load(tmp_path / "net.mat")) == CLASSES


def test_errors_allow_no_more_guesses_than_there_are_classes():
    net = NETWORKS["resnet-20"]()
    replace_head(net, 7)
    assert net.layers["top5error"].block.top_k == 5
    replace_head(net, CLASSES)
    assert net.layers["top5error"].block.top_k == CLASSES


def test_a_network_of_maps_has_no_classes():
    with pytest.raises(ValueError, match="predicts maps, which its loss 'loss' compares with maps"):
        check_classifier(NETWORKS["dncnn"]())
    for name in HEADS:
        check_classifier(NETWORKS[name]())


def test_a_network_without_a_head():
    net = mcn.SimpleNN([mcn.ReLU()])
    assert count_classes(net) is None
    with pytest.raises(ValueError, match="has no head to replace"):
        replace_head(net, CLASSES)
