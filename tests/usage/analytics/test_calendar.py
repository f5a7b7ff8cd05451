"""Periods as people ask for them."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from kluisz_analytics.periods import PeriodError, requested_period
from usage.analytics.calendar import buckets
from usage.periods import Granularity

AMSTERDAM, KOLKATA, UTC_ZONE = (
    ZoneInfo("Europe/Amsterdam"),
    ZoneInfo("Asia/Kolkata"),
    ZoneInfo("UTC"),
)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("start", "end", "zone", "expected"),
    [
        (date(2026, 11, 1), date(2026, 11, 30), UTC_ZONE, (utc(2026, 11, 1), utc(2026, 12, 1))),
        (
            date(2026, 11, 1),
            date(2026, 11, 30),
            AMSTERDAM,
            (utc(2026, 10, 31, 23), utc(2026, 11, 30, 23)),
        ),
        (
            date(2026, 11, 1),
            date(2026, 11, 1),
            KOLKATA,
            (utc(2026, 10, 31, 18, 30), utc(2026, 11, 1, 18, 30)),
        ),
        (
            utc(2026, 11, 1, 5),
            utc(2026, 11, 1, 6),
            UTC_ZONE,
            (utc(2026, 11, 1, 5), utc(2026, 11, 1, 6)),
        ),
        (
            datetime(2026, 7, 1, 5),  # noqa: DTZ001
            None,
            AMSTERDAM,
            (utc(2026, 7, 1, 3), utc(2026, 11, 24, 23)),
        ),
        (None, None, UTC_ZONE, (utc(2026, 10, 26), utc(2026, 11, 25))),
        (None, date(2026, 11, 1), UTC_ZONE, (utc(2026, 10, 3), utc(2026, 11, 2))),
    ],
)
def test_a_date_is_that_whole_day_in_the_zone(
    start: date | None, end: date | None, zone: ZoneInfo, expected: tuple[datetime, datetime]
) -> None:
    period = requested_period(start, end, zone, NOW)
    assert (period.start, period.end) == expected


@pytest.mark.parametrize(
    ("start", "end", "parameter"),
    [
        (date(2026, 11, 2), date(2026, 11, 1), "end_date"),
        (date(1, 1, 1), None, "start_date"),
        (None, date(9999, 12, 31), "end_date"),
    ],
)
def test_an_impossible_period_says_which_part_is(
    start: date | None, end: date | None, parameter: str
) -> None:
    with pytest.raises(PeriodError) as caught:
        requested_period(start, end, UTC_ZONE, NOW)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    ("zone", "granularity", "days", "lengths"),
    [
        (AMSTERDAM, Granularity.DAY, (date(2026, 10, 24), date(2026, 10, 26)), [24, 25, 24]),
        (AMSTERDAM, Granularity.DAY, (date(2026, 3, 28), date(2026, 3, 30)), [24, 23, 24]),
        (KOLKATA, Granularity.DAY, (date(2026, 11, 1), date(2026, 11, 2)), [24, 24]),
        (
            UTC_ZONE,
            Granularity.WEEK,
            (date(2026, 11, 4), date(2026, 11, 17)),
            [5 * 24, 7 * 24, 2 * 24],
        ),
        (UTC_ZONE, Granularity.MONTH, (date(2026, 1, 31), date(2026, 3, 1)), [24, 28 * 24, 24]),
        (AMSTERDAM, Granularity.HOUR, (date(2026, 10, 25), date(2026, 10, 25)), [1] * 25),
        (KOLKATA, Granularity.HOUR, (date(2026, 11, 1), date(2026, 11, 1)), [1] * 24),
    ],
)
def test_buckets_are_those_of_the_zone(
    zone: ZoneInfo, granularity: Granularity, days: tuple[date, date], lengths: list[int]
) -> None:
    period = requested_period(*days, zone, NOW)
    found = buckets(period, granularity)
    assert [(end - start) / timedelta(hours=1) for start, end in found] == lengths
    assert (found[0][0], found[-1][1]) == (period.start, period.end)


def test_hours_over_more_than_31_days_are_too_many() -> None:
    with pytest.raises(PeriodError, match="31 days"):
        buckets(
            requested_period(date(2026, 1, 1), date(2026, 2, 28), UTC_ZONE, NOW), Granularity.HOUR
        )
    assert (
        len(
            buckets(
                requested_period(date(2026, 1, 1), date(2026, 1, 31), UTC_ZONE, NOW),
                Granularity.HOUR,
            )
        )
        == 744
    )


def test_days_over_more_than_ten_years_are_too_many() -> None:
    with pytest.raises(PeriodError, match="ten years"):
        buckets(
            requested_period(date(2010, 1, 1), date(2026, 1, 1), UTC_ZONE, NOW), Granularity.DAY
        )
    assert (
        len(
            buckets(
                requested_period(date(2016, 1, 1), date(2025, 12, 31), UTC_ZONE, NOW),
                Granularity.DAY,
            )
        )
        == 3653
    )
