"""What was recorded by source: read from what is built, and of the rest from the facts."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from kluisz_analytics.bulk import moment_of
from kluisz_analytics.snapshot import one_snapshot
from kluisz_analytics.sql import Sql, ranges_table, union
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
