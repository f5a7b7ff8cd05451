"""What this month's usage comes to at its end, by the weekday pattern of the last six weeks
(credits.forecast).

The range is where four of five months would end, if days vary about their weekday's average as they
did, each for itself: 1.28 standard deviations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from credits.forecast import DAYS, Forecast, Pattern
from kluisz_analytics.periods import midnight
from kluisz_analytics.scales import (
    CREDIT_PLACES,
    USD_PLACES,
    Credits,
    Usd,
    from_scaled,
    round_half_up,
)
from usage.analytics.answer import Answers
from usage.analytics.queries import Query, execute
from usage.analytics.question import Question
from usage.scope import Scope

FOUR_OF_FIVE = 1.28


@dataclass(frozen=True, slots=True)
class Projection:
    """Credits (with their range) and cost of the whole month: used up to now, plus what the rest of
    the month is expected to use.
    """

    month_end: datetime
    credits_exact: Credits
    credits_low: Credits
    credits_high: Credits
    total_cost_usd: Usd


def project_month(scope: Scope, zone: ZoneInfo, now: datetime) -> Projection:
    """The projection for the month that ``now`` is in, in the zone; one question."""
    return execute(month_projection(scope, zone, now))


def month_projection(scope: Scope, zone: ZoneInfo, now: datetime) -> Query[Projection]:
    """The same, to be asked with a page's other questions."""
    today = now.astimezone(zone).date()
    past = [today - timedelta(days=number) for number in range(DAYS, 0, -1)]
    month_end = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    buckets = [
        (midnight(day, zone), midnight(day + timedelta(days=1), zone)) for day in [*past, today]
    ]
    buckets.append((midnight(today.replace(day=1), zone), buckets[-1][1]))
    question = Question(scope, buckets, wants_details=False)

    def read(answers: Sequence[Answers]) -> Projection:
        sums = {row.bucket: row.sums for row in answers[0].rows}

        def month_of(name: str) -> tuple[int, float, float]:
            """What the month has used so far, what is still expected, and the variance of that."""
            *days, today_used, month = (
                sums[number][name] if number in sums else 0 for number in range(len(buckets))
            )
            return month, *Forecast(
                today, today_used, Pattern.of(list(zip(past, days, strict=True)))
            ).until(month_end)

        used, expected, variance = month_of("credits_exact")
        cost, expected_cost, _ = month_of("total_cost_usd")
        spread = FOUR_OF_FIVE * variance**0.5
        return Projection(
            month_end=midnight(month_end, zone),
            credits_exact=_rounded(used + expected, CREDIT_PLACES),
            credits_low=_rounded(used + max(0.0, expected - spread), CREDIT_PLACES),
            credits_high=_rounded(used + expected + spread, CREDIT_PLACES),
            total_cost_usd=_rounded(cost + expected_cost, USD_PLACES),
        )

    return Query([question], read)


def _rounded(amount: float, places: int) -> Decimal:
    return round_half_up(from_scaled(round(amount), places), places)
