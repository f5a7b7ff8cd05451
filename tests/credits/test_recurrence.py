"""When what recurs begins again: month ends, leap days, and zones."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits.recurrence import Recurrence, month_of, occurrence

AMSTERDAM, KOLKATA, LORD_HOWE = (
    ZoneInfo(name) for name in ("Europe/Amsterdam", "Asia/Kolkata", "Australia/Lord_Howe")
)


@pytest.mark.parametrize(
    ("anchor", "number", "expected"),
    [
        ("2026-01-31", 1, "2026-02-28"),
        ("2026-01-31", 2, "2026-03-31"),
        ("2028-01-31", 1, "2028-02-29"),
        ("2028-02-29", 12, "2029-02-28"),
        ("2028-02-29", 48, "2032-02-29"),
        ("2026-11-15", 2, "2027-01-15"),
        ("2026-12-31", 0, "2026-12-31"),
    ],
)
def test_a_month_later_is_the_same_day_or_the_last(anchor: str, number: int, expected: str) -> None:
    start = datetime.fromisoformat(f"{anchor}T12:00:00+00:00")
    assert (
        occurrence(start, Recurrence.MONTHLY, number, ZoneInfo("UTC")).isoformat()
        == f"{expected}T12:00:00+00:00"
    )


def test_it_is_the_same_time_of_day_in_the_zone_over_a_change_of_clocks() -> None:
    midnight = datetime(2026, 3, 1, tzinfo=AMSTERDAM).astimezone(UTC)
    assert occurrence(midnight, Recurrence.MONTHLY, 1, AMSTERDAM) == datetime(
        2026, 4, 1, tzinfo=AMSTERDAM
    )
    assert occurrence(midnight, Recurrence.WEEKLY, 4, AMSTERDAM) == datetime(
        2026, 3, 29, tzinfo=AMSTERDAM
    )
    assert occurrence(midnight, Recurrence.DAILY, 29, AMSTERDAM) == datetime(
        2026, 3, 30, tzinfo=AMSTERDAM
    )


@pytest.mark.parametrize(
    ("moment", "zone", "start", "end"),
    [
        ("2026-10-31T23:30+00:00", AMSTERDAM, "2026-10-31T23:00+00:00", "2026-11-30T23:00+00:00"),
        ("2026-10-31T22:30+00:00", AMSTERDAM, "2026-09-30T22:00+00:00", "2026-10-31T23:00+00:00"),
        ("2026-10-31T19:00+00:00", KOLKATA, "2026-10-31T18:30+00:00", "2026-11-30T18:30+00:00"),
        ("2028-02-29T12:00+00:00", AMSTERDAM, "2028-01-31T23:00+00:00", "2028-02-29T23:00+00:00"),
    ],
)
def test_a_month_is_the_zones(moment: str, zone: ZoneInfo, start: str, end: str) -> None:
    assert month_of(datetime.fromisoformat(moment), zone) == (
        datetime.fromisoformat(start),
        datetime.fromisoformat(end),
    )


@given(
    st.integers(0, 20 * 366 * 86_400).map(
        lambda seconds: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    ),
    st.sampled_from([AMSTERDAM, KOLKATA, LORD_HOWE]),
    st.sampled_from(Recurrence),
)
def test_occurrences_follow_each_other_and_months_have_no_gap(
    anchor: datetime, zone: ZoneInfo, recurrence: Recurrence
) -> None:
    times = [occurrence(anchor, recurrence, number, zone) for number in range(30)]
    assert times == sorted(set(times))
    start, end = month_of(anchor, zone)
    assert start <= anchor < end
    assert month_of(end, zone)[0] == end
