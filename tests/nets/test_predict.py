"""What networks make of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from matconvnet.blocks.conv import Conv
from matconvnet.blocks.dropout import Dropout
from matconvnet.blocks.loss import Loss
from matconvnet.blocks.pdist import PDist
from matconvnet.blocks.relu import ReLU
from matconvnet.blocks.sigmoid import Sigmoid
from matconvnet.blocks.softmax import Softmax
from matconvnet.blocks.softmaxloss import SoftmaxLoss
from matconvnet.blocks.sum import Sum
from matconvnet.nets.dagnn import DagNN
from matconvnet.nets.predict import Prediction, class_names, predict
from matconvnet.nets.registry import Unknown
from matconvnet.nets.simplenn import SimpleNN
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE

TOLERANCE = REFERENCE[torch.float32]
NAMES = ("cat", "dog", "cow")


def random_image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def classifier(*more, meta=None, classes=3):
    """Filters that cover images of 4 x 5, and what follows."""
    filters = 0.01 * randn((4, 5, 1, classes), 3, torch.float32)
    meta = {"inputSize": [4, 5, 1], "classes": {"name": list(NAMES)}} if meta is None else meta
    return SimpleNN([(Conv(), [filters, torch.zeros(classes)]), *more], meta), filters


def scores_of(images, filters):
    return np.tensordot(images, filters[:, :, 0].numpy(), ([0, 1], [0, 1])).T


def blur(meta=None):
    """A network that makes the mean of 3 x 3 pixels."""
    filters = torch.full((3, 3, 1, 1), 1 / 9)
    return SimpleNN([(Conv(pad=1), [filters, None])], meta)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_scores_probabilities_and_names(batch_size):
    net, filters = classifier(SoftmaxLoss())
    images = random_image((4, 5, 1, 7))
    found = predict(net, images, batch_size=batch_size)
    want = torch.from_numpy(
        scores_of(images[:, :, 0].transpose(2, 0, 1).transpose(1, 2, 0), filters)
    )
    assert_close(found.scores, want, TOLERANCE)
    assert_close(found.probabilities, want.softmax(0), TOLERANCE)
    assert found.maps.shape == (1, 1, 3, 7)
    assert not found.is_map
    for i, guesses in enumerate(found.top(2)):
        order = want[:, i].argsort(descending=True).tolist()
        assert [guess.label for guess in guesses] == order[:2]
        assert [guess.name for guess in guesses] == [NAMES[c] for c in order[:2]]
        for guess in guesses:
            assert guess.probability == pytest.approx(
                want.softmax(0)[guess.label, i].item(), rel=1e-4
            )
    assert len(found.top(9)[0]) == 3
    with pytest.raises(ValueError, match="k is 0"):
        found.top(0)


def test_the_method_of_a_network():
    net, _ = classifier()
    images = random_image((4, 5, 1, 3)) / 255
    found = net.predict(images, batch_size=2, scale=7)
    assert torch.equal(found.scores, predict(net, images, batch_size=2, scale=7).scores)


def test_images_of_all_kinds(tmp_path):
    net, filters = classifier()
    image = random_image((4, 5))
    Image.fromarray(image).save(tmp_path / "image.png")
    kinds = [
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
        Image.fromarray(image),
        image,
        image[..., None],
        image.astype(np.float64),
        torch.from_numpy(image),
    ]
    want = scores_of(image[..., None], filters)
    for kind in kinds:
        assert_close(predict(net, kind).scores, want, TOLERANCE)
    assert_close(predict(net, kinds).scores, want.repeat(len(kinds), 1), TOLERANCE)


def test_probabilities_are_left_alone():
    for last in (Softmax(), Sigmoid()):
        net, filters = classifier(last, Loss("log"))
        image = random_image((4, 5))
        found = predict(net, image)
        scores = torch.from_numpy(scores_of(image[..., None], filters))
        want = scores.softmax(0) if isinstance(last, Softmax) else scores.sigmoid()
        assert_close(found.probabilities, want, TOLERANCE)
        assert_close(found.scores, want, TOLERANCE)
        assert found.is_probability


def test_it_is_evaluated_in_test_mode():
    net, filters = classifier(Dropout(0.9), SoftmaxLoss())
    image = random_image((4, 5))
    assert_close(predict(net, image).scores, scores_of(image[..., None], filters), TOLERANCE)


def test_neither_network_nor_images_change():
    net, filters = classifier(SoftmaxLoss())
    before = filters.clone()
    images = random_image((4, 5, 1, 2)).astype(np.float32)
    copy = images.copy()
    predict(net, images, scale=0.5)
    assert np.array_equal(images, copy)
    assert torch.equal(net.params["l1_1"].value, before)


def test_maps_of_images_of_several_sizes():
    images = [random_image((6, 4)), random_image((5, 9, 3)), np.full((3, 3), 9, np.uint8)]
    found = predict(blur(), images)
    assert found.is_map
    assert [tuple(out.shape) for out in found.outputs] == [(6, 4, 1), (5, 9, 1), (3, 3, 1)]
    assert found.outputs[2][1, 1, 0] == 9
    assert_close(found.outputs[0][2, 2, 0], images[0][1:4, 1:4].mean(), TOLERANCE)
    with pytest.raises(ValueError, match=r"\(3, 3, 1\).*read `outputs`"):
        _ = found.maps
    same = predict(blur(), images[:1] * 2)
    assert same.maps.shape == (6, 4, 1, 2)


def test_the_scale():
    image = random_image((6, 4))
    full, unit = predict(blur(), image).maps, predict(blur(), image, scale=1 / 255).maps
    assert_close(unit * 255, full, TOLERANCE)
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"scale is {scale}"):
            predict(blur(), image, scale=scale)


def test_a_map_is_no_score():
    net, _ = classifier(meta={})
    found = predict(net, random_image((6, 7)))
    for read in (lambda: found.scores, lambda: found.probabilities, found.top):
        with pytest.raises(ValueError, match=r"maps of 3 x 3 pixels .*'inputSize'"):
            read()
    assert predict(net, random_image((4, 5))).scores.shape == (3, 1)


def test_the_type_of_the_network_is_kept():
    net, _ = classifier()
    assert predict(net.to(torch.float64), random_image((4, 5))).scores.dtype == torch.float64


def dag():
    net = DagNN({"inputSize": ["data", [4, 5, 1]]})
    net.add_layer("fc", Conv(size=(4, 5, 1, 3)), "data", "scores", ("f", "b"))
    net.init_params()
    return net


def test_a_graph_and_what_follows_its_prediction():
    net = dag()
    image = random_image((4, 5))
    want = scores_of(image[..., None], net.params["f"].value)
    assert_close(predict(net, image).scores, want, TOLERANCE)
    net.add_layer("loss", Loss(), ("scores", "label"), "objective")
    net.add_layer("strange", Unknown("dagnn.Strange"), ("scores", "target"), "cost")
    assert_close(predict(net, image).scores, want, TOLERANCE)
    assert net.vars["scores"].value is None


def test_a_loss_that_compares_with_the_data_is_no_prediction():
    net = DagNN()
    net.add_layer("relu", ReLU(), "data", "out")
    net.add_layer("distance", PDist(), ("out", "data"), "objective")
    image = random_image((4, 5))
    assert np.array_equal(predict(net, image).outputs[0][..., 0], image)


def test_layers_beside_the_prediction_are_not_evaluated():
    net = dag()
    net.add_layer("strange", Unknown("dagnn.Strange"), "data", "other")
    net.add_layer("prob", Softmax(), "scores", "prob")
    assert predict(net, random_image((4, 5))).is_probability


def test_an_unknown_layer_on_the_way_is_named():
    """One that reads only what follows from the data is a layer, also at the end."""
    middle = DagNN()
    middle.add_layer("strange", Unknown("dagnn.Strange"), "data", "middle")
    middle.add_layer("relu", ReLU(), "middle", "out")
    end = dag()
    end.add_layer("strange", Unknown("dagnn.Strange"), "scores", "out")
    chain = SimpleNN([ReLU(), Unknown("dagnn.Strange"), SoftmaxLoss()])
    for net in (middle, end, chain):
        with pytest.raises(TypeError, match=r"register\('dagnn.Strange', layer\)") as caught:
            predict(net, random_image((4, 5)))
        assert "in layer" in caught.value.__notes__[0]


def test_all_that_the_prediction_reads_must_follow_from_images():
    net = DagNN()
    net.add_layer("sum", Sum(), ("data", "other"), "sum")
    with pytest.raises(ValueError, match=r"'sum' reads \['other'\] beside images"):
        predict(net, random_image((4, 5)))


def test_networks_that_cannot_predict():
    with pytest.raises(ValueError, match="no layers but losses"):
        predict(SimpleNN([SoftmaxLoss()]), random_image((4, 5)))
    net, _ = classifier()
    with pytest.raises(ValueError, match="images is empty"):
        predict(net, [])
    with pytest.raises(ValueError, match="batch_size is 0"):
        predict(net, random_image((4, 5)), batch_size=0)


def test_class_names():
    assert class_names({"classes": {"name": ["n1"], "description": ["cat"]}}) == ("cat",)
    assert class_names({"classes": {"name": ["n1"], "description": []}}) == ("n1",)
    assert class_names({"classes": ["a", "b"]}) == ("a", "b")
    assert class_names({"classes": np.array(["a", "b"])}) == ("a", "b")
    assert class_names({"classes": {"name": "one"}}) == ("one",)
    for nothing in ({}, {"classes": []}, {"classes": {}}, {"classes": {"name": ""}}):
        assert class_names(nothing) is None


def test_classes_without_a_name_are_numbers():
    assert Prediction((), ("a",)).name(0) == "a"
    assert Prediction((), ("a",)).name(1) == "1"
    assert Prediction(()).name(4) == "4"
