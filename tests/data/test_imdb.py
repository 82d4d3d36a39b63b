"""Imdb and its constructors: what they store, what they refuse, the packaged digits."""

import gzip
import hashlib
import shutil
from importlib import resources

import numpy as np
import pytest

from matconvnet.data.imdb import MNIST_FILES, Imdb, load_digits, load_mnist

H, W, C, N = 3, 4, 2, 5
SETS = [1, 3, 1, 2, 1]


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (H, W, C, N), np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def build(**changes):
    """An Imdb from correct fields, some of them changed."""
    fields = {
        "images": np.zeros((H, W, C, N), np.uint8),
        "labels": np.array([0, 1, 2, -1, 0]),
        "set": np.array(SETS),
        "classes": ("a", "b", "c"),
        "mean": np.zeros((H, W, C), np.float32),
    }
    return Imdb(**(fields | changes))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_from_arrays_keeps_the_values_in_the_order_of_batches(images, dtype):
    imdb = Imdb.from_arrays(images.astype(dtype), [0, 1, 2, -1, 0], SETS, ["a", "b", "c"])
    np.testing.assert_array_equal(imdb.images, images)
    assert imdb.images.dtype == dtype
    assert imdb.images.transpose(3, 0, 1, 2).flags.c_contiguous
    np.testing.assert_array_equal(imdb.labels, [0, 1, 2, -1, 0])
    np.testing.assert_array_equal(imdb.set, SETS)
    assert imdb.labels.dtype == imdb.set.dtype == np.int64
    assert imdb.classes == ("a", "b", "c")


def test_a_database_counts_its_images(images):
    assert len(Imdb.from_arrays(images, [0] * N)) == N
    assert len(Imdb.from_arrays(images[..., :0], np.zeros(0, int))) == 0


def test_from_arrays_copies_only_if_it_must(images):
    rows = np.ascontiguousarray(images.transpose(3, 0, 1, 2))
    imdb = Imdb.from_arrays(rows.transpose(1, 2, 3, 0), np.zeros(N, int))
    assert np.shares_memory(imdb.images, rows)


def test_defaults_of_from_arrays(images):
    imdb = Imdb.from_arrays(images, np.array([0, 3, -1, 1, 1], np.int8))
    np.testing.assert_array_equal(imdb.set, np.ones(N))
    assert imdb.classes == ("0", "1", "2", "3")
    assert Imdb.from_arrays(images, [-1] * N).classes == ()


def test_mean_is_that_of_the_training_set(images):
    mean = Imdb.from_arrays(images, [0] * N, SETS).mean
    wanted = (images[..., 0].astype(float) + images[..., 2] + images[..., 4]) / 3
    assert mean is not None
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, wanted.astype(np.float32))


def test_mean_adds_in_double_precision():
    # 2**24 + 1 is no float32: a sum in single precision loses every one of the ones.
    images = np.ones((1, 1, 1, 3001), np.float32)
    images[..., 0] = 2.0**24
    mean = Imdb.from_arrays(images, np.zeros(3001, int)).mean
    assert mean is not None
    assert mean.item() == np.float32((2.0**24 + 3000) / 3001)


def test_no_training_images_no_mean(images):
    assert Imdb.from_arrays(images, [0] * N, [2, 2, 3, 3, 3]).mean is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": np.zeros(4, int)},
            r"labels must have shape \(5,\), one per image; found \(4,\)",
        ),
        ({"labels": np.zeros((1, 5), int)}, r"labels must have .* found \(1, 5\)"),
        ({"labels": np.array([0, 1, 3, 0, 0])}, r"labels\[2\] is 3; wanted -1 to 2"),
        ({"labels": np.array([0, -2, 0, 0, 0])}, r"labels\[1\] is -2; wanted -1 to 2"),
        ({"set": np.ones(6, int)}, r"set must have shape \(5,\), one per image; found \(6,\)"),
        ({"set": np.array([1, 1, 1, 0, 1])}, r"set\[3\] is 0; wanted 1 to 3"),
        ({"set": np.array([1, 1, 1, 1, 4])}, r"set\[4\] is 4; wanted 1 to 3"),
        ({"mean": np.zeros((W, H, C), np.float32)}, r"mean has shape \(4, 3, 2\); wanted"),
        ({"images": np.zeros((28, 28, 5), np.uint8)}, "images have shape .* wanted H x W x C x N"),
    ],
)
def test_wrong_values(changes, message):
    build()
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((H, W, C, N))}, "images are float64; wanted uint8 or float32"),
        ({"labels": np.zeros(N)}, "labels must be int64, found float64"),
        ({"set": np.ones(N, np.uint8)}, "set must be int64, found uint8"),
        ({"mean": np.zeros((H, W, C))}, "mean is float64; wanted float32"),
    ],
)
def test_wrong_types(changes, message):
    with pytest.raises(TypeError, match=message):
        build(**changes)


def test_from_arrays_refuses_labels_that_are_no_integers(images):
    with pytest.raises(TypeError, match="labels must be integers, found float64"):
        Imdb.from_arrays(images, np.array([0.0, 1.5, 0, 0, 0]))
    with pytest.raises(ValueError, match="wanted 1 to 3"):
        Imdb.from_arrays(images, [0] * N, set=[1, 257, 1, 1, 1])


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


@pytest.fixture
def mnist(tmp_path, rng):
    """A small set in the four files, one of them compressed, and the arrays in it."""
    shapes = [(6, 3, 4), (6,), (2, 3, 4), (2,)]
    arrays = [rng.integers(0, 10, shape, np.uint8) for shape in shapes]
    for name, array in zip(MNIST_FILES, arrays, strict=True):
        (tmp_path / name).write_bytes(idx(array))
    packed = tmp_path / f"{MNIST_FILES[0]}.gz"
    packed.write_bytes(gzip.compress((tmp_path / MNIST_FILES[0]).read_bytes()))
    (tmp_path / MNIST_FILES[0]).unlink()
    return tmp_path, arrays


