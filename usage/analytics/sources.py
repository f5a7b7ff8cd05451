"""What arrives by integration, its version and environment, and how much of it has an owner, is
priced and is counted once. Of the whole platform.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection

from kluisz_analytics.bulk import moment_of
from kluisz_analytics.periods import Period
from kluisz_analytics.scales import USD_PLACES, Usd, from_scaled
from kluisz_analytics.snapshot import one_snapshot
from kluisz_analytics.sql import Sql, ranges_table, union
from usage.analytics.comparison import Comparison, comparison_of
from usage.analytics.fetch import PLANNING
from usage.analytics.segments import Bucket, cut
from usage.periods import Granularity
from usage.rollups.sources import (
    DIMENSIONS,
    SUM_NAMES,
    TABLE,
    ranges_of,
    rows_of_facts,
    summed,
)
from usage.rollups.stale import stale_periods

NEW_FOR = timedelta(days=7)
LANGFUSE_SDK = "Langfuse's own SDK"
NOT_SAID = "Doesn't say"
PERIOD, PREVIOUS = 0, 1
NOT_STALE = (
    "NOT EXISTS (SELECT 1 FROM stale_period p WHERE p.granularity = 'hour'"
    " AND p.period_start = u.period_start)"
)


class SourceKey(NamedTuple):
    """An integration in one of its versions and of one environment."""

    source: str
    source_version: str
    environment: str

    @property
    def name(self) -> str:
        """The integration's, as people read it: Langfuse's own SDK always says its version."""
        return self.source or (LANGFUSE_SDK if self.source_version else NOT_SAID)


@dataclass(frozen=True, slots=True)
class SourceNumbers:
    """Runs that it began, and calls of models that it recorded and that count; of both, how many
    have an owner. ``repeated_observations``: steps that it recorded and whose usage is counted in
    another step.
    """

    total_traces: int
    owned_traces: int
    calls: int
    owned_observations: int
    priced_observations: int
    partly_priced_observations: int
    unpriced_observations: int
    unmetered_observations: int
    repeated_observations: int
    total_tokens: int
    total_cost_usd: Usd | None

    @property
    def records(self) -> int:
        """All that it recorded of calls, whether that counts or is counted elsewhere."""
        return self.calls + self.repeated_observations


@dataclass(frozen=True, slots=True)
class Source:
    """What one integration recorded, in one of its versions and of one environment.

    ``share``: its part of all records of calls, and ``previous_share`` the same in the stretch
    before; None where there is none. ``is_new``: it was first seen in the last seven days of the
    period.
    """

    source: str
    source_name: str
    source_version: str
    environment: str
    share: float | None
    previous_share: float | None
    first_seen: datetime
    last_seen: datetime
    is_new: bool
    numbers: SourceNumbers

    @property
    def share_change(self) -> float | None:
        if self.share is None or self.previous_share is None:
            return None
        return self.share - self.previous_share


@dataclass(frozen=True, slots=True)
class Sources:
    """All sources of a period, those of the integration with the most records first, and what they
    come to; ``new_since``: from when on one is new.
    """

    totals: SourceNumbers
    new_since: datetime
    comparison: Comparison
    rows: Sequence[Source]


class Recorded(NamedTuple):
    """The sums of a source, by their names, and when its first and its last run began."""

    sums: Mapping[str, int]
    first_activity: datetime
    last_activity: datetime


def sources_of(period: Period, now: datetime, complete_through: datetime | None) -> Sources:
    """Three queries."""
    comparison = comparison_of(period, now, complete_through)
    buckets = [
        (period.start, period.end),
        (comparison.previous_start, comparison.previous_end),
    ]
    with one_snapshot(*PLANNING):
        stale = stale_periods().periods[Granularity.HOUR]
        found = _recorded(buckets, stale)
        first_seen = _first_seen(stale)
    new_since = min(now, period.end) - NEW_FOR
    records, before = (_records(found[number].values()) for number in (PERIOD, PREVIOUS))
    rows = []
    for key, recorded in found[PERIOD].items():
        numbers, previous = numbers_of([recorded]), found[PREVIOUS].get(key)
        rows.append(
            Source(
                **key._asdict(),
                source_name=key.name,
                share=_ratio(numbers.records, records),
                previous_share=_ratio(_records([previous] if previous else []), before),
                first_seen=first_seen[key],
                last_seen=recorded.last_activity,
                is_new=first_seen[key] >= new_since,
                numbers=numbers,
            )
        )
    return Sources(numbers_of(found[PERIOD].values()), new_since, comparison, _ordered(rows))


def numbers_of(recorded: Iterable[Recorded]) -> SourceNumbers:
    """What they come to. The cost is unknown where there are calls and none of them has one."""
    sums = dict.fromkeys(SUM_NAMES, 0)
    for one in recorded:
        for name, number in one.sums.items():
            sums[name] += number
    costed = sums["priced_observations"] + sums["partly_priced_observations"]
    calls = costed + sums["unpriced_observations"] + sums["unmetered_observations"]
    cost = from_scaled(sums.pop("total_cost_usd"), USD_PLACES)
    return SourceNumbers(calls=calls, total_cost_usd=cost if costed or not calls else None, **sums)


def _records(recorded: Iterable[Recorded]) -> int:
    return numbers_of(recorded).records


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _ordered(rows: Sequence[Source]) -> list[Source]:
    """Those of one integration together."""
    of_integration: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        of_integration[row.source_name][0] -= row.numbers.records
        of_integration[row.source_name][1] -= row.numbers.total_traces
    return sorted(
        rows,
        key=lambda row: (
            of_integration[row.source_name],
            row.source_name,
            -row.numbers.records,
            -row.numbers.total_traces,
            row.environment,
            row.source_version,
        ),
    )


def _recorded(
    buckets: Sequence[Bucket], stale: Collection[datetime]
) -> Mapping[int, Mapping[SourceKey, Recorded]]:
    """By bucket: what is built, and of the rest the facts."""
    segments = cut(buckets, (Granularity.HOUR,), {Granularity.HOUR: stale})
    parts = []
    if segments.built:
        listed = ranges_table([(one.bucket, one.start, one.end) for one in segments.built])
        columns = [
            *("b.number", "u.period_start"),
            *(f"u.{name}" for name in (*DIMENSIONS, *SUM_NAMES)),
            *("u.first_activity", "u.last_activity"),
        ]
        parts.append(
            Sql(
                f"SELECT {', '.join(columns)} FROM {listed.text} JOIN {TABLE} u"
                " ON u.period_start >= b.range_start AND u.period_start < b.range_end",
                listed.parameters,
            )
        )
    if segments.facts:
        parts.append(rows_of_facts([(one.bucket, one.start, one.end) for one in segments.facts]))
    rows, found = union(parts), defaultdict[int, dict[SourceKey, Recorded]](dict)
    if rows is None:
        return found
    for number, *row in _fetched(Sql(summed(rows.text, "number", *DIMENSIONS), rows.parameters)):
        *sums, first, last = row[len(DIMENSIONS) :]
        found[number][SourceKey(*row[: len(DIMENSIONS)])] = Recorded(
            dict(zip(SUM_NAMES, sums, strict=True)), moment_of(first), moment_of(last)
        )
    return found


def _first_seen(stale: Collection[datetime]) -> Mapping[SourceKey, datetime]:
    """When the first run of each began, of all time."""
    names = ", ".join(DIMENSIONS)
    rows = Sql(f"SELECT {names}, first_activity FROM {TABLE} u WHERE {NOT_STALE}")
    if stale:
        facts = rows_of_facts(ranges_of(sorted(stale)))
        rows.text += f" UNION ALL SELECT {names}, first_activity FROM ({facts.text}) f"
        rows.parameters += facts.parameters
    sql = f"SELECT {names}, MIN(first_activity) FROM ({rows.text}) s GROUP BY {names}"
    return {
        SourceKey(*key): moment_of(first) for *key, first in _fetched(Sql(sql, rows.parameters))
    }


def _fetched(sql: Sql) -> Sequence[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql.text, sql.parameters)
        return cursor.fetchall()
