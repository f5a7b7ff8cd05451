"""Like with like: which stretch of the past a period is compared with (docs/api.md, Comparisons).

A period of which not everything is known yet (it is still running, or the sync is behind) is
compared as far as it is known: with the time before it up to the same time of the clock. Pure.
"""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import NamedTuple

from kluisz_analytics.periods import Period


class Unit(StrEnum):
    """What a period is made of."""

    MONTHS = "months"
    DAYS = "days"
    TIME = "time"


class Against(StrEnum):
    """What a period is compared with: the stretch before it, the same one a month or a year
    earlier, or nothing.
    """

    BEFORE = "before"
    MONTH = "month"
    YEAR = "year"
    NOTHING = "nothing"


class Length(NamedTuple):
    """How far back the period before begins: so many calendar months, or days, or just as long."""

    unit: Unit
    number: int = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """The period up to ``until`` is compared with [previous_start, previous_end).

    Where nothing of the period is known yet, both stretches are empty; compared with nothing, only
    the second is.
    """

    until: datetime
    previous_start: datetime
    previous_end: datetime
    length: Length
    against: Against = Against.BEFORE


MONTHS_EARLIER = {Against.MONTH: 1, Against.YEAR: 12}


def comparison_of(
    period: Period,
    now: datetime,
    complete_through: datetime | None = None,
    against: Against = Against.BEFORE,
) -> Comparison:
    """What the period is compared with, as of ``now``; all before ``complete_through`` is known."""
    until = min(period.end, known_through(now, complete_through))
    until = max(until, period.start)
    if against is Against.NOTHING:
        return Comparison(until, period.start, period.start, Length(Unit.TIME), against)
    if against in MONTHS_EARLIER:
        length = Length(Unit.MONTHS, MONTHS_EARLIER[against])
        start, end = (_before(moment, period, length) for moment in (period.start, until))
        return Comparison(until, start, end, length, against)
    length = _length(period, now)
    return Comparison(
        until,
        _before(period.start, period, length),
        min(_before(until, period, length), period.start),
        length,
    )


def known_through(now: datetime, complete_through: datetime | None) -> datetime:
    """The minute up to which everything is known; as far as nothing is said of that, now."""
    known = now if complete_through is None else min(now, complete_through)
    return known.replace(second=0, microsecond=0)


def same_clock_time(moment: datetime, day: date, period: Period) -> datetime:
    """The moment's time of the clock on another day.

    A time that a clock change skips is the one after it; of one that it repeats it is the first.
    """
    clock = moment.astimezone(period.zone).time().replace(fold=0)
    return datetime.combine(day, clock, tzinfo=period.zone).astimezone(UTC)


def _length(period: Period, now: datetime) -> Length:
    start, end = period.start.astimezone(period.zone), period.end.astimezone(period.zone)
    if start.time() != end.time() or start.date() == end.date():
        return Length(Unit.TIME)
    days = (end.date() - start.date()).days
    if period.is_last_days or days == 1 or start.day != 1 or start.time() != time(0):
        return Length(Unit.DAYS, days)
    if end.day == 1:
        return Length(Unit.MONTHS, 12 * (end.year - start.year) + end.month - start.month)
    if (start.year, start.month) == (end.year, end.month) and period.start <= now < period.end:
        return Length(Unit.MONTHS)
    return Length(Unit.DAYS, days)


def _before(moment: datetime, period: Period, length: Length) -> datetime:
    """The same place in the period before."""
    if length.unit is Unit.TIME:
        return moment - (period.end - period.start)
    day = moment.astimezone(period.zone).date()
    if length.unit is Unit.DAYS:
        return same_clock_time(moment, day - timedelta(days=length.number), period)
    months = 12 * day.year + day.month - 1 - length.number
    year, month = months // 12, months % 12 + 1
    days_in_month = monthrange(year, month)[1]
    if day.day <= days_in_month:
        return same_clock_time(moment, date(year, month, day.day), period)
    # The shorter month has no such day: all of it.
    first_of_next = date(year, month, days_in_month) + timedelta(days=1)
    return datetime.combine(first_of_next, time(0), tzinfo=period.zone).astimezone(UTC)
