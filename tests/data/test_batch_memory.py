"""Memory is used again, but never under what somebody holds."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from matconvnet.data.memory import MOST, BatchMemory
from matconvnet.data.pipeline import Pipeline
from matconvnet.data.reader import FileSource
from matconvnet.data.reading import map_of_rows
from tests.data.pictures import database, encoded, photograph

SHAPE = (4, 5, 6, 3)


def batch(memory, value, shape=SHAPE):
    rows = memory.take(shape)
    rows[:] = value
    return map_of_rows(rows)


HOLDERS = {
    "tensor": lambda x: x,
    "view": lambda x: x[1:, :, 2, 3],
    "detached": lambda x: x.detach().permute(3, 2, 0, 1),
    "storage": lambda x: x.untyped_storage(),
    "array": lambda x: x.numpy(),
    "view of an array": lambda x: x.numpy()[..., 0].T[1:],
    "memory view": lambda x: memoryview(x.numpy()),
    "DLPack": lambda x: np.from_dlpack(x),
    "graph": lambda x: (torch.ones((), requires_grad=True) * x).grad_fn,
    "parameter": lambda x: torch.nn.Parameter(x),
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_what_is_held_never_changes(hold):
    memory = BatchMemory()
    first = batch(memory, 7)
    place = first.data_ptr()
    held = hold(first)
    del first
    for value in range(2 * MOST):
        later = batch(memory, value)
        assert later.data_ptr() != place
        del later
    if isinstance(held, (torch.Tensor, np.ndarray)):
        assert (held == 7).all()
    del held
    gc.collect()
    assert place in {batch(memory, 0).data_ptr() for _ in range(2 * MOST)}


def test_memory_of_one_who_lets_go_is_used_again():
    memory = BatchMemory()
    assert len({batch(memory, k).data_ptr() for k in range(9)}) == 1
    held = [batch(memory, k) for k in range(9)]
    assert len({x.data_ptr() for x in held}) == 9
    assert all((x == k).all() for k, x in enumerate(held))
    places = [x.data_ptr() for x in held]
    held.clear()
    again = [batch(memory, k) for k in range(9)]
    assert {x.data_ptr() for x in again[:MOST]} <= set(places)
    assert len({x.data_ptr() for x in again}) == 9


def test_smaller_arrays_fit_and_larger_ones_do_not():
    memory = BatchMemory()
    place = batch(memory, 1).data_ptr()
    small = batch(memory, 2, (2, 5, 6, 3))
    assert small.data_ptr() == place
    assert small.shape == (5, 6, 3, 2)
    del small
    large = batch(memory, 3, (5, *SHAPE[1:]))
    assert large.shape[3] == 5
    assert large.permute(3, 0, 1, 2).is_contiguous()
    other = batch(memory, 4)
    assert (large == 3).all()
    assert (other == 4).all()


def test_no_more_waits_than_wanted_and_nothing_after_the_end():
    memory = BatchMemory()
    held = [batch(memory, k) for k in range(3 * MOST)]
    held.clear()
    assert len(memory._free) == MOST
    memory.clear()
    assert len(memory._free) == 0


def test_threads_never_share():
    memory = BatchMemory()

    def work(seed):
        rng = np.random.default_rng(seed)
        held = []
        for k in range(300):
            value = seed * 1000 + k
            held.append((value, batch(memory, value)))
            if len(held) > rng.integers(1, 6):
                value, x = held.pop(rng.integers(len(held)))
                assert (x == value).all()
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_batches_of_a_pipeline_that_are_kept_stay(tmp_path):
    imdb = database(tmp_path, [encoded(photograph(seed=k)) for k in range(8)])
    parts = [np.array([k % 8, (k + 3) % 8]) for k in range(16)]

    def batches(source):
        return Pipeline(source).batches(imdb, parts, phase="train", seed=2)

    options = {"image_size": (20, 20), "jitter_flip": True, "jitter_contrast": 0.5}
    with FileSource(**options) as source:
        copies = [x.clone() for x, _ in batches(source)]
        kept = [x for x, _ in batches(source)]
        views = [x[..., 1].numpy()[::2] for x, _ in batches(source)]
        places = {x.data_ptr() for x, _ in batches(source)}
    assert len({x.data_ptr() for x in kept}) == 16
    assert all(torch.equal(x, copy) for x, copy in zip(kept, copies, strict=True))
    for view, copy in zip(views, copies, strict=True):
        assert np.array_equal(view, copy[..., 1].numpy()[::2])
    assert len(places) < 8
