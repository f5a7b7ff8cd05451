"""What this month's usage comes to at its end, at the pace of the last four weeks."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, round_half_up
from usage.access import Scope
from usage.analytics.ask import ask
from usage.analytics.calendar import midnight
from usage.analytics.numbers import NO_NUMBERS, Numbers, numbers_from
from usage.analytics.question import Question
from usage.periods import hour_of

PACE = timedelta(days=28)
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Projection:
    """Credits and cost of the whole month: used up to now, plus the rest of the month at the usual pace."""

    month_end: datetime
    credits_exact: Decimal
    total_cost_usd: Decimal


def project_month(scope: Scope, zone: ZoneInfo, now: datetime) -> Projection:
    """The projection for the month that ``now`` is in, in the zone; one query."""
    today = now.astimezone(zone).date()
    month_start = midnight(today.replace(day=1), zone)
    month_end = midnight((today.replace(day=1) + timedelta(days=32)).replace(day=1), zone)
    until = hour_of(now) + timedelta(hours=1)
    answers = {one.bucket: numbers_from(one) for one in ask(Question(scope, [(month_start, until), (until - PACE, until)]))}
    month, pace = (answers.get(number, NO_NUMBERS) for number in (0, 1))
    rest = Decimal(max(0, int((month_end - until).total_seconds()))) / Decimal(int(PACE.total_seconds()))
    return Projection(
        month_end,
        round_half_up(_credits(month) + _credits(pace) * rest, CREDIT_PLACES),
        round_half_up(_cost(month) + _cost(pace) * rest, USD_PLACES),
    )


def _credits(numbers: Numbers) -> Decimal:
    return numbers.credits_exact or ZERO


def _cost(numbers: Numbers) -> Decimal:
    return numbers.total_cost_usd or ZERO
