"""Batches loaded ahead: order, labels, errors, ends, and hundreds of hostile files."""

import threading
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from matconvnet.data.pipeline import Pipeline
from matconvnet.data.reader import FileSource
from matconvnet.errors import FormatError
from tests.data.pictures import damaged, database, encoded, flipped, photograph

PARTS = [np.array([3, 1]), np.array([0]), np.array([5, 4, 2])]
JITTER = {"jitter_flip": True, "jitter_location": True, "jitter_brightness": 9}


class Numbers:
    """A source whose pictures tell how they were asked for; it counts batches under way."""

    def __init__(self, wait=0.0, fails_at=None):
        self.wait, self.fails_at, self.asked = wait, fails_at, []

    def batch(self, imdb, indices, *, training, seed):
        self.asked.append(list(indices))
        time.sleep(self.wait)
        if self.fails_at in indices:
            raise FormatError(f"image {self.fails_at}")
        rows = torch.tensor([[i, training, seed] for i in indices], dtype=torch.float32)
        return rows.T.reshape(1, 1, 3, -1)


@pytest.fixture
def imdb():
    return SimpleNamespace(labels=np.array([5, 6, 7, -1, 9, 8]))


def run(pipeline, imdb, parts=PARTS, phase="train", seed=11, **options):
    return list(pipeline.batches(imdb, parts, phase=phase, seed=seed, **options))


@pytest.mark.parametrize("ahead", [1, 2, 7])
@pytest.mark.parametrize("phase", ["train", "val"])
def test_parts_come_in_order_with_their_labels(imdb, ahead, phase):
    batches = run(Pipeline(Numbers(), ahead=ahead), imdb, phase=phase)
    assert len(batches) == len(PARTS)
    for (x, labels), part in zip(batches, PARTS, strict=True):
        assert x[0, 0, 0].tolist() == part.tolist()
        assert x[0, 0, 1:].T.tolist() == [[phase == "train", 11]] * len(part)
        assert labels.dtype == torch.int64
        assert labels.tolist() == imdb.labels[part].tolist()


def test_targets_may_be_numbers(imdb):
    imdb.labels = np.array([0.5, 1.5, 2.5, 3.5, 4.5, 5.5], np.float32)
    (_, labels), *_ = run(Pipeline(Numbers()), imdb)
    assert labels.dtype == torch.float32
    assert labels.tolist() == [3.5, 1.5]


def test_a_call_reads_without_jitter(imdb):
    x, labels = Pipeline(Numbers(), mix=lambda *_: pytest.fail("mixed"))(imdb, [4, 0])
    assert x[0, 0, 1].tolist() == [0, 0]
    assert labels.tolist() == [9, 5]


def test_mixing_is_for_training_alone(imdb):
    def mix(x, labels, indices, seed):
        return x + 100, labels * 0 + seed + torch.as_tensor(indices)

    (x, labels), *_ = run(Pipeline(Numbers(), mix=mix), imdb)
    assert x[0, 0, 0].tolist() == [103, 101]
    assert labels.tolist() == [14, 12]
    (x, labels), *_ = run(Pipeline(Numbers(), mix=mix), imdb, phase="val")
    assert x[0, 0, 0].tolist() == [3, 1]
    assert labels.tolist() == [-1, 6]


