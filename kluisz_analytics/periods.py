"""Periods as people ask for them: dates or moments in a time zone, or a number of days up to today.
One grammar for the pages and for all endpoints (docs/api.md, Periods). Pure.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
DEFAULT_DAYS = 30
MOST_DAYS = 3653


class PeriodError(ValueError):
    """A period that can't be asked for; ``parameter`` names which part."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open stretch of time, and the zone in which its days are counted.

    ``is_last_days``: so many days were asked for, wherever months begin.
    """

    start: datetime
    end: datetime
    zone: ZoneInfo
    is_last_days: bool = False


def requested_period(
    start: date | datetime | None,
    end: date | datetime | None,
    zone: ZoneInfo,
    now: datetime,
    days: int | None = None,
) -> Period:
    """The period that is asked for; the last 30 days by default. Raises PeriodError as
    :func:`requested_ends`.
    """
    first, last = requested_ends(start, end, zone, now, days)
    if last is None:
        last = midnight(_today(zone, now) + timedelta(days=1), zone)
    if first is None:
        last_day = (last - timedelta(microseconds=1)).astimezone(zone).date()
        first = midnight(last_day - timedelta(days=DEFAULT_DAYS - 1), zone)
    _check_order(first, last, start, end)
    _check_range(start=first, end=last)
    return Period(first, last, zone, is_last_days=start is None)


def requested_ends(
    start: date | datetime | None,
    end: date | datetime | None,
    zone: ZoneInfo,
    now: datetime,
    days: int | None = None,
) -> tuple[datetime | None, datetime | None]:
    """The first moment, and the one before which it ends; None for an end that was left open.

    A date means that whole day in the zone; a datetime without a zone is in the zone too, and is
    exclusive at the end. ``days`` are whole ones, the last of them today. Raises PeriodError.
    """
    if days is not None:
        return _last_days(days, start, end, zone, now)
    first = None if start is None else _moment(start, zone, is_end=False)
    last = None if end is None else _moment(end, zone, is_end=True)
    if first is not None and last is not None:
        _check_order(first, last, start, end)
    _check_range(start=first, end=last)
    return first, last


def _last_days(
    days: int, start: date | None, end: date | None, zone: ZoneInfo, now: datetime
) -> tuple[datetime, datetime]:
    if start is not None or end is not None:
        raise PeriodError("days", "Write days, or start_date and end_date; not both.")
    if not 1 <= days <= MOST_DAYS:
        raise PeriodError("days", f"days {days} is out of range; write 1 to {MOST_DAYS}.")
    today = _today(zone, now)
    return midnight(today - timedelta(days=days - 1), zone), midnight(
        today + timedelta(days=1), zone
    )


def _today(zone: ZoneInfo, now: datetime) -> date:
    return now.astimezone(zone).date()


def _check_order(first: datetime, last: datetime, start: date | None, end: date | None) -> None:
    if last <= first:
        raise PeriodError(
            "end_date", f"end_date {_shown(end)} is not after start_date {_shown(start)}."
        )


def _check_range(**ends: datetime | None) -> None:
    for name, moment in ends.items():
        if moment is not None and not EARLIEST <= moment <= LATEST:
            raise _out_of_range(f"{name}_date", moment.date())


def _out_of_range(parameter: str, value: date) -> PeriodError:
    return PeriodError(
        parameter,
        f"{parameter} {value} is out of range; ask for a time from {EARLIEST.date()} to"
        f" {LATEST.date()}.",
    )


def _shown(value: date | None) -> str:
    return value.isoformat() if value else "(default)"


def _moment(value: date | datetime, zone: ZoneInfo, *, is_end: bool) -> datetime:
    # Beyond these years a moment may have no other zone's time.
    if not EARLIEST.year <= value.year <= LATEST.year:
        raise _out_of_range("end_date" if is_end else "start_date", value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
    return midnight(value + timedelta(days=1) if is_end else value, zone)


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """When the day begins in the zone, in UTC."""
    return datetime.combine(day, time(0), tzinfo=zone).astimezone(UTC)
