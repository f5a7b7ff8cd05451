"""What was deleted in Langfuse: an observation that is stored and that a later reading of its hour didn't find.

It stays billed and is marked (domain.md; an operator can void its trace). While hours are read that had been read before, the keys of all
that comes are remembered in a temporary table; when such an hour has been read, what is stored of it and didn't come is gone.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from django.db import connection as database
from django.db.backends.utils import CursorWrapper
from django.db.models import Count, OuterRef, Subquery
from django.utils import timezone

from kluisz_analytics.bulk import among, insert_rows, stamp
from usage.models import LangfuseConnection, Observation, SyncWindow, Trace
from usage.periods import hour_of


def forget_seen() -> None:
    """Begin anew. The table belongs to this database connection, so two workers have one each."""
    kind = Observation._meta.get_field("id").db_type(database)
    with database.cursor() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS sync_seen (id {kind})")
        # A temporary table has no statistics; with the index, looking for what is not in it is quick whatever the database believes.
        cursor.execute("CREATE INDEX IF NOT EXISTS sync_seen_id ON sync_seen (id)")
        cursor.execute("DELETE FROM sync_seen")


def remember_seen(keys: Sequence[str]) -> None:
    if keys:
        with database.cursor() as cursor:
            insert_rows(cursor, "sync_seen", ["id"], ((key,) for key in keys))


def mark_gone(connection: LangfuseConnection, windows: Sequence[SyncWindow]) -> Counter[datetime]:
    """Mark what is stored of the windows and has not been seen; how many by hour.

    Call it in the transaction in which the windows are done: all that Langfuse has of them has been seen by then.
    """
    counts: Counter[datetime] = Counter()
    if not windows:
        return counts
    with database.cursor() as cursor:
        found = [pair for start, end in _spans(windows) for pair in _unseen(cursor, connection, start, end)]
    if not found:
        return counts
    observation_ids, trace_ids = [one for one, _ in found], sorted({one for _, one in found})
    traces = Trace.objects.filter(among("usage_trace.id", trace_ids)).order_by("pk")
    list(traces.select_for_update(of=("self",)).values_list("pk"))
    unmarked = Observation.objects.filter(among("usage_observation.id", observation_ids), gone_since=None)
    counts.update(hour_of(start_time) for start_time in unmarked.values_list("start_time", flat=True))
    unmarked.update(gone_since=timezone.now())
    gone = Observation.objects.filter(trace=OuterRef("pk"), gone_since__isnull=False).order_by().values("trace")
    traces.order_by().update(gone_observations=Subquery(gone.annotate(count=Count("pk")).values("count")))
    return counts


def _spans(windows: Sequence[SyncWindow]) -> list[tuple[datetime, datetime]]:
    """Neighbouring windows as one span; one query finds what is gone from it."""
    spans: list[tuple[datetime, datetime]] = []
    for window in sorted(windows, key=lambda one: one.start):
        if spans and spans[-1][1] == window.start:
            spans[-1] = spans[-1][0], window.end
        else:
            spans.append((window.start, window.end))
    return spans


def _unseen(cursor: CursorWrapper, connection: LangfuseConnection, start: datetime, end: datetime) -> list[tuple[str, str]]:
    """Keys of observations that are stored of the span and were not seen, with their traces'."""
    cursor.execute(
        "SELECT o.id, o.trace_id FROM usage_observation o JOIN usage_trace t ON t.id = o.trace_id"
        " WHERE o.start_time >= %s AND o.start_time < %s AND o.gone_since IS NULL AND t.connection_id = %s"
        " AND NOT EXISTS (SELECT 1 FROM sync_seen s WHERE s.id = o.id)",
        [stamp(start), stamp(end), connection.pk],
    )
    return [(_hex(observation_id), _hex(trace_id)) for observation_id, trace_id in cursor.fetchall()]


def _hex(key: object) -> str:
    return getattr(key, "hex", None) or str(key)
