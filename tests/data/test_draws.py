"""uniform: random numbers of an image depend on nothing but the seed, the index and the use."""

import numpy as np
import pytest

from matconvnet.data.draws import GAMMA, _mix, uniform

MANY = np.arange(100_000)


def test_the_generator_is_splitmix64():
    # The first outputs of the published generator from the state 1234567.
    states = np.array([(1234567 + k * GAMMA) % 2**64 for k in (1, 2, 3)], np.uint64)
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert _mix(states).tolist() == wanted


def test_numbers_belong_to_the_image():
    alone = uniform(3, np.array([7]), 2)
    among = uniform(3, np.array([9, 7, 1000, 7]), 5)
    np.testing.assert_array_equal(among[1, :2], alone[0])
    np.testing.assert_array_equal(among[3], among[1])


def test_numbers_stay_the_same_for_ever():
    # Resuming an old run must draw what the run drew.
    found = uniform(3, np.array([7, 2]), 2)
    wanted = [[1072258517, 4018964602], [3883571819, 1153456572]]
    np.testing.assert_array_equal((found * 2**32).astype(np.uint64), wanted)


@pytest.mark.parametrize(
    "other",
    [{"seed": 4}, {"seed": -3}, {"seed": 3 + 2**40}, {"stream": "mix"}],
    ids=["seed", "negative", "large", "stream"],
)
def test_another_seed_or_use_gives_independent_numbers(other):
    arguments = {"seed": 3, "indices": MANY, "count": 1}
    first, second = uniform(**arguments), uniform(**(arguments | other))
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:, 0], second[:-1, 0])[0, 1]) < 0.02


def test_numbers_are_uniform_and_independent():
    found = uniform(0, MANY, 3)
    assert found.dtype == np.float64
    assert found.min() >= 0
    assert found.max() < 1
    for column in found.T:
        counts = np.histogram(column, 100, (0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 160  # chi-square of 99: 0.0001 above 160
    assert np.abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.02
    assert abs(np.corrcoef(found[1:, 0], found[:-1, 0])[0, 1]) < 0.02


def test_no_images_and_any_integers():
    assert uniform(0, np.array([], int), 3).shape == (0, 3)
    np.testing.assert_array_equal(uniform(0, np.array([5], np.int32), 1), uniform(0, [5], 1))
