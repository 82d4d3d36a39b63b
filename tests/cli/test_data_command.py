"""`matconvnet data`: what it prints and draws of databases of every kind."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from matconvnet.blocks.conv import Conv
from matconvnet.cli import sheet as sheets
from matconvnet.cli.sources import file_source
from matconvnet.data.folders import load_folder
from matconvnet.data.imdb import Imdb
from matconvnet.interop.imdb import save_imdb_mat
from matconvnet.nets.simplenn import SimpleNN
from tests.cli.common import failure, run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs of two classes, cups fewer than cats by far, in two sets."""
    root = tmp_path_factory.mktemp("photos")
    pictures = {"cat": (data.chelsea(), 10), "cup": (data.coffee(), 2)}
    for part in ("train", "val"):
        for label, (picture, count) in pictures.items():
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                y, x = 5 * i, 7 * i + 9 * (part == "val")
                crop = picture[y : y + 60 + i, x : x + 80]
                Image.fromarray(crop).save(root / part / label / f"{i}.jpg")
    return root


@pytest.fixture
def faulty(photos, tmp_path):
    """Photographs with an empty file, and one in both sets."""
    for path in photos.rglob("*.jpg"):
        copy = tmp_path / "faulty" / path.relative_to(photos)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    root = tmp_path / "faulty"
    (root / "train/cat/none.jpg").touch()
    (root / "val/cup/leak.jpg").write_bytes((root / "train/cup/0.jpg").read_bytes())
    return root


@pytest.fixture
def arrays(tmp_path):
    """An imdb in a .mat file with one image without a label, and one that is not finite."""
    images = np.random.default_rng(0).normal(3, 2, (6, 5, 1, 8)).astype(np.float32)
    images[2, 2, 0, 5] = np.nan
    labels = np.array([0, 1, 1, 0, 0, 0, -1, 1])
    imdb = Imdb(images, labels, np.array([1, 1, 1, 2, 2, 1, 1, 3]), ("left", "right"))
    save_imdb_mat(imdb, tmp_path / "imdb.mat")
    return tmp_path / "imdb.mat"


