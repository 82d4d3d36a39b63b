"""The server of a single worker."""

import pytest
import torch

from matconvnet.parallel.server import LocalServer, Traffic


@pytest.fixture
def server():
    server = LocalServer()
    server.register("a", (2,))
    server.register("b", (1, 3), torch.float64)
    server.start()
    return server


def test_the_sum_is_what_was_pushed_in_this_step(server):
    value = torch.ones(2)
    server.push("a", value)
    server.sync()
    assert server.pull("a") is server.pull("a") is value
    assert server.arrived() == ["a"]
    server.push("b", torch.ones(1, 3).double())
    server.sync()
    assert server.pull("a").tolist() == [0, 0]
    assert server.arrived() == ["b"]


def test_names_that_arrived_are_in_the_order_of_registration(server):
    assert server.arrived() == []
    server.push("b", torch.ones(1, 3).double())
    server.push("a", torch.ones(2))
    server.sync()
    assert server.arrived() == ["a", "b"]
    server.stop()
    assert server.arrived() == []


def test_what_was_never_pushed_is_zero_of_its_type(server):
    server.sync()
    zeros = server.pull("b")
    assert zeros.tolist() == [[0, 0, 0]]
    assert zeros.dtype == torch.float64


def test_nothing_travels(server):
    server.push("a", torch.ones(2))
    server.sync()
    assert server.traffic == Traffic(bytes=0, under_way=0, waited=0, steps=1)
    assert server.traffic.overlap == 0


@pytest.mark.parametrize(
    ("traffic", "overlap"),
    [(Traffic(1, 4.0, 1.0, 1), 0.75), (Traffic(1, 2.0, 3.0, 1), 0.0), (Traffic(1, 2.0), 1.0)],
)
def test_overlap_is_the_share_that_nobody_waited_for(traffic, overlap):
    assert traffic.overlap == overlap


def test_wrong_calls_are_named(server):
    with pytest.raises(ValueError, match="name 'a' is registered already"):
        LocalServer.register(_fresh(), "a", (1,))
    with pytest.raises(RuntimeError, match=r"register\('c'\) after start"):
        server.register("c", (1,))
    with pytest.raises(RuntimeError, match=r"push\('a'\) before start"):
        _fresh().push("a", torch.ones(2))
    with pytest.raises(KeyError, match=r"'c' is not registered; wanted one of \['a', 'b'\]"):
        server.push("c", torch.ones(2))
    with pytest.raises(KeyError, match="'c' is not registered"):
        server.pull("c")
    with pytest.raises(ValueError, match="it was registered as Slot"):
        server.push("a", torch.ones(3))


def _fresh():
    server = LocalServer()
    server.register("a", (2,))
    return server
