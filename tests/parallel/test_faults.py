"""Workers that die, hang or are told to stop, really done to processes."""

import os
import signal
import time

from tests.parallel import scenarios
from tests.parallel.workers import Workers


def test_a_killed_worker_ends_the_others_at_once():
    workers = Workers(scenarios.train_until, 3, 2, scenarios.die, timeout=60)
    first, second, killed = workers.end_after_steps(2)
    assert killed.exitcode == -signal.SIGKILL
    for rank, outcome in enumerate((first, second)):
        assert outcome.exitcode == 0
        assert (
            f"ConnectionError: rank {rank} of 3 lost another worker while summing derivatives: "
            "one ended, or kept silent for 60 s; its own log tells why"
        ) in outcome.error
        assert outcome.seconds < 30


def test_a_silent_worker_is_given_up_after_the_timeout():
    workers = Workers(scenarios.train_until, 2, 1, scenarios.halt, timeout=2)
    try:
        assert workers.hear(0) == workers.hear(1) == 0
        start = time.monotonic()
        value, error, _ = workers.hear(0)
        assert value is None
        assert "kept silent for 2 s" in error
        assert 1 < time.monotonic() - start < 20
    finally:
        os.kill(workers.processes[1].pid, signal.SIGKILL)
        workers.end()


def test_an_interrupted_worker_ends_at_once_and_the_others_with_it():
    workers = Workers(scenarios.train_until, 2, 1, scenarios.interrupt, timeout=60)
    other, interrupted = workers.end_after_steps(1)
    assert "KeyboardInterrupt" in interrupted.error
    assert "ConnectionError: rank 0 of 2 lost another worker" in other.error
    assert max(other.seconds, interrupted.seconds) < 30


def test_signals_are_handled_while_a_worker_waits():
    workers = Workers(scenarios.keep_waiting, 2, timeout=60)
    assert workers.hear(0) == "ready"
    time.sleep(0.5)  # by then it waits
    os.kill(workers.processes[0].pid, signal.SIGTERM)
    assert workers.hear(0) == "handled"  # while the other has not come yet
    workers.tell(1, "go")
    assert workers.hear(1) == "ready"
    (heard, total), (_, same) = (outcome.value for outcome in workers.end())
    assert heard == ["term"]
    assert total == same


def test_ctrl_c_ends_a_wait():
    workers = Workers(scenarios.keep_waiting, 2, timeout=60)
    assert workers.hear(0) == "ready"
    time.sleep(0.5)  # by then it waits
    os.kill(workers.processes[0].pid, signal.SIGINT)
    value, error, _ = workers.hear(0)
    assert value is None
    assert "KeyboardInterrupt" in error
    workers.processes[0].join(30)
    assert workers.processes[0].exitcode == 0  # though the other keeps silent
    workers.tell(1, "go")
    assert workers.hear(1) == "ready"
    assert "ConnectionError" in workers.end()[1].error


def test_who_left_meets_nobody():
    first, second = Workers(scenarios.leave_early, 2, timeout=60).end()
    assert "RuntimeError: rank 0 of 2 has left; call join again" in first.error
    assert "ConnectionError: rank 1 of 2 lost another worker while adding numbers" in second.error
