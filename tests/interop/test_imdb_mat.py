"""Image databases in `.mat` files: every layout of the examples, and what a wrong one is told."""

import numpy as np
import pytest

from matconvnet.data.imdb import Imdb, load_digits
from matconvnet.data.lists import ImageList
from matconvnet.interop.imdb import load_imdb_mat, save_imdb_mat
from matconvnet.interop.mat import read_mat, write_mat
from matconvnet.values import Cell, Struct
from tests import models

H, W, C, N = 4, 3, 2, 5
LABELS = [1.0, 3, 0, 2, 1]
SETS = [1.0, 1, 2, 3, 1]


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(size=(H, W, C, N)).astype(np.float32)


@pytest.fixture
def written(tmp_path):
    """Write fields of `images`, some changed or left out (None), and load the file."""

    def load(fields, top=None, **options):
        images = {"labels": np.array([LABELS]), "set": np.array([SETS]), **fields}
        images = Struct({name: value for name, value in images.items() if value is not None})
        write_mat(tmp_path / "imdb.mat", {"images": images, **(top or {})})
        return load_imdb_mat(tmp_path / "imdb.mat", **options)

    return load


def test_a_real_one():
    imdb = load_imdb_mat(models.path("landcover_imdb"))
    assert isinstance(imdb, Imdb)
    assert imdb.images.shape == (10, 10, 1, 3900)
    assert imdb.images.dtype == np.float32
    assert np.bincount(imdb.set).tolist() == [0, 200, 100, 3600]
    assert imdb.classes == ("town", "cropland")
    assert imdb.mean is None  # the file tells none, and none is subtracted


@pytest.mark.parametrize(("part", "error"), [(1, 0.055), (2, 0.02), (3, 0.04889)])
def test_a_real_network_makes_the_errors_that_its_author_saw(part, error):
    from matconvnet.interop.formats import load

    imdb = load_imdb_mat(models.path("landcover_imdb"))
    chosen = np.flatnonzero(imdb.set == part)
    prediction = load(models.path("landcover_now_epoch100")).predict(imdb.images[..., chosen])
    wrong = prediction.scores.argmax(0).numpy() != imdb.labels[chosen]
    assert wrong.mean() == pytest.approx(error, abs=1e-5)


def test_labels_count_from_zero_and_unknown_is_negative(written, data):
    imdb = written({"data": data}, {"meta": Struct(classes=Cell(["a", "b", "c"]))})
    np.testing.assert_array_equal(imdb.images, data)
    assert imdb.images.transpose(3, 0, 1, 2).flags.c_contiguous
    assert imdb.labels.tolist() == [0, 2, -1, 1, 0]
    assert imdb.set.tolist() == [1, 1, 2, 3, 1]
    assert imdb.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "top",
    [
        {"classes": Struct(name=Cell(["x", "y", "z"]))},
        {"meta": Struct(classes=Struct(name=Cell(["x", "y", "z"])))},
        {"meta": Struct(sets=Cell(["train"])), "classes": Struct(name=Cell(["x", "y", "z"]))},
    ],
    ids=["classes", "meta", "both"],
)
def test_names_of_classes_in_other_places(written, data, top):
    assert written({"data": data}, top).classes == ("x", "y", "z")


def test_columns_and_other_names_and_classes(written, data):
    fields = {
        "labels": None,
        "label": np.array([LABELS], np.uint8).T,
        "set": np.array([SETS], np.float32).T,
        "data": data.astype(np.float64),
    }
    imdb = written(fields)
    assert imdb.labels.tolist() == [0, 2, -1, 1, 0]
    assert imdb.images.dtype == np.float32
    assert imdb.classes == ("1", "2", "3")


def test_the_toy_layout_and_a_variable_imdb(tmp_path, data):
    fields = {"images": data, "labels": np.array([LABELS]).T, "set": np.array([SETS]).T}
    write_mat(tmp_path / "toy.mat", fields)
    toy = load_imdb_mat(tmp_path / "toy.mat")
    np.testing.assert_array_equal(toy.images, data)
    assert toy.labels.tolist() == [0, 2, -1, 1, 0]
    write_mat(tmp_path / "one.mat", {"imdb": Struct(fields), "opts": Struct(a=1)})
    np.testing.assert_array_equal(load_imdb_mat(tmp_path / "one.mat").images, data)


def test_axes_that_matlab_drops(written, data):
    one = {"labels": 1.0, "set": 1.0}
    assert written({"data": data[:, :, 0]}).images.shape == (H, W, 1, N)
    assert written({"data": data[..., 0], **one}).images.shape == (H, W, C, 1)
    assert written({"data": data[:, :, 0, 0], **one}).images.shape == (H, W, 1, 1)


def test_a_mean_that_was_subtracted_is_added_again(written):
    images = np.random.default_rng(1).integers(0, 256, (H, W, C, N), np.uint8)
    mean = images[..., [0, 1, 4]].mean(3).astype(np.float32)
    imdb = written({"data": images - mean[..., None], "data_mean": mean})
    assert imdb.images.dtype == np.uint8
    np.testing.assert_array_equal(imdb.images, images)
    np.testing.assert_array_equal(imdb.mean, mean)
    kept = written({"data": images.astype(np.float32), "data_mean": mean})
    np.testing.assert_array_equal(kept.images, images)
    np.testing.assert_array_equal(kept.mean, mean)
    halves = images / np.float32(2) + np.float32(0.25)
    floats = written({"data": halves - mean[..., None] / 2, "data_mean": mean / 2})
    assert floats.images.dtype == np.float32
    np.testing.assert_allclose(floats.images, halves, atol=1e-4)


