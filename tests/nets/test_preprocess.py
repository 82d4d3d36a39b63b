"""From pictures to the input of a network, by meta data of every age."""

import numpy as np
import pytest
import torch
from PIL import Image

from matconvnet.blocks.conv import Conv
from matconvnet.blocks.relu import ReLU
from matconvnet.errors import FormatError
from matconvnet.images import resize
from matconvnet.nets.preprocess import Normalization, as_list
from matconvnet.nets.simplenn import SimpleNN
from tests.helpers import assert_close
from tests.tolerances import REFERENCE

TOLERANCE = REFERENCE[torch.float32]
COLOUR = np.array([124.0, 117.0, 104.0])


def normalization(meta=None, layer=None, **fields):
    """That of a network with `meta`, in which `fields` are those of `meta.normalization`."""
    net = SimpleNN([layer or ReLU()], {**(meta or {}), "normalization": fields})
    return Normalization.of(net)


def random_image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ([5, 6, 3], ((5, 6), 3)),
        ([5.0, 6.0, 3.0, 10.0], ((5, 6), 3)),
        (np.array([[5, 6, 3]], np.uint8), ((5, 6), 3)),
        (np.array([[5], [6], [3]], np.uint16), ((5, 6), 3)),
        (torch.tensor([5.0, 6.0]), ((5, 6), None)),
        (5.0, ((5, 5), None)),
    ],
)
def test_the_size_in_all_forms(size, want):
    for found in (normalization(imageSize=size), normalization({"inputSize": size})):
        assert (found.size, found.channels) == want


def test_where_the_size_is_looked_for():
    other = {"inputSize": [7, 8, 1]}
    assert normalization(other, imageSize=[5, 6, 3]).size == (7, 8)
    assert normalization(other, imageSize=[]).size == (7, 8)
    assert normalization({"inputSize": 7.0}, imageSize=[5, 6, 3]).size == (5, 6)
    assert normalization({"inputSize": 7.0}).size == (7, 7)
    named = {"inputSize": ["rois", [1, 4], "x0", [9.0, 10.0, 3.0, 32.0]]}
    assert normalization(named).size == (9, 10)
    records = [{"name": "im_info", "size": [1, 3]}, {"name": "x0", "size": [4, 5, 3, 1]}]
    assert normalization({"inputs": records}).size == (4, 5)
    assert normalization({"inputs": {"name": "data", "size": [6.0, 5.0, 3.0]}}).size == (6, 5)
    assert normalization(averageImage=np.zeros((4, 5, 3))).size == (4, 5)
    assert normalization(averageImage=COLOUR).size is None
    assert normalization().size is None
    assert Normalization.of(SimpleNN([ReLU()], {"normalization": []})).size is None


def test_where_the_channels_are_looked_for():
    grey = Conv(size=(3, 3, 1, 2))
    assert normalization(layer=grey).channels == 1
    assert normalization({"inputSize": [9, 9]}, grey).channels == 1
    assert normalization(averageImage=COLOUR).channels == 3
    assert normalization(averageImage=7.0).channels is None
    assert normalization().channels is None


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.uint8, torch.tensor, list])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1), (1, 1, 3), (1, 1, 3, 1)])
def test_a_mean_colour_in_all_forms(kind, shape):
    value = COLOUR.reshape(shape)
    if kind is list:
        value = value.ravel().tolist()
    else:
        value = value.astype(kind) if isinstance(kind, type) else kind(value)
    average = normalization(averageImage=value).average
    assert average.shape == (1, 1, 3)
    assert average.ravel().tolist() == COLOUR.tolist()


def test_mean_images():
    image = random_image((4, 5, 3)).astype(np.float32)
    assert np.array_equal(normalization(averageImage=image).average, image)
    assert np.array_equal(normalization(averageImage=image[..., 0]).average, image[..., :1])
    for nothing in ([], None, np.zeros((0, 0))):
        assert normalization(averageImage=nothing).average is None
    assert normalization(averageImage=107.5).average.tolist() == [[[107.5]]]


def test_a_mean_image_of_another_size_is_resized():
    image = random_image((8, 10, 3)).astype(np.float32)
    found = normalization(imageSize=[4, 5, 3], averageImage=image, interpolation="bilinear")
    assert np.array_equal(found.average, resize(image, (4, 5), method="bilinear"))


def test_the_mean_of_the_oldest_files():
    net = SimpleNN([Conv(size=(3, 3, 1, 2))])
    net.extra["imageMean"] = 100.0
    image = random_image((4, 4))
    assert_close(Normalization.of(net).prepare(image)[..., 0, 0], image - 100.0, TOLERANCE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"imageSize": [0, 5, 3]}, r"imageSize is \[0, 5, 3\]; wanted H, W, C"),
        ({"imageSize": "big"}, "imageSize is 'big'; wanted numbers"),
        ({"averageImage": "mean.mat"}, "averageImage is"),
        ({"averageImage": np.zeros((2, 2, 3, 4))}, r"averageImage is .*\(2, 2, 3, 4\)"),
        (
            {"averageImage": COLOUR, "imageSize": [5, 5, 4]},
            "averageImage has 3 channels; wanted 1 or .* 4",
        ),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'; wanted one of box"),
        ({"cropSize": [227, 227]}, r"cropSize is \[227.0, 227.0\]; wanted parts of 1"),
        ({"cropSize": "all"}, "cropSize is 'all'; wanted numbers"),
    ],
)
def test_nonsense_is_named(fields, message):
    with pytest.raises(FormatError, match=f"meta.normalization.{message}"):
        normalization(**fields)