def test_loading_goes_on_while_the_network_computes(imdb):
    source = Numbers()
    batches = Pipeline(source, ahead=2).batches(imdb, PARTS, phase="train", seed=0)
    assert source.asked == []
    next(batches)
    deadline = time.monotonic() + 20
    while len(source.asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(source.asked) == 3
    batches.close()


def test_no_more_is_loaded_than_wanted(imdb):
    source = Numbers()
    batches = Pipeline(source, ahead=1).batches(imdb, [[i] for i in range(6)], phase="val", seed=0)
    next(batches)
    time.sleep(0.1)
    assert len(source.asked) == 2
    batches.close()


def test_errors_come_where_their_part_is_due(imdb):
    batches = Pipeline(Numbers(fails_at=0), ahead=3).batches(imdb, PARTS, phase="train", seed=0)
    assert next(batches)[1].tolist() == [-1, 6]
    with pytest.raises(FormatError, match="image 0"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.parametrize("how", ["exhausted", "closed", "dropped", "interrupted", "failed"])
def test_no_thread_is_left_behind(imdb, how):
    before = threading.active_count()
    source = Numbers(wait=0.02, fails_at=2 if how == "failed" else None)
    parts = [[i % 6] for i in range(30)]
    batches = Pipeline(source, ahead=4).batches(imdb, parts, phase="train", seed=0)
    if how == "exhausted":
        assert len(list(batches)) == 30
    elif how == "failed":
        with pytest.raises(FormatError):
            list(batches)
    else:
        next(batches)
        assert threading.active_count() > before
        if how == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                batches.throw(KeyboardInterrupt)
        elif how == "closed":
            batches.close()
        del batches
    assert threading.active_count() == before
    assert len(source.asked) == 30 or len(source.asked) < 12


def test_bad_files_are_reported_by_the_thread_that_trains(imdb):
    class Reporting(Numbers):
        def report(self):
            told.append(threading.current_thread())

    told = []
    run(Pipeline(Reporting()), imdb)
    assert told == [threading.current_thread()] * len(PARTS)


def test_ahead_is_checked():
    with pytest.raises(ValueError, match="ahead is 0; wanted 1 or more"):
        Pipeline(Numbers(), ahead=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_arrive_on_the_gpu(imdb):
    there = run(Pipeline(Numbers()), imdb, device="cuda")
    here = run(Pipeline(Numbers()), imdb)
    for (x, labels), (x_here, labels_here) in zip(there, here, strict=True):
        assert x.is_cuda
        assert labels.is_cuda
        assert torch.equal(x.cpu(), x_here)
        assert torch.equal(labels.cpu(), labels_here)


def test_pictures_hang_on_seed_phase_and_index_alone(tmp_path):
    imdb = database(tmp_path, [encoded(photograph(seed=k)) for k in range(8)])

    def pictures(parts, threads, ahead, phase, seed):
        with FileSource(image_size=(16, 16), num_threads=threads, **JITTER) as source:
            batches = run(Pipeline(source, ahead=ahead), imdb, parts, phase, seed)
        return {
            i: x[..., k] for (x, _), p in zip(batches, parts, strict=True) for k, i in enumerate(p)
        }

    want = pictures([[0, 1, 2, 3, 4, 5, 6, 7]], 1, 1, "train", 3)
    got = pictures([[7, 3], [0, 5, 6], [1], [4, 2]], 3, 2, "train", 3)
    assert all(torch.equal(got[i], want[i]) for i in range(8))
    for phase, seed in (("train", 4), ("val", 3)):
        other = pictures([[0, 1, 2]], 1, 1, phase, seed)
        assert not any(torch.equal(other[i], want[i]) for i in range(3))


def read_all(imdb, bad_files="fill"):
    """All pictures in parts of 16: pictures, labels, the source, and what was warned of."""
    parts = np.array_split(np.arange(len(imdb.names)), -(-len(imdb.names) // 16))
    source = FileSource(image_size=(12, 10), num_threads=3, bad_files=bad_files, **JITTER)
    with warnings.catch_warnings(record=True) as caught, source:
        warnings.simplefilter("always")
        batches = run(Pipeline(source), imdb, parts)
        again = run(Pipeline(source), imdb, parts, seed=12)
    assert len(again) == len(batches)
    x, labels = (torch.cat(them, -1) for them in zip(*batches, strict=True))
    return x, labels, source, [str(warning.message) for warning in caught]


def test_hundreds_of_hostile_files_end_nothing(tmp_path):
    rng = np.random.default_rng(0)
    whole = [encoded(photograph(seed=k)) for k in range(10)]
    good = np.flatnonzero(rng.random(240) < 1 / 6)
    contents = [
        whole[k % 10] if k in good else damaged(whole[k % 10], int(rng.integers(6)), rng)
        for k in range(240)
    ]
    contents[5], good = None, good[good != 5]  # there is no such file
    (tmp_path / "all").mkdir()
    (tmp_path / "good").mkdir()
    imdb = database(tmp_path / "all", contents)
    clean = database(tmp_path / "good", [whole[k % 10] for k in range(240)])
    want, want_labels, source, told = read_all(clean)
    assert source.bad == {}
    assert told == []
    x, labels, source, told = read_all(imdb)
    bad = sorted(set(range(240)) - set(good))
    assert sorted(source.bad) == [imdb.names[k] for k in bad]
    assert len(told) == len(bad)  # once each, although all were read twice
    assert all(any(repr(imdb.names[k]) in text for text in told) for k in bad)
    assert torch.equal(x[..., good], want[..., good])
    assert labels[good].tolist() == want_labels[good].tolist()
    assert not x[..., bad].any()
    assert set(labels[bad].tolist()) == {-1}


def test_hostile_files_are_replaced(tmp_path):
    rng = np.random.default_rng(1)
    whole = [encoded(photograph(seed=k)) for k in range(40)]
    contents = [damaged(c, k, rng) if k % 2 else c for k, c in enumerate(whole)]
    imdb = database(tmp_path, contents)
    x, labels, source, told = read_all(imdb, "replace")
    assert len(source.bad) == len(told) == 20
    assert labels.tolist() == imdb.labels.tolist()
    assert x.flatten(0, 2).any(0).all()
    again, *_ = read_all(imdb, "replace")
    assert torch.equal(x, again)


def test_flipped_bits_are_read_or_reported(tmp_path):
    rng = np.random.default_rng(2)
    imdb = database(tmp_path, [flipped(encoded(photograph(seed=k)), rng) for k in range(60)])
    x, labels, source, told = read_all(imdb)
    assert 10 < len(source.bad) == len(told) < 60
    assert x.isfinite().all()
    assert [name in source.bad for name in imdb.names] == (labels == -1).tolist()
