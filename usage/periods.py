"""Periods in UTC: hours, days, weeks from Monday and months (domain.md, Statistics).

Half-open. Pure.
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum


class Granularity(StrEnum):
    """How long a period is; weeks start on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def hour_of(moment: datetime) -> datetime:
    """The start of the hour that ``moment`` is in, in UTC."""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    # By place: by name it takes twice as long, and there are millions.
    return datetime(utc.year, utc.month, utc.day, utc.hour, 0, 0, 0, UTC)


def milliseconds(duration: timedelta) -> int:
    """Whole milliseconds, rounded down.

    Without dividing a duration by a duration, which is slow.
    """
    return duration.days * 86_400_000 + duration.seconds * 1000 + duration.microseconds // 1000


def period_of(granularity: Granularity, moment: datetime) -> tuple[datetime, datetime]:
    """The start and the end of the period that ``moment`` is in."""
    start = hour_of(moment)
    if granularity is not Granularity.HOUR:
        start = start.replace(hour=0)
    if granularity is Granularity.WEEK:
        start -= timedelta(days=start.weekday())
    elif granularity is Granularity.MONTH:
        start = start.replace(day=1)
    return start, end_of(granularity, start)


def end_of(granularity: Granularity, start: datetime) -> datetime:
    """The end of the period that starts there."""
    length = LENGTHS.get(granularity)
    return start + length if length else (start + 32 * DAY).replace(day=1)


LENGTHS = {Granularity.HOUR: HOUR, Granularity.DAY: DAY, Granularity.WEEK: 7 * DAY}
"""Of the periods that are all equally long."""