def test_names_of_files(written, tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train" / "1.jpg").touch()
    names = Cell(["train/1.jpg", "train\\2.jpg", "val/3.jpg", "4.jpg", "5.jpg"])
    top = {"imageDir": "E:\\gone\\images", "classes": Struct(name=Cell(["n01", "n02", "n03"]))}
    imdb = written({"name": names, "labels": None, "label": np.array([LABELS])}, top)
    assert isinstance(imdb, ImageList)
    assert imdb.folder == tmp_path / "images"
    assert imdb.names[1] == "train/2.jpg"
    assert imdb.labels.tolist() == [0, 2, -1, 1, 0]
    assert imdb.classes == ("n01", "n02", "n03")
    there = tmp_path / "there"
    there.mkdir()
    (there / "5.jpg").touch()
    fields = {"name": names, "labels": None}
    assert written(fields, {"imageDir": str(tmp_path / "images")}).folder == tmp_path / "images"
    elsewhere = written(fields, top, folder=there)
    assert elsewhere.folder == there
    assert elsewhere.labels.tolist() == [-1] * N
    with pytest.raises(FileNotFoundError, match=r"no file .*train/1.jpg.*argument `folder`"):
        written(fields, top, folder=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "no field images.label"),
        ({"set": None}, "no field images.set"),
        ({"set": np.array([[1.0, 2, 3, 4, 1]])}, r"imdb.mat: set\[3\] is 4; wanted 1 to 3"),
        ({"labels": np.array([[1.5, 1, 1, 1, 1]])}, r"images.labels holds 1\.5; wanted whole"),
        ({"labels": np.array([[1, np.nan, 1, 1, 1]])}, "images.labels holds nan"),
        ({"labels": np.ones((2, N))}, r"images.labels is float64 of shape \(2, 5\); wanted a row"),
        ({"labels": np.array([[-1.0, 1, 1, 1, 1]])}, r"labels\[0\] is -2"),
        ({"labels": np.ones((1, 4))}, r"images.data has shape \(4, 3, 2, 5\) for 4 labels"),
        ({"data": "text"}, "images.data is str; wanted numbers"),
        ({"data_mean": np.ones((3, 3))}, r"data_mean has shape \(3, 3\); wanted \(4, 3, 2\)"),
        ({"data": np.zeros((N, H, W, C))}, "for 5 labels; .* the images come first"),
    ],
)  # fmt: skip
def test_wrong_fields(written, data, change, message):
    with pytest.raises(ValueError, match=message):
        written({"data": data} | change)


def test_wrong_files(tmp_path):
    write_mat(tmp_path / "net.mat", {"layers": Cell(), "meta": Struct()})
    with pytest.raises(ValueError, match=r"net\.mat: no image database.*variables layers, meta"):
        load_imdb_mat(tmp_path / "net.mat")
    (tmp_path / "bad.mat").write_text("<html>")
    with pytest.raises(ValueError, match="web page"):
        load_imdb_mat(tmp_path / "bad.mat")
    with pytest.raises(FileNotFoundError):
        load_imdb_mat(tmp_path / "absent.mat")


def test_ours_come_back_as_they_were(tmp_path):
    digits = load_digits()
    some = np.r_[0:300, 9000:9100]
    imdb = Imdb(
        digits.images[..., some],
        np.where(some == 7, -1, digits.labels[some]),
        digits.set[some],
        digits.classes,
        digits.mean,
    )
    save_imdb_mat(imdb, tmp_path / "imdb.mat")
    found = load_imdb_mat(tmp_path / "imdb.mat")
    assert isinstance(found, Imdb)
    assert found.images.dtype == np.uint8
    for name in ("images", "labels", "set", "mean"):
        np.testing.assert_array_equal(getattr(found, name), getattr(imdb, name))
    assert found.classes == imdb.classes


def test_the_file_is_as_the_original_writes_it(tmp_path, data):
    imdb = Imdb.from_arrays(data, [0, 2, -1, 1, 0], [1, 1, 2, 3, 1], ["a", "b", "c"])
    assert imdb.mean is not None
    save_imdb_mat(imdb, tmp_path / "imdb.mat")
    file = read_mat(tmp_path / "imdb.mat")
    assert file["images"]["labels"].tolist() == [LABELS]
    assert file["images"]["set"].tolist() == [SETS]
    assert file["images"]["data"].dtype == np.float32
    np.testing.assert_allclose(
        file["images"]["data"][..., [0, 1, 4]].mean(3), np.zeros((H, W, C)), atol=1e-6
    )
    assert list(file["meta"]["classes"]) == ["a", "b", "c"]
    assert list(file["meta"]["sets"]) == ["train", "val", "test"]


def test_lists_of_files_come_back(tmp_path):
    (tmp_path / "a.jpg").touch()
    imdb = ImageList(
        tmp_path, ("a.jpg", "b/c.jpg"), np.array([-1, 1]), np.array([1, 3]), ("x", "y")
    )
    save_imdb_mat(imdb, tmp_path / "list.mat")
    found = load_imdb_mat(tmp_path / "list.mat")
    assert isinstance(found, ImageList)
    assert (found.folder, found.names, found.classes) == (imdb.folder, imdb.names, imdb.classes)
    assert found.labels.tolist() == [-1, 1]
    assert found.set.tolist() == [1, 3]
    targets = ImageList(tmp_path, ("a.jpg",), np.array([0.5], "f4"), np.array([1]), ())
    with pytest.raises(ValueError, match="labels are float32; wanted int64"):
        save_imdb_mat(targets, tmp_path / "list.mat")
