"""`vl_imreadjpeg` and its batches, with the manners of the original."""

import numpy as np
import pytest
import torch

from matconvnet.compat.images import cnn_get_image_batch, vl_imreadjpeg
from matconvnet.data.reading import read_pictures
from matconvnet.values import Cell
from tests.data.pictures import encoded, photograph
from tests.helpers import assert_close
from tests.naive_resize import resize
from tests.tolerances import REFERENCE


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{k}.jpg" for k in range(6)]
    for k, path in enumerate(paths):
        path.write_bytes(encoded(photograph(24 + k, 32, k), "PNG"))
    return [str(path) for path in paths]


JITTER = ("Flip", "CropLocation", "random", "CropSize", [0.5, 1], "Contrast", 0.4, "Brightness", 9)


def test_pictures_come_as_they_are(files):
    pictures = vl_imreadjpeg(files)
    assert isinstance(pictures, list)
    for k, picture in enumerate(pictures):
        assert picture.dtype == torch.float32
        assert np.array_equal(picture, photograph(24 + k, 32, k))


def test_the_answer_has_the_shape_of_the_list(files):
    grid = np.array(files, object).reshape(2, 3)
    answer = vl_imreadjpeg(grid)
    assert answer.shape == (2, 3)
    assert np.array_equal(answer[1, 0], photograph(27, 32, 3))
    cell = vl_imreadjpeg(Cell(files, (6, 1)))
    assert (type(cell), cell.shape) == (Cell, (6, 1))
    assert np.array_equal(cell[3], photograph(27, 32, 3))
    assert vl_imreadjpeg([]) == []


def test_options_in_any_spelling(files):
    want = read_pictures(files, resize=(9, 11), crop_size=0.8, interpolation="bicubic", pack=True)
    for given in (
        ("Pack", "RESIZE", [9, 11], "cropsize", 0.8, "Interpolation", "BICUBIC"),
        ("resize", np.array([[9.0, 11.0]]), "numThreads", 2, "verbose", "Pack", "crop_size", 0.8,
         "interpolation", "bicubic", "Verbose"),
        ({"Resize": (9, 11), "CropSize": 0.8}, "interpolation", "bicubic", "pack"),
    ):  # fmt: skip
        (answer,) = vl_imreadjpeg(files, *given)
        assert torch.equal(answer, want)
    (answer,) = vl_imreadjpeg(
        files, pack=True, resize=[9, 11], crop_size=0.8, interpolation="bicubic"
    )
    assert torch.equal(answer, want)
    assert vl_imreadjpeg(files, "Resize", 12, "SubtractAverage", [])[5].shape == (12, 13, 3)


def test_generators_make_runs_equal(files):
    def run(generator):
        answer = vl_imreadjpeg(files, *JITTER, "Resize", [8, 8], "Pack", "Generator", generator)
        return answer[0]

    assert torch.equal(run(7), run(7))
    assert not torch.equal(run(7), run(8))
    for make in (np.random.default_rng, torch.Generator().manual_seed):
        assert torch.equal(run(make(3)), run(make(3)))
    torch.manual_seed(5)
    first, second = run(None), run(None)
    torch.manual_seed(5)
    assert torch.equal(first, run(None))
    assert not torch.equal(first, second)
    with pytest.raises(TypeError, match="generator is str; wanted a seed"):
        run("seed")


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_what_was_prefetched_is_returned_once(files, threads):
    options = ("NumThreads", threads, "Resize", [8, 8], *JITTER, "Generator", 1)
    want = vl_imreadjpeg(files, *options)
    assert vl_imreadjpeg(files, "Prefetch", *options) is None
    got = vl_imreadjpeg(files, "Resize", [3, 3])  # the options of the first call hold
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))
    assert vl_imreadjpeg(files, "Resize", [3, 3])[0].shape == (3, 3, 3)


@pytest.mark.parametrize(
    "change", [lambda f: f[:-1], lambda f: f[::-1], lambda f: f + f[:1]],
    ids=["prefix", "order", "longer"],
)  # fmt: skip
def test_another_list_discards_what_was_prefetched(files, change):
    vl_imreadjpeg(files, "Prefetch", "Resize", [8, 8])
    other = change(files)
    assert [p.shape[0] for p in vl_imreadjpeg(other, "Resize", [5, 4])] == [5] * len(other)
    assert vl_imreadjpeg(files)[0].shape == (24, 32, 3)


def test_packed_pictures_are_prefetched(files):
    vl_imreadjpeg(files, "prefetch", "pack", "resize", [8, 8])
    (batch,) = vl_imreadjpeg(files)
    assert batch.shape == (8, 8, 3, 6)


def test_bad_files_leave_the_others_alone(files, tmp_path):
    want = vl_imreadjpeg(files)
    (tmp_path / "2.jpg").write_text("no picture")
    files[4] = str(tmp_path / "none.jpg")
    for prefetch in (False, True):
        if prefetch:
            vl_imreadjpeg(files, "Prefetch")  # and does not warn
        with pytest.warns(UserWarning, match="could not read image .* because") as caught:
            got = vl_imreadjpeg(files)
        assert len(caught) == 2
        assert [k for k in range(6) if got[k] is None] == [2, 4]
        assert all(torch.equal(got[k], want[k]) for k in (0, 1, 3, 5))


