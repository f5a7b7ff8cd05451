"""Windows: the hours of a connection, leased by workers, one worker an hour.

A lease is a change of rows, locked for it in one order: whoever is first has them. It runs out by
itself, so a dead worker's hours are taken over.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection as database
from django.db.models import F, Q, QuerySet
from django.db.models.expressions import RawSQL

from kluisz_analytics.bulk import among, moment_of, stamp, update_rows, uuid_of
from usage.models import LangfuseConnection, SyncWindow
from usage.periods import HOUR, hour_of

# What Langfuse has received becomes readable some seconds later (langfuse.md); what is younger is
# not yet complete.
SETTLING = timedelta(seconds=30)
# In write mode dual, what older SDKs send is moved by a batch job: once a minute, three minutes of
# them at once, when they are ten minutes old; with room for its work.
SETTLING_OF_DUAL = timedelta(minutes=20)


def settling(connection: LangfuseConnection) -> timedelta:
    """How old something is in this Langfuse when it is sure to be readable."""
    is_dual = connection.write_mode == LangfuseConnection.WriteMode.DUAL
    return SETTLING_OF_DUAL if is_dual else SETTLING


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, half-open, on whole hours."""

    start: datetime
    end: datetime

    @classmethod
    def around(cls, start: datetime, end: datetime) -> "Span":
        """The whole hours that [start, end) touches."""
        last = hour_of(end)
        return cls(hour_of(start), last if last == end else last + HOUR)

    def hours(self) -> list[datetime]:
        return [self.start + number * HOUR for number in range(int((self.end - self.start) / HOUR))]


def open_windows(connection: LangfuseConnection, span: Span) -> None:
    """Make sure that every hour of the span has its window."""
    SyncWindow.objects.bulk_create(
        [SyncWindow(connection=connection, start=hour, end=hour + HOUR) for hour in span.hours()],
        ignore_conflicts=True,
        batch_size=1000,
    )


# Never read, or read while its hour was still running.
NOT_WHOLLY_READ = Q(complete_through__isnull=True) | Q(complete_through__lt=F("end"))


def due(connection: LangfuseConnection, span: Span, again_from: datetime) -> list[SyncWindow]:
    """The windows of the span to read now, newest first: those not wholly read, and those from
    ``again_from`` on once more.
    """
    return list(
        SyncWindow.objects.filter(connection=connection, start__gte=span.start, end__lte=span.end)
        .filter(~Q(state=SyncWindow.State.DONE) | NOT_WHOLLY_READ | Q(end__gt=again_from))
        .order_by("-start")
    )


def unread_hours(
    connection: LangfuseConnection, start: datetime, end: datetime
) -> QuerySet[SyncWindow, datetime]:
    """The hours that are not read, or being read again."""
    within = SyncWindow.objects.filter(connection=connection, start__gte=start, start__lt=end)
    return within.exclude(state=SyncWindow.State.DONE).values_list("start", flat=True)


def is_known(window: SyncWindow) -> bool:
    """Whether it had been read before; what is stored of it and doesn't come again is then deleted
    from Langfuse.
    """
    return window.complete_through is not None


SHORTEST_RUN = 6
SHARES = 6
"""A run is at most this part of what is left."""
A_DAY = 24


