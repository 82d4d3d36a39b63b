"""Pictures cut, resized and jittered, against loops; and read by several threads."""

import threading
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matconvnet.data.colour import change_colours, normals
from matconvnet.data.decode import decode
from matconvnet.data.draws import uniform
from matconvnet.data.geometry import place
from matconvnet.data.picture import DRAWS, PictureOptions
from matconvnet.data.reader import FileSource
from matconvnet.data.reading import read_pictures
from matconvnet.errors import FormatError
from tests import naive_picture
from tests.data.pictures import database, encoded, photograph
from tests.helpers import assert_close, seeds
from tests.tolerances import REFERENCE

TOLERANCE = REFERENCE[torch.float32]
METHODS = ["box", "bilinear", "bicubic", "lanczos2", "lanczos3"]
sides = st.integers(1, 14)
shares = st.floats(0, 1).map(lambda r: round(r, 3))
draws = st.lists(st.floats(0, 1, exclude_max=True), min_size=DRAWS, max_size=DRAWS)


def ranges(numbers):
    return st.tuples(numbers, numbers).map(lambda pair: tuple(sorted(pair)))


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@given(
    st.tuples(st.integers(1, 600), st.integers(1, 600)),
    st.none() | st.tuples(sides) | st.tuples(sides, sides),
    ranges(shares),
    ranges(st.floats(0.2, 4)) | st.sampled_from([(0.0, 1.0), (0.0, 0.0)]),
    st.sampled_from(["center", "random"]),
    draws,
)
def test_the_part_that_is_taken(shape, resize, crop, anisotropy, location, u):
    got = place(*shape, resize, crop, anisotropy, location, u)
    size, box = naive_picture.place(*shape, resize, crop, anisotropy, location, u)
    assert got.size == size
    # Where a side falls on the middle between two pixels, rounding of the scale decides.
    assert np.abs(np.subtract(got.box, box)).max() <= 1
    top, left, height, width = got.box
    assert min(height, width) >= 1
    assert 0 <= top <= shape[0] - height
    assert 0 <= left <= shape[1] - width


def test_parts_of_many_pictures_are_those_of_the_loops():
    rng = np.random.default_rng(0)
    for _ in range(500):
        shape = rng.integers(50, 900, 2).tolist()
        options = ((227, 199), sorted(rng.uniform(0, 1, 2)), (0.7, 1.4), "random", rng.random(4))
        assert place(*shape, *options) == naive_picture.place(*shape, *options)


@pytest.mark.parametrize(
    ("shape", "options", "size", "box"),
    [
        ((480, 640), {}, (480, 640), (0, 0, 480, 640)),
        ((480, 640), {"resize": (240,)}, (240, 320), (0, 0, 480, 640)),
        ((640, 481), {"resize": (240,)}, (319, 240), (0, 0, 639, 481)),
        ((480, 640), {"resize": (227, 227)}, (227, 227), (0, 80, 480, 480)),
        ((256, 341), {"resize": (227, 227), "crop_size": (227 / 256,) * 2}, (227, 227),
         (14, 57, 227, 227)),
        ((480, 640), {"resize": (100, 200), "crop_anisotropy": (0, 0)}, (100, 200),
         (0, 0, 480, 640)),
        ((400, 400), {"resize": (100, 100), "crop_anisotropy": (4, 4)}, (100, 100),
         (150, 0, 100, 400)),
    ],
    ids=["as it is", "shorter side", "rounded", "square", "AlexNet", "squashed", "wide"],
)  # fmt: skip
def test_parts_by_hand(shape, options, size, box):
    assert place(*shape, **options) == (size, box)


