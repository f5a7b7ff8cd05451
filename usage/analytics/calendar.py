"""The hours, days, weeks and months of a period, in its time zone. Pure."""

from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from kluisz_analytics.periods import Period, PeriodError, midnight
from usage.periods import Granularity

LONGEST_HOURLY = timedelta(days=31, hours=1)
LONGEST_DAILY = timedelta(days=3653, hours=1)


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
