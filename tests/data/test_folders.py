"""load_folder: every layout of folders, and what is told about a wrong one."""

import os
import re

import numpy as np
import pytest

from matconvnet.data.folders import load_folder
from matconvnet.data.lists import split_by_name


@pytest.fixture
def root(tmp_path):
    """Make empty files; names that end in / are folders."""

    def made(*names):
        for name in names:
            path = tmp_path / name
            folder = path if name.endswith("/") else path.parent
            folder.mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.touch()
        return tmp_path

    return made


def test_sets_and_classes(root):
    folder = root(
        "val/cat/v.jpg", "train/dog/2.png", "train/dog/1.JPG", "train/cat/deep/er/3.webp",
        "test/cat/t.jpeg", "test/unknown.jpg", "notes/n.jpg", "readme.txt",
    )  # fmt: skip
    found = load_folder(str(folder))
    assert found.folder == folder
    assert found.classes == ("cat", "dog")
    rows = list(zip(found.names, found.labels.tolist(), found.set.tolist(), strict=True))
    assert rows == [
        ("train/cat/deep/er/3.webp", 0, 1),
        ("train/dog/1.JPG", 1, 1),
        ("train/dog/2.png", 1, 1),
        ("val/cat/v.jpg", 0, 2),
        ("test/unknown.jpg", -1, 3),
        ("test/cat/t.jpeg", 0, 3),
    ]
    assert found.labels.dtype == found.set.dtype == np.int64


def test_folders_of_sets_have_other_names_too(root):
    found = load_folder(root("Training/a/1.jpg", "validation/a/2.jpg", "TEST/a/3.jpg"))
    assert found.names == ("Training/a/1.jpg", "validation/a/2.jpg", "TEST/a/3.jpg")
    assert found.set.tolist() == [1, 2, 3]


def test_a_validation_set_alone(root):
    found = load_folder(root("val/a/1.jpg", "val/b/2.jpg"))
    assert found.set.tolist() == [2, 2]
    assert found.classes == ("a", "b")


def test_classes_without_sets_are_split_by_name(root):
    files = [f"{label}/{i}.jpg" for label in ("a", "b") for i in range(50)]
    found = load_folder(root(*files), val_share=0.3)
    assert found.names == tuple(sorted(files))
    np.testing.assert_array_equal(found.set, split_by_name(found.names, 0.3))
    before = dict(zip(found.names, found.set, strict=True))
    more = load_folder(root("a/new.jpg", "aa/new.jpg"), val_share=0.3)
    after = dict(zip(more.names, more.set, strict=True))
    assert {name: after[name] for name in before} == before
    assert more.classes == ("a", "aa", "b")


def test_classes_that_are_numbers_are_in_their_order(root):
    found = load_folder(root("train/10/1.png", "train/2/1.png", "train/1/1.png"))
    assert found.classes == ("1", "2", "10")
    assert found.names == ("train/1/1.png", "train/2/1.png", "train/10/1.png")


def test_train_may_be_a_class(root):
    found = load_folder(root("car/1.jpg", "plane/1.jpg", "train/1.jpg"))
    assert found.classes == ("car", "plane", "train")


def test_hidden_and_other_files_are_passed_over(root):
    found = load_folder(
        root("a/1.jpg", "a/._1.jpg", "a/.thumbs/2.jpg", "a/2.txt", ".git/3.jpg", "a/jpg")
    )
    assert found.names == ("a/1.jpg",)


def test_links_are_followed_but_not_in_circles(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "2.jpg").touch()
    folder = root("a/1.jpg")
    os.symlink(elsewhere, folder / "b")
    os.symlink(folder, folder / "a" / "circle")
    found = load_folder(folder)
    assert {"a/1.jpg", "b/2.jpg"} <= set(found.names)
    assert len(found) <= 4


LAYOUT = "wanted train/CLASS/IMAGE .*, or CLASS/IMAGE"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.jpg", "b.jpg"], rf"no images in folders of classes; {LAYOUT}.*found 2 files \(a.jpg,"),
        (["a.jpg"], "found 1 file \\(a.jpg\\)"),
        (["./"], "found nothing"),
        (["train/1.jpg", "test/2.jpg"], rf"train: no images in folders of classes; {LAYOUT}"),
        (["train/a/", "train/b/"], r"train: no images in folders .* found 2 folders \(a/, b/\)"),
        (["train/a/1.jpg", "train/b/"], "train/b: no images of class 'b'; found nothing"),
        (
            ["train/a/1.tar", "train/b/1.jpg", "train/c/"],
            r"train/a: no images of class 'a'; found 1 file \(1.tar\).*; empty as well: c",
        ),
        (["train/a/1.jpg", "val/a/1.jpg", "val/b/"], "val/b: no images of class 'b'"),
        (["a/1.jpg", "b/"], "b: no images of class 'b'"),
        (
            ["train/a/1.jpg", "val/c/1.jpg", "val/b/1.jpg"],
            "val: found the classes b, c, which 'train' lacks",
        ),
        (["train/a/1.jpg", "test/b/1.jpg"], "test: found the classes b, which 'train' lacks"),
        (["val/a/1.jpg", "valid/a/1.jpg"], "some of the folders val, valid are the same set"),
        ([f"{i}.jpg" for i in range(9)], "9 files \\(0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, ...\\)"),
    ],
)
def test_wrong_layouts(root, files, message):
    with pytest.raises(ValueError, match=message):
        load_folder(root(*files))


def test_folders_that_cannot_be_read(root, monkeypatch):
    folder = root("a/1.jpg", "a/deep/2.jpg")
    with pytest.raises(FileNotFoundError, match="absent"):
        load_folder(folder / "absent")
    with pytest.raises(NotADirectoryError, match=re.escape("1.jpg")):
        load_folder(folder / "a" / "1.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="a/deep"):
        load_folder(folder)
