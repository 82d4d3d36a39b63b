"""Images, as files and as arrays, through real networks: what the original makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from matconvnet.interop.formats import load
from matconvnet.nets.predict import predict
from matconvnet.nets.preprocess import Normalization
from tests import models
from tests.helpers import assert_close
from tests.tolerances import REFERENCE

TOLERANCE = REFERENCE[torch.float32]


def save_images(folder, images):
    """PNG files of H x W x C x N bytes, which the values of `images` must be."""
    assert np.abs(images - images.round()).max() < 1e-3
    images = images.round().astype(np.uint8)
    paths = [folder / f"{i}.png" for i in range(images.shape[3])]
    for i, path in enumerate(paths):
        Image.fromarray(images[..., i].squeeze()).save(path)
    return paths


def test_number_plates():
    """The average is an image of two axes; the reference ends with a softmax."""
    net, want = load(models.path("plate_epoch50")), models.reference("plate_epoch50")
    average = net.meta["normalization"]["averageImage"][:, :, None, None]
    found = predict(net, want["x"] + average)
    assert_close(found.maps, want["L7"], TOLERANCE)
    assert_close(found.probabilities, want["L8"][0, 0], TOLERANCE)
    best = want["L8"][0, 0].argmax(0).tolist()
    assert [guesses[0].label for guesses in found.top(1)] == best


def test_typed_letters(tmp_path):
    """The average is a number beside the layers of an old file."""
    net, want = load(models.path("charscnn_oldformat")), models.reference("charscnn_oldformat")
    paths = save_images(tmp_path, want["x"] + net.extra["imageMean"])
    assert_close(predict(net, paths).maps, want["L9"], TOLERANCE)


def test_land_cover(tmp_path):
    """Values from 0 to 1, and names of classes."""
    name = "landcover_now_epoch100"
    net, want = load(models.path(name)), models.reference(name)
    found = predict(net, save_images(tmp_path, 255 * want["x"]), scale=1 / 255)
    assert_close(found.probabilities, want["L8"][0, 0], TOLERANCE)
    assert_close(predict(net, want["x"]).probabilities, want["L8"][0, 0], TOLERANCE)
    assert found.classes == ("town", "cropland")
    assert found.top(1)[0][0].name == found.classes[want["L8"][0, 0, :, 0].argmax()]


def test_features_of_a_tracker(tmp_path):
    """A mean colour, and a size that images are resized to."""
    net, want = load(models.path("dcfnet_net7")), models.reference("dcfnet_net7")
    colour = net.meta["normalization"]["averageImage"]
    (path,) = save_images(tmp_path, want["x"] + colour[..., None])
    assert predict(net, path).maps.shape == (125, 125, 32, 1)
    assert Normalization.of(net).size == (125, 125)
    net.meta["normalization"]["imageSize"] = [48, 48, 3]
    assert_close(predict(net, path).maps, want["L4_exact"], TOLERANCE)


@pytest.mark.parametrize(
    ("name", "data", "output"),
    [
        ("dncnn_s25_bnorm", "x", "L48"),
        ("dncnn_dagnn_epoch50", "input", "prediction"),
        ("lapsrn_x2", "LR", "level1_output"),
    ],
)
def test_restoration(name, data, output):
    """Losses of types that nobody knows follow the prediction of two of them."""
    net, want = load(models.path(name)), models.reference(name)
    found = predict(net, want[data])
    assert found.is_map
    assert_close(found.maps, want[output], TOLERANCE)


def test_a_network_with_unknown_layers_says_so():
    with pytest.raises(TypeError, match="register"):
        predict(load(models.path("ffdnet_gray_retrained")), np.zeros((8, 8), np.uint8))
