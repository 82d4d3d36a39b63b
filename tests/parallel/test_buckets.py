"""Sharing out of tensors to buckets."""

import pytest
import torch

from matconvnet.parallel.buckets import fill
from matconvnet.parallel.server import Slot

CPU, META = torch.device("cpu"), torch.device("meta")
SLOTS = {
    "a": Slot((4,), torch.float32, CPU),
    "b": Slot((2, 2), torch.float32, CPU),
    "huge": Slot((100,), torch.float32, CPU),
    "none": Slot((0, 3), torch.float32, CPU),
    "double": Slot((3,), torch.float64, CPU),
    "half": Slot((8,), torch.float16, CPU),
    "there": Slot((4,), torch.float32, META),
}


@pytest.mark.parametrize(
    ("order", "most", "groups"),
    [
        ("a b", 32, ["a b"]),
        ("b a", 32, ["b a"]),
        ("a b", 31, ["a", "b"]),
        ("a huge b", 32, ["a", "huge", "b"]),
        ("none a", 8, ["none", "a"]),
        ("a double b", 1000, ["double", "a b"]),
        ("a there b", 1000, ["there", "a b"]),
        ("a half", 1000, ["a", "half"]),
        ("a b double huge", 40, ["a b", "double", "huge"]),
        ("", 8, []),
    ],
)
def test_buckets_hold_one_type_up_to_the_limit_in_the_order_of_pushes(order, most, groups):
    buckets = fill(order.split(), SLOTS, most)
    assert [" ".join(bucket.views) for bucket in buckets] == groups


def test_half_types_take_four_bytes_each():
    slots = {name: Slot((4,), torch.float16, CPU) for name in ("a", "b")}
    assert len(fill(["a", "b"], slots, 32)) == 1
    two = fill(["a", "b"], slots, 31)
    assert len(two) == 2
    assert two[0].flat.dtype == torch.float32


def test_tensors_begin_where_wide_registers_want_them():
    slots = {str(i): Slot((i,), torch.float64, CPU) for i in range(1, 20)}
    (bucket,) = fill(list(slots), slots, 1 << 20)
    first = bucket.flat.data_ptr()
    assert [(view.data_ptr() - first) % 64 for view in bucket.views.values()] == [0] * 19
    ends = [view.data_ptr() + view.nbytes for view in bucket.views.values()]
    assert all(a <= b.data_ptr() for a, b in zip(ends, [*bucket.views.values()][1:], strict=False))


def test_what_did_not_come_is_zero_and_counted():
    slots = {"a": Slot((2,), torch.float32, CPU), "b": Slot((2,), torch.float32, CPU)}
    (bucket,) = fill(["a", "b"], slots, 1000)
    for name in ("a", "b"):
        bucket.put(name, torch.ones(2))
    assert bucket.is_full
    bucket.close(0)
    assert bucket.counts.tolist() == [1, 1, 0]
    bucket.put("b", torch.full((2,), 3.0))
    assert not bucket.is_full
    bucket.close(5)
    assert bucket.views["a"].tolist() == [0, 0]
    assert bucket.views["b"].tolist() == [3, 3]
    assert bucket.counts.tolist() == [0, 1, 5]