def test_load_mnist(mnist):
    folder, (train_x, train_y, test_x, test_y) = mnist
    imdb = load_mnist(str(folder))
    assert imdb.images.shape == (3, 4, 1, 8)
    assert imdb.images.dtype == np.uint8
    for i, image in enumerate([*train_x, *test_x]):
        np.testing.assert_array_equal(imdb.images[:, :, 0, i], image)
    np.testing.assert_array_equal(imdb.labels, [*train_y, *test_y])
    np.testing.assert_array_equal(imdb.set, [1] * 6 + [3] * 2)
    assert imdb.classes == tuple("0123456789")
    assert imdb.mean is not None
    np.testing.assert_array_equal(imdb.mean[..., 0], train_x.mean(0).astype(np.float32))


def test_load_mnist_lists_what_is_missing(mnist, tmp_path):
    folder, _ = mnist
    (folder / MNIST_FILES[1]).unlink()
    (folder / MNIST_FILES[2]).unlink()
    with pytest.raises(FileNotFoundError, match=f"{MNIST_FILES[1]}, {MNIST_FILES[2]}") as caught:
        load_mnist(folder)
    assert MNIST_FILES[0] not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=", ".join(MNIST_FILES)):
        load_mnist(tmp_path / "absent")


@pytest.mark.parametrize(
    ("place", "array", "message"),
    [
        (1, np.zeros((6, 1), "u1"), "train-labels-idx1-ubyte: found 2 axes of uint8, wanted 1"),
        (2, np.zeros(2, "u1"), "t10k-images-idx3-ubyte: found 1 axes of uint8, wanted 3"),
        (3, np.zeros(3, "u1"), "t10k files with 2 images and 3 labels"),
        (1, np.zeros(5, "u1"), "train files with 6 images and 5 labels"),
        (2, np.zeros((2, 4, 3), "u1"), r"training images of \(3, 4\) pixels"),
        (1, np.full(6, 10, "u1"), r"labels\[0\] is 10; wanted -1 to 9"),
    ],
)
def test_load_mnist_refuses_files_that_disagree(mnist, place, array, message):
    folder, _ = mnist
    (folder / MNIST_FILES[place]).write_bytes(idx(array))
    with pytest.raises(ValueError, match=message):
        load_mnist(folder)


def test_load_mnist_names_the_damaged_file(mnist):
    folder, _ = mnist
    packed = folder / f"{MNIST_FILES[0]}.gz"
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(ValueError, match=f"{MNIST_FILES[0]}.gz: the gzip data are damaged"):
        load_mnist(folder)


def test_digits_are_a_stratified_split(digits):
    assert digits.images.shape == (28, 28, 1, 10_000)
    train, test = (np.bincount(digits.labels[digits.set == s], minlength=10) for s in (1, 3))
    assert train.sum() == 8000
    assert test.sum() == 2000
    assert np.all(abs(train / 4 - test) <= 1)
    rows = digits.images.transpose(3, 0, 1, 2).reshape(10_000, -1)
    assert len(np.unique(rows, axis=0)) == 10_000


def test_digits_follow_the_rule_of_their_readme(digits):
    rows = digits.images.transpose(3, 0, 1, 2).reshape(10_000, -1)
    keys = [hashlib.sha256(row.tobytes()).digest() for row in rows]
    assert keys[:8000] == sorted(keys[:8000])
    assert keys[8000:] == sorted(keys[8000:])
    by_class = sorted(range(10_000), key=lambda i: (digits.labels[i], keys[i]))
    np.testing.assert_array_equal(digits.set[by_class], ([3] + [1] * 4) * 2000)


def test_digits_are_upright_and_rightly_labelled(digits):
    """The class means are those of upright digits: strokes where the shape of each has them."""
    means = [digits.images[:, :, 0, digits.labels == c].mean(axis=2) for c in range(10)]
    assert means[0][14, 14] < 20 < 100 < means[1][14, 14]  # a hole; a stroke
    assert means[7][7:11].sum() > 2 * means[7][19:23].sum()  # the bar of a 7 is on top
    assert means[9][8:12].sum() > 1.5 * means[9][18:22].sum()  # the loop of a 9 is on top
    assert means[6][17:21].sum() > 1.5 * means[6][7:11].sum()  # the loop of a 6 is below
    distances = [
        np.square(digits.images[:, :, 0, 8000:].astype(float) - mean[..., None]).sum(axis=(0, 1))
        for mean in means
    ]
    assert np.mean(np.argmin(distances, axis=0) == digits.labels[8000:]) > 0.75


def test_packaged_files_are_a_folder_of_load_mnist(digits, tmp_path):
    source = resources.files("matconvnet.data") / "digits"
    with resources.as_file(source) as folder:
        shutil.copytree(folder, tmp_path / "copy")
    np.testing.assert_array_equal(load_mnist(tmp_path / "copy").images, digits.images)


def test_an_image_that_is_not_finite_is_named():
    images = np.ones((4, 3, 1, 6), np.float32)
    images[2, 1, 0, 4] = np.nan
    with pytest.raises(ValueError, match=r"images \[4\] have values that are not finite"):
        Imdb.from_arrays(images, np.zeros(6, int))
    sets = np.array([1, 1, 1, 1, 3, 1])
    assert np.isfinite(Imdb.from_arrays(images, np.zeros(6, int), sets).mean).all()
