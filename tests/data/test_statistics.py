"""Statistics of images: against NumPy on all of them at once, and what is kept in a file."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from matconvnet.data.imdb import Imdb
from matconvnet.data.lists import ImageList
from matconvnet.data.reader import FileSource
from matconvnet.data.statistics import batch_statistics, image_statistics, rgb_deviation
from tests.tolerances import REORDERED

SIZE = (5, 4, 3, 11)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def images(rng):
    """Colours that vary together."""
    mix = np.array([[30, 5, 0], [20, -10, 4], [3, 0, 8.0]])
    colours = rng.standard_normal((5, 4, 11, 3)) @ mix.T + (120, 90, 200)
    return colours.transpose(0, 1, 3, 2).clip(0, 255).astype(np.float32)


def assert_are(found, images):
    colours = images.astype(np.float64).transpose(0, 1, 3, 2).reshape(-1, images.shape[2])
    np.testing.assert_allclose(found.average_image, images.mean(3, np.float64), REORDERED)
    np.testing.assert_allclose(found.mean, colours.mean(0), REORDERED)
    wanted = np.cov(colours.T, bias=True).reshape(found.covariance.shape)
    np.testing.assert_allclose(found.covariance, wanted, 0, REORDERED * np.abs(wanted).max())
    assert {array.dtype for array in found} == {np.dtype(np.float64)}


@pytest.mark.parametrize("batch", [1, 3, 4, 11, 50])
def test_batches_count_by_their_images(images, batch):
    imdb = Imdb.from_arrays(images, np.zeros(11, int), classes=["a"])
    assert_are(image_statistics(imdb, batch_size=batch), images)


def test_one_channel_and_a_generator_of_batches(rng):
    images = rng.integers(0, 256, (6, 5, 1, 9)).astype(np.float32)
    batches = (torch.from_numpy(images[..., first : first + 4]) for first in (0, 4, 8, 9))
    assert_are(batch_statistics(batches), images)


def test_large_numbers_with_small_differences_do_not_cancel(rng):
    images = (rng.integers(0, 3, SIZE) + 2.0**22).astype(np.float32)
    found = batch_statistics([torch.from_numpy(images)])
    colours = (images.astype(np.float64) - 2.0**22).transpose(0, 1, 3, 2).reshape(-1, 3)
    wanted = np.cov(colours.T, bias=True)
    np.testing.assert_allclose(found.covariance, wanted, 0, REORDERED)


def test_blocks_do_not_matter(images, monkeypatch):
    monkeypatch.setattr("matconvnet.data.statistics.BLOCK", 100)
    assert_are(batch_statistics([torch.from_numpy(images)]), images)


def test_the_training_set_or_the_images_asked_for(images):
    sets = np.array([1, 2, 1, 3, 1, 1, 2, 1, 1, 1, 2])
    imdb = Imdb.from_arrays(images, np.zeros(11, int), sets, ["a"])
    assert_are(image_statistics(imdb), images[..., sets == 1])
    assert_are(image_statistics(imdb, [3, 3, 1]), images[..., [3, 3, 1]])


def test_what_cannot_be(images):
    imdb = Imdb.from_arrays(images, np.zeros(11, int), np.full(11, 2), ["a"])
    with pytest.raises(ValueError, match="there are no images"):
        image_statistics(imdb)
    with pytest.raises(ValueError, match=r"shapes \(2, 3, 1\) and \(3, 3, 1\); wanted one"):
        batch_statistics([torch.zeros(2, 3, 1, 4), torch.zeros(3, 3, 1, 4)])
    with pytest.raises(ValueError, match=r"cache is 'x\.npz'; wanted None"):
        image_statistics(imdb, cache="x.npz")
    names = ImageList("", ("a",), np.zeros(1, int), np.ones(1, int), ("a",))
    with pytest.raises(TypeError, match="source is None; wanted a FileSource"):
        image_statistics(names)


def test_the_deviation_is_a_root_of_the_covariance(images):
    covariance = batch_statistics([torch.from_numpy(images)]).covariance
    root = rgb_deviation(covariance)
    np.testing.assert_allclose(root @ root.T, covariance, 0, REORDERED * covariance.max())
    np.testing.assert_allclose(root.T @ root, np.diag(np.linalg.eigvalsh(covariance)), 0, 1e-9)


def test_variances_of_zero_have_a_root(rng):
    for colour in rng.normal(size=(20, 3)):
        covariance = np.outer(colour, colour)  # two variances are 0, or just above or below
        root = rgb_deviation(covariance)
        np.testing.assert_allclose(root @ root.T, covariance, 0, 1e-12)


class Counting:
    """A source of constant images that counts its batches."""

    def __init__(self, value):
        self.value, self.calls = value, 0

    def __repr__(self):
        return "Counting()"

    def batch(self, imdb, indices, *, training, seed):
        assert not training
        self.calls += 1
        return torch.full((2, 2, 3, len(indices)), self.value)


def test_cache(tmp_path):
    file = tmp_path / "statistics.npz"
    names = ImageList("", ("a", "b"), np.zeros(2, int), np.ones(2, int), ("x",))
    first, second = Counting(3.0), Counting(4.0)
    assert image_statistics(names, source=first, cache=file).mean.tolist() == [3, 3, 3]
    found = image_statistics(names, source=second, cache=file)
    assert second.calls == 0
    assert found.mean.tolist() == [3, 3, 3]
    assert found.average_image.shape == (2, 2, 3)
    assert image_statistics(names, [0], source=second, cache=file).mean[0] == 4  # other images
    assert image_statistics(names, source=second).mean[0] == 4  # no cache
    for rubbish in (b"", b"PK\x03\x04 damaged", file.read_bytes()[:300]):
        file.write_bytes(rubbish)
        assert image_statistics(names, source=second, cache=file).mean[0] == 4
    assert image_statistics(names, source=first, cache=file).mean[0] == 4
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.fixture
def photos(tmp_path):
    """Three tiles of a photograph, all of one size, one of them cut short."""
    for name, first in (("a", 0), ("b", 100), ("c", 200)):
        tile = data.chelsea()[first : first + 64, first : first + 64]
        Image.fromarray(tile).save(tmp_path / f"{name}.png")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    names = ("a.png", "b.png", "c.png")
    return ImageList(tmp_path, names, np.zeros(3, int), np.ones(3, int), ("cat",))


def test_files_that_cannot_be_read_do_not_count(photos):
    source = FileSource(image_size=(64, 64), crop_size=1.0, jitter_flip=True)
    tiles = [np.asarray(Image.open(photos.path(i))) for i in (0, 2)]
    assert_are(image_statistics(photos, source=source, batch_size=2), np.stack(tiles, 3))
    with pytest.raises(ValueError, match="there are no images"):
        image_statistics(photos, [1], source=source)


def test_a_reader_made_anew_finds_the_cache(photos, tmp_path):
    options = {"image_size": (64, 64), "crop_size": 1.0}
    file = tmp_path / "statistics.npz"
    kept = image_statistics(photos, source=FileSource(**options), cache=file)
    for name in photos.names:
        (tmp_path / name).unlink()
    found = image_statistics(photos, source=FileSource(**options), cache=file)
    np.testing.assert_array_equal(found.average_image, kept.average_image)
    with pytest.raises(ValueError, match="there are no images"):
        image_statistics(photos, source=FileSource(**options, upright=True), cache=file)


def test_the_mean_of_a_database_stays_in(images):
    imdb = Imdb.from_arrays(images, np.zeros(11, int), classes=["a"])
    assert imdb.mean is not None
    assert image_statistics(imdb).mean[0] > 50
