"""Runs the sync of one connection and records the run."""

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from threading import current_thread

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from usage.connections import claim_project, client_for, remember_server
from usage.facts.attribution import attribute_known, attribute_seen
from usage.facts.environments import charge_as_set
from usage.facts.unpriced import price_unpriced_since
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.errors import LangfuseError, NotFound
from usage.models import LangfuseConnection, SyncDrift, SyncRun, SyncWindow
from usage.rollups.build import build_rollups
from usage.sync import windows
from usage.sync.day_builder import DayBuilder
from usage.sync.result import COUNTS, SyncResult
from usage.sync.walk import HoursRead, Walk
from usage.sync.windows import Span

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, int], None]
"""Called with the windows done, the windows due and the observations read so far."""
Outcome = SyncRun.Outcome
NO_SIGN_OF_LIFE = (
    "Its worker gave no more sign of life: it was killed, or its machine went down. What it had"
    " stored is whole; the next run reads the rest."
)


def no_progress(done: int, due: int, read: int) -> None:
    return None


def sync_connection(
    connection: LangfuseConnection,
    start: datetime | None = None,
    end: datetime | None = None,
    progress: Progress = no_progress,
) -> SyncResult:
    """Sync one connection and record the run. A failure of Langfuse is in the result; nothing half
    done is left behind.

    With ``start`` or ``end`` all of that time is read again; without, the recent past is, and
    whatever is not wholly read.
    """
    now = timezone.now()
    span = Span.around(start or now - timedelta(days=settings.SYNC_BACKFILL_DAYS), end or now)
    again_from = span.start if start or end else now - timedelta(hours=settings.SYNC_OVERLAP_HOURS)
    with (
        recorded_run(connection, SyncRun.Kind.SYNC) as (result, sign_of_life),
        client_for(connection) as client,
    ):
        client.report_trouble_to(sign_of_life.trouble)
        claim_project(connection, client)
        client.find_api()
        remember_server(connection, client.api, client.write_mode)
        windows.keep_complete_through(connection)
        windows.open_windows(connection, span)
        due = windows.due(connection, span, again_from)
        with DayBuilder(connection, (window.start for window in due)) as builder:
            read_due(connection, client, due, now, result, progress, sign_of_life, builder.read)
        build_rollups(built=builder.built)
    return result


class SignOfLife:
    """Says that the run goes on, and what its server's trouble is meanwhile.

    As often as it is called, it writes a few times a lease. Trouble is shown at once where the
    run's own thread has it; that of others, which must not touch the database, with the next call.
    """

    def __init__(self, run: SyncRun) -> None:
        self._run, self._thread = run, current_thread()
        self._written_at = time.monotonic()
        self._trouble = self._shown = ""

    def __call__(self) -> None:
        is_time = time.monotonic() - self._written_at > settings.SYNC_LEASE_SECONDS / 3
        if not is_time and self._trouble == self._shown:
            return
        self._shown = self._trouble
        SyncRun.objects.filter(pk=self._run.pk).update(
            last_seen_at=timezone.now(), error=self._shown
        )
        self._written_at = time.monotonic()

    def trouble(self, words: str) -> None:
        """What is wrong with the server; "" when it answers again."""
        self._trouble = words
        if current_thread() is self._thread:
            self()


@contextmanager
def recorded_run(
    connection: LangfuseConnection, kind: SyncRun.Kind
) -> Iterator[tuple[SyncResult, SignOfLife]]:
    """A run that operators see, whatever becomes of it; call the second now and then while it goes
    on.

    A failure of Langfuse ends up in the result, any other goes on up. Runs whose workers were
    killed are closed first.
    """
    now = timezone.now()
    close_interrupted(now)
    run = SyncRun.objects.create(connection=connection, kind=kind, started_at=now, last_seen_at=now)
    result, is_interrupted = SyncResult(connection.name), False
    try:
        yield result, SignOfLife(run)
    except LangfuseError as error:
        if isinstance(error, NotFound):
            remember_server(connection, "", "")
        result.error = _in_words(error)
        logger.error("The %s of connection %s failed: %s", kind.value, connection.name, error)
    except BaseException as error:
        result.error, is_interrupted = _in_words(error), not isinstance(error, Exception)
        raise
    finally:
        result.complete_through = windows.complete_through(connection)
        _finish(run, result, is_interrupted)


def _in_words(error: BaseException) -> str:
    kind, words = type(error).__name__, str(error)
    if isinstance(error, LangfuseError) and words:
        return words
    return f"{kind}: {words}" if words else kind


def _finish(run: SyncRun, result: SyncResult, is_interrupted: bool) -> None:
    for name in COUNTS:
        setattr(run, name, getattr(result, name))
    run.error = result.error
    run.outcome = Outcome.INTERRUPTED if is_interrupted else _outcome(result)
    run.finished_at = run.last_seen_at = timezone.now()
    run.save()
    for drift in result.drifts:
        drift.run = run
    SyncDrift.objects.bulk_create(result.drifts)


def _outcome(result: SyncResult) -> Outcome:
    if result.error:
        return Outcome.FAILED
    return Outcome.SHARED if result.windows_elsewhere else Outcome.COMPLETE


def close_interrupted(now: datetime) -> int:
    """Close the runs that have given no sign of life for as long as a lease lasts: their workers
    were killed. Returns how many.

    One that goes on all the same, only slowly, says in the end itself what became of it.
    """
    silent = SyncRun.objects.filter(outcome=Outcome.RUNNING, last_seen_at__lt=_silent_since(now))
    return silent.update(
        outcome=Outcome.INTERRUPTED, finished_at=F("last_seen_at"), error=NO_SIGN_OF_LIFE
    )


def outcome_at(run: SyncRun, now: datetime) -> str:
    """The run's outcome, as the next run would find it."""
    is_silent = run.outcome == Outcome.RUNNING and run.last_seen_at < _silent_since(now)
    return Outcome.INTERRUPTED.value if is_silent else run.outcome


def _silent_since(now: datetime) -> datetime:
    return now - windows.lease_time()


def _last_whole_run(connection: LangfuseConnection) -> datetime | None:
    """When the last run began that went to its end."""
    complete = SyncRun.objects.filter(
        connection=connection, outcome__in=(Outcome.COMPLETE, Outcome.SHARED)
    )
    return complete.order_by("-started_at").values_list("started_at", flat=True).first()


def read_due(
    connection: LangfuseConnection,
    client: LangfuseClientService,
    due: list[SyncWindow],
    found_due_at: datetime,
    result: SyncResult,
    progress: Progress = no_progress,
    sign_of_life: Callable[[], None] = lambda: None,
    on_read: HoursRead = lambda hours: None,
) -> None:
    """Read the windows, newest first, after charging what other environments are billed of,
    attributing what has found its owner and pricing what has found a price; then enter whom rules
    enter. Adds to ``result``.
    """
    result.add(charge_as_set(connection))
    result.add(attribute_known(connection))
    result.add(price_unpriced_since(connection, _last_whole_run(connection)))
    worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    walk = Walk(connection, client, due, worker, result, on_read, found_due_at)

    def report() -> None:
        sign_of_life()
        progress(result.windows, len(due), result.observations_read)

    walk.read(report)
    result.add(attribute_seen(connection))
