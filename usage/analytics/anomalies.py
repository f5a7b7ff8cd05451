"""Days and hours that stand out of a tenant's, a user's, a flow's or a model's own pattern.

Each is compared with the same weekday of the six weeks before it, an hour with the same hour of the
fourteen days before it. What is usual is their median; how far they stray from it is the median of
their distances, made comparable to a standard deviation (times 1.4826), and at least a tenth of
what is usual. A score is how many such spreads lie between what was used and what is usual; from
3.5 on, up or down, it is an anomaly. Medians make one odd day of the past no measure for the next.
Who has fewer than four such days has no pattern yet. A day or an hour of which not everything is
known yet is compared with the others up to the same time of the clock.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Any, NamedTuple

from kluisz_analytics.periods import Period, PeriodError
from usage.analytics import names
from usage.analytics.answer import answer
from usage.analytics.calendar import buckets
from usage.analytics.comparison import same_clock_time
from usage.analytics.names import Name
from usage.analytics.question import Filters, Question
from usage.analytics.segments import Bucket
from usage.measures import Dimension
from usage.periods import Granularity
from usage.scope import Scope

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
    known_through: datetime,
) -> list[Anomaly]:
    """The anomalies of the period that stand out the most; two questions, and one of names.

    Nothing is said of what isn't known yet. Raises PeriodError.
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
        only_named=not by.declared.is_owner,
        wants_details=False,
    )
    keys = [row.key for row in answer(looked_at).rows]
    if not keys:
        return []
    compared = _compared(every, granularity, period, known_through)
    asked = list(dict.fromkeys(bucket for one in compared for bucket in (one.bucket, *one.past)))
    used: dict[Any, dict[Bucket, int]] = defaultdict(dict)
    of_these = Question(scope, asked, filters.only(by, keys), by=by, wants_details=False)
    for row in answer(of_these).rows:
        used[row.key][asked[row.bucket]] = row.sums[column]
    shown = names.names_of(by, keys, scope)
    found = [anomaly for key in keys for anomaly in _of_one(shown[key], used[key], compared)]
    return sorted(found, key=lambda one: (-abs(one.score), one.period_start, one.label))[:limit]


class Compared(NamedTuple):
    """A day or an hour, and those before it that it is compared with."""

    bucket: Bucket
    past: Sequence[Bucket]


def _compared(
    every: Sequence[Bucket], granularity: Granularity, period: Period, known_through: datetime
) -> list[Compared]:
    """What of the period is known, each with those alike: of the same weekday, or the same hour, in
    the zone.
    """
    is_daily = granularity is Granularity.DAY
    looked_back = LOOKED_BACK[granularity].days // (7 if is_daily else 1)
    alike: dict[int, list[Bucket]] = defaultdict(list)
    compared = []
    for bucket in every:
        start, end = bucket
        if start >= known_through:
            break
        local = start.astimezone(period.zone)
        before = alike[local.weekday() if is_daily else local.hour]
        if start >= period.start:
            past, until = before[-looked_back:], min(end, known_through)
            if until < end:
                past = [_until(until, one, start, is_daily, period) for one in past]
            compared.append(Compared((start, until), past))
        before.append(bucket)
    return compared


def _until(
    until: datetime, bucket: Bucket, start: datetime, is_daily: bool, period: Period
) -> Bucket:
    """The bucket up to the same time of the clock; an hour, up to the same minute."""
    if not is_daily:
        return bucket[0], min(bucket[0] + (until - start), bucket[1])
    day = bucket[0].astimezone(period.zone).date()
    return bucket[0], min(same_clock_time(until, day, period), bucket[1])


def _of_one(
    name: Name, used: Mapping[Bucket, int], compared: Sequence[Compared]
) -> Iterator[Anomaly]:
    """The anomalies of one key."""
    for bucket, past in compared:
        value = used.get(bucket, 0)
        if (found := _score(value, [used.get(one, 0) for one in past])) is not None:
            yield Anomaly(name.key, name.label, *bucket, value, *found)


def _score(value: int, past: Sequence[int]) -> tuple[float, float] | None:
    """What is usual, and the score; None where the value is usual, or too little is known."""
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
