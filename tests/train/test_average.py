"""The moving average of the parameters."""

import numpy as np
import pytest
import torch

import matconvnet as mcn
from matconvnet.train.average import WeightAverage
from tests.helpers import assert_close, randn
from tests.tolerances import REFERENCE
from tests.train.common import assert_identical, small_net, values


def moved(net, seed):
    """Change every parameter, as an update does: in place."""
    for i, value in enumerate(v for v in net.values().values() if v is not None):
        value.copy_(randn(tuple(value.shape), 100 * seed + i, value.dtype))
    return values(net)


def averaged(net, decay, seeds):
    average = WeightAverage(decay)
    for seed in seeds:
        moved(net, seed)
        average.update(net)
    return average


def test_two_numbers_by_hand():
    """d_0 = 1/10 is not needed, d_1 = 2/11, d_2 = 3/12 but the decay is less."""
    net = mcn.SimpleNN([(mcn.Conv(), [torch.ones(1, 1, 1, 1).double(), None])])
    average = WeightAverage(0.2)
    for value in (22.0, 11.0, 1.0):
        net.values()["l1_1"].fill_(value)
        average.update(net)
    with average.swapped(net):
        assert net.values()["l1_1"].item() == pytest.approx(0.2 * (2 / 11 * 22 + 9) + 0.8)


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.999])
def test_against_loops_over_the_history(decay):
    net = small_net(bnorm=True)
    average, history = WeightAverage(decay), []
    for seed in range(6):
        history.append(moved(net, seed))
        average.update(net)
    want = {name: value.numpy() for name, value in history[0].items()}
    for t in range(1, 6):
        d = min(decay, np.divide(1 + t, 10 + t))
        want = {name: d * a + (1 - d) * history[t][name].numpy() for name, a in want.items()}
    assert len(want) == 6  # with the moments of batch normalisation
    with average.swapped(net):
        for name, value in values(net).items():
            assert_close(value, want[name], REFERENCE[torch.float64], name)


def test_swapping_moves_no_memory_and_gives_back_what_was_there():
    net = small_net(bnorm=True)
    average = averaged(net, 0.9, range(3))
    before = dict(net.values())
    with average.swapped(net):
        inside = dict(net.values())
    assert all(inside[name] is average.values[name] for name in average.values)
    assert not torch.equal(inside["l1_1"], before["l1_1"])
    with pytest.raises(KeyError), average.swapped(net):
        raise KeyError
    assert all(net.values()[name] is value for name, value in before.items())


def test_the_network_may_keep_its_averages():
    net = small_net(bnorm=True)
    average = averaged(net, 0.9, range(3))
    want = {name: value.clone() for name, value in average.values.items()}
    average.give(net)
    assert_identical(values(net), want)
    moved(net, 7)
    assert_identical(average.state()["values"], want)


def test_before_the_first_update_the_parameters_stay():
    net = small_net()
    before = values(net)
    with WeightAverage(0.5).swapped(net):
        assert_identical(values(net), before)


def test_the_parameters_are_not_written_to():
    net = small_net()
    average = WeightAverage(0.5)
    average.update(net)
    before = moved(net, 1)
    average.update(net)
    assert_identical(values(net), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_restored_average_goes_on_bit_by_bit(dtype):
    net = small_net(bnorm=True, dtype=dtype)
    whole = averaged(net, 0.99, range(6))
    first = averaged(net, 0.99, range(3))
    kept = first.state()
    kept["values"] = {n: v.double().contiguous().to(dtype) for n, v in kept["values"].items()}
    resumed = WeightAverage(0.99)
    resumed.restore(kept, net)
    for name, value in resumed.values.items():
        assert value.stride() == net.values()[name].stride()
        assert value.data_ptr() != kept["values"][name].data_ptr()
    for seed in range(3, 6):
        moved(net, seed)
        resumed.update(net)
    assert resumed.count == whole.count == 6
    assert_identical(resumed.state()["values"], whole.state()["values"])


def test_half_types_are_averaged_in_single_precision():
    """Steps of 1/1000 towards 1 are lost in bfloat16, whose numbers near 1 are 1/256 apart."""
    net = mcn.SimpleNN([(mcn.Conv(), [torch.zeros(1, 1, 1, 4, dtype=torch.bfloat16), None])])
    average = WeightAverage(0.999)
    average.count = 10**6
    average.update(net)
    net.values()["l1_1"].fill_(1)
    for _ in range(2000):
        average.update(net)
    with average.swapped(net):
        assert net.values()["l1_1"].dtype == torch.bfloat16
        want = 1 - 0.999**2000
        assert_close(net.values()["l1_1"].float(), torch.full((1, 1, 1, 4), want), 4e-2)


def test_what_does_not_move_is_its_own_average():
    net = small_net(dtype=torch.float32)
    before = values(net)
    average = WeightAverage(0.9999)
    for _ in range(50):
        average.update(net)
    assert_identical(average.state()["values"], before)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=r"average is .*; wanted a decay from 0 to below 1"):
        WeightAverage(decay)


def test_an_average_of_another_shape():
    with pytest.raises(
        ValueError, match=r"average of 'l1_1' has shape \(2,\); wanted \(3, 2, 2, 4"
    ):
        WeightAverage(0.5).restore({"count": 1, "values": {"l1_1": torch.ones(2)}}, small_net())
