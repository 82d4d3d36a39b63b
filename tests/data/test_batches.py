"""batch_indices and get_batch: who gets which images, and the tensors made of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matconvnet.data.batches import batch_indices, get_batch
from matconvnet.data.imdb import Imdb
from matconvnet.data.lists import ImageList

H, W, C, N = 3, 4, 2, 7


def lists(batches):
    return [(batch.size, [part.tolist() for part in batch.parts]) for batch in batches]


def by_the_book(indices, batch_size, num_sub_batches, rank, world_size):
    """The loop of the original, 1-based, its empty sub-batches left out."""
    numel, lab, batches = len(indices), rank + 1, []
    for t in range(1, numel + 1, batch_size):
        size = min(batch_size, numel - t + 1)
        parts = []
        for s in range(1, num_sub_batches + 1):
            start, step = t + (lab - 1) + (s - 1) * world_size, num_sub_batches * world_size
            last = min(t + batch_size - 1, numel)
            parts.append([int(indices[i - 1]) for i in range(start, last + 1, step)])
        batches.append((size, [part for part in parts if part]))
    return batches


def test_sub_batches_are_interleaved():
    assert lists(batch_indices(range(1, 7), 6, 2)) == [(6, [[1, 3, 5], [2, 4, 6]])]


def test_the_last_batch_is_smaller():
    assert lists(batch_indices(5, 2)) == [(2, [[0, 1]]), (2, [[2, 3]]), (1, [[4]])]


def test_empty_sub_batches_are_left_out():
    assert lists(batch_indices(5, 4, 4))[-1] == (1, [[4]])


def test_an_idle_worker_still_sees_the_batch():
    batches = lists(batch_indices(5, 4, 1, rank=1, world_size=2))
    assert batches == [(4, [[1, 3]]), (1, [])]


def test_workers_and_sub_batches():
    assert lists(batch_indices(8, 8, 2, rank=1, world_size=2)) == [(8, [[1, 5], [3, 7]])]


def test_a_sequence_keeps_its_order():
    assert lists(batch_indices(np.array([9, 2, 7]), 2)) == [(2, [[9, 2]]), (1, [[7]])]
    assert lists(batch_indices([9, 2, 7], 2, 2)) == [(2, [[9], [2]]), (1, [[7]])]
    assert lists(batch_indices(np.int64(2), 2)) == [(2, [[0, 1]])]


@pytest.mark.parametrize("nothing", [0, [], np.array([], int)])
def test_no_images_no_batches(nothing):
    assert list(batch_indices(nothing, 4)) == []


@given(
    count=st.integers(0, 40),
    batch_size=st.integers(1, 17),
    num_sub_batches=st.integers(1, 5),
    world_size=st.integers(1, 4),
)
def test_equals_the_loop_of_the_original(count, batch_size, num_sub_batches, world_size):
    indices = np.random.default_rng(count).permutation(count)
    seen = []
    for rank in range(world_size):
        batches = lists(batch_indices(indices, batch_size, num_sub_batches, rank, world_size))
        assert batches == by_the_book(indices, batch_size, num_sub_batches, rank, world_size)
        seen += [i for _, parts in batches for part in parts for i in part]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; wanted 1 or more"),
        ({"num_sub_batches": 0}, "num_sub_batches is 0; wanted 1 or more"),
        ({"world_size": 0}, "world_size is 0; wanted 1 or more"),
        ({"rank": 2, "world_size": 2}, "rank is 2; wanted 0 to 1"),
        ({"rank": -1}, "rank is -1; wanted 0 to 0"),
    ],
)
def test_wrong_arguments_are_found_at_the_call(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_indices(10, **({"batch_size": 4} | arguments))


@pytest.fixture(params=[np.uint8, np.float32])
def imdb(request):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (H, W, C, N)).astype(request.param)
    return Imdb.from_arrays(images, [0, 1, 2, -1, 4, 5, 6], [1, 1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("indices", [[5, 0, 3, 3], np.array([6], np.uint8), list(range(N))])
def test_values_less_the_mean(imdb, indices):
    x, c = get_batch(imdb, indices)
    assert x.dtype == torch.float32
    assert c.dtype == torch.int64
    wanted = imdb.images[..., indices].astype(np.float32) - imdb.mean[..., None]
    np.testing.assert_array_equal(x.numpy(), wanted)
    np.testing.assert_array_equal(c.numpy(), imdb.labels[indices])


def test_memory_is_channels_last(imdb):
    x, _ = get_batch(imdb, [1, 2, 4])
    assert x.shape == (H, W, C, 3)
    assert x.permute(3, 0, 1, 2).is_contiguous()


@pytest.mark.parametrize("order", ["C", "F"])
def test_any_memory_order_of_the_database_serves(imdb, order):
    other = replace(imdb, images=imdb.images.copy(order))
    x, _ = get_batch(other, [1, 2, 4])
    assert x.permute(3, 0, 1, 2).is_contiguous()
    np.testing.assert_array_equal(x.numpy(), get_batch(imdb, [1, 2, 4])[0].numpy())


def test_without_mean(imdb):
    plain = replace(imdb, mean=None)
    np.testing.assert_array_equal(get_batch(plain, [2])[0].numpy()[..., 0], imdb.images[..., 2])


def test_a_batch_is_a_copy(imdb):
    images, labels = imdb.images.copy(), imdb.labels.copy()
    x, c = get_batch(imdb, np.arange(N))
    x.zero_()
    c.zero_()
    np.testing.assert_array_equal(imdb.images, images)
    np.testing.assert_array_equal(imdb.labels, labels)


def test_read_only_arrays_serve(imdb):
    for array in (imdb.images, imdb.labels, imdb.mean):
        array.flags.writeable = False
    assert get_batch(imdb, [0, 1])[0].shape == (H, W, C, 2)


def test_an_empty_batch(imdb):
    x, c = get_batch(imdb, [])
    assert x.shape == (H, W, C, 0)
    assert c.shape == (0,)


@pytest.mark.parametrize("indices", [[0, N], [-1, 2]])
def test_indices_out_of_range(imdb, indices):
    with pytest.raises(ValueError, match=f"span {min(indices)} to {max(indices)}; wanted 0 to 6"):
        get_batch(imdb, indices)


@pytest.mark.parametrize("indices", [[0.5], [True, False], [[0, 1]], 3])
def test_indices_of_another_kind(imdb, indices):
    with pytest.raises(TypeError, match="wanted a vector of integers"):
        get_batch(imdb, indices)


def test_get_batch_is_for_images_in_memory():
    files = ImageList(Path(), ("a.jpg",), np.zeros(1, int), np.ones(1, int), ("a",))
    with pytest.raises(TypeError, match=r"imdb is ImageList; wanted an Imdb .*FileSource"):
        get_batch(files, [0])  # pyright: ignore[reportArgumentType]
