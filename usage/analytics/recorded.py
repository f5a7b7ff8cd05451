"""What was recorded by source: read from what is built, and of the rest from the facts."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from kluisz_analytics.bulk import moment_of
from kluisz_analytics.snapshot import one_snapshot
from kluisz_analytics.sql import Range, Sql, ranges_table, union
from usage.analytics.fetch import PLANNING
from usage.analytics.segments import Bucket
from usage.periods import HOUR, Granularity, hour_of
from usage.rollups.sources import (
    DIMENSIONS,
    SUM_NAMES,
    TABLE,
    ranges_of,
    rows_of_facts,
    summed,
)
from usage.rollups.stale import stale_periods

LANGFUSE_SDK = "Langfuse's own SDK"
NOT_SAID = "Doesn't say"
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


class Recorded(NamedTuple):
    """The sums of a source, by their names, and when its first and its last run began."""

    sums: Mapping[str, int]
    first_activity: datetime
    last_activity: datetime


BySource = Mapping[SourceKey, Recorded]


def recorded_in(buckets: Sequence[Bucket]) -> tuple[list[BySource], Mapping[SourceKey, datetime]]:
    """What was recorded in each bucket, and when the first run of each source began, of all time;
    three queries.
    """
    with one_snapshot(*PLANNING):
        stale = stale_periods().periods[Granularity.HOUR]
        found = _recorded(buckets, stale)
        return [found[number] for number in range(len(buckets))], _first_seen(stale)


def _recorded(
    buckets: Sequence[Bucket], stale: Collection[datetime]
) -> Mapping[int, Mapping[SourceKey, Recorded]]:
    """By bucket: what is built, and of the rest the facts."""
    whole_hours, of_facts = _cut(buckets, stale)
    parts = []
    if whole_hours:
        listed = ranges_table(whole_hours)
        columns = [
            *("b.number", "u.period_start"),
            *(f"u.{name}" for name in (*DIMENSIONS, *SUM_NAMES)),
            *("u.first_activity", "u.last_activity"),
        ]
        parts.append(
            Sql(
                f"SELECT {', '.join(columns)} FROM {listed.text} JOIN {TABLE} u"
                f" ON u.period_start >= b.range_start AND u.period_start < b.range_end"
                f" AND {NOT_STALE}",
                listed.parameters,
            )
        )
    if of_facts:
        parts.append(rows_of_facts(of_facts))
    rows, found = union(parts), defaultdict[int, dict[SourceKey, Recorded]](dict)
    if rows is None:
        return found
    for number, *row in _fetched(Sql(summed(rows.text, "number", *DIMENSIONS), rows.parameters)):
        *sums, first, last = row[len(DIMENSIONS) :]
        found[number][SourceKey(*row[: len(DIMENSIONS)])] = Recorded(
            dict(zip(SUM_NAMES, sums, strict=True)), moment_of(first), moment_of(last)
        )
    return found


def _cut(
    buckets: Sequence[Bucket], stale: Collection[datetime]
) -> tuple[Sequence[Range], Sequence[Range]]:
    """The whole hours of the buckets, and what only the facts can answer: those of them that are
    stale, and parts of hours. However long a bucket is, this takes no longer.
    """
    whole_hours: list[Range] = []
    of_facts: list[Range] = []
    for number, (start, end) in enumerate(buckets):
        first, last = hour_of(start), hour_of(end)
        if first < start:
            first += HOUR
        if first >= last:
            of_facts += [(number, start, end)] if start < end else []
            continue
        edges = (start, first), (last, end)
        of_facts += [(number, *edge) for edge in edges if edge[0] < edge[1]]
        of_facts += ranges_of([hour for hour in sorted(stale) if first <= hour < last], number)
        whole_hours.append((number, first, last))
    return whole_hours, of_facts


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
