"""ParameterServer and vl_tmove: sums over workers, in the original's words."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from matconvnet.compat.parameter_server import ParameterServer, vl_tmove

WORKER = """
import numpy as np, torch
from matconvnet.compat.parameter_server import ParameterServer, vl_tmove
import os
lab, labs = int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"])
shapes = {"a": (2, 1, 3), "b": (5,), "c": (1, 1)}
vl_tmove("init", [["single", s, n] for n, s in shapes.items()], lab, labs, "InPlace")
values = {n: np.full(s, lab, "f4") for n, s in shapes.items()}
for _ in range(3):
    for name in reversed(shapes):
        vl_tmove("push", name, values[name])
    for name in shapes:
        values[name] = vl_tmove("pull", name)
print([values[n].ravel().tolist() for n in shapes])
vl_tmove("reset")
server = ParameterServer("method", "mmap", "prefix", "x")
server.register("d", [2, 2], "double", "cpu")
server.start()
server.pushWithIndex(1, torch.eye(2, dtype=torch.float64) * lab)
server.sync()
print(server.pull("d").tolist(), server.pullWithIndex(1).tolist())
server.stop()
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_workers_sum_what_they_push():
    port = str(free_port())
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER], text=True, stdout=subprocess.PIPE,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]  # fmt: skip
    answers = [worker.communicate(timeout=100)[0].splitlines() for worker in workers]
    wanted = 2 * 3 / 2 * 2**2  # K (K + 1) / 2 * K^(T - 1) after T = 3 rounds of K = 2 workers
    sums = [[wanted] * 6, [wanted] * 5, [wanted]]
    twice = [[[3.0, 0.0], [0.0, 3.0]]] * 2
    assert answers == [[str(sums), " ".join(map(str, twice))]] * 2


def started(*pairs):
    server = ParameterServer(*pairs)
    server.register("a", [2, 3])
    server.register("b", (4,), "double", "cpu")
    server.start()
    return server


def test_alone_the_sum_is_what_was_pushed():
    server = started("Method", "mmap", "pinnedMemory", False)
    server.push("a", np.ones((2, 3), "f4"))
    server.pushWithIndex(2, torch.arange(4.0, dtype=torch.float64)[None])
    server.sync()
    assert isinstance(server.pullWithIndex(1), np.ndarray)
    assert server.pull("a").tolist() == [[1.0] * 3] * 2
    assert server.pull("b").tolist() == [0, 1, 2, 3]
    assert server.arrived() == ["a", "b"]
    server.sync()
    assert server.pull("b").tolist() == [0, 0, 0, 0]
    server.stop()
    server.register("a", [1])  # all is forgotten


def test_a_pull_without_sync_ends_the_step():
    server = started()
    for value in (1.0, 2.0):
        server.push("a", torch.full((2, 3), value))
        assert server.pull("a").unique().tolist() == [value]
    assert server.traffic.steps == 2


def test_wrong_uses_of_a_server():
    with pytest.raises(ValueError, match="method is 'tcp'; wanted one of tmove, mmap"):
        ParameterServer("method", "tcp")
    with pytest.raises(TypeError, match="Unknown parameter 'metod'"):
        ParameterServer("metod", "mmap")
    with pytest.raises(ValueError, match="dtype is 'int8'; wanted 'single' or 'double'"):
        ParameterServer().register("a", [1], "int8")
    with pytest.raises(RuntimeError, match="not started"):
        ParameterServer().sync()
    server = started()
    with pytest.raises(IndexError, match="index is 0; wanted 1 to 2"):
        server.pullWithIndex(0)
    with pytest.raises(ValueError, match=r"'a' is .*float64.*registered as .*float32"):
        server.push("a", np.ones((2, 3)))
    with pytest.raises(KeyError, match="'z' is not registered"):
        server.push("z", np.ones(1))


@pytest.fixture
def moving():
    vl_tmove("init", [["double", [2, 2], "w"], ["single", 3, "v", "cpu"]], 1, 1)
    yield
    vl_tmove("reset")


@pytest.mark.usefixtures("moving")
def test_tmove_alone():
    w = np.array([[1.0, 2.0], [3.0, 4.0]])
    vl_tmove("push", "w", w)
    assert (vl_tmove("pull", "w") == w).all()
    vl_tmove("Push", "v", torch.ones(3))
    assert vl_tmove("pull", "v").tolist() == [1, 1, 1]
    assert vl_tmove("stats")["steps"] == 2
    with pytest.raises(RuntimeError, match="started already"):
        vl_tmove("init", [["single", [1], "x"]], 1, 1)
    with pytest.raises(KeyError, match="'x' is not registered"):
        vl_tmove("pull", "x")


def test_wrong_uses_of_tmove():
    with pytest.raises(RuntimeError, match=r"vl_tmove\('push'\) before vl_tmove\('init'"):
        vl_tmove("push", "w", np.ones(1))
    with pytest.raises(ValueError, match="command is 'send'; wanted init, push, pull, stats or re"):
        vl_tmove("send")
    with pytest.raises(ValueError, match="labindex is 2 of 3; torchrun says 1 of 1"):
        vl_tmove("init", [["single", [1], "x"]], 2, 3)
    vl_tmove("reset")  # nothing to leave
