"""Image files read as maps; what is drawn of predictions."""

import numpy as np
import pytest
from PIL import Image

from matconvnet.cli.classifier import average_image, class_names
from matconvnet.cli.gallery import RIGHT, WRONG, choose, save_gallery
from matconvnet.cli.images import input_size, read_images
from matconvnet.errors import FormatError

GREY = (28, 28, 1)


def save(path, array, mode=None):
    Image.fromarray(array).convert(mode).save(path) if mode else Image.fromarray(array).save(path)
    return path


@pytest.fixture
def digit():
    return np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)


def test_an_image_of_the_right_size_is_read_exactly(tmp_path, digit):
    path = save(tmp_path / "digit.png", digit)
    x = read_images([path, path], GREY)
    assert x.shape == (28, 28, 1, 2)
    assert np.array_equal(x[:, :, 0, 1], digit)
    assert np.array_equal(read_images([path], GREY, invert=True)[:, :, 0, 0], 255 - digit)


def test_grey_becomes_colour_and_back(tmp_path, digit):
    grey = save(tmp_path / "grey.png", digit)
    colour = save(tmp_path / "colour.png", np.stack([digit] * 3, 2))
    x = read_images([grey, colour], (28, 28, 3))
    assert np.array_equal(x[..., 0], x[..., 1])
    assert np.array_equal(read_images([colour], GREY)[:, :, 0, 0], digit)


def test_channels_keep_their_order(tmp_path):
    red = save(tmp_path / "red.png", np.full((5, 5, 3), (200, 10, 30), np.uint8))
    assert read_images([red], (4, 6, 3))[2, 3, :, 0].tolist() == [200, 10, 30]


def test_the_centre_is_kept(tmp_path):
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 16:44] = 255  # resizing reads a little beyond the part that is kept
    x = read_images([save(tmp_path / "wide.png", wide)], (10, 10, 1))
    assert (x == 255).all()


def test_transparent_is_white(tmp_path):
    image = np.zeros((28, 28, 4), np.uint8)
    image[:14, :, 3] = 255
    x = read_images([save(tmp_path / "clear.png", image)], GREY)
    assert (x[:14] == 0).all()
    assert (x[14:] == 255).all()


def test_sixteen_bits_are_scaled(tmp_path, digit):
    path = save(tmp_path / "deep.png", digit.astype(np.uint16) << 8)
    assert np.array_equal(read_images([path], GREY)[:, :, 0, 0], digit)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_other_modes_are_read(tmp_path, mode):
    white = Image.fromarray(np.full((9, 9), 255, np.uint8)).convert(mode)
    path = tmp_path / ("white.tif" if mode == "CMYK" else "white.png")
    white.save(path)
    assert (read_images([path], (9, 9, 3)) >= 254).all()


def test_damaged_files_are_named(tmp_path, digit):
    path = save(tmp_path / "digit.png", digit)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FormatError, match=r"digit\.png cannot be read"):
        read_images([path], GREY)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_images([tmp_path / "none.png"], GREY)


def test_the_input_size_is_in_the_meta_data():
    assert input_size({"inputSize": [227, 227, 3, 32]}) == (227, 227, 3)
    assert input_size({"inputSize": [9, 9], "normalization": {"imageSize": [5, 6]}}) == (5, 6, 1)
    with pytest.raises(FormatError, match="neither"):
        input_size({})
    with pytest.raises(FormatError, match="4 channels"):
        input_size({"inputSize": [9, 9, 4]})


def test_average_images_and_classes_of_all_kinds():
    image = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    assert np.array_equal(average_image({"normalization": {"averageImage": image}}), image)
    for colour in (image[0, 0], image[:1, :1], image[0, :1].T):
        found = average_image({"normalization": {"averageImage": colour}})
        assert found.shape == (1, 1, 3)
        assert found.ravel().tolist() == [0, 1, 2]
    assert average_image({"normalization": {"averageImage": image[..., 0]}}).shape == (2, 4, 1)
    assert average_image({"normalization": {"averageImage": []}}) is None
    assert average_image({}) is None
    assert class_names({"classes": {"name": ["n1"], "description": ["cat"]}}) == ("cat",)
    assert class_names({"classes": ["a", "b"]}) == ("a", "b")
    assert class_names({}) is None


def test_the_worst_mistakes_come_first():
    labels = np.array([0, 0, 1, 1, 1, 0])
    likely = np.array([0.9, 0.4, 0.3, 0.1, 0.8, 0.95])  # of class 0
    chosen = choose(labels, np.stack((likely, 1 - likely), 1), mistakes=2, others=2)
    assert chosen.tolist() == [4, 1, 0, 3]
    assert choose(labels, np.stack((likely, 1 - likely), 1), 9, 9).tolist() == [4, 1, 0, 2, 3, 5]


def test_the_gallery_frames_right_and_wrong(tmp_path):
    images = np.full((28, 28, 1, 2), 128, np.uint8)
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    path = tmp_path / "gallery.png"
    save_gallery(path, images, np.array([0, 1]), probabilities, ("no", "yes"), "two")
    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 16)}
    for wanted in (RIGHT, WRONG):
        assert tuple(bytes.fromhex(wanted[1:])) in colours
