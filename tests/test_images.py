"""Images read from files and arrays, and resampled."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from matconvnet import images
from matconvnet.errors import FormatError
from matconvnet.images import read_image, resize, write_png
from tests.helpers import assert_close, seeds
from tests.naive_resize import resize as naive_resize
from tests.tolerances import REFERENCE

TOLERANCE = REFERENCE[torch.float32]
ORIENTATION = 0x0112  # the EXIF tag
METHODS = ["box", "bilinear", "bicubic", "lanczos2", "lanczos3"]


def random_image(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.fixture
def colour():
    return random_image((9, 7, 3))


def test_a_file_is_read_exactly(tmp_path, colour):
    path = save(tmp_path / "colour.png", colour)
    for source in (path, str(path)):
        image = read_image(source)
        assert image.dtype == np.uint8
        assert np.array_equal(image, colour)
    grey = save(tmp_path / "grey.png", colour[..., 0])
    assert np.array_equal(read_image(grey), colour[..., :1])


def test_a_photograph_is_read(tmp_path):
    smooth = np.linspace(0, 255, 64 * 48).reshape(48, 64, 1).repeat(3, 2).astype(np.uint8)
    path = save(tmp_path / "photo.jpg", smooth, quality=95)
    assert np.abs(read_image(path).astype(int) - smooth).max() < 8


def test_pillow_images_arrays_and_tensors_are_read(colour):
    for source in (Image.fromarray(colour), colour, torch.from_numpy(colour)):
        assert np.array_equal(read_image(source), colour)
    assert np.array_equal(read_image(colour[..., 0]), colour[..., :1])


def test_floats_keep_their_values(colour):
    values = colour / 7 - 3
    for source in (values, torch.from_numpy(values), torch.from_numpy(values).bfloat16()):
        image = read_image(source)
        assert image.dtype == np.float32
        assert np.allclose(image, values, rtol=1e-2 if source is not values else 1e-6)
    plane = Image.fromarray(values[..., 0].astype(np.float32))
    assert np.array_equal(read_image(plane), values[..., :1].astype(np.float32))


def test_other_integers_become_bytes(colour):
    assert np.array_equal(read_image(colour.astype(np.uint16) << 8), colour)
    assert np.array_equal(read_image(colour > 9), np.where(colour > 9, 255, 0))
    with pytest.raises(TypeError, match="is of int64; wanted uint8"):
        read_image(colour.astype(int))


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_grey_is_luma(colour, scale):
    source = colour if scale == 1 else colour * scale
    grey = read_image(source, 1)
    want = scale * (colour @ np.array([0.299, 0.587, 0.114]))[..., None]
    assert grey.shape == want.shape
    assert np.abs(grey - want).max() <= (0.5001 if scale == 1 else 1e-6)


def test_grey_becomes_colour_and_back(colour):
    grey = colour[..., :1]
    three = read_image(grey, 3)
    assert np.array_equal(three, grey.repeat(3, 2))
    assert np.array_equal(read_image(three, 1), grey)


def test_other_channels_are_refused(tmp_path, colour):
    five = random_image((4, 4, 5))
    assert np.array_equal(read_image(five, 5), five)
    with pytest.raises(ValueError, match="the image has 5 channels; wanted 3"):
        read_image(five, 3)
    path = save(tmp_path / "three.png", colour)
    with pytest.raises(ValueError, match=r"three\.png has 3 channels; wanted 4"):
        read_image(path, 4)


def test_transparent_is_white(tmp_path):
    image = random_image((6, 4, 4))
    image[..., 3] = 0
    image[:3, :, 3] = 255
    read = read_image(save(tmp_path / "clear.png", image))
    assert np.array_equal(read[:3], image[:3, :, :3])
    assert (read[3:] == 255).all()


def test_sixteen_bits_are_scaled(tmp_path, colour):
    deep = colour[..., 0].astype(np.uint16) << 8
    path = save(tmp_path / "deep.png", deep)
    assert np.array_equal(read_image(path), colour[..., :1])
    assert np.array_equal(read_image(Image.fromarray(deep.astype(np.int32))), colour[..., :1])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_modes(tmp_path, mode):
    corner = np.zeros((9, 8, 3), np.uint8)
    corner[:4, :5] = 255
    path = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    save(path, corner, mode)
    image = read_image(path)
    assert image.shape == (9, 8, 1 if mode in ("1", "L", "LA") else 3)
    assert np.abs(image.astype(int) - corner[..., : image.shape[2]]).max() <= 1


def test_cmyk_photographs_are_not_inverted(tmp_path):
    red = np.full((16, 16, 3), (200, 20, 40), np.uint8)
    path = save(tmp_path / "print.jpg", red, "CMYK", quality=95)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
    assert np.abs(read_image(path).astype(int) - red).max() < 6


def test_photographs_are_turned_upright(tmp_path):
    wide = random_image((8, 16, 3)) // 4
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the top of the scene is on the right
    path = save(tmp_path / "phone.png", wide, exif=exif)
    assert np.array_equal(read_image(path), np.rot90(wide, -1))
    assert np.array_equal(read_image(path, upright=False), wide)


def test_damaged_files_are_named(tmp_path, colour):
    path = save(tmp_path / "broken.png", random_image((40, 40, 3)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FormatError, match=r"broken\.png cannot be read as an image"):
        read_image(path)
    with pytest.raises(FormatError, match=r"broken\.png"), Image.open(path) as image:
        read_image(image)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tif", "bmp"])
def test_mutated_files_are_read_or_refused(tmp_path, kind):
    path = save(tmp_path / f"mutant.{kind}", random_image((12, 10, 3)))
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        for at in generator.integers(0, len(content), 3):
            content[at] = generator.integers(0, 256)
        path.write_bytes(content[: generator.integers(1, len(content) + 1)])
        try:
            read_image(path)
        except FormatError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("shape", [(3,), (3, 3, 3, 1), (0, 4, 3), ()])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match="wanted H x W or H x W x C"):
        read_image(np.zeros(shape, np.uint8))


def test_wrong_types():
    with pytest.raises(TypeError, match="an image is list; wanted a path"):
        read_image([1, 2])


@given(st.data(), st.sampled_from(METHODS), seeds, st.booleans())
def test_resize(data, method, seed, flip):
    lengths = st.integers(1, 20)
    shape = data.draw(st.tuples(lengths, lengths))
    part = tuple(data.draw(st.integers(1, length)) for length in shape)
    corner = tuple(
        data.draw(st.integers(0, length - size)) for length, size in zip(shape, part, strict=True)
    )
    size = data.draw(st.tuples(lengths, lengths))
    image = random_image((*shape, 2), seed)
    got = resize(image, size, (*corner, *part), method, flip)
    assert got.dtype == np.float32
    if part == size:
        rows, columns = (slice(c, c + p) for c, p in zip(corner, part, strict=True))
        assert np.array_equal(got, image[rows, columns][:, :: -1 if flip else 1])
    else:
        want = naive_resize(image, size, (*corner, *part), method, flip)
        assert_close(got, want, TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_large_images_are_resampled_in_steps(method):
    image = random_image((300, 400, 3))
    got = resize(image, (130, 9), (5, 7, 290, 380), method)
    assert_close(got, naive_resize(image, (130, 9), (5, 7, 290, 380), method), TOLERANCE)


@pytest.mark.parametrize("cached", [1, 4000])
@pytest.mark.parametrize("flip", [False, True])
def test_memory_at_a_time_does_not_matter(monkeypatch, cached, flip):
    image = random_image((120, 90, 3))
    options = ((70, 40), (0, 3, 120, 80), "lanczos3", flip)
    want = resize(image, *options)
    monkeypatch.setattr(images, "CACHED", cached)
    assert np.array_equal(resize(image, *options), want)


@pytest.mark.parametrize("method", METHODS)
def test_equal_parts_become_equal_wherever_they_lie(method):
    tile = random_image((20, 30, 3))
    image = np.tile(tile, (4, 4, 1))
    want = resize(image, (13, 41), (20, 30, 20, 30), method)
    for top, left in ((40, 30), (20, 60), (40, 60)):
        assert np.array_equal(resize(image, (13, 41), (top, left, 20, 30), method), want)


@pytest.mark.parametrize("first", [0, 1, 5])
def test_a_box_reads_one_pixel_of_two_that_are_equally_near(first):
    image = np.arange(12, dtype=np.float32).reshape(12, 1, 1) * 10
    up = resize(image, (9, 1), (first, 0, 6, 1), "box")[:, 0, 0]
    assert up.tolist() == [10 * (first + k) for k in (0, 1, 1, 2, 3, 3, 4, 5, 5)]
    down = resize(image, (2, 1), (first, 0, 6, 1), "box")[:, 0, 0]
    assert_close(
        torch.from_numpy(down), np.array([10.0 * (first + 1), 10 * (first + 4)]), TOLERANCE
    )


def test_the_result_is_written_where_it_is_wanted():
    image, memory = random_image((9, 11, 3)), np.zeros((2, 4, 5, 3), np.float32)
    assert resize(image, (4, 5), out=memory[1]) is not None
    assert np.array_equal(memory[1], resize(image, (4, 5)))
    assert not memory[0].any()


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="method is 'cubic'; wanted one of box, bilinear"):
        resize(random_image((5, 5, 1)), (3, 3), method="cubic")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(3, 3), (5, 5), (40, 7), (1, 1)])
def test_a_constant_image_stays_constant(method, size):
    image = np.full((15, 15, 3), 100, np.uint8)
    assert np.allclose(resize(image, size, method=method), 100, rtol=1e-6)


def test_resize_keeps_the_memory_it_was_given():
    image = random_image((5, 5, 1))
    copy = resize(image.astype(np.float32), (5, 5))
    copy += 1
    assert np.array_equal(copy - 1, image)


def test_write_png(tmp_path, colour):
    write_png(tmp_path / "new.png", colour + np.array([0.4, 0, -0.4]))
    assert np.array_equal(read_image(tmp_path / "new.png"), colour)
    write_png(tmp_path / "clipped", np.array([[[-9.0], [300.0], [7.0]]]))
    assert read_image(tmp_path / "clipped")[0, :, 0].tolist() == [0, 255, 7]
    with pytest.raises(ValueError, match="2 channels; wanted 1 or 3"):
        write_png(tmp_path / "two.png", np.zeros((3, 3, 2)))
