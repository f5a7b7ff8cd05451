"""Days and hours that stand out of a tenant's, a user's, a flow's or a model's own pattern.

Each is compared with the same weekday of the six weeks before it, an hour with the same hour of the
fourteen days before it. What is usual is their median; how far they stray from it is the median of
their distances, made comparable to a standard deviation (times 1.4826), and at least a tenth of
what is usual. A score is how many such spreads lie between what was used and what is usual; from
3.5 on, up or down, it is an anomaly. Medians make one odd day of the past no measure for the next.
Who has fewer than four such days has no pattern yet.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from kluisz_analytics.periods import Period, PeriodError
from usage.access import Scope
from usage.analytics import names
from usage.analytics.ask import sums_of
from usage.analytics.calendar import buckets
from usage.analytics.question import Dimension, Filters, Question
from usage.models import Granularity

LOOKED_BACK = {Granularity.DAY: timedelta(days=42), Granularity.HOUR: timedelta(days=14)}
LONGEST = {
    Granularity.DAY: timedelta(days=92, hours=2),
    Granularity.HOUR: timedelta(days=7, hours=2),
}
FEWEST_DAYS = 4
SCORE = 3.5
TO_DEVIATION = 1.4826
LEAST_SPREAD = 0.1
KEYS = 50
"""Only those who used the most are looked at."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A day or an hour: what was used, what is usual (both as stored), and how many spreads lie
    between.
    """

    key: Any
    label: str
    period_start: datetime
    period_end: datetime
    value: int
    usual: float
    score: float


def find_anomalies(
    scope: Scope,
    period: Period,
    granularity: Granularity,
    by: Dimension,
    column: str,
    filters: Filters,
    limit: int,
) -> list[Anomaly]:
    """The anomalies of the period that stand out the most; two questions, and one of names.

    Raises PeriodError.
    """
    if period.end - period.start > LONGEST[granularity]:
        days = LONGEST[granularity].days
        raise PeriodError(
            "start_date",
            f"Anomalies by the {granularity.value} are looked for in at most {days} days; ask for"
            " less.",
        )
    every = buckets(
        Period(period.start - LOOKED_BACK[granularity], period.end, period.zone), granularity
    )
    # Also who used much and then nothing at all stands out.
    looked_at = Question(
        scope,
        [(every[0][0], period.end)],
        filters,
        by=by,
        order_by=column,
        limit=KEYS,
        only_named=_is_text(by),
    )
    keys = [key for (_, key), _ in sums_of(looked_at)]
    if not keys:
        return []
    used: dict[Any, dict[int, int]] = defaultdict(dict)
    for (number, key), sums in sums_of(Question(scope, every, filters.only(by, keys), by=by)):
        used[key][number] = sums[column]
    labels = names.labels_for(by, keys, scope)
    found = [
        anomaly for key in keys for anomaly in _of_one(key, labels[key], used[key], every, period)
    ]
    return sorted(found, key=lambda one: (-abs(one.score), one.period_start, one.label))[:limit]


def _is_text(by: Dimension) -> bool:
    return by not in (Dimension.TENANT, Dimension.USER)


def _of_one(
    key: Any,
    label: str,
    used: Mapping[int, int],
    every: Sequence[tuple[datetime, datetime]],
    period: Period,
) -> Iterator[Anomaly]:
    """One key's anomalies.

    Buckets are of one granularity; those alike have the same weekday, or the same hour, in the
    zone.
    """
    alike: dict[Any, list[int]] = defaultdict(list)
    is_daily = every[0][1] - every[0][0] > timedelta(hours=1)
    for number, (start, end) in enumerate(every):
        local = start.astimezone(period.zone)
        before = alike[local.weekday() if is_daily else local.hour]
        if start >= period.start:
            past = before[
                -(
                    LOOKED_BACK[Granularity.DAY].days // 7
                    if is_daily
                    else LOOKED_BACK[Granularity.HOUR].days
                ) :
            ]
            value = used.get(number, 0)
            if (found := _score(value, [used.get(one, 0) for one in past])) is not None:
                yield Anomaly(key, label, start, end, value, *found)
        before.append(number)


def _score(value: int, past: Sequence[int]) -> tuple[float, float] | None:
    """What is usual, and the score; None where the value is usual, or nothing is."""
    if sum(amount > 0 for amount in past) < FEWEST_DAYS:
        return None
    usual = median(past)
    spread = max(
        TO_DEVIATION * median(abs(amount - usual) for amount in past), LEAST_SPREAD * usual
    )
    if not spread:
        return None
    score = (value - usual) / spread
    return (float(usual), round(score, 2)) if abs(score) >= SCORE else None
