"""The server of several workers, with real processes: sums, steps, memory, mistakes."""

import numpy as np
import pytest
import torch

from tests.helpers import assert_close
from tests.parallel import scenarios
from tests.parallel.scenarios import SHAPES, value
from tests.parallel.workers import run_workers
from tests.tolerances import REFERENCE, REORDERED

SINGLE = REFERENCE[torch.float32]

ABSENT = ([], [1], [0, 1, 2], [0], [], [0, 1])
PLAN = {
    "sums, one bucket": (scenarios.sums, 1 << 20),
    "sums, many buckets": (scenarios.sums, 8),
    "other orders": (scenarios.other_orders,),
    "numbers between": (scenarios.numbers_between,),
    "empty shares": (scenarios.empty_shares, ABSENT),
    "empty from the start": (scenarios.empty_shares, ([0, 1, 2], [0], [])),
    "one more name": (scenarios.one_more_name,),
    "half types": (scenarios.half_types,),
    "bits": (scenarios.bits, 8),
    "bits, one bucket": (scenarios.bits, 1 << 20),
    "memory": (scenarios.memory,),
    "begins early": (scenarios.begins_early,),
    "one fast": (scenarios.one_fast,),
    "push what you pulled": (scenarios.push_what_you_pulled, 4),
    "disagreements": (scenarios.disagreements,),
    "mistakes": (scenarios.mistakes,),
    "meetings": (scenarios.meetings,),
    "in step": (scenarios.in_step,),
    "world in world": (scenarios.world_in_world,),
    "share": (scenarios.network_share, False),
    "whole": (scenarios.network_share, True),
}


def everything(world, names):
    return {name: PLAN[name][0](world, *PLAN[name][1:]) for name in names}


@pytest.fixture(scope="module", params=[2, 3], ids=["2 workers", "3 workers"])
def ranks(request):
    """What every scenario returned, by rank; one set of processes does them all."""
    return run_workers(everything, request.param, list(PLAN))


def wanted(name, step, ranks):
    """The sum of what these ranks pushed."""
    zeros = np.zeros(SHAPES[name])
    return sum((value(name, rank, step, SHAPES[name]).numpy() for rank in ranks), zeros)


def check(sums, step, ranks):
    for name in SHAPES:
        assert_close(sums[name], wanted(name, step, ranks), REORDERED, name)


@pytest.mark.parametrize("kind", ["sums, one bucket", "sums, many buckets"])
def test_sums_of_all_workers_and_again_when_pulled_twice(ranks, kind):
    for rank in ranks:
        for step, (once, twice, arrived) in enumerate(rank[kind]):
            check(once, step, range(len(ranks)))
            check(twice, step, range(len(ranks)))
            assert arrived == ["a", "b", "c"]


def test_the_order_of_pushes_may_differ(ranks):
    for rank in ranks:
        for step, sums in enumerate(rank["other orders"]):
            check(sums, step, range(len(ranks)))


def test_small_numbers_may_be_added_while_sums_are_under_way(ranks):
    size = len(ranks)
    for rank in ranks:
        steps, numbers = rank["numbers between"]
        for step, sums in enumerate(steps):
            check(sums, step, range(size))
        assert numbers == [[size, size * step, size * (size - 1) / 2] for step in range(4)]


@pytest.mark.parametrize("kind", ["empty shares", "empty from the start"])
def test_who_pushes_nothing_adds_zeros(ranks, kind):
    _, absent = PLAN[kind]
    for rank in ranks:
        for step, (sums, arrived) in enumerate(rank[kind]):
            present = [r for r in range(len(ranks)) if r not in absent[step]]
            check(sums, step, present)
            assert arrived == (["a", "b", "c"] if present else [])


def test_a_tensor_may_come_for_the_first_time_in_a_later_step(ranks):
    everyone = range(len(ranks))
    for rank in ranks:
        for step, (sums, arrived) in enumerate(rank["one more name"]):
            for name in ("a", "b"):
                assert_close(sums[name], wanted(name, step, everyone), REORDERED, name)
            only = wanted("c", step, everyone[-1:] if step else [])
            assert_close(sums["c"], only, REORDERED)
            assert arrived == (["a", "b", "c"] if step else ["a", "b"])


def test_half_types_are_summed_in_float32_and_rounded_once(ranks):
    others = len(ranks) - 1
    for rank in ranks:
        for name, (dtype, sums) in rank["half types"].items():
            assert dtype == name
            exact = (256 if "bfloat16" in name else 2048) + others
            # From 2048 (float16) and 256 (bfloat16) on the numbers are even; 1 more is a tie.
            assert sums == [exact - exact % 2 if "float16" in name else exact, len(ranks)]


@pytest.mark.parametrize("kind", ["bits", "bits, one bucket"])
def test_all_workers_get_the_same_bits(ranks, kind):
    assert len({rank[kind] for rank in ranks}) == 1


def test_sums_lie_in_one_memory_with_channels_last(ranks):
    h, w, c, _ = SHAPES["a"]
    for rank in ranks:
        facts, _, _ = rank["memory"]
        for step, (total, strides, _) in facts.items():
            assert_close(total, wanted("a", step, range(len(ranks))), SINGLE)
            assert strides == (w * c, c, 1, h * w * c)
        assert len({address for _, _, address in facts.values()}) == 1


def test_what_overlaps_with_a_sum_may_be_pushed(ranks):
    everyone = range(len(ranks))
    for _, flipped, transposed in (rank["memory"] for rank in ranks):
        assert_close(flipped, wanted("a", 4, everyone), SINGLE)
        assert_close(transposed, sum(value("s", r, 1, (3, 3)).T for r in everyone), SINGLE)


