"""Like with like: which stretch of the past a period is compared with."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kluisz_analytics.periods import Period, requested_period
from usage.analytics.comparison import comparison_of
from usage.dashboards.compared_with import than

AMSTERDAM, KOLKATA, NEW_YORK = (
    ZoneInfo("Europe/Amsterdam"),
    ZoneInfo("Asia/Kolkata"),
    ZoneInfo("America/New_York"),
)


def at(*parts: int, zone: ZoneInfo = AMSTERDAM, fold: int = 0) -> datetime:
    return datetime(*parts, tzinfo=zone, fold=fold).astimezone(UTC)  # type: ignore[arg-type,misc]


def day(year: int, month: int, number: int) -> date:
    return date(year, month, number)


NOW = at(2026, 11, 24, 14)
# Asked for, now → until, the stretch compared with, in words.
TABLE = [
    # A running day.
    (
        (day(2026, 11, 24), None, NOW),
        (NOW, at(2026, 11, 23), at(2026, 11, 23, 14)),
        "than yesterday until 14:00",
    ),
    # A whole day.
    (
        (day(2026, 11, 23), day(2026, 11, 23), NOW),
        (at(2026, 11, 24), at(2026, 11, 22), at(2026, 11, 23)),
        "than 22 Nov",
    ),
    # The last 30 days: no start is named.
    (
        (None, None, NOW),
        (NOW, at(2026, 9, 26), at(2026, 10, 25, 14)),
        "than in the 30 days before until 25 Oct, 14:00",
    ),
    # On the 30th the last 30 days are the whole month, and are the last 30 days all the same.
    (
        (None, None, at(2026, 11, 30, 14)),
        (at(2026, 11, 30, 14), at(2026, 10, 2), at(2026, 10, 31, 14)),
        "than in the 30 days before until 31 Oct, 14:00",
    ),
    # Days that are over.
    (
        (day(2026, 11, 5), day(2026, 11, 10), NOW),
        (at(2026, 11, 11), at(2026, 10, 30), at(2026, 11, 5)),
        "than in the 6 days before",
    ),
    # A month to date, asked for with and without its end.
    (
        (day(2026, 11, 1), None, NOW),
        (NOW, at(2026, 10, 1), at(2026, 10, 24, 14)),
        "than in October 2026 until 24 Oct, 14:00",
    ),
    (
        (day(2026, 11, 1), day(2026, 11, 30), NOW),
        (NOW, at(2026, 10, 1), at(2026, 10, 24, 14)),
        "than in October 2026 until 24 Oct, 14:00",
    ),
    # The first day of a month is a day.
    (
        (day(2026, 11, 1), None, at(2026, 11, 1, 14)),
        (at(2026, 11, 1, 14), at(2026, 10, 31), at(2026, 10, 31, 14)),
        "than yesterday until 14:00",
    ),
    # A whole month: 31 days with 30, 28 with 31.
    (
        (day(2026, 10, 1), day(2026, 10, 31), NOW),
        (at(2026, 11, 1), at(2026, 9, 1), at(2026, 10, 1)),
        "than in September 2026",
    ),
    (
        (day(2026, 2, 1), day(2026, 2, 28), NOW),
        (at(2026, 3, 1), at(2026, 1, 1), at(2026, 2, 1)),
        "than in January 2026",
    ),
    # A month to date that is longer than the month before: all of that.
    (
        (day(2026, 3, 1), None, at(2026, 3, 31, 14)),
        (at(2026, 3, 31, 14), at(2026, 2, 1), at(2026, 3, 1)),
        "than in February 2026",
    ),
    (
        (day(2028, 3, 1), None, at(2028, 3, 29, 14)),
        (at(2028, 3, 29, 14), at(2028, 2, 1), at(2028, 2, 29, 14)),
        "than in February 2028 until 29 Feb, 14:00",
    ),
    # Over the turn of a year, and several months.
    (
        (day(2026, 1, 1), None, at(2026, 1, 15, 9)),
        (at(2026, 1, 15, 9), at(2025, 12, 1), at(2025, 12, 15, 9)),
        "than in December 2025 until 15 Dec, 09:00",
    ),
    (
        (day(2026, 10, 1), day(2026, 12, 31), NOW),
        (NOW, at(2026, 7, 1), at(2026, 8, 24, 14)),
        "than in the 3 months before until 24 Aug, 14:00",
    ),
    # Clocks went back on 25 October 2026: the clock counts, not the hours.
    (
        (day(2026, 10, 25), day(2026, 10, 25), NOW),
        (at(2026, 10, 26), at(2026, 10, 24), at(2026, 10, 25)),
        "than 24 Oct",
    ),
    (
        (day(2026, 10, 25), None, at(2026, 10, 25, 14)),
        (at(2026, 10, 25, 14), at(2026, 10, 24), at(2026, 10, 24, 14)),
        "than yesterday until 14:00",
    ),
    # An hour that is there twice is, on the day before, there once; and the first of two.
    (
        (day(2026, 10, 25), None, at(2026, 10, 25, 2, 30, fold=1)),
        (at(2026, 10, 25, 2, 30, fold=1), at(2026, 10, 24), at(2026, 10, 24, 2, 30)),
        "than yesterday until 02:30",
    ),
    (
        (day(2026, 10, 26), None, at(2026, 10, 26, 2, 30)),
        (at(2026, 10, 26, 2, 30), at(2026, 10, 25), at(2026, 10, 25, 2, 30)),
        "than yesterday until 02:30",
    ),
    # Clocks went forward on 29 March 2026: 02:30 was 03:30.
    (
        (day(2026, 3, 30), None, at(2026, 3, 30, 2, 30)),
        (at(2026, 3, 30, 2, 30), at(2026, 3, 29), at(2026, 3, 29, 3, 30)),
        "than yesterday until 03:30",
    ),
    # Stretches that are no days.
    (
        (at(2026, 11, 24, 13), at(2026, 11, 24, 15), NOW),
        (NOW, at(2026, 11, 24, 11), at(2026, 11, 24, 12)),
        "than from 24 Nov, 11:00 to 24 Nov, 12:00",
    ),
    (
        (at(2026, 11, 17, 14), NOW, NOW),
        (NOW, at(2026, 11, 10, 14), at(2026, 11, 17, 14)),
        "than in the 7 days before",
    ),
    # Days from noon to noon, over the clock change.
    (
        (at(2026, 10, 24, 12), at(2026, 10, 25, 12), NOW),
        (at(2026, 10, 25, 12), at(2026, 10, 23, 12), at(2026, 10, 24, 12)),
        "than 23 Oct",
    ),
    # What is to come.
    (
        (day(2026, 12, 24), day(2026, 12, 24), NOW),
        (at(2026, 12, 24), at(2026, 12, 23), at(2026, 12, 23)),
        "",
    ),
]


@pytest.mark.parametrize(("asked", "expected", "words"), TABLE)
def test_a_period_is_compared_with_the_same_stretch_of_the_time_before(
    asked: tuple[date | None, date | None, datetime],
    expected: tuple[datetime, datetime, datetime],
    words: str,
) -> None:
    start, end, now = asked
    period = requested_period(start, end, AMSTERDAM, now)
    found = comparison_of(period, now)
    assert (found.until, found.previous_start, found.previous_end) == expected
    assert than(period, found, now) == words


@pytest.mark.parametrize(
    ("complete_through", "until", "previous_end"),
    [
        (at(2026, 11, 24, 13, 37, 12), at(2026, 11, 24, 13, 37), at(2026, 11, 23, 13, 37)),
        (at(2026, 11, 24, 15), NOW, at(2026, 11, 23, 14)),
        (None, NOW, at(2026, 11, 23, 14)),
        (at(2026, 11, 20), at(2026, 11, 24), at(2026, 11, 23)),
    ],
)
def test_it_is_compared_up_to_what_is_complete(
    complete_through: datetime | None, until: datetime, previous_end: datetime
) -> None:
    period = requested_period(day(2026, 11, 24), None, AMSTERDAM, NOW)
    found = comparison_of(period, NOW, complete_through)
    assert (found.until, found.previous_end) == (until, previous_end)
    yesterday = requested_period(day(2026, 11, 23), day(2026, 11, 23), AMSTERDAM, NOW)
    late = comparison_of(yesterday, NOW, at(2026, 11, 23, 23, 30))
    assert (late.until, late.previous_end) == (at(2026, 11, 23, 23, 30), at(2026, 11, 22, 23, 30))
    assert than(yesterday, late, NOW) == "than 22 Nov until 23:30"


MOMENTS = st.datetimes(
    datetime(2020, 1, 1),  # noqa: DTZ001
    datetime(2030, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(
    start=st.one_of(MOMENTS, MOMENTS.map(datetime.date)),
    length=st.integers(1, 90 * 24 * 60),
    now=MOMENTS,
    lag=st.none() | st.integers(0, 10**6),
    zone=st.sampled_from([AMSTERDAM, KOLKATA, NEW_YORK, ZoneInfo("UTC")]),
)
def test_both_stretches_are_in_order_and_neither_reaches_into_what_is_unknown(
    start: datetime | date, length: int, now: datetime, lag: int | None, zone: ZoneInfo
) -> None:
    end = (
        start + timedelta(minutes=length)
        if isinstance(start, datetime)
        else (start + timedelta(days=length // 1440))
    )
    period: Period = requested_period(start, end, zone, now)
    complete_through = None if lag is None else now - timedelta(seconds=lag)
    found = comparison_of(period, now, complete_through)
    assert period.start <= found.until <= period.end
    assert found.previous_start <= found.previous_end <= period.start
    known = min(now, complete_through or now)
    assert found.until <= max(known, period.start)
    if found.until == period.start:
        assert found.previous_start == found.previous_end
