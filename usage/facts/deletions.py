"""What was deleted in Langfuse: a step that is stored and that a later reading of its hour didn't
find.

It stays billed and is marked (domain.md; an operator can void its trace). While hours are read that
had been read before, all that comes is remembered in a temporary table; when such an hour has been
read, what is stored of it and didn't come is deleted.

Of a step that was sent again, Langfuse shows all versions until it merges them. Where the stored
version didn't come, and another one did, that one is what a merge has left: the stored one gives
way to it.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

from django.db import connection as database
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from kluisz_analytics.bulk import among, insert_rows, stamp, update_rows
from usage.facts import store
from usage.facts.apply import Outdated, locked_traces
from usage.facts.identity import trace_key
from usage.facts.received import packed_deletions
from usage.facts.twins import may_have_twins
from usage.langfuse.wire import ReceivedObservation, RejectedRow
from usage.models import LangfuseConnection, ReceivedTrace, SyncWindow, Trace
from usage.periods import hour_of


@dataclass(slots=True)
class Seen:
    """What came of hours that had been read before."""

    observations: list[ReceivedObservation] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)


def forget_seen() -> None:
    """Begin anew. The table belongs to this database connection, so two workers have one each."""
    key = ReceivedTrace._meta.get_field("trace").db_type(database)
    with database.cursor() as cursor:
        cursor.execute(
            f"CREATE TEMPORARY TABLE IF NOT EXISTS sync_seen (trace_id {key}, observation_id"
            " varchar(200), is_stored bool, is_outdated bool)"
        )
        # A temporary table has no statistics; with the index, looking something up is quick
        # whatever the database believes.
        cursor.execute("CREATE INDEX IF NOT EXISTS sync_seen_trace ON sync_seen (trace_id)")
        cursor.execute("DELETE FROM sync_seen")


def remember_seen(
    connection: LangfuseConnection,
    seen: Seen,
    not_stored: Collection[datetime],
    outdated: Outdated,
) -> None:
    """Keep what came, all of which is stored but what was rejected and what starts in the hours
    ``not_stored``; of steps that are ``outdated``, no version that came is the one that is stored.
    """
    if not seen.observations and not seen.rejected:
        return
    observations = (
        (
            key := trace_key(connection.pk, one.trace_id),
            one.step.observation_id,
            not not_stored or hour_of(one.step.start_time) not in not_stored,
            bool(outdated) and (key, one.step.observation_id) in outdated,
        )
        for one in seen.observations
    )
    rejected = (
        (trace_key(connection.pk, row.trace_id), row.observation_id, False, False)
        for row in seen.rejected
    )
    with database.cursor() as cursor:
        insert_rows(
            cursor,
            "sync_seen",
            ["trace_id", "observation_id", "is_stored", "is_outdated"],
            chain(observations, rejected),
        )


@dataclass(slots=True)
class Missed:
    """What is stored of hours that were read again and didn't come: how many steps by hour, and by
    trace the versions that came in place of others.
    """

    deleted_by_hour: Counter[datetime] = field(default_factory=Counter)
    shown_instead: dict[str, list[ReceivedObservation]] = field(default_factory=dict)
    may_have_twins: list[str] = field(default_factory=list)
    """Traces of which something is deleted, and of whose calls there may be other records, which
    are counted now.
    """


def mark_deleted(
    connection: LangfuseConnection, windows: Sequence[SyncWindow], outdated: Outdated
) -> Missed:
    """Mark the steps that are stored of the windows and have not been seen, and find those of which
    only ``outdated`` versions have.

    Call it in the transaction in which the windows are done: all that Langfuse has of them has been
    seen by then.
    """
    missed = Missed()
    spans = _spans(windows)
    if not spans:
        return missed
    with database.cursor() as cursor:
        candidates = {
            key for start, end in spans for key in _with_unseen(cursor, connection, start, end)
        }
        candidates |= {
            key for (key, _), step in outdated.items() if _is_within(step.stored_start, spans)
        }
        seen = _seen_of(cursor, candidates) if candidates else {}
    now = timezone.now()
    changed: list[store.Row] = []
    for trace, received in locked_traces(candidates):
        for step_id, one in received.observations.items():
            start_time = one.step.start_time
            if not _is_within(start_time, spans) or step_id in received.deleted:
                continue
            was_the_stored_one_seen = seen.get((trace.id, step_id))
            if was_the_stored_one_seen is None:
                received.deleted[step_id] = now
                missed.deleted_by_hour[hour_of(start_time)] += 1
            elif not was_the_stored_one_seen and (instead := outdated.get((trace.id, step_id))):
                missed.shown_instead.setdefault(trace.id, []).append(instead.came)
        if len(received.deleted) > trace.deleted_observations:
            changed.append((trace.id, packed_deletions(received.deleted), len(received.deleted)))
            if may_have_twins([one.step for one in received.observations.values()]):
                missed.may_have_twins.append(trace.id)
    if changed:
        _write(changed)
    return missed


def _spans(windows: Sequence[SyncWindow]) -> list[tuple[datetime, datetime]]:
    """Neighbouring windows as one span; one query finds what is deleted from it."""
    spans: list[tuple[datetime, datetime]] = []
    for window in sorted(windows, key=lambda one: one.start):
        if spans and spans[-1][1] == window.start:
            spans[-1] = spans[-1][0], window.end
        else:
            spans.append((window.start, window.end))
    return spans


def _is_within(moment: datetime, spans: Sequence[tuple[datetime, datetime]]) -> bool:
    return any(start <= moment < end for start, end in spans)


# What of a trace lies in other hours may not have been seen yet: this finds more than is deleted.
WITH_UNSEEN = """
    SELECT t.id FROM (
        SELECT id, observations - deleted_observations AS there FROM usage_trace
            WHERE connection_id = %s AND start_time >= %s AND start_time < %s
        UNION ALL SELECT id, observations - deleted_observations AS there FROM usage_trace
            WHERE connection_id = %s AND last_step_hour >= %s AND start_time < %s) t
    WHERE t.there > (SELECT COUNT(DISTINCT s.observation_id) FROM sync_seen s
        WHERE s.trace_id = t.id AND s.is_stored)"""


def _with_unseen(
    cursor: CursorWrapper, connection: LangfuseConnection, start: datetime, end: datetime
) -> list[str]:
    """The traces with a step in the span of which fewer steps were seen than are stored and not
    deleted.
    """
    cursor.execute(
        WITH_UNSEEN,
        [connection.pk, stamp(start), stamp(end), connection.pk, stamp(start), stamp(start)],
    )
    return [_hex(key) for (key,) in cursor.fetchall()]


def _seen_of(cursor: CursorWrapper, keys: Collection[str]) -> dict[tuple[str, str], bool]:
    """What has been seen of these traces: by the ids of trace and step, whether the version that is
    stored was among what came of it.
    """
    condition = among("trace_id", keys)
    cursor.execute(
        "SELECT trace_id, observation_id, MIN(CASE WHEN is_outdated THEN 1 ELSE 0 END)"
        f" FROM sync_seen WHERE {condition.sql} GROUP BY trace_id, observation_id",
        condition.params,
    )
    return {(_hex(key), step_id): not outdated for key, step_id, outdated in cursor.fetchall()}


def _write(changed: Sequence[store.Row]) -> None:
    with database.cursor() as cursor:
        update_rows(
            cursor,
            ReceivedTrace._meta.db_table,
            ("trace_id", "deleted"),
            [(key, deleted) for key, deleted, _ in changed],
        )
        update_rows(
            cursor,
            Trace._meta.db_table,
            ("id", "deleted_observations"),
            [(key, count) for key, _, count in changed],
        )


def _hex(key: object) -> str:
    return getattr(key, "hex", None) or str(key)
