"""Windows: the hours of a connection, leased by workers, one worker an hour.

A lease is a conditional UPDATE: whoever changes the row has it. It runs out by itself, so a dead worker's hours are taken over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import F, Max, Q

from kluisz_analytics.bulk import stamp, update_rows
from usage.models import LangfuseConnection, SyncWindow
from usage.periods import HOUR, hour_of

# What Langfuse has received becomes readable some seconds later (langfuse.md); what is younger is not yet complete.
SETTLING = timedelta(seconds=30)


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
        [SyncWindow(connection=connection, start=hour, end=hour + HOUR) for hour in span.hours()], ignore_conflicts=True, batch_size=1000
    )


# Never read, or read while its hour was still running.
NOT_WHOLLY_READ = Q(complete_through__isnull=True) | Q(complete_through__lt=F("end"))


def due(connection: LangfuseConnection, span: Span, again_from: datetime) -> list[SyncWindow]:
    """The windows of the span to read now, newest first: those not wholly read, and those from ``again_from`` on once more."""
    return list(
        SyncWindow.objects.filter(connection=connection, start__gte=span.start, end__lte=span.end)
        .filter(~Q(state=SyncWindow.State.DONE) | NOT_WHOLLY_READ | Q(end__gt=again_from))
        .order_by("-start")
    )


def is_known(window: SyncWindow) -> bool:
    """Whether it had been read before; what is stored of it and doesn't come again is then gone from Langfuse."""
    return window.complete_through is not None


def runs(windows: Sequence[SyncWindow], longest: int) -> list[list[SyncWindow]]:
    """Neighbouring windows together, newest first, at most ``longest`` in a run, none that is known with one that isn't.

    The fewer windows are left, the shorter the runs: so workers that share them finish at nearly the same time.
    """
    grouped: list[list[SyncWindow]] = []
    limit = 0
    for number, window in enumerate(windows):
        last = grouped[-1][-1] if grouped else None
        if last and last.start == window.end and len(grouped[-1]) < limit and is_known(last) == is_known(window):
            grouped[-1].append(window)
        else:
            grouped.append([window])
            limit = min(longest, max(SHORTEST_RUN, (len(windows) - number) // SHARES))
    return grouped


SHORTEST_RUN = 6
SHARES = 12
"""A run is at most this part of what is left."""


def lease_time() -> timedelta:
    """How long a lease lasts unless it is renewed."""
    return timedelta(seconds=settings.SYNC_LEASE_SECONDS)


def lease(windows: Sequence[SyncWindow], worker: str, now: datetime) -> bool:
    """Lease all of the windows, or none: False when another worker has one of them."""
    ids = [window.pk for window in windows]
    free = ~Q(state=SyncWindow.State.LEASED) | Q(leased_until__lte=now) | Q(leased_by=worker)
    taken = SyncWindow.objects.filter(free, pk__in=ids).update(
        state=SyncWindow.State.LEASED, leased_by=worker, leased_until=now + lease_time()
    )
    if taken == len(ids):
        return True
    give_back(windows, worker)
    return False


def renew(windows: Sequence[SyncWindow], worker: str, now: datetime) -> None:
    """Keep the leases for another while. Raises LeaseLost when one has been taken over."""
    if not windows:
        return
    ids = [window.pk for window in windows]
    kept = SyncWindow.objects.filter(pk__in=ids, leased_by=worker, state=SyncWindow.State.LEASED).update(leased_until=now + lease_time())
    if kept != len(ids):
        raise LeaseLost("Another worker has taken these windows over.")


def give_back(windows: Sequence[SyncWindow], worker: str, error: str = "") -> None:
    """Let the windows go, unfinished, with what went wrong."""
    SyncWindow.objects.filter(pk__in=[window.pk for window in windows], leased_by=worker, state=SyncWindow.State.LEASED).update(
        state=SyncWindow.State.PENDING, leased_by="", leased_until=None, error=error
    )


def complete(windows: Sequence[SyncWindow], worker: str, read_at: Mapping[int, datetime], observations: Mapping[datetime, int]) -> None:
    """Mark windows as read: everything that Langfuse had at each one's ``read_at`` is stored. In the transaction of the last batch.

    Raises LeaseLost when one has been taken over.
    """
    if not windows:
        return
    leased = SyncWindow.objects.filter(pk__in=[window.pk for window in windows], leased_by=worker, state=SyncWindow.State.LEASED)
    if leased.select_for_update().count() != len(windows):
        raise LeaseLost("Another worker has taken these windows over.")
    columns = ("id", "state", "leased_by", "leased_until", "error", "complete_through", "observations")
    rows = [
        (
            window.pk,
            SyncWindow.State.DONE.value,
            "",
            None,
            "",
            stamp(min(window.end, read_at[window.pk] - SETTLING)),
            observations.get(window.start, 0),
        )
        for window in windows
    ]
    with connection.cursor() as cursor:
        update_rows(cursor, SyncWindow._meta.db_table, columns, rows)


class LeaseLost(RuntimeError):
    """Another worker has the window now; what this one did since is rolled back."""


def complete_through(connection: LangfuseConnection) -> datetime | None:
    """Up to when everything of the connection is stored: to the first window that isn't wholly read. None before the first sync."""
    windows = SyncWindow.objects.filter(connection=connection)
    unfinished = windows.filter(NOT_WHOLLY_READ).order_by("start").first()
    if unfinished is None:
        return windows.aggregate(last=Max("end"))["last"]
    if unfinished.complete_through is not None:
        return unfinished.complete_through
    return windows.filter(start__lt=unfinished.start).aggregate(last=Max("end"))["last"]