def take_run(due: deque[SyncWindow], longest: int) -> list[SyncWindow]:
    """Take neighbouring windows from the beginning of what is due, at most ``longest``, none that
    is known with one that isn't.

    A run that can be as long as a day ends with a day, since days are built when they are wholly
    read. The fewer windows are left, the shorter the run: so workers that share them finish at
    nearly the same time.
    """
    limit = min(longest, max(SHORTEST_RUN, len(due) // SHARES))
    run = [due.popleft()]
    while due and len(run) < limit and _are_neighbours(run[-1], due[0]):
        if run[-1].start.hour == 0 and limit - len(run) < A_DAY <= limit:
            break
        run.append(due.popleft())
    return run


def neighbours(windows: Iterable[SyncWindow]) -> list[list[SyncWindow]]:
    """The windows, newest first, in runs without gaps."""
    runs: list[list[SyncWindow]] = []
    for window in windows:
        if runs and _are_neighbours(runs[-1][-1], window):
            runs[-1].append(window)
        else:
            runs.append([window])
    return runs


def _are_neighbours(newer: SyncWindow, older: SyncWindow) -> bool:
    return older.end == newer.start and is_known(older) == is_known(newer)


def lease_time() -> timedelta:
    """How long a lease lasts unless it is renewed."""
    return timedelta(seconds=settings.SYNC_LEASE_SECONDS)


@dataclass(frozen=True, slots=True)
class Lease:
    """The windows that a worker has now, and how many of those that it asked for another worker
    has.
    """

    windows: Sequence[SyncWindow]
    elsewhere: int = 0


def lease(
    windows: Sequence[SyncWindow], worker: str, now: datetime, found_due_at: datetime
) -> Lease:
    """Lease those of the windows that no other worker has, or has read since they were found to be
    due. Call it in a transaction.
    """
    asked = SyncWindow.objects.filter(_among(window.pk for window in windows))
    has_been_read = Q(state=SyncWindow.State.DONE, read_at__gte=found_due_at)
    is_elsewhere = Q(state=SyncWindow.State.LEASED, leased_until__gt=now) & ~Q(leased_by=worker)
    free = _locked(asked.exclude(has_been_read | is_elsewhere))
    SyncWindow.objects.filter(_among(free)).update(
        state=SyncWindow.State.LEASED, leased_by=worker, leased_until=now + lease_time()
    )
    if len(free) == len(windows):
        return Lease(windows)
    elsewhere = asked.filter(state=SyncWindow.State.LEASED).exclude(leased_by=worker).count()
    return Lease([window for window in windows if window.pk in free], elsewhere)


def _among(keys: Iterable[int]) -> RawSQL:
    """Hundreds of parameters take longer to write than the database takes for all of it."""
    return among(f"{SyncWindow._meta.db_table}.id", keys, "bigint")


def _locked(windows: QuerySet[SyncWindow]) -> set[int]:
    """The keys of these, locked until the transaction ends; newest first, the order in which they
    are leased, so that nobody deadlocks.
    """
    return set(windows.order_by("-start").select_for_update().values_list("pk", flat=True))


def held(windows: Sequence[SyncWindow], worker: str) -> list[SyncWindow]:
    """Those that no other worker has taken over.

    Nobody does until the transaction ends; call it in one.
    """
    leased = SyncWindow.objects.filter(
        _among(window.pk for window in windows),
        leased_by=worker,
        state=SyncWindow.State.LEASED,
    )
    still = _locked(leased)
    return [window for window in windows if window.pk in still]


def renew(held: Sequence[SyncWindow], now: datetime) -> None:
    """Keep the leases for another while."""
    SyncWindow.objects.filter(_among(window.pk for window in held)).update(
        leased_until=now + lease_time()
    )


def give_back(windows: Sequence[SyncWindow], worker: str, error: str = "") -> None:
    """Let the windows go, unfinished, with what went wrong."""
    SyncWindow.objects.filter(
        _among(window.pk for window in windows),
        leased_by=worker,
        state=SyncWindow.State.LEASED,
    ).update(state=SyncWindow.State.PENDING, leased_by="", leased_until=None, error=error)


def complete(
    held: Sequence[SyncWindow],
    read_at: Mapping[int, datetime],
    observations: Mapping[datetime, int],
    settling: timedelta = SETTLING,
) -> None:
    """Mark windows as read: everything that Langfuse had at each one's ``read_at``, less what was
    still settling, is stored.

    In the transaction of the last batch.
    """
    if not held:
        return
    columns = (
        "id",
        "state",
        "leased_by",
        "leased_until",
        "error",
        "read_at",
        "complete_through",
        "observations",
    )
    rows = [
        (
            window.pk,
            SyncWindow.State.DONE.value,
            "",
            None,
            "",
            stamp(read_at[window.pk]),
            stamp(min(window.end, read_at[window.pk] - settling)),
            observations.get(window.start, 0),
        )
        for window in held
    ]
    with database.cursor() as cursor:
        update_rows(cursor, SyncWindow._meta.db_table, columns, rows)


def make_due(windows: Sequence[SyncWindow]) -> None:
    """Store these as due, each with what Langfuse's metrics say of it now."""
    columns = ("id", "state", "langfuse_count", "langfuse_tokens", "langfuse_cost_usd")
    rows = [
        (
            window.pk,
            SyncWindow.State.PENDING.value,
            window.langfuse_count,
            window.langfuse_tokens,
            window.langfuse_cost_usd,
        )
        for window in windows
    ]
    with database.cursor() as cursor:
        update_rows(cursor, SyncWindow._meta.db_table, columns, rows)


def keep_complete_through(connection: LangfuseConnection) -> None:
    """Remember how far it is read, before older hours are opened: what was read once stays complete
    up to there.
    """
    moment = complete_through(connection)
    if moment is None or moment == connection.complete_through:
        return
    row = LangfuseConnection.objects.filter(pk=connection.pk)
    is_further = Q(complete_through=None) | Q(complete_through__lt=moment)
    row.filter(is_further).update(complete_through=moment)
    connection.complete_through = moment


def complete_through(connection: LangfuseConnection) -> datetime | None:
    """Up to when everything of the connection is stored. None until its first reading is done."""
    return next(one.moment for one in progress() if one.connection_id == connection.pk)


class Progress(NamedTuple):
    """How far a connection is read: to the first window that isn't wholly read, and never less than
    it has been once. ``tenant_id``: all of it is that tenant's; ``is_begun``: its hours are being
    read, or were.
    """

    connection_id: int
    name: str
    tenant_id: UUID | None
    is_enabled: bool
    moment: datetime | None
    is_begun: bool


UNFINISHED = """FROM sync_window w WHERE w.connection_id = c.id
    AND (w.complete_through IS NULL OR w.complete_through < w."end") ORDER BY w.start LIMIT 1"""
HOW_FAR = f"""
    SELECT f.id, f.name, f.tenant_id, f.is_enabled, f.kept, f.unfinished, f.read_of_unfinished,
        (SELECT w."end" FROM sync_window w WHERE w.connection_id = f.id AND w.start < f.unfinished
            ORDER BY w.start DESC LIMIT 1),
        (SELECT w."end" FROM sync_window w WHERE w.connection_id = f.id
            ORDER BY w.start DESC LIMIT 1)
    FROM (SELECT c.id, c.name, c.tenant_id, c.is_enabled, c.complete_through AS kept,
        (SELECT w.start {UNFINISHED}) AS unfinished,
        (SELECT w.complete_through {UNFINISHED}) AS read_of_unfinished
        FROM langfuse_connection c) f ORDER BY f.name"""


def progress() -> list[Progress]:
    """Of every connection, by name. One query, in SQL: each answer of the API asks it."""
    found = []
    with database.cursor() as cursor:
        cursor.execute(HOW_FAR)
        for pk, name, tenant, is_enabled, kept, unfinished, *ends in cursor.fetchall():
            read_of_unfinished, read_before, last = ends
            reached = last if unfinished is None else read_of_unfinished or read_before
            known = [moment_of(moment) for moment in (kept, reached) if moment is not None]
            tenant_id = None if tenant is None else uuid_of(tenant)
            moment = max(known, default=None)
            is_begun = unfinished is not None or last is not None
            found.append(Progress(pk, name, tenant_id, bool(is_enabled), moment, is_begun))
    return found