def test_full_buckets_are_under_way_before_the_sync(ranks):
    for rank in ranks:
        moved, total, steps, (under_way, waited, overlap) = rank["begins early"]
        assert 0 < moved[0] < moved[1] == moved[2] < total  # the last one goes at the sync
        assert total > 8 * sum(np.prod(shape) for shape in SHAPES.values())
        assert steps == 2
        assert under_way > 0
        assert waited > 0
        assert 0 <= overlap < 1


def test_a_fast_worker_overwrites_nothing(ranks):
    for rank in ranks:
        assert rank["one fast"] == [len(ranks) * (step + 1) for step in range(5)]


def test_pushing_what_was_pulled_multiplies(ranks):
    """`vl_tmove`: from the rank + 1 on, T cycles give K (K + 1) / 2 K^(T - 1)."""
    size, cycles = len(ranks), 4
    number = size * (size + 1) / 2 * size ** (cycles - 1)
    for rank in ranks:
        assert len(rank["push what you pulled"]) == 14
        for shape, numbers in rank["push what you pulled"]:
            assert numbers == (set() if 0 in shape else {number})


def test_workers_that_disagree_are_named(ranks):
    last = len(ranks) - 1
    texts = [
        f"rank {last} registered other tensors than rank 0: the first that differs is number 0, "
        f"'a' (3 x 2, float32, cpu) on rank {last} and 'a' (3 x 3, float32, cpu) on rank 0",
        f"number 1, 'B' (6, float32, cpu) on rank {last} and 'b' (6, float32, cpu) on rank 0",
        f"number 0, 'a' (3 x 3, float64, cpu) on rank {last} and",
        f"number 1, none on rank {last} and 'b' (6, float32, cpu) on rank 0",
        f"number 2, 'c' (scalar, float32, cpu) on rank {last} and none on rank 0",
        f"bucket_bytes of rank {last} differs from that of rank 0: rank {last} has '101', "
        "rank 0 has '100'",
    ]
    for messages, sums in (rank["disagreements"] for rank in ranks):
        assert len(messages) == len(texts)
        for message, text in zip(messages, texts, strict=True):
            assert text in message
        check(sums, 0, range(len(ranks)))


def test_mistakes_are_named_and_cost_nothing(ranks):
    texts = {
        "name": "KeyError: \"'b' is not registered; wanted one of ['a']\"",
        "shape": "ValueError: 'a' is Slot(shape=(3,)",
        "type": "ValueError: 'a' is Slot(shape=(2,), dtype=torch.float64",
        "pull of unknown": "KeyError: \"'b' is not registered",
        "twice": "RuntimeError: 'a' was pushed already in this step; call sync first",
        "no sync": "RuntimeError: pull('a') after a push; call sync first, on every worker",
        "late register": "RuntimeError: register('c') after start",
        "stopped": "RuntimeError: push('a') before start",
        "sync": "RuntimeError: sync before start",
        "whole numbers": "TypeError: 'n' is of type torch.int64; wanted a floating point type",
        "device": "ValueError: 'n' is on 'meta'; wanted one of ['cpu']",
    }
    for messages, total in (rank["mistakes"] for rank in ranks):
        assert messages.keys() == texts.keys()
        for what, text in texts.items():
            assert messages[what].startswith(text)
        assert total == [len(ranks)] * 2


def test_meetings_give_the_same_to_all(ranks):
    size = len(ranks)
    want = sum(np.array([[0.1, 1e16, 1.0], [np.pi, -1e16, 1e-9]]) * (r + 1) ** 3
               for r in range(size))  # fmt: skip
    everyone = [{"rank": r, "text": "ä" * 10 * r, "none": None} for r in range(size)]
    names = ", ".join(map(str, range(1, size)))
    for number, (total, gathered, told, messages, text) in enumerate(r["meetings"] for r in ranks):
        assert total == ranks[0]["meetings"][0]
        assert_close(np.frombuffer(total).reshape(2, 3), want, REORDERED)
        assert gathered == everyone
        assert told == [1, "two", {"x": 3.5}]
        assert messages[0] == (
            f"the weather of rank {names} differs from that of rank 0: rank 1 has 'other', "
            "rank 0 has 'same'"
        )
        assert len(messages[1]) < 600
        assert text == f"World(rank={number}, size={size}, device='cpu')"


def test_nobody_passes_a_barrier_alone(ranks):
    late = ranks[0]["in step"][0]
    for rank in ranks:
        assert rank["in step"][1] >= late


def test_a_world_is_left_together_and_another_goes_on(ranks):
    late, size = ranks[0]["world in world"][0], len(ranks)
    for rank in ranks:
        _, left, *totals = rank["world in world"]
        assert left >= late
        assert totals == [size, size]


def test_shares_of_a_batch_give_the_derivatives_of_the_whole(ranks):
    for rank in ranks:
        for name, der in rank["whole"].items():
            assert_close(rank["share"][name], der, REORDERED, name)
        assert rank["share"].keys() == rank["whole"].keys()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="wants two CUDA devices")
def test_gpus_sum_as_cpus_do():
    for steps, arrived, under_way, waited in run_workers(scenarios.gpu_sums, 2, device="cuda"):
        for step, sums in enumerate(steps):
            check(sums, step, range(2))
        assert arrived == ["a", "b", "c"]
        assert under_way > 0
        assert waited > 0
