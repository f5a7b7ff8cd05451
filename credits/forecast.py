"""What days to come will use, by the weekday pattern of the last six weeks. Pure.

A day still to come is expected to use what the same weekday used on average in those weeks (days
before the first usage don't count), and what is left of today no less than today's average has
left. Amounts are of any one unit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import takewhile
from statistics import fmean, pvariance

DAYS = 42
"""How many days before today the pattern is of."""
FARTHEST = 366
"""Nobody knows what is used in more days than these."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What each weekday (Monday first) uses on average, and how much its days vary."""

    means: Sequence[float]
    variances: Sequence[float]

    @classmethod
    def of(cls, days: Sequence[tuple[date, int]]) -> "Pattern":
        """Of past days in their order.

        A weekday that has none of its own is as the days are on average.
        """
        used = days[len(list(takewhile(lambda day: day[1] == 0, days))) :]
        everyday = [amount for _, amount in used] or [0]
        groups = [
            [amount for day, amount in used if day.weekday() == weekday] or everyday
            for weekday in range(7)
        ]
        # Of a single day nobody knows how much it varies; all days together are the best that is
        # known.
        return cls(
            [fmean(group) for group in groups],
            [pvariance(group if len(group) > 1 else everyday) for group in groups],
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """The days from today on, of which ``today_used`` has been used already."""

    today: date
    today_used: int
    pattern: Pattern

    def days(self) -> Iterator[tuple[date, float, float]]:
        """From today on: the day, what it is expected to use yet, and its variance."""
        weekday = self.today.weekday()
        yield (
            self.today,
            max(0.0, self.pattern.means[weekday] - self.today_used),
            self.pattern.variances[weekday],
        )
        for number in range(1, FARTHEST):
            day = self.today + timedelta(days=number)
            yield day, self.pattern.means[day.weekday()], self.pattern.variances[day.weekday()]

    def until(self, end: date) -> tuple[float, float]:
        """What is expected to be used yet before ``end``, and the variance of that."""
        rest = list(takewhile(lambda day: day[0] < end, self.days()))
        return sum(mean for _, mean, _ in rest), sum(variance for *_, variance in rest)

    def day_of(self, amount: Decimal) -> date | None:
        """The day on which so much more will have been used; None where that is too far away to
        know.
        """
        left = float(amount)
        for day, mean, _ in self.days():
            left -= mean
            if left <= 0:
                return day
        return None
