"""Counts of true against likeliest class: labels of every shape, the worst, files."""

import json

import numpy as np
import pytest
import torch

from matconvnet.train.confusion import Confused, Confusion


def scores_of(guesses, classes=3):
    """H x W x C x N scores whose largest are at `guesses`, an array H x W x N."""
    guesses = np.asarray(guesses)
    return np.moveaxis(np.eye(classes)[guesses], 3, 2)


def of_images(*guesses):
    return scores_of([[list(guesses)]])


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 1, 5)])
def test_images(kind, shape):
    found = Confusion(["a", "b", "c"])
    labels = np.array([0, 0, 2, -1, 1]).reshape(shape)
    found.add(kind(of_images(0, 1, 2, 2, 0)), kind(labels))
    assert found.counts.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert found.counts.dtype == np.int64


def test_batches_and_workers_add_up():
    one, two = Confusion(3), Confusion(3)
    for found, guess in ((one, 1), (one, 2), (two, 1)):
        found.add(of_images(guess), np.array([0]))
    assert (one.counts + two.counts)[0].tolist() == [0, 2, 1]
    assert one.classes == ["0", "1", "2"]


def test_equal_scores_go_to_the_first_class():
    found = Confusion(3)
    found.add(np.zeros((1, 1, 3, 1)), np.array([2]))
    assert found.counts[2].tolist() == [1, 0, 0]


def test_maps_count_every_pixel_that_has_a_label():
    guesses = np.array([[[0, 1], [1, 1], [2, 0]], [[2, 2], [0, 0], [1, 1]]])  # 2 x 3 x 2
    labels = np.array([[[0, -1], [1, 0], [2, 0]], [[1, 2], [-1, 0], [1, 1]]])
    found = Confusion(3)
    found.add(scores_of(guesses), labels[:, :, None])
    assert found.counts.tolist() == [[3, 1, 0], [0, 3, 1], [0, 0, 2]]


def test_a_label_per_image_serves_all_pixels_of_its_map():
    found = Confusion(3)
    found.add(scores_of(np.array([[[0, 1], [2, 1]]])), np.array([0, 1]))
    assert found.counts.tolist() == [[1, 0, 1], [0, 2, 0], [0, 0, 0]]


def test_of_mixtures_the_heaviest_class_counts():
    labels = np.array([[0, 0.3, 2, 0.7], [1, 0.9, 0, 0.1], [1, 0, 2, 0], [-1, 0.8, 2, 0.2]])
    found = Confusion(3)
    found.add(of_images(2, 1, 1, 2), labels.T[None, None])
    assert found.counts.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_the_worst_confusions_come_first():
    found = Confusion(3)
    found.counts = np.array([[90, 2, 8], [5, 80, 0], [8, 1, 70]])
    assert found.worst(3) == [Confused(0, 2, 8), Confused(2, 0, 8), Confused(1, 0, 5)]
    assert len(found.worst(50)) == 5
    assert Confusion(3).worst() == []


def test_files_hold_all():
    found = Confusion(["a", "b", "c"])
    found.add(of_images(0, 1, 1), np.array([0, 2, 1]))
    content = json.loads(json.dumps(found.to_dict()))
    again = Confusion.from_dict(content)
    assert (again.classes, again.counts.tolist()) == (found.classes, found.counts.tolist())
    assert content == {"classes": ["a", "b", "c"], "counts": [[1, 0, 0], [0, 1, 0], [0, 1, 0]]}
    assert Confusion.from_dict({"classes": [], "counts": []}).counts.shape == (0, 0)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((1, 1, 2, 4)), np.zeros(4), "scores have 2 channels; wanted one per class, 3"),
        (np.zeros((1, 1, 3, 4)), np.full(4, 3), "labels reach 3; wanted 0 to 2, or -1"),
        (np.zeros((2, 2, 3, 4)), np.zeros((2, 3, 1, 4)), r"labels have shape \(2, 3, 1, 4\)"),
        (np.zeros((1, 1, 3, 4)), np.zeros((1, 1, 3, 4)), "pairs of channels"),
        (np.zeros((1, 1, 3, 4)), np.zeros(5), "wanted 4 labels"),
    ],
)
def test_what_does_not_fit_is_refused(scores, labels, message):
    found = Confusion(3)
    with pytest.raises(ValueError, match=message):
        found.add(scores, labels)
    assert not found.counts.any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"classes": ["a"]}, "wanted classes, counts"),
        ({"classes": ["a", "b"], "counts": [[1, 2]]}, "are 1 x 2; wanted 2 x 2"),
        ({"classes": ["a"], "counts": [["x"]]}, "no whole numbers"),
        ({"classes": ["a", "b"], "counts": [[1, 2], [3]]}, "no whole numbers"),
        ({"classes": ["a"], "counts": [[-1]]}, "numbers >= 0"),
    ],
)
def test_damaged_files_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        Confusion.from_dict(content)
