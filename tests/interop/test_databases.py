"""load_data and load_cifar: what a path holds is recognised, and told where it is not."""

import shutil
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from matconvnet.data.imdb import Imdb, load_npz
from matconvnet.data.lists import ImageList
from matconvnet.interop.cifar import load_cifar, normalize_contrast, whiten
from matconvnet.interop.databases import load_data
from matconvnet.interop.mat import write_mat
from matconvnet.values import Cell

PER_BATCH = 4


@pytest.fixture
def batches():
    """Images, H x W x C x N, and labels of the six files of CIFAR-10."""
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (32, 32, 3, PER_BATCH), np.uint8), rng.integers(0, 10, PER_BATCH))
        for _ in range(6)
    ]


NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def write_cifar(folder, batches, kind):
    for name, (images, labels) in zip(NAMES, batches, strict=True):
        planes = images.transpose(3, 2, 0, 1).reshape(PER_BATCH, -1)
        if kind == "mat":
            fields = {"data": planes, "labels": labels.astype(np.uint8)[:, None]}
            write_mat(folder / f"{name}.mat", fields)
        else:
            rows = np.column_stack((labels.astype(np.uint8), planes))
            (folder / f"{name}.bin").write_bytes(rows.tobytes())


@pytest.mark.parametrize("kind", ["mat", "bin"])
def test_cifar(tmp_path, batches, kind):
    write_cifar(tmp_path, batches, kind)
    imdb = load_data(tmp_path)
    assert isinstance(imdb, Imdb)
    np.testing.assert_array_equal(imdb.images, np.concatenate([x for x, _ in batches], 3))
    np.testing.assert_array_equal(imdb.labels, np.concatenate([c for _, c in batches]))
    assert imdb.set.tolist() == [1] * 5 * PER_BATCH + [3] * PER_BATCH
    assert imdb.images.transpose(3, 0, 1, 2).flags.c_contiguous
    assert imdb.classes[:2] == ("airplane", "automobile")
    if kind == "mat":
        write_mat(tmp_path / "batches.meta.mat", {"label_names": Cell(list("abcdefghij"))})
    else:
        (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert load_cifar(tmp_path).classes == tuple("abcdefghij")


def test_cifar_prepared_as_in_the_example(tmp_path, batches, monkeypatch):
    write_cifar(tmp_path, batches, "bin")
    wanted = np.concatenate([x for x, _ in batches], 3).astype(float)
    wanted -= wanted[..., : 5 * PER_BATCH].mean(3, keepdims=True)
    wanted -= wanted.mean((0, 1, 2))
    deviations = wanted.std((0, 1, 2), ddof=1)
    wanted *= deviations.mean() / np.maximum(deviations, 40)

    def marked(images, train):
        assert train.tolist() == [True] * 5 * PER_BATCH + [False] * PER_BATCH
        return images + np.float32(1)

    monkeypatch.setattr("matconvnet.interop.cifar.whiten", marked)
    for whitened in (False, True):
        imdb = load_cifar(tmp_path, contrast_normalization=True, whiten_data=whitened)
        assert imdb.mean is None
        assert imdb.images.dtype == np.float32
        np.testing.assert_allclose(imdb.images, wanted + whitened, atol=1e-3)


def test_whitening_as_in_the_example():
    """By the words of the example, a column per image, in double precision."""
    images = np.random.default_rng(0).normal(0, 60, (3, 4, 2, 30)).astype(np.float32)
    images[1] = images[0] + images[1] / 20  # directions of little variation
    train = np.arange(30) < 25
    z = images.astype(float).reshape(-1, 30)
    variances, directions = np.linalg.eigh(z[:, train] @ z[:, train].T / 30)
    variances = np.maximum(variances, 0)
    gains = np.sqrt(variances.mean()) / np.maximum(np.sqrt(variances), 10)
    wanted = directions @ (gains[:, None] * (directions.T @ z))
    found = whiten(images, train).reshape(-1, 30)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_contrast_of_flat_images_is_not_blown_up():
    images = np.zeros((4, 4, 1, 3), np.float32)
    images[:2, ..., 0], images[:2, ..., 1] = 200, 1
    images[..., 2] = 9
    found = normalize_contrast(images)
    spread = found.std(axis=(0, 1, 2), ddof=1)
    assert spread[2] == 0
    assert spread[1] < spread[0] / 20
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    # Deviations are 103.27956, 0.51640 and 0; their mean is 34.59865, and 40 stands for the second.
    assert found[0, 0, 0, 1] == pytest.approx(0.5 * 34.59865 / 40, rel=1e-6)


def test_whitening_evens_out_the_directions():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(1, 2, 1, 4000)).astype(np.float32) * [[[[100]], [[30]]]]
    found = whiten(images.astype(np.float32), np.ones(4000, bool))
    assert found[0, 0].std() / found[0, 1].std() == pytest.approx(1, abs=1e-3)