def test_interpolation_and_aspect():
    assert normalization().method == "bicubic"
    assert normalization(interpolation="Bilinear").method == "bilinear"
    assert normalization(interpolation="").method == "bicubic"
    assert normalization().keep_aspect
    for value, want in ((False, False), (0.0, False), (np.array([[1]], np.uint8), True)):
        assert normalization(keepAspect=value).keep_aspect is want


def test_the_crop():
    assert normalization(cropSize=0.875).crop == (0.875, 0.875)
    assert normalization(cropSize=np.array([[0.5, 0.75]])).crop == (0.5, 0.75)
    assert normalization(imageSize=[224, 192, 3], border=[32, 64]).crop == (0.875, 0.75)
    assert normalization(imageSize=[224, 224, 3], border=[32, 32], cropSize=1).crop == (1, 1)
    assert normalization(border=[32, 32]).crop == (1, 1)


@pytest.mark.parametrize(
    ("shape", "fields", "box"),
    [
        ((300, 400), {"cropSize": 0.875}, (18, 68, 263, 263)),
        ((400, 301), {"cropSize": 0.875}, (68, 19, 263, 263)),
        ((300, 400), {"cropSize": 0.875, "keepAspect": False}, (18, 25, 263, 350)),
        ((300, 400), {}, (0, 50, 300, 300)),
        ((300, 400), {"keepAspect": 0.0}, (0, 0, 300, 400)),
        ((300, 400), {"imageSize": [100, 200, 3]}, (50, 0, 200, 400)),
        ((256, 256), {"imageSize": [227, 227, 3], "cropSize": 227 / 256}, (14, 14, 227, 227)),
        ((1, 3), {"cropSize": 0.1}, (0, 1, 1, 1)),
    ],
)
def test_the_part_of_the_image(shape, fields, box):
    """Sizes worked out by hand: share * largest part, rounded half up; the rest halved, down."""
    fields = {"imageSize": [224, 224, 3], **fields}
    image = random_image((*shape, 3))
    want = resize(image, tuple(fields["imageSize"][:2]), box)
    got = normalization(**fields).prepare(image)
    assert_close(got[..., 0], want, TOLERANCE)


def test_an_image_of_the_size_of_the_input_is_taken_whole():
    image = random_image((12, 14, 3))
    got = normalization(imageSize=[12, 14, 3], cropSize=0.875).prepare(image)
    assert np.array_equal(got[..., 0], image)


def test_preparation_is_scaled_resized_less_average(tmp_path):
    average = random_image((6, 6, 3), 1) / 255
    image = random_image((9, 13, 3), 2)
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    found = normalization(imageSize=[6, 6, 3], averageImage=average, interpolation="bilinear")
    x = found.prepare([path, image, image[..., 0]], scale=1 / 255)
    assert x.shape == (6, 6, 3, 3)
    assert x.dtype == torch.float32
    want = resize(image, (6, 6), (0, 2, 9, 9), "bilinear") / 255 - average
    assert_close(x[..., 0], want, TOLERANCE)
    assert torch.equal(x[..., 0], x[..., 1])
    grey = resize(image[..., :1], (6, 6), (0, 2, 9, 9), "bilinear") / 255
    assert_close(x[..., 2], grey - average, TOLERANCE)


def test_the_memory_of_arrays_is_left_alone():
    image = np.ones((3, 3, 1), np.float32)
    normalization(averageImage=9.0).prepare(image, scale=5)
    assert (image == 1).all()


def test_the_memory_order_is_that_of_the_house():
    assert normalization().prepare([random_image((4, 5, 3))] * 2).stride() == (15, 3, 1, 60)


def test_images_of_several_sizes_do_not_fit_together():
    images = [random_image((4, 5)), random_image((5, 4))]
    with pytest.raises(ValueError, match="wanted one shape"):
        normalization().prepare(images)
    with pytest.raises(ValueError, match="wanted one shape"):
        normalization().prepare([])


def test_lists_of_images():
    batch = random_image((3, 4, 1, 5))
    assert len(as_list(batch)) == len(as_list(torch.from_numpy(batch))) == 5
    assert np.array_equal(as_list(batch)[3], batch[..., 3])
    for one in ("a.png", Image.new("L", (2, 2)), batch[..., 0], batch[..., 0, 0]):
        assert len(as_list(one)) == 1
    assert as_list(("a.png", "b.png")) == ["a.png", "b.png"]