def test_bad_files_are_average_where_packed(files):
    average = np.full((8, 8, 3), 90, np.float32)
    options = ("Resize", [8, 8], "Pack", "SubtractAverage", average)
    (want,) = vl_imreadjpeg(files, *options)
    files[1] = "none.jpg"
    with pytest.warns(UserWarning, match="'none.jpg' because No such file"):
        (got,) = vl_imreadjpeg(files, *options)
    assert not got[..., 1].any()
    assert torch.equal(got[..., [0, 2, 3, 4, 5]], want[..., [0, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        (("Pack",), ValueError, "resize is None; pack wants"),
        (("Pack", "Resize", 8), ValueError, "pack wants"),
        (("Resize", [0.9, 3]), ValueError, "resize is"),
        (("CropLocation", "left"), ValueError, "crop_location is 'left'"),
        (("CropSize", [1, 0.5]), ValueError, "crop_size is"),
        (("CropAnisotropy", -1), ValueError, "crop_anisotropy is"),
        (("Interpolation", "nearest"), ValueError, "interpolation is 'nearest'"),
        (("SubtractAverage", np.zeros((3, 3, 3), np.float32)), ValueError, "wanted the same"),
        (("Rotate", 3), TypeError, "Unknown parameter 'Rotate'"),
        (("Resize",), TypeError, "option 'Resize' has no value"),
    ],
    ids=lambda value: "-".join(map(str, value[:1])) if isinstance(value, tuple) else None,
)
def test_wrong_options(files, pairs, error, message):
    with pytest.raises(error, match=message):
        vl_imreadjpeg(files, *pairs)
    with pytest.raises(error, match=message):
        vl_imreadjpeg(files, "Prefetch", *pairs)
    assert vl_imreadjpeg(files)[0].shape == (24, 32, 3)


def test_a_wrong_call_discards_what_was_prefetched(files):
    vl_imreadjpeg(files, "Prefetch", "Resize", [8, 8])
    with pytest.raises(ValueError, match="resize is"):
        vl_imreadjpeg(files, "Prefetch", "Resize", 0)
    assert vl_imreadjpeg(files)[0].shape == (24, 32, 3)


def test_wrong_lists():
    with pytest.raises(TypeError, match="files is str; wanted a list of paths"):
        vl_imreadjpeg("one.jpg")
    with pytest.raises(TypeError, match=r"files\[1\] is int; wanted a path"):
        vl_imreadjpeg(["one.jpg", 2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu(files):
    with pytest.raises(RuntimeError, match="GPU is given, but torch finds no CUDA device"):
        vl_imreadjpeg(files, "GPU")


def test_batches_are_centred_and_bicubic(files):
    x = cnn_get_image_batch(files, "imageSize", [8, 8, 3], "subtractAverage", [1, 2, 3])
    assert x.shape == (8, 8, 3, 6)
    side = round(24 * 227 / 256)
    part = ((24 - side) // 2, (32 - side) // 2, side, side)
    want = resize(photograph(24, 32, 0), (8, 8), part, "bicubic") - np.array([1, 2, 3])
    assert_close(x[..., 0], want, REFERENCE[torch.float32])


def test_batches_with_jitter(files):
    options = {
        "imageSize": [8, 8], "cropSize": 0.875, "jitterFlip": True, "jitterLocation": True,
        "jitterScale": [0.4, 1.1], "jitterAspect": [0.75, 1.25], "jitterBrightness": 5 * np.eye(3),
        "jitterContrast": 0.4, "jitterSaturation": 0.4, "generator": 3,
    }  # fmt: skip
    (want,) = vl_imreadjpeg(
        files, "Pack", "Resize", [8, 8], "CropSize", [0.875 * 0.4, 0.875 * 1.1], "Flip",
        "CropLocation", "random", "CropAnisotropy", [0.75, 1.25], "Brightness", 5,
        "Contrast", 0.4, "Saturation", 0.4, "Interpolation", "bicubic", "Generator", 3,
    )  # fmt: skip
    assert torch.equal(cnn_get_image_batch(files, options), want)
    assert cnn_get_image_batch(files, options, "prefetch", True) is None
    assert torch.equal(cnn_get_image_batch(files, options), want)
    squashed = cnn_get_image_batch(files, "imageSize", [8, 8], "keepAspect", False, "cropSize", 1)
    whole = resize(photograph(24, 32, 0), (8, 8), (0, 0, 24, 32), "bicubic")
    assert_close(squashed[..., 0], whole, REFERENCE[torch.float32])
    with pytest.raises(TypeError, match="Unknown parameter 'jitter'"):
        cnn_get_image_batch(files, "jitter", 1)
