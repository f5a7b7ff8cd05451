"""Periods in UTC: hours, days, weeks from Monday and months; half-open (domain.md, Statistics)."""

from datetime import UTC, datetime, timedelta

from usage.models.rollups import Granularity

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def hour_of(moment: datetime) -> datetime:
    """The start of the hour that ``moment`` is in, in UTC."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return datetime(utc.year, utc.month, utc.day, utc.hour, tzinfo=UTC)


def period_of(granularity: Granularity, moment: datetime) -> tuple[datetime, datetime]:
    """The start and the end of the period that ``moment`` is in."""
    hour = hour_of(moment)
    day = hour.replace(hour=0)
    if granularity is Granularity.HOUR:
        return hour, hour + HOUR
    if granularity is Granularity.DAY:
        return day, day + DAY
    if granularity is Granularity.WEEK:
        monday = day - timedelta(days=day.weekday())
        return monday, monday + 7 * DAY
    first = day.replace(day=1)
    return first, (first + 32 * DAY).replace(day=1)
