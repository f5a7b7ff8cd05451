"""Periods cut into segments: whatever the cut, it comes to the period, and no more."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from usage.analytics.segments import Segment, Segments, cut, cut_by_difference
from usage.periods import Granularity, period_of

HOUR, DAY, WEEK, MONTH = Granularity
FIRST = datetime(2026, 9, 20, tzinfo=UTC)
HALF_HOURS = 24 * 2 * 70
NEVER_STALE = {granularity: frozenset[datetime]() for granularity in Granularity}


def at(half_hours: int) -> datetime:
    return FIRST + half_hours * timedelta(minutes=30)


moments = st.integers(0, HALF_HOURS).map(at)
granularity_sets = st.sets(st.sampled_from(list(Granularity))).map(
    lambda chosen: tuple(one for one in Granularity if one in chosen)
)


def covered(*segments: tuple[int, Segments]) -> Counter[datetime]:
    """How often each half hour is counted."""
    found: Counter[datetime] = Counter()
    for sign, (built, facts) in segments:
        for segment in (*built, *facts):
            for number in range((segment.end - segment.start) // timedelta(minutes=30)):
                found[segment.start + number * timedelta(minutes=30)] += sign
    return Counter({moment: count for moment, count in found.items() if count})


def periods_read(segments: Iterable[Segment]) -> Iterable[tuple[Granularity, datetime]]:
    for segment in segments:
        assert segment.granularity is not None
        start = segment.start
        while start < segment.end:
            assert period_of(segment.granularity, start)[0] == start
            yield segment.granularity, start
            start = period_of(segment.granularity, start)[1]
        assert start == segment.end


@given(
    moments,
    moments,
    moments,
    granularity_sets,
    st.lists(st.tuples(st.sampled_from(list(Granularity)), moments)),
)
def test_both_cuts_come_to_the_period_and_read_nothing_unreliable(
    one: datetime,
    other: datetime,
    now: datetime,
    granularities: tuple[Granularity, ...],
    stale: list[tuple[Granularity, datetime]],
) -> None:
    start, end = min(one, other), max(one, other)
    unreliable = {
        granularity: frozenset(
            period_of(granularity, moment)[0] for this, moment in stale if this is granularity
        )
        for granularity in Granularity
    }
    expected = Counter(at(number) for number in range(HALF_HOURS) if start <= at(number) < end)
    plain = cut([(start, end)], granularities, unreliable)
    added, taken = cut_by_difference([(start, end)], granularities, unreliable, now)
    assert covered((1, plain)) == covered((1, added), (-1, taken)) == expected
    for granularity, period in periods_read([*plain.built, *added.built, *taken.built]):
        assert granularity in granularities
        assert period not in unreliable[granularity]


def test_thirty_days_of_users_are_a_month_and_a_week_less_their_beginnings() -> None:
    start, end = datetime(2026, 10, 26, 10, tzinfo=UTC), datetime(2026, 11, 25, 10, tzinfo=UTC)
    added, taken = cut_by_difference([(start, end)], (DAY, WEEK, MONTH), NEVER_STALE, now=end)
    assert [(one.granularity, one.start.day) for one in added.built] == [(WEEK, 26), (MONTH, 1)]
    assert not added.facts
    in_the_past = [one for one in (*taken.built, *taken.facts) if one.start < end]
    assert [(one.granularity, one.start.day, one.end.day) for one in in_the_past] == [
        (DAY, 1, 2),
        (None, 26, 26),
    ]


def test_a_day_of_a_zone_is_a_day_and_two_hours() -> None:
    start, end = datetime(2026, 11, 3, 23, tzinfo=UTC), datetime(2026, 11, 4, 23, tzinfo=UTC)
    added, taken = cut_by_difference(
        [(start, end)], (HOUR, DAY, MONTH), NEVER_STALE, now=end + timedelta(days=7)
    )
    assert [(one.granularity, one.start.day, one.start.hour) for one in added.built] == [
        (HOUR, 3, 23),
        (DAY, 4, 0),
    ]
    assert [(one.granularity, one.start.day, one.start.hour) for one in taken.built] == [
        (HOUR, 4, 23)
    ]
    assert not added.facts
    assert not taken.facts


def test_hours_together_are_one_piece() -> None:
    built, facts = cut([(at(1), at(10))], (HOUR,), NEVER_STALE)
    assert [(one.granularity, one.start, one.end) for one in built] == [(HOUR, at(2), at(10))]
    assert [(one.start, one.end) for one in facts] == [(at(1), at(2))]
