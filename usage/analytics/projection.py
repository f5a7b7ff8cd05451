"""What this month's usage comes to at its end, and when credits run out: by the weekday pattern of the last six weeks.

A day still to come is expected to use what the same weekday used on average in those weeks (days before the first usage don't count), and
what is left of today no less than today's average has left. The range is where four of five months would end, if days vary about their
weekday's average as they did, each for itself: 1.28 standard deviations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import takewhile
from statistics import fmean, pvariance
from zoneinfo import ZoneInfo

from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, from_scaled, round_half_up
from usage.access import Scope
from usage.analytics.ask import sums_of
from usage.analytics.calendar import midnight
from usage.analytics.question import Question

WEEKS = 6
FOUR_OF_FIVE = 1.28
LONGEST_FORECAST = timedelta(days=366)
ZERO = Decimal(0)
CREDITS, COST = "credits_exact", "total_cost_usd"


@dataclass(frozen=True, slots=True)
class Projection:
    """Credits and cost of the whole month: used up to now, plus what the rest of the month is expected to use.

    ``credits_low`` and ``credits_high`` are the range; ``exhaustion_date`` is the day on which the remaining credits are expected to run
    out, None where they last for a year or nothing was said of them.
    """

    month_end: datetime
    credits_exact: Decimal
    credits_low: Decimal
    credits_high: Decimal
    total_cost_usd: Decimal
    exhaustion_date: date | None = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """What each weekday (Monday first) uses on average, and how much its days vary; in the unit of the days."""

    means: Sequence[float]
    variances: Sequence[float]

    @classmethod
    def of(cls, days: Sequence[tuple[date, int]]) -> "Pattern":
        """Of past days in their order. A weekday that has none of its own is as the days are on average."""
        used = list(days[len(list(takewhile(lambda day: day[1] == 0, days))) :])
        everyday = [amount for _, amount in used] or [0]
        groups = [[amount for day, amount in used if day.weekday() == weekday] or everyday for weekday in range(7)]
        # Of a single day nobody knows how much it varies; all days together are the best that is known.
        return cls([fmean(group) for group in groups], [pvariance(group if len(group) > 1 else everyday) for group in groups])


def project_month(scope: Scope, zone: ZoneInfo, now: datetime, remaining: Decimal | None = None) -> Projection:
    """The projection for the month that ``now`` is in, in the zone; one question. ``remaining`` are the credits that are left."""
    today = now.astimezone(zone).date()
    past = [today - timedelta(days=number) for number in range(7 * WEEKS, 0, -1)]
    month_end = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    buckets = [(midnight(day, zone), midnight(day + timedelta(days=1), zone)) for day in [*past, today]]
    buckets.append((midnight(today.replace(day=1), zone), buckets[-1][1]))
    sums = {bucket: numbers for (bucket, _), numbers in sums_of(Question(scope, buckets))}

    def amounts(name: str) -> list[int]:
        return [sums[number][name] if number in sums else 0 for number in range(len(buckets))]

    credits, cost = (Forecast.of(past, today, amounts(name)) for name in (CREDITS, COST))
    expected, variance = credits.until(month_end)
    spread = FOUR_OF_FIVE * variance**0.5
    return Projection(
        month_end=midnight(month_end, zone),
        credits_exact=_rounded(expected, CREDIT_PLACES),
        credits_low=_rounded(max(float(credits.month), expected - spread), CREDIT_PLACES),
        credits_high=_rounded(expected + spread, CREDIT_PLACES),
        total_cost_usd=_rounded(cost.until(month_end)[0], USD_PLACES),
        exhaustion_date=credits.day_of(remaining * 10**CREDIT_PLACES) if remaining is not None else None,
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """One amount's past and pattern; amounts as they are stored."""

    today: date
    today_used: int
    month: int
    pattern: Pattern

    @classmethod
    def of(cls, past: Sequence[date], today: date, amounts: Sequence[int]) -> "Forecast":
        *days, today_used, month = amounts
        return cls(today, today_used, month, Pattern.of(list(zip(past, days, strict=True))))

    def days(self) -> Iterator[tuple[date, float, float]]:
        """From today on: the day, what it is expected to use yet, and its variance."""
        weekday = self.today.weekday()
        yield self.today, max(0.0, self.pattern.means[weekday] - self.today_used), self.pattern.variances[weekday]
        for number in range(1, LONGEST_FORECAST.days):
            day = self.today + timedelta(days=number)
            yield day, self.pattern.means[day.weekday()], self.pattern.variances[day.weekday()]

    def until(self, end: date) -> tuple[float, float]:
        """What the month comes to before ``end``, and the variance of that."""
        rest = list(takewhile(lambda day: day[0] < end, self.days()))
        return self.month + sum(mean for _, mean, _ in rest), sum(variance for *_, variance in rest)

    def day_of(self, remaining: Decimal) -> date | None:
        """The day on which so much will have been used."""
        left = float(remaining)
        for day, mean, _ in self.days():
            left -= mean
            if left <= 0:
                return day
        return None


def _rounded(amount: float, places: int) -> Decimal:
    return round_half_up(from_scaled(round(amount), places), places)
