"""Budgets: what is over one, and what the smallest one would be that leaves a candidate."""

import pytest

from bort.objectives.limit import Limit


@pytest.mark.parametrize(
    ("value", "most", "is_broken", "remedy"),
    [
        (3.0, 3.0, False, "search.max_mb=3"),
        (3.00001, 3.0, True, "search.max_mb=3.001"),
        (0.00123456, 0.001, True, "search.max_mb=0.001235"),
        (123456.0, 1e5, True, "search.max_mb=123456"),
    ],
)
def test_what_is_over_a_budget(value, most, is_broken, remedy):
    limit = Limit("search.max_mb", value, most)
    assert (limit.is_broken, limit.describe_remedy()) == (is_broken, remedy)
