"""Runs the sync of one connection and records the run."""

import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from usage.connections import client_for, remember_api
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.errors import LangfuseError, NotFound
from usage.models import LangfuseConnection, SyncDrift, SyncRun, SyncWindow
from usage.rollups.build import build_rollups
from usage.sync import windows
from usage.sync.attribution import attribute_known
from usage.sync.beside import DaysBeside
from usage.sync.result import COUNTS, SyncResult
from usage.sync.waiting import price_waiting_since
from usage.sync.walk import HoursRead, Walk
from usage.sync.windows import Span

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, int], None]
"""Called with the windows done, the windows due and the observations read so far."""


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
    with recorded_run(connection, SyncRun.Kind.SYNC) as result, client_for(connection) as client:
        windows.open_windows(connection, span)
        due = windows.due(connection, span, again_from)
        with DaysBeside(connection, (window.start for window in due)) as beside:
            read_due(connection, client, due, now, result, progress, beside.read)
        remember_api(connection, client.api)
        build_rollups(built=beside.built)
    return result


@contextmanager
def recorded_run(connection: LangfuseConnection, kind: SyncRun.Kind) -> Iterator[SyncResult]:
    """A run that operators see, whatever becomes of it.

    A failure of Langfuse ends up in the result, any other goes on up.
    """
    run = SyncRun.objects.create(connection=connection, kind=kind, started_at=timezone.now())
    result = SyncResult(connection.name)
    try:
        yield result
    except LangfuseError as error:
        if isinstance(error, NotFound):
            remember_api(connection, "")
        result.error = str(error)
        logger.error("The %s of connection %s failed: %s", kind.value, connection.name, error)
    except BaseException as error:
        result.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        result.complete_through = windows.complete_through(connection)
        _finish(run, result)


def _finish(run: SyncRun, result: SyncResult) -> None:
    for name in COUNTS:
        if name != "windows_elsewhere":
            setattr(run, name, getattr(result, name))
    run.error = result.error
    run.outcome = SyncRun.Outcome.COMPLETE if result.is_complete else SyncRun.Outcome.FAILED
    run.finished_at = timezone.now()
    run.save()
    for drift in result.drifts:
        drift.run = run
    SyncDrift.objects.bulk_create(result.drifts)


def _last_complete(connection: LangfuseConnection) -> datetime | None:
    """When the last run that did everything began."""
    complete = SyncRun.objects.filter(connection=connection, outcome=SyncRun.Outcome.COMPLETE)
    return complete.order_by("-started_at").values_list("started_at", flat=True).first()


def read_due(
    connection: LangfuseConnection,
    client: LangfuseClientService,
    due: list[SyncWindow],
    found_due_at: datetime,
    result: SyncResult,
    progress: Progress = no_progress,
    on_read: HoursRead = lambda hours: None,
) -> None:
    """Read the windows, newest first, after attributing what has found its owner and pricing what
    has found a price. Adds to ``result``.
    """
    result.add(attribute_known(connection))
    result.add(price_waiting_since(connection, _last_complete(connection)))
    worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    walk = Walk(connection, client, due, worker, result, on_read, found_due_at)
    walk.read(lambda: progress(result.windows, len(due), result.observations_read))
