"""What a period is compared with, in words: “than yesterday until 14:00”."""

from datetime import date, datetime, timedelta

from django.utils.dateformat import format as formatted

from kluisz_analytics.periods import Period
from usage.analytics.comparison import Against, Comparison, Unit


def than(period: Period, comparison: Comparison, now: datetime) -> str:
    """The words after “more” or “less”; "" where nothing of the period is known yet."""
    if comparison.previous_start == comparison.previous_end:
        return ""
    if comparison.against in EARLIER:
        return _than_earlier(period, comparison, now)
    is_whole = comparison.previous_end == period.start
    start, until = (
        moment.astimezone(period.zone)
        for moment in (comparison.previous_start, comparison.previous_end)
    )
    length = comparison.length
    if length.unit is Unit.TIME:
        return f"than from {_moment(start, now)} to {_moment(until, now)}"
    first_day = start.date()
    if length.unit is Unit.DAYS and length.number == 1:
        day = _day(first_day, now.astimezone(period.zone).date())
        return f"than {day}" if is_whole else f"than {day} until {_clock(until)}"
    if length.unit is Unit.MONTHS and length.number == 1:
        name = f"than in {formatted(first_day, 'F Y')}"
        return name if is_whole else f"{name} until {formatted(until, 'j M, H:i')}"
    name = f"than in the {length.number} {length.unit} before"
    return name if is_whole else f"{name} until {_moment(until, now)}"


EARLIER = {Against.MONTH: "a month earlier", Against.YEAR: "a year earlier"}


def _than_earlier(period: Period, comparison: Comparison, now: datetime) -> str:
    start, end = (
        moment.astimezone(period.zone)
        for moment in (comparison.previous_start, comparison.previous_end)
    )
    earlier = EARLIER[comparison.against]
    return f"than {earlier}, from {_moment(start, now)} to {_moment(end, now)}"


def _day(day: date, today: date) -> str:
    if day == today - timedelta(days=1):
        return "yesterday"
    return formatted(day, "j M" if day.year == today.year else "j M Y")


def _clock(moment: datetime) -> str:
    return formatted(moment, "H:i")


def _moment(moment: datetime, now: datetime) -> str:
    """With its year where that isn't this one."""
    is_this_year = moment.year == now.astimezone(moment.tzinfo).year
    return formatted(moment, "j M, H:i" if is_this_year else "j M Y, H:i")
