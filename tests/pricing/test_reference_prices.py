"""The shipped book beside a public table of 15 November 2026, by the names that stand in traces: a
reference, not the truth.
"""

from collections import Counter

from benchmarks.bench_prices import results

RIGHT = {"token": 186, "conditional": 89}


def test_the_shipped_book_is_right_or_it_is_said_why_not() -> None:
    found = list(results())
    assert [one for one in found if one.verdict != "right" and not one.reason] == []
    right = Counter(one.case.kind for one in found if one.verdict == "right")
    assert all(right[kind] >= count for kind, count in RIGHT.items()), right
