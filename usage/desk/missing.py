"""When usage is missing, as rules: of holds, of flows and of tenants' hours. Pure; the figures come
from :mod:`usage.desk.expected`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

RUNS_TO_KNOW_A_FLOW = 20
"""With fewer runs before the period, nothing is said of what a flow always does."""
ALWAYS = 99
"""Of a hundred runs that came to an end without an error, so many are as good as all."""
WEEKS_TO_KNOW_AN_HOUR = 4
WEEK, HOUR = timedelta(weeks=1), timedelta(hours=1)


class HoldFault(StrEnum):
    """What became of a hold otherwise than was to be expected."""

    NEVER_TRACED = "never_traced"
    NOT_CHARGED = "not_charged"
    OTHER_AMOUNT = "other_amount"


class HoldState(NamedTuple):
    """A hold, and its run's trace where that is stored; amounts in credits."""

    has_ended: bool
    """It was charged, it expired, or it came to the end of its two days."""
    settled: Decimal | None
    has_trace: bool
    charged: Decimal | None
    """What the trace is charged; None where that is unknown, or there is no trace."""


def fault_of(hold: HoldState) -> HoldFault | None:
    """None for a hold that is still waited for, and where all is as it should be.

    Released holds are not asked about: their runs said that they did not take place.
    """
    if not hold.has_ended:
        return None
    if not hold.has_trace:
        return HoldFault.NEVER_TRACED
    if hold.charged is None:
        return HoldFault.NOT_CHARGED
    if hold.settled is not None and hold.settled != hold.charged:
        return HoldFault.OTHER_AMOUNT
    return None


def always_calls(runs: int, runs_with_calls: int) -> bool:
    """Whether a flow of so many runs (without an error) as good as always calls a model."""
    return runs >= RUNS_TO_KNOW_A_FLOW and runs_with_calls * 100 >= runs * ALWAYS


class Gap(NamedTuple):
    """Hours in which there was nothing, though there always is: [start, end).

    ``usual_runs``: how many runs such hours had in the weeks before, on average.
    """

    start: datetime
    end: datetime
    usual_runs: Decimal


def hours_asked(start: datetime, end: datetime) -> list[datetime]:
    """The whole hours of a period."""
    first = start.replace(minute=0, second=0, microsecond=0)
    first = first if first == start else first + HOUR
    return [first + number * HOUR for number in range(max(0, (end - first) // HOUR))]


def same_hours_before(hour: datetime) -> list[datetime]:
    """The hour of the same day of the week, in the weeks before."""
    return [hour - number * WEEK for number in range(1, WEEKS_TO_KNOW_AN_HOUR + 1)]


def gaps_in(hours: Sequence[datetime], runs: Mapping[datetime, int]) -> list[Gap]:
    """The gaps among ``hours`` (in their order) of somebody whose runs by hour are ``runs``.

    An hour is missing that has none, and had some in each of the weeks before.
    """
    missing = [
        (hour, sum(before))
        for hour in hours
        if not runs.get(hour)
        and all(before := [runs.get(each, 0) for each in same_hours_before(hour)])
    ]
    return [_gap(run) for run in _neighbours(missing)]


def _neighbours(missing: Iterable[tuple[datetime, int]]) -> list[list[tuple[datetime, int]]]:
    together: list[list[tuple[datetime, int]]] = []
    for one in missing:
        if together and together[-1][-1][0] + HOUR == one[0]:
            together[-1].append(one)
        else:
            together.append([one])
    return together


def _gap(hours: Collection[tuple[datetime, int]]) -> Gap:
    starts = [start for start, _ in hours]
    usual = Decimal(sum(runs for _, runs in hours)) / WEEKS_TO_KNOW_AN_HOUR
    return Gap(min(starts), max(starts) + HOUR, usual)
