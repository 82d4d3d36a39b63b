"""Placement of what a program needs: alive at the same time means apart in memory."""

import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matconvnet.fast.memory import ALIGNMENT, Arena, Life, Planner, new_block, place

lives = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 9), st.integers(0, 9)), max_size=12
)  # fmt: skip


@given(lives)
def test_what_lives_together_does_not_overlap(entries):
    planned = {i: Life(size, min(a, b), max(a, b)) for i, (size, a, b) in enumerate(entries)}
    offsets, total = place(planned)
    for i, one in planned.items():
        assert offsets[i] % ALIGNMENT == 0
        assert offsets[i] + one.size <= total
        for j, other in planned.items():
            if i == j or one.last < other.first or other.last < one.first:
                continue
            assert (
                offsets[i] + one.size <= offsets[j]
                or offsets[j] + other.size <= offsets[i]
                or 0 in (one.size, other.size)
            )


@given(lives)
def test_memory_is_at_least_what_lives_at_once_and_at_most_all(entries):
    planned = {i: Life(size, min(a, b), max(a, b)) for i, (size, a, b) in enumerate(entries)}
    _, total = place(planned)
    rounded = {i: -(-life.size // ALIGNMENT) * ALIGNMENT for i, life in planned.items()}
    for moment in range(10):
        alive = [rounded[i] for i, life in planned.items() if life.first <= moment <= life.last]
        assert total >= sum(alive)
    assert total <= sum(rounded.values())


def test_one_after_the_other_takes_the_memory_of_one():
    planned = {i: Life(640, i, i) for i in range(5)}
    assert place(planned)[1] == 640


def write(memory):
    """A program of three moments: a and b live at once, then b and c."""
    memory.now = 0
    a = memory.tensor("a", (2, 3, 4, 5))
    memory.now = 1
    b = memory.tensor("b", (7,), torch.uint8)
    memory.tensor("a", (2, 3, 4, 5))
    memory.now = 2
    c = memory.tensor("c", (2, 3, 4, 5))
    memory.tensor("b", (7,), torch.uint8)
    return a, b, c


def test_an_arena_hands_out_what_was_planned():
    planner = Planner()
    write(planner)
    arena = Arena(planner)
    a, b, c = write(arena)
    assert a.shape == (2, 3, 4, 5)
    assert a.stride() == (12, 4, 1, 24)
    assert b.dtype == torch.uint8
    assert arena.size == 2 * 120 * 4 // 2 + ALIGNMENT + 32
    assert a.data_ptr() == c.data_ptr()
    b.fill_(3)
    c.fill_(1)
    assert b.tolist() == [3] * 7


def test_a_tensor_that_is_kept_is_not_shared():
    planner = Planner()
    write(planner)
    planner.keep("a", 2)
    a, _, c = write(Arena(planner))
    assert a.data_ptr() != c.data_ptr()


def test_an_arena_uses_a_block_that_is_large_enough():
    planner = Planner()
    write(planner)
    large = torch.zeros(10_000, dtype=torch.uint8)
    assert Arena(planner, large).block is large
    small = torch.zeros(10, dtype=torch.uint8)
    assert Arena(planner, small).block is not small


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_fork_of_the_process_does_not_write_to_the_same_block():
    block = new_block(1 << 16).numpy()
    block[0] = 1
    child = os.fork()
    if not child:
        block[0] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert block[0] == 1
