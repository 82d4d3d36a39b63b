"""Joining: what the environment says, and the errors when it says something impossible."""

import socket

import numpy as np
import pytest
import torch

from matconvnet.parallel.server import LocalServer
from matconvnet.parallel.world import World, join
from tests.parallel.workers import environment, free_port

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def set_variables(monkeypatch, **variables):
    for name, text in variables.items():
        monkeypatch.setenv(name, str(text))


def alone_in_two_ways():
    return [World(), join()]


@pytest.mark.parametrize("way", [0, 1], ids=["World()", "join()"])
def test_without_torchrun_a_worker_is_alone(way):
    with alone_in_two_ways()[way] as world:
        assert (world.rank, world.size, world.local_rank) == (0, 1, 0)
        assert world.device == torch.device("cpu")
        assert isinstance(world.server(), LocalServer)
        numbers = np.array([1.5, 2.5])
        total = world.sum(numbers)
        total += 1
        assert numbers.tolist() == [1.5, 2.5]
        assert world.gather({"a": (1, 2)}) == [{"a": [1, 2]}]
        assert world.broadcast("x") == "x"
        world.agree("anything", "y")
        world.barrier()
    assert not torch.distributed.is_initialized()


def test_values_that_json_cannot_hold_are_refused_by_one_worker_too():
    with pytest.raises(TypeError, match="ndarray is not JSON serializable"):
        World().gather(np.zeros(2))


def test_one_worker_of_torchrun_is_alone(monkeypatch):
    set_variables(monkeypatch, **environment(0, 1, 1))
    assert repr(join()) == "World(rank=0, size=1, device='cpu')"
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": 2}, "has WORLD_SIZE but not RANK, MASTER_ADDR, MASTER_PORT; start workers"),
        ({"RANK": 0}, "has RANK but not WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "h"},
         "has RANK and WORLD_SIZE but not MASTER_PORT"),
        (environment(2, 2, 1), "RANK is 2; wanted 0 to 1, as WORLD_SIZE is 2"),
        ({**environment(0, 2, 1), "RANK": "one"}, "RANK is 'one' in the environment; wanted a wh"),
    ],
    ids=["no rank", "no size", "no port", "rank too large", "no number"],
)  # fmt: skip
def test_an_environment_that_contradicts_itself(monkeypatch, variables, message):
    set_variables(monkeypatch, **variables)
    with pytest.raises(ValueError, match=message):
        join()


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "this machine has 2 GPUs for 3 workers with device 'cuda'; wanted a GPU for each"),
        ("cuda:1", "device is 'cuda:1' for 3 workers; wanted 'cpu', or 'cuda'"),
        ("mps", "device is 'mps' for 3 workers"),
    ],
)
def test_devices_that_workers_cannot_share(monkeypatch, device, message):
    set_variables(monkeypatch, **environment(1, 3, 1))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=message):
        join(device)


def test_a_port_that_nobody_serves(monkeypatch):
    port = free_port()
    set_variables(monkeypatch, **environment(1, 2, port))
    message = rf"rank 1 of 2 did not meet the others at 127.0.0.1:{port} within 1 s: .*wanted MAST"
    with pytest.raises(ConnectionError, match=message):
        join(timeout=1)


def test_others_that_do_not_come(monkeypatch):
    set_variables(monkeypatch, **environment(0, 2, free_port()))
    with pytest.raises(ConnectionError, match=r"rank 0 of 2 did not meet the others .* within 1 s"):
        join(timeout=1)
    assert not torch.distributed.is_initialized()


def test_a_port_that_is_taken(monkeypatch):
    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        set_variables(monkeypatch, **environment(0, 2, s.getsockname()[1]))
        with pytest.raises(ConnectionError, match="already in use"):
            join(timeout=1)
