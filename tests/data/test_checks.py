"""Looking at data: broken and odd files, equal images, counts of classes; on real photographs."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from skimage import data

from matconvnet.data.checks import (
    check_database,
    class_counts,
    class_name,
    class_remarks,
    image_facts,
    image_name,
)
from matconvnet.data.folders import load_folder
from matconvnet.data.imdb import Imdb
from matconvnet.data.lists import ImageList

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Sound photographs of two classes in two sets, and files with a fault each."""
    root = tmp_path_factory.mktemp("photos")
    pictures = {"cat": data.chelsea(), "coffee": data.coffee()}
    for part, first in (("train", 0), ("val", 3)):
        for label, picture in pictures.items():
            (root / part / label).mkdir(parents=True)
            for i in range(first, first + 3):
                crop = picture[20 * i : 20 * i + 90, 30 * i : 30 * i + 120]
                Image.fromarray(crop).save(root / part / label / f"{i}.jpg", quality=90)
    cats, cups = root / "train" / "cat", root / "train" / "coffee"
    photo = Image.open(cats / "0.jpg")
    photo.convert("CMYK").save(cats / "cmyk.jpg")
    photo.convert("L").save(cats / "grey.jpg")
    photo.save(cats / "png.jpg", format="PNG")
    photo.resize((5000, 9)).save(cats / "wide.png")
    photo.resize((9, 7)).save(cats / "tiny.png")
    Image.fromarray(np.dstack([data.coffee()[:50, :50], np.full((50, 50), 9)]).astype("u1")).save(
        cups / "glass.png"
    )
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    photo.crop((0, 0, 50, 60)).save(cups / "turned.jpg", exif=exif)
    photo.save(cups / "two.gif", save_all=True, append_images=[photo.rotate(90)])
    (cups / "empty.jpg").touch()
    (cups / "text.jpg").write_text("no picture")
    whole = (cups / "1.jpg").read_bytes()
    (cups / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(cups / "2.jpg", root / "val" / "coffee" / "leak.jpg")
    shutil.copy(cats / "2.jpg", cups / "wrong.jpg")
    shutil.copy(cats / "1.jpg", cats / "again.jpg")
    return load_folder(root)


@pytest.fixture(scope="module")
def found(photos):
    seen = []
    findings = check_database(photos, threads=3, progress=seen.append)
    assert seen == list(range(1, len(photos) + 1))
    return findings


def test_broken_files_are_named_with_the_reason(photos, found):
    reasons = {image_name(photos, i): why for i, why in found.broken}
    assert list(reasons) == [f"train/coffee/{name}.jpg" for name in ("cut", "empty", "text")]
    assert "end" in reasons["train/coffee/cut.jpg"].lower()  # of the file, too early
    assert reasons["train/coffee/empty.jpg"] == "the file is empty"
    assert "picture" in reasons["train/coffee/text.jpg"]
    assert found.count == len(photos)


def test_odd_files(photos, found):
    odd = {what: [photos.names[i][6:] for i in indices] for what, indices in found.odd.items()}
    assert odd == {
        "CMYK": ["cat/cmyk.jpg"],
        "PNG named .jpg": ["cat/png.jpg"],
        "grey, where others have colours": ["cat/grey.jpg"],
        "has an EXIF orientation, which training ignores": ["coffee/turned.jpg"],
        "over 4096 pixels wide or high": ["cat/wide.png"],
        "several frames": ["coffee/two.gif"],
        "transparent": ["coffee/glass.png"],
        "under 8 pixels wide or high": ["cat/tiny.png"],
    }


def test_equal_images(photos, found):
    def names(groups):
        return [[photos.names[i] for i in group] for group in groups]

    assert names(found.across) == [["train/coffee/2.jpg", "val/coffee/leak.jpg"]]
    assert names(found.within) == [
        ["train/cat/1.jpg", "train/cat/again.jpg"],
        ["train/cat/2.jpg", "train/coffee/wrong.jpg"],
    ]
    assert names(found.disagreeing) == [["train/cat/2.jpg", "train/coffee/wrong.jpg"]]


@pytest.mark.parametrize("decode", [True, False], ids=["whole", "head"])
def test_facts_of_files(photos, decode):
    facts = {photos.names[f.at][6:]: f for f in image_facts(photos, threads=2, decode=decode)}
    assert facts["cat/0.jpg"].size == (90, 120)
    assert facts["cat/0.jpg"].channels == 3
    assert facts["cat/grey.jpg"].channels == 1
    assert facts["cat/wide.png"].size == (9, 5000)
    assert (facts["cat/0.jpg"].digest is None) != decode
    assert (facts["coffee/cut.jpg"].broken is not None) == decode  # its head is sound
    assert "picture" in (facts["coffee/text.jpg"].broken or "")


def test_a_missing_file_and_a_folder_end_nothing(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    imdb = ImageList(
        tmp_path, ("absent.jpg", "folder.jpg"), np.zeros(2, int), np.ones(2, int), ("a",)
    )
    broken = dict(check_database(imdb).broken)
    assert broken == {0: "No such file or directory", 1: "Is a directory"}


def test_some_images_in_their_order(photos):
    assert [fact.at for fact in image_facts(photos, [5, 0, 3])] == [5, 0, 3]


def test_arrays():
    images = np.random.default_rng(0).normal(size=(4, 5, 3, 6)).astype(np.float32)
    images[..., 3] = images[..., 0]
    images[1, 2, 0, 4] = np.nan
    images[..., 5] = 7
    imdb = Imdb.from_arrays(np.nan_to_num(images), [0, 0, 1, 1, -1, 0], [1, 1, 1, 3, 1, 1])
    imdb = replace(imdb, images=images)
    found = check_database(imdb)
    assert found.broken == [(4, "holds values that are not finite")]
    assert found.odd == {"all pixels are equal": [5]}
    assert found.across == found.disagreeing == [[0, 3]]
    assert image_name(imdb, 3) == "image 3"
    assert [class_name(imdb, i) for i in (2, 4)] == ["1", ""]


def test_all_grey_is_not_odd():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 1, 6), np.uint8)
    assert check_database(Imdb.from_arrays(images, [0] * 6)).odd == {}


def classes(**counts):
    """A database without pixels: of every class so many images in train, val and test."""
    labels, sets = [], []
    for label, numbers in enumerate(counts.values()):
        for code, number in enumerate(numbers, 1):
            labels += [label] * number
            sets += [code] * number
    names = tuple(f"{i}.jpg" for i in range(len(labels)))
    return ImageList("", names, np.array(labels), np.array(sets), tuple(counts))


def test_counts_of_classes_and_remarks():
    imdb = classes(a=(8, 2, 0), b=(8, 0, 0), c=(1, 1, 0), d=(33, 3, 0), e=(0, 1, 0), f=(8, 1, 0))
    counts = class_counts(imdb)
    assert counts.tolist() == [[8, 2, 0], [8, 0, 0], [1, 1, 0], [33, 3, 0], [0, 1, 0], [8, 1, 0]]
    assert class_remarks(counts) == ["", "none in val", "few", "many", "none in train", ""]


def test_images_without_labels_are_not_counted():
    imdb = ImageList("", ("a", "b"), np.array([-1, 0]), np.array([1, 3]), ("x",))
    assert class_counts(imdb).tolist() == [[0, 0, 1]]
    targets = ImageList("", ("a",), np.array([0.5], "f4"), np.array([1]), ())
    assert class_counts(targets).shape == (0, 3)
    assert class_name(targets, 0) == "0.5"
