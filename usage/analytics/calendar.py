"""Periods as people ask for them: dates in a time zone, and their hours, days, weeks and months.

Pure.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from usage.periods import Granularity

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
DEFAULT_DAYS = 30
LONGEST_HOURLY = timedelta(days=31, hours=1)
LONGEST_DAILY = timedelta(days=3653, hours=1)


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


def asked_period(
    start: date | datetime | None, end: date | datetime | None, zone: ZoneInfo, now: datetime
) -> Period:
    """The period from two optional ends; the last 30 days by default.

    A date means that whole day in the zone; a datetime without a zone is in the zone too, and is
    exclusive at the end. Raises PeriodError.
    """
    end_moment = (
        _moment(end, zone, is_end=True)
        if end
        else midnight(now.astimezone(zone).date() + timedelta(days=1), zone)
    )
    if start is None:
        last_day = (end_moment - timedelta(microseconds=1)).astimezone(zone).date()
        start_moment = midnight(last_day - timedelta(days=DEFAULT_DAYS - 1), zone)
    else:
        start_moment = _moment(start, zone, is_end=False)
    if end_moment <= start_moment:
        raise PeriodError(
            "end_date", f"end_date {_shown(end)} is not after start_date {_shown(start)}."
        )
    for name, moment in (("start_date", start_moment), ("end_date", end_moment)):
        if not EARLIEST <= moment <= LATEST:
            raise PeriodError(
                name,
                f"{name} {moment.date()} is out of range; ask for a time from {EARLIEST.date()} to"
                f" {LATEST.date()}.",
            )
    return Period(start_moment, end_moment, zone, is_last_days=start is None)


def _shown(value: date | None) -> str:
    return value.isoformat() if value else "(default)"


def _moment(value: date | datetime, zone: ZoneInfo, *, is_end: bool) -> datetime:
    name = "end_date" if is_end else "start_date"
    if not EARLIEST.year <= value.year <= LATEST.year:
        raise PeriodError(
            name,
            f"{name} {value} is out of range; ask for a time from {EARLIEST.date()} to"
            f" {LATEST.date()}.",
        )
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
    return midnight(value + timedelta(days=1) if is_end else value, zone)


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """When the day begins in the zone, in UTC."""
    return datetime.combine(day, time(0), tzinfo=zone).astimezone(UTC)


def buckets(period: Period, granularity: Granularity) -> list[tuple[datetime, datetime]]:
    """The hours, days, weeks or months of the period, in UTC; the first and the last are cut at its
    ends.

    Raises PeriodError for hours over more than 31 days, and for more than ten years of days.
    """
    if granularity is Granularity.HOUR and period.end - period.start > LONGEST_HOURLY:
        raise PeriodError(
            "granularity",
            "An hourly series is at most 31 days long; ask for a shorter period, or for days.",
        )
    if granularity is Granularity.DAY and period.end - period.start > LONGEST_DAILY:
        raise PeriodError(
            "granularity",
            "A daily series is at most ten years long; ask for a shorter period, or for weeks or"
            " months.",
        )
    edges = [period.start]
    while edges[-1] < period.end:
        edges.append(min(_next_edge(edges[-1], granularity, period.zone), period.end))
    return list(pairwise(edges))


def _next_edge(moment: datetime, granularity: Granularity, zone: ZoneInfo) -> datetime:
    local = moment.astimezone(zone)
    if granularity is Granularity.HOUR:
        # Hours are counted in UTC and cut at the zone's full hours, so that the hour of a clock
        # change is there twice.
        return (
            moment
            + timedelta(hours=1)
            - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
        )
    day = local.date()
    if granularity is Granularity.DAY:
        return midnight(day + timedelta(days=1), zone)
    if granularity is Granularity.WEEK:
        return midnight(day + timedelta(days=7 - day.weekday()), zone)
    return midnight((day.replace(day=1) + timedelta(days=32)).replace(day=1), zone)
