"""ArraySource: what every image becomes, and that it depends on the image and the seed alone."""

import numpy as np
import pytest
import torch

from matconvnet.data.augment import ArraySource
from matconvnet.data.batches import get_batch
from matconvnet.data.imdb import Imdb

H, W, N = 7, 9, 400
ALL = np.arange(N)


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def imdb(request):
    """Images whose pixels tell where they come from."""
    images = np.random.default_rng(0).integers(0, 256, (H, W, request.param, N), np.uint8)
    return Imdb.from_arrays(images, np.zeros(N, int), classes=["a"])


def training(source, imdb, indices=ALL, seed=5):
    return source.batch(imdb, indices, training=True, seed=seed)


def shifted(image, down, right):
    """The image moved, with its edge repeated, by the definition."""
    out = np.empty_like(image)
    for i in range(H):
        for j in range(W):
            out[i, j] = image[min(max(i - down, 0), H - 1), min(max(j - right, 0), W - 1)]
    return out


def test_without_options_or_outside_of_training_it_is_get_batch(imdb):
    wanted = get_batch(imdb, ALL)[0]
    everything = ArraySource(flip=True, shift=2, cutout=3)
    assert torch.equal(training(ArraySource(), imdb), wanted)
    assert torch.equal(everything.batch(imdb, ALL, training=False, seed=5), wanted)


@pytest.mark.parametrize(
    "source",
    [ArraySource(), ArraySource(flip=True), ArraySource(shift=2, cutout=3)],
    ids=["plain", "flip", "shift and cutout"],
)
def test_batches_are_float_maps_in_channels_last_memory(imdb, source):
    x = training(source, imdb, [3, 1, 3])
    assert x.dtype == torch.float32
    assert x.shape == (H, W, imdb.images.shape[2], 3)
    assert x.permute(3, 0, 1, 2).is_contiguous()
    assert torch.equal(x[..., 0], x[..., 2])
    assert training(source, imdb, []).shape == (H, W, imdb.images.shape[2], 0)


def test_flips_half_of_the_images_whole(imdb):
    x = training(ArraySource(flip=True), imdb).numpy() + imdb.mean[..., None]
    kept = np.isclose(x, imdb.images, atol=1e-3).all((0, 1, 2))
    mirrored = np.isclose(x, imdb.images[:, ::-1], atol=1e-3).all((0, 1, 2))
    assert np.array_equal(kept, ~mirrored)
    assert 0.4 < mirrored.mean() < 0.6


def test_shifts_by_all_the_pixels_allowed_and_repeats_the_edge(imdb):
    x = training(ArraySource(shift=2), imdb).numpy() + imdb.mean[..., None]
    seen = {}
    for n in range(N):
        image = imdb.images[..., n].astype(np.float32)
        moves = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.allclose(x[..., n], shifted(image, down, right), atol=1e-3)
        ]
        assert len(moves) == 1
        seen[moves[0]] = seen.get(moves[0], 0) + 1
    assert len(seen) == 25
    assert max(seen.values()) < 40  # 16 of each are expected


@pytest.mark.parametrize("side", [1, 3, 4, 20])
def test_cutout_covers_one_square_with_the_mean(imdb, side):
    x = training(ArraySource(cutout=side), imdb).numpy()
    plain = get_batch(imdb, ALL)[0].numpy()
    centres = np.zeros((H, W))
    for n in range(N):
        covered = (x[..., n] == 0).all(2)
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        assert covered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert np.array_equal(x[~covered, :, n], plain[~covered, :, n])
        assert len(rows) <= side
        assert len(columns) <= side
        if side == 1:
            centres[rows[0], columns[0]] += 1
    if side == 1:  # every pixel is a centre: 6.3 times
        assert (centres > 0).mean() > 0.95
        assert centres.max() < 20
    elif side == 20:
        assert (x == 0).all()
    else:
        whole = [n for n in range(N) if ((x[..., n] == 0).all(2)).sum() == side**2]
        assert len(whole) > N / 4


def test_an_image_depends_on_its_index_and_the_seed_alone(imdb):
    source = ArraySource(flip=True, shift=2, cutout=3)
    x = training(source, imdb)
    some = np.array([300, 7, 7, 12])
    assert torch.equal(training(source, imdb, some), x[..., some])
    assert torch.equal(training(source, imdb), x)
    other = training(source, imdb, seed=6)
    same = (other == x).all(0).all(0).all(0)
    assert same.float().mean() < 0.1


def test_choices_do_not_depend_on_the_other_options(imdb):
    """A longer shift leaves the flips as they are."""
    plain = get_batch(imdb, ALL)[0]
    flips = (training(ArraySource(flip=True), imdb) != plain).any(0).any(0).any(0)
    both = training(ArraySource(flip=True, cutout=1), imdb)
    changed = ((both != plain) & (both != 0)).any(0).any(0).any(0)
    assert torch.equal(flips, changed)


def test_memory_order_does_not_matter(imdb):
    fortran = Imdb(np.asfortranarray(imdb.images), imdb.labels, imdb.set, imdb.classes, imdb.mean)
    source = ArraySource(flip=True, shift=3)
    some = [5, 399, 0]
    assert torch.equal(training(source, fortran, some), training(source, imdb, some))


def test_the_database_is_not_changed(imdb):
    before = imdb.images.copy()
    training(ArraySource(flip=True, shift=2, cutout=3), imdb)
    training(ArraySource(cutout=3), imdb)
    np.testing.assert_array_equal(imdb.images, before)


def test_wrong_arguments(imdb):
    with pytest.raises(ValueError, match="shift is -1; wanted 0 or more"):
        ArraySource(shift=-1)
    with pytest.raises(ValueError, match="cutout is -2"):
        ArraySource(cutout=-2)
    with pytest.raises(ValueError, match="indices span -1 to 400; wanted 0 to 399"):
        training(ArraySource(flip=True), imdb, [-1, 400])
    with pytest.raises(TypeError, match="wanted a vector of integers"):
        training(ArraySource(), imdb, [0.5])