def test_damaged_cifar(tmp_path, batches):
    write_cifar(tmp_path, batches, "bin")
    (tmp_path / "data_batch_3.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match=r"data_batch_3\.bin: found 3072 bytes; wanted 3073"):
        load_data(tmp_path)
    write_mat(tmp_path / "data_batch_3.mat", {"data": np.zeros((2, 5), np.uint8)})
    with pytest.raises(ValueError, match=r"data_batch_3.mat: wanted data, N x 3072 .* \(2, 5\)"):
        load_data(tmp_path)
    with pytest.raises(FileNotFoundError, match="lacks data_batch_1"):
        load_cifar(tmp_path / "absent")


def test_pickles_are_refused(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match="pickles, which can run any program"):
        load_data(tmp_path)


def test_digits_and_idx(tmp_path):
    digits = load_data()
    assert len(digits) == 10_000
    with resources.as_file(resources.files("matconvnet.data") / "digits") as folder:
        shutil.copytree(folder, tmp_path / "copy")
    copy = load_data(str(tmp_path / "copy"))
    assert isinstance(digits, Imdb)
    assert isinstance(copy, Imdb)
    np.testing.assert_array_equal(copy.images, digits.images)
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (tmp_path / "copy" / name).unlink()
    with pytest.raises(FileNotFoundError, match="lacks train-images-idx3-ubyte, train-labels"):
        load_data(tmp_path / "copy")


def test_folders_and_lists(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / label / "1.png")
    assert load_data(tmp_path).classes == ("a", "b")
    (tmp_path / "list.CSV").write_text("file,label\na/1.png,x\n")
    found = load_data(tmp_path / "list.CSV")
    assert isinstance(found, ImageList)
    assert found.classes == ("x",)


def test_arrays(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 3, 6), np.uint8)
    path = tmp_path / "arrays.npz"
    np.savez(path, images=images, labels=[0, 1, 1, 0, -1, 1], set=[1, 1, 1, 2, 2, 3])
    found = load_data(path)
    assert isinstance(found, Imdb)
    np.testing.assert_array_equal(found.images, images)
    assert found.labels.tolist() == [0, 1, 1, 0, -1, 1]
    assert found.set.tolist() == [1, 1, 1, 2, 2, 3]
    assert found.classes == ("0", "1")
    np.savez_compressed(path, images=images, labels=np.zeros(6, int), classes=["cat"])
    assert load_npz(path).classes == ("cat",)
    assert load_npz(path).set.tolist() == [1] * 6


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "wanted the arrays images and labels; found x"),
        (
            {"images": np.zeros((6, 4, 5, 3), "u1"), "labels": np.zeros(6, int)},
            r"images have shape \(6, 4, 5, 3\), with the 6 images first; .*transpose\(1, 2, 3, 0\)",
        ),
        ({"images": np.zeros((4, 5, 6), "u1"), "labels": np.zeros(6, int)}, "wanted H x W x C x N"),
        ({"images": np.zeros((4, 5, 1, 6)), "labels": np.zeros(6, int)}, "images are float64"),
        ({"images": np.zeros((4, 5, 1, 6), "u1"), "labels": np.ones(6)}, "must be integers"),
        ({"images": np.array([{}]), "labels": np.zeros(6, int)}, "cannot be read as arrays"),
    ],
    ids=["names", "images first", "three axes", "float64", "float labels", "objects"],
)
def test_wrong_arrays(tmp_path, arrays, message):
    path = tmp_path / "arrays.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_data(path)
    assert "arrays.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 cut", b"\x93NUMPY\x01\0"])
def test_damaged_arrays(tmp_path, content):
    path = tmp_path / "arrays.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"arrays\.npz: cannot be read as arrays of NumPy"):
        load_data(path)


def test_a_single_array_is_told(tmp_path):
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"one\.npz: wanted the arrays images and labels"):
        load_data(tmp_path / "one.npz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photo.JPG", "photo.JPG is a single image; wanted a folder with the four IDX files"),
        ("data.h5", "data.h5 is a file of suffix '.h5'; wanted"),
    ],
)
def test_files_of_no_known_kind(tmp_path, name, message):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path / name)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such data: .*absent.*wanted a folder"):
        load_data(tmp_path / "absent")
    (tmp_path / "images.csv").touch()
    with pytest.raises(ValueError, match="no images in folders of classes") as caught:
        load_data(tmp_path)
    first, second = caught.value.__notes__
    assert first == "for one of its files, name it: images.csv"
    assert "train-images-idx3-ubyte" in second
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in folders of classes") as caught:
        load_data(tmp_path)
    assert len(caught.value.__notes__) == 1
