"""When what recurs begins again: pure, by the calendar of a zone (domain.md, Credits)."""

from calendar import monthrange
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo


class Recurrence(StrEnum):
    """How often a grant is given again."""

    DAILY = "day"
    WEEKLY = "week"
    MONTHLY = "month"


def occurrence(anchor: datetime, recurrence: Recurrence, number: int, zone: ZoneInfo) -> datetime:
    """The beginning of the ``number``-th occurrence (0: the anchor itself), at the same time of day
    in the zone.

    Counted from the anchor, so that the 31st is the last day of a shorter month and the 31st again
    after it.
    """
    local = anchor.astimezone(zone)
    if recurrence is Recurrence.MONTHLY:
        months = local.year * 12 + local.month - 1 + number
        year, month = divmod(months, 12)
        day = min(local.day, monthrange(year, month + 1)[1])
        moved = local.replace(year=year, month=month + 1, day=day)
    else:
        moved = local + timedelta(days=number if recurrence is Recurrence.DAILY else 7 * number)
    # Wall-clock arithmetic; the offset of the new day is found when it is turned into UTC.
    return moved.replace(tzinfo=None).replace(tzinfo=zone).astimezone(anchor.tzinfo)


def month_of(moment: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The calendar month of the zone that the moment lies in, as its first moment and that of the
    next, in the moment's own zone.
    """
    return period_of(Recurrence.MONTHLY, moment, zone)


def period_of(
    recurrence: Recurrence, moment: datetime, zone: ZoneInfo
) -> tuple[datetime, datetime]:
    """The same of the day, the week (from Monday) or the month."""
    start = moment.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if recurrence is Recurrence.MONTHLY:
        start = start.replace(day=1)
    elif recurrence is Recurrence.WEEKLY:
        start -= timedelta(days=start.weekday())
    first, end = (occurrence(start, recurrence, number, zone) for number in (0, 1))
    return first.astimezone(moment.tzinfo), end.astimezone(moment.tzinfo)


def month_name(moment: datetime, zone: ZoneInfo) -> str:
    """The calendar month of the zone that the moment lies in, as "2026-11"."""
    return f"{moment.astimezone(zone):%Y-%m}"