def test_relative_areas_and_aspects_are_drawn_as_told():
    u = np.linspace(0, 1, 5, endpoint=False)
    parts = [place(10**6, 10**6, (9, 9), (0.5, 1), draws=(0, x, 0, 0)).box for x in u]
    areas = [h * w / 10**12 for _, _, h, w in parts]
    assert np.allclose(areas, 0.25 + 0.75 * u, rtol=1e-5)
    parts = [place(10**6, 10**6, (9, 9), (1, 1), (0.5, 2), draws=(x, 0, 0, 0)).box for x in u]
    assert np.allclose([np.log2(w / h) for _, _, h, w in parts], 2 * u - 1, atol=1e-5)


def test_random_parts_reach_all_places_equally():
    u = uniform(0, np.arange(4000), 4)
    places = [place(5, 7, (2, 2), (0.6, 0.6), (1, 1), "random", row).box for row in u]
    counts = np.zeros((3, 5), int)
    for top, left, height, width in places:
        assert (height, width) == (3, 3)
        counts[top, left] += 1
    assert counts.min() > 0.7 * 4000 / 15


@given(
    st.tuples(sides, sides, st.sampled_from([1, 3])),
    st.none() | st.tuples(sides) | st.tuples(sides, sides),
    ranges(st.floats(0.3, 1)),
    st.sampled_from(METHODS),
    st.booleans(),
    st.sampled_from(["none", "number", "colour", "image"]),
    st.tuples(*[st.sampled_from([0.0, 0.7])] * 3),
    draws,
    seeds,
)
def test_everything_at_once(shape, resize, crop, method, flip, average, jitter, u, seed):
    rng = np.random.default_rng(seed)
    pixels = noise(shape, seed)
    geometry = (resize, crop, (0.8, 1.3), "random", u)
    size, _ = place(*shape[:2], *geometry)
    if average == "image" and (resize is None or len(resize) != 2):
        average = "colour"
    subtracted = {
        "none": np.zeros(1), "number": np.array([7.5]), "colour": rng.uniform(90, 160, 3),
        "image": rng.uniform(90, 160, (*size, 3)).astype(np.float32),
    }[average]  # fmt: skip
    matrix = jitter[0] * rng.normal(0, 20, (3, 3))
    options = PictureOptions(
        resize=resize,
        crop_size=crop,
        crop_location="random",
        crop_anisotropy=(0.8, 1.3),
        flip=flip,
        subtract_average=subtracted,
        brightness=matrix,
        contrast=jitter[1],
        saturation=jitter[2],
        interpolation=method,
    )
    got = options.prepare(pixels, u)
    if average == "image" and shape[2] == 1:
        pixels = pixels.repeat(3, 2)
    channels = pixels.shape[2]
    placed = options.place(pixels.shape, u)
    part, v = placed.box, None
    mirrored = flip and u[4] < 0.5
    if placed.box[2:] == placed.size:
        rows, columns = slice(part[0], part[0] + part[2]), slice(part[1], part[1] + part[3])
        v = pixels[rows, columns][:, :: -1 if mirrored else 1].astype(float)
    else:
        v = naive_picture.resize(pixels, placed.size, part, method, mirrored)
    b = (matrix @ normals(u[7:11])[:3])[:channels]
    want = naive_picture.colour(
        v,
        np.broadcast_to(subtracted[..., :channels], v.shape),
        b,
        1 + jitter[1] * (2 * u[6] - 1),
        1 + jitter[2] * (2 * u[5] - 1),
    )
    assert got.dtype == np.float32
    scale = max(np.abs(v).max(), np.abs(subtracted).max(), np.abs(b).max())
    assert np.abs(got - want).max() <= TOLERANCE * max(scale, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_of_a_large_picture(channels):
    v = noise((71, 9, channels)).astype(np.float32)
    average, b = np.array([120.0, 100, 90])[:channels], np.array([4.0, -5, 6])[:channels]
    want = naive_picture.colour(v, np.broadcast_to(average, v.shape), b, 1.3, 0.6)
    change_colours(v, b - average, 1.3, 0.6)
    assert_close(v, want, TOLERANCE)


def test_normal_numbers_have_mean_0_and_variance_1():
    u = uniform(1, np.arange(20000), 4)
    numbers = np.array([normals(row) for row in u])
    assert np.abs(numbers.mean(0)).max() < 0.03
    assert np.abs(np.cov(numbers.T) - np.eye(4)).max() < 0.03


def test_numbers_and_vectors_of_brightness_are_diagonals():
    u = [0.3] * DRAWS
    grey = np.full((2, 2, 3), 100, np.uint8)
    w = normals(u[7:11])[:3]
    for given_as, want in [
        (5, 5 * w),
        ([1, 2, 3], [1, 2, 3] * w),
        (np.diag([4, 5, 6]), w * [4, 5, 6]),
    ]:
        out = PictureOptions(brightness=given_as).prepare(grey, u)
        assert np.allclose(out[0, 0], 100 + want)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"resize": 0.5}, ValueError, "resize is 0.5; wanted one or two numbers, 1 or more"),
        ({"resize": (1, 2, 3)}, ValueError, "resize is"),
        ({"crop_size": 1.2}, ValueError, "crop_size is 1.2; wanted a number"),
        ({"crop_size": (0.9, 0.5)}, ValueError, "crop_size is"),
        ({"crop_anisotropy": -1}, ValueError, "crop_anisotropy is -1"),
        ({"crop_anisotropy": (2, 1)}, ValueError, "crop_anisotropy is"),
        ({"crop_location": "left"}, ValueError, "crop_location is 'left'; wanted one of center"),
        ({"interpolation": "cubic"}, ValueError, "interpolation is 'cubic'; wanted one of box"),
        ({"contrast": 1.1}, ValueError, "contrast is 1.1; wanted 0 to 1"),
        ({"saturation": -0.1}, ValueError, "saturation is -0.1"),
        ({"brightness": [1, 2]}, ValueError, "brightness has shape"),
        ({"subtract_average": [1, 2]}, ValueError, "subtract_average has shape"),
        ({"subtract_average": "grey"}, TypeError, "subtract_average is"),
        ({"subtract_average": np.zeros((4, 5, 3))}, ValueError, "resize is None; wanted the same"),
        ({"subtract_average": np.zeros((4, 5, 3)), "resize": (5, 4)}, ValueError, "4 x 5 pixels"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        PictureOptions(**options)


@pytest.fixture
def folder(tmp_path):
    contents = [encoded(photograph(30 + k, 50 - k, k), "PNG") for k in range(12)]
    return database(tmp_path, contents)


def paths(imdb):
    return [imdb.folder / name for name in imdb.names]


def test_pictures_keep_their_size_or_are_packed(folder):
    pictures = read_pictures(paths(folder))
    for k, picture in enumerate(pictures):
        assert np.array_equal(picture.numpy(), photograph(30 + k, 50 - k, k))
    batch = read_pictures(paths(folder), pack=True, resize=(8, 9))
    assert batch.shape == (8, 9, 3, 12)
    assert batch.permute(3, 0, 1, 2).is_contiguous()
    apart = read_pictures(paths(folder), resize=(8, 9))
    assert torch.equal(batch, torch.stack(apart, 3))
    with pytest.raises(ValueError, match=r"resize is \(8,\); pack wants"):
        read_pictures(paths(folder), pack=True, resize=8)


def test_pictures_read_one_after_another_have_memory_of_their_own(tmp_path):
    contents = [encoded(photograph(seed=k)) for k in range(6)]
    files = paths(database(tmp_path, contents))
    pictures = read_pictures(files, num_threads=1)
    packed = read_pictures(files, num_threads=2, pack=True, resize=(48, 64))
    for k, content in enumerate(contents):
        assert np.array_equal(pictures[k], decode(content))
        assert np.array_equal(packed[..., k], decode(content))


def test_grey_pictures_have_one_channel_unless_packed(tmp_path):
    grey = photograph()[..., :1]
    imdb = database(tmp_path, [encoded(grey, "PNG")])
    assert np.array_equal(read_pictures(paths(imdb))[0], grey)
    packed = read_pictures(paths(imdb), pack=True, resize=(48, 64), subtract_average=[1, 2, 3])
    assert np.array_equal(packed[..., 0], grey - np.array([1.0, 2, 3]))


JITTER = {
    "flip": True, "crop_location": "random", "crop_size": (0.5, 1), "crop_anisotropy": (0.8, 1.2),
    "brightness": 9, "contrast": 0.3, "saturation": 0.3, "resize": (16, 16), "pack": True,
}  # fmt: skip


def test_what_is_random_hangs_on_seed_and_index_alone(folder):
    files = paths(folder)
    all_ = read_pictures(files, num_threads=1, seed=5, **JITTER)
    assert torch.equal(all_, read_pictures(files, num_threads=4, seed=5, **JITTER))
    order = [7, 2, 7]
    some = read_pictures([files[i] for i in order], seed=5, indices=order, **JITTER)
    assert torch.equal(some, all_[..., order])
    assert not torch.allclose(all_, read_pictures(files, seed=6, **JITTER), atol=9)


def test_pictures_that_cannot_be_read(folder):
    files = [*paths(folder)[:2], folder.folder / "none.jpg"]
    files[0].write_bytes(b"text")
    with pytest.warns(UserWarning, match="could not read image") as caught:
        pictures = read_pictures(files)
    assert [picture is None for picture in pictures] == [True, False, True]
    told = [str(warning.message) for warning in caught]
    assert len(told) == 2
    assert "0000.jpg' because not a picture" in told[0]
    assert "none.jpg' because No such file" in told[1]
    with pytest.warns(UserWarning, match="could not read"):
        packed = read_pictures(files, pack=True, resize=(5, 5))
    assert not packed[..., [0, 2]].any()
    with pytest.raises(FormatError, match=r"0000\.jpg"):
        read_pictures(files, strict=True)


SOURCE = {
    "image_size": (20, 24), "jitter_flip": True, "jitter_location": True, "jitter_aspect": 1.2,
    "jitter_scale": (0.6, 1.1), "jitter_brightness": 7, "jitter_contrast": 0.4,
    "jitter_saturation": 0.4, "subtract_average": [120.0, 110.0, 100.0],
}  # fmt: skip


@pytest.mark.parametrize("threads", [1, 4])
def test_a_source_prepares_as_get_image_batch_does(folder, threads):
    indices = np.array([3, 0, 9])
    with FileSource(num_threads=threads, **SOURCE) as source:
        test = source.batch(folder, indices, training=False, seed=1)
        train = source.batch(folder, indices, training=True, seed=1)
    average = np.array([120, 110, 100])
    u = uniform(1, indices, DRAWS, stream="picture")
    for k, index in enumerate(indices):
        pixels = photograph(30 + index, 50 - index, index)
        size, box = place(*pixels.shape[:2], (20, 24), (227 / 256,) * 2)
        want = naive_picture.resize(pixels, size, box, "bicubic") - average
        assert_close(test[..., k], want, TOLERANCE)
        options = PictureOptions(
            resize=(20, 24), crop_size=(0.6 * 227 / 256, 1.1 * 227 / 256), flip=True,
            crop_location="random", crop_anisotropy=1.2, brightness=7, contrast=0.4,
            saturation=0.4, subtract_average=average, interpolation="bicubic",
        )  # fmt: skip
        assert np.array_equal(train[..., k], options.prepare(pixels, u[k]))


def test_a_source_squashes_and_makes_grey(folder):
    with FileSource(image_size=(6, 6), crop_size=1, keep_aspect=False, channels=1) as source:
        x = source.batch(folder, [4], training=False, seed=0)
    grey = np.round(photograph(34, 46, 4) @ np.array([0.299, 0.587, 0.114]))[..., None]
    want = naive_picture.resize(grey, (6, 6), (0, 0, 34, 46), "bicubic")
    assert_close(x[..., 0], want, 1 / 255)


def test_wrong_options_of_a_source():
    with pytest.raises(ValueError, match="bad_files is 'skip'; wanted one of fill, replace, raise"):
        FileSource(bad_files="skip")
    with pytest.raises(ValueError, match="num_threads is 0"):
        FileSource(num_threads=0)
    with pytest.raises(ValueError, match=r"crop_size is .* wanted a number"):
        FileSource(crop_size=0.875, jitter_scale=(0.4, 1.2))
    with pytest.raises(ValueError, match="subtract_average has 3 channels; wanted 1"):
        FileSource(channels=1, subtract_average=[1, 2, 3])


def test_bad_files_are_filled(folder):
    (folder.folder / "0005.jpg").write_bytes(b"")
    with FileSource(**SOURCE) as source:
        x = source.batch(folder, [4, 5, 6], training=True, seed=0)
        assert not x[..., 1].any()
        assert x[..., 0].any()
        assert source.bad == {"0005.jpg": "the file is empty"}
        assert source.ignored(folder, [4, 5, 6]).tolist() == [False, True, False]
        with pytest.warns(UserWarning, match=r"0005\.jpg' because the file is empty"):
            source.report()
        source.batch(folder, [5], training=True, seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            source.report()


def test_bad_files_are_replaced_by_their_like(folder):
    bad = [0, 3]
    for index in bad:
        (folder.folder / folder.names[index]).write_bytes(b"text")
    folder.set = np.array([1] * 9 + [2] * 3)  # of set 1 and class 0 there are 0, 3 and 6
    for order in ([0, 1, 6], [6, 0]):
        for seed in range(8):
            with FileSource(image_size=(20, 24), bad_files="replace") as source:
                x = source.batch(folder, order, training=False, seed=seed)
                assert torch.equal(x[..., order.index(0)], x[..., order.index(6)])
                assert not source.ignored(folder, order).any()


def test_stand_ins_hang_on_seed_and_index(tmp_path):
    contents = [encoded(photograph(seed=k), "PNG") for k in range(30)]
    imdb = database(tmp_path, contents, labels=np.zeros(30, int))
    (tmp_path / imdb.names[8]).write_bytes(b"")

    def stand_in(seed, indices, threads):
        with FileSource(image_size=(9, 9), bad_files="replace", num_threads=threads) as source:
            return source.batch(imdb, indices, training=False, seed=seed)[..., 0]

    pictures = [stand_in(seed, [8], 1) for seed in range(8)]
    assert len({picture.numpy().tobytes() for picture in pictures}) > 4
    assert torch.equal(pictures[3], stand_in(3, [8, 2, 5], 4))


def test_without_a_like_the_bad_are_filled(folder):
    for index in (0, 3, 6, 9):
        (folder.folder / folder.names[index]).write_bytes(b"text")
    with FileSource(**SOURCE, bad_files="replace") as source:
        assert not source.batch(folder, [0], training=True, seed=0).any()
        assert source.ignored(folder, [0, 1]).tolist() == [True, False]
        assert len(source.bad) == 4


def test_bad_files_raise_or_cannot_be_ignored(folder):
    (folder.folder / "0002.jpg").unlink()
    with (
        FileSource(bad_files="raise", num_threads=3) as source,
        pytest.raises(FormatError, match=r"0002\.jpg' because No such file"),
    ):
        source.batch(folder, range(12), training=True, seed=0)
    folder.labels = folder.labels.astype(float)
    with (
        FileSource() as source,
        pytest.raises(FormatError, match="labels that are no classes cannot ignore it"),
    ):
        source.batch(folder, range(12), training=True, seed=0)


def test_threads_end_with_the_source(folder):
    before = threading.active_count()
    with FileSource(num_threads=5) as source:
        source.batch(folder, range(12), training=True, seed=0)
        assert before < threading.active_count() <= before + 5
    assert threading.active_count() == before