def rows(text):
    """The cells of the rows of a table."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_stats_of_files(photos):
    result = run("data", "stats", photos)
    assert result.exit_code == 0
    assert rows(result.output) == [
        ["cat", "10", "10", "0", ""],
        ["cup", "2", "2", "0", ""],
        ["2 classes", "12", "12", "0", ""],
    ]
    lines = result.output.splitlines()
    assert lines[0] == f"{photos}: 24 images, files in {photos}"
    assert "  height      60     63     69 pixels" in lines
    assert "  width       80     80     80 pixels" in lines
    assert "channels: 3 in 24 images" in lines
    means = next(line for line in lines if line.startswith("mean of the pixels of 12 training"))
    crops = [np.asarray(Image.open(path)) for path in (photos / "train").rglob("*.jpg")]
    wanted = np.mean([crop.mean((0, 1)) for crop in crops], axis=0)
    np.testing.assert_allclose([float(v) for v in means.split()[-3:]], wanted, atol=0.5)


def test_stats_of_arrays(arrays):
    output = run("data", "stats", arrays).output
    assert "8 images, 6 x 5 x 1 float32 in memory" in output
    assert rows(output) == [
        ["left", "2", "2", "0", "none in test"],
        ["right", "2", "0", "1", "none in val"],
        ["(no label)", "1", "0", "0", ""],
        ["2 classes", "5", "2", "1", ""],
    ]


def test_stats_of_the_digits():
    output = run("data", "stats").output
    assert output.startswith("digits of the package: 10,000 images, 28 x 28 x 1 uint8 in memory")
    assert "mean of the pixels of 8,000 training images: 33.45" in output
    assert "deviation: 78.73" in output


def test_stats_of_many_classes(tmp_path):
    lines = [f"x.png,c{i:02}" for i in range(60) for _ in range(100 - i)]
    Image.new("L", (9, 9)).save(tmp_path / "x.png")
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *lines]))
    output = run("data", "stats", tmp_path / "list.csv").output
    names = [row[0] for row in rows(output)]
    wanted = [*range(20), *range(40, 60)]
    assert names == [f"c{i:02}" for i in wanted] + ["60 classes"]
    assert "20 classes with the most images, 20 with the fewest" in " ".join(output.split())
    assert "size (of 1410 images): 9 x 9 pixels" in output


def test_stats_of_targets_and_broken_files(photos):
    names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.jpg"))]
    path = photos / "ages.csv"
    path.write_text("file,label,set\n" + "".join(f"{n},{i + 0.5},1\n" for i, n in enumerate(names)))
    with path.open("a") as file:
        file.write("gone.jpg,7.5,1\n")
    output = run("data", "stats", path).output
    assert "labels are numbers from 0.5 to 23.5, median 11.5" in " ".join(output.split())
    assert "1 image cannot be read; see `matconvnet data check`" in output


def test_check_of_sound_files(photos):
    result = run("data", "check", photos)
    assert result.exit_code == 0
    assert result.stdout == "24 of 24 images can be used.\n"


def test_check_of_faulty_files(faulty):
    result = run("data", "check", faulty)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "1 image cannot be used",
        "  train/cat/none.jpg: the file is empty",
        "1 group of equal images in different sets: what is learned by heart looks known",
        "  train/cup/0.jpg (train cup) = val/cup/leak.jpg (val cup)",
        "25 of 26 images can be used.",
    ]


def test_check_of_arrays(arrays):
    result = run("data", "check", arrays)
    assert result.exit_code == 1
    assert "  image 5: holds values that are not finite" in result.output
    assert "  left: none in test\n  right: none in val\n" in result.output
    assert "1 image without a label" in result.output


def test_long_lists_are_cut(photos):
    names = [path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg")]
    path = photos / "long.csv"
    path.write_text("\n".join(["file", *names[:1], *(f"gone{i}.jpg" for i in range(12))]))
    output = run("data", "check", path).output
    assert "12 images cannot be used\n  gone0.jpg: No such file or directory\n" in output
    assert "gone9.jpg" in output
    assert "gone10.jpg" not in output
    assert "  ... and 2 more\n" in output


def sheet(path, *options):
    result = run("data", "show", *options, "--out", path)
    assert result.exit_code == 0, result.output
    return result.output, np.asarray(Image.open(path).convert("RGB"))


def test_show_files(photos, tmp_path):
    text, picture = sheet(
        tmp_path / "s.png", photos, "--images", 4, "--draws", 2, "--flip", "--location",
        "--scale", 0.5, 1, "--aspect", 0.8, 1.2, "--contrast", 0.3, "--saturation", 0.3,
        "--brightness", 5, "--size", 40, 60,
    )  # fmt: skip
    assert text == f"4 images in {tmp_path / 's.png'}\n"
    same = sheet(tmp_path / "t.png", photos, "--images", 4, "--draws", 2, "--size", 40, 60)[1]
    assert picture.shape == same.shape
    # Without options all draws are what a test sees; with them they differ.
    assert np.abs(picture.astype(int) - same).mean() > 2


def test_show_knows_the_input_of_a_network(photos, tmp_path, monkeypatch):
    seen = []

    def look(imdb, source, indices, draws, seed):
        views = kept(imdb, source, indices, draws, seed)
        seen.append((source, views))
        return views

    kept = sheets.look
    monkeypatch.setattr(sheets, "look", look)
    sheet(tmp_path / "s.png", photos, "--network", "alexnet", "--images", 3, "--draws", 2)
    source, views = seen[0]
    assert views.test.shape == (227, 227, 3, 3)
    assert [view.shape for view in views.training] == [views.test.shape] * 2
    assert not np.array_equal(views.training[0], views.training[1])
    assert source.train.flip  # as the network's meta data tell
    assert source.train.crop_location == "random"
    imdb = load_folder(photos)
    labels = [imdb.classes[imdb.labels[i]] for i in views.indices]
    assert labels == ["cat", "cup", "cat"]  # one class after the other
    assert set(imdb.set[views.indices]) == {1}


def test_show_arrays_and_unreadable_files(arrays, faulty, tmp_path):
    sheet(tmp_path / "s.png", arrays, "--shift", 1, "--cutout", 2, "--flip", "--draws", 1)
    text, _ = sheet(tmp_path / "t.png", faulty, "--images", 13, "--draws", 0, "--size", 20, 20)
    assert text.startswith("13 images")


def test_options_for_the_other_kind(photos, arrays, tmp_path):
    out = ("--out", tmp_path / "s.png")
    message = failure("data", "show", photos, "--shift", 3, *out)
    assert f"--shift is for images in memory; found files in {photos}" in message
    message = failure("data", "show", arrays, "--scale", 0.5, 1, *out)
    assert "--scale is for files; found 6 x 5 x 1 float32 in memory" in message
    message = failure("data", "show", arrays, "--network", "lenet", *out)
    assert "images are 6 x 5 x 1; the network wants 28 x 28 x 1" in message
    assert not (tmp_path / "s.png").exists()


@pytest.mark.parametrize("command", ["stats", "check", "show"])
def test_nothing_there(command, tmp_path):
    assert "no such data" in failure("data", command, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "found nothing" in failure("data", command, tmp_path / "empty")


def test_a_network_tells_how_files_are_read():
    average = np.full((8, 8, 3), 100, np.float32)
    meta = {
        "normalization": {"imageSize": [8, 8, 3], "cropSize": 0.5, "averageImage": average},
        "augmentation": {
            "jitterLocation": True,
            "jitterScale": np.array([[0.4, 1.1]]),  # rows, as .mat files have them
            "jitterBrightness": np.diag([1.0, 2, 3]),
            "transformation": "f25",
        },
    }
    net = SimpleNN([Conv(size=(8, 8, 3, 2))], meta)
    source = file_source(net, jitter_flip=True)
    assert source.test.resize == (8, 8)
    assert tuple(source.test.crop_size) == (0.5, 0.5)
    np.testing.assert_array_equal(source.test.subtract_average, average)
    assert source.train.flip
    assert source.train.crop_location == "random"
    np.testing.assert_allclose(source.train.crop_size, (0.2, 0.55))
    np.testing.assert_array_equal(source.train.brightness, np.diag([1.0, 2, 3]))
    with pytest.raises(ValueError, match="the network tells no size of its input"):
        file_source(SimpleNN([Conv(size=(8, 8, 3, 2))]))
