"""Times of sums that are under way."""

from types import SimpleNamespace

import pytest

from matconvnet.parallel.exchange import time_under_way


@pytest.mark.parametrize(
    ("spans", "total"),
    [
        ([], 0),
        ([(1, 3)], 2),
        ([(1, 3), (4, 6)], 4),
        ([(1, 3), (2, 6)], 5),
        ([(1, 5), (2, 5)], 4),
        ([(1, 5), (2, 4.5)], 4),
    ],
    ids=["none", "one", "apart", "overlapping", "within", "done before the first"],
)
def test_time_under_way_counts_no_moment_twice(spans, total):
    exchanges = [SimpleNamespace(begin=float(a), done=float(b)) for a, b in spans]
    assert time_under_way(exchanges) == total
