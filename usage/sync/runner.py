"""Runs the sync of one connection: leases what is due, walks it page by page, applies it in batches."""

import logging
import os
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from pricing.book import load_price_book
from pricing.engine import PriceBook
from usage.connections import client_for
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.errors import LangfuseError
from usage.langfuse.wire import RejectedRow
from usage.models import LangfuseConnection, SyncRun, SyncWindow
from usage.periods import hour_of
from usage.sync import windows
from usage.sync.apply import Applied, apply_steps, committed
from usage.sync.attribution import attribute_known
from usage.sync.prefetch import prefetched
from usage.sync.steps import Step, step_from
from usage.sync.windows import Span

logger = logging.getLogger(__name__)

# How many pages may wait for the database; a page is about 3 MB.
PAGES_AHEAD = 12
# How far one walk goes, and so how the work is shared between workers.
HOURS_A_WALK = 7 * 24

Progress = Callable[[int, int, int], None]
"""Called with the windows done, the windows due and the observations read so far."""


def no_progress(done: int, due: int, read: int) -> None:
    return None


@dataclass(slots=True)
class SyncResult:
    """What one sync of one connection did."""

    connection: str
    windows: int = 0
    windows_drifted: int = 0
    windows_elsewhere: int = 0
    observations_read: int = 0
    observations_stored: int = 0
    observations_rejected: int = 0
    traces_changed: int = 0
    transactions_posted: int = 0
    complete_through: datetime | None = None
    error: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether everything that was due is stored."""
        return not self.error and not self.windows_elsewhere

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "complete_through": self.complete_through.isoformat() if self.complete_through else None,
            "complete": self.is_complete,
        }

    def add(self, applied: Applied) -> None:
        self.observations_stored += applied.observations_stored
        self.observations_rejected += applied.observations_rejected
        self.traces_changed += applied.traces_changed
        self.transactions_posted += applied.transactions_posted


def sync_connection(
    connection: LangfuseConnection, start: datetime | None = None, end: datetime | None = None, progress: Progress = no_progress
) -> SyncResult:
    """Sync one connection and record the run. A failure of Langfuse is in the result; nothing half done is left behind.

    With ``start`` or ``end`` all of that time is read again; without, the recent past is, and whatever is not wholly read.
    """
    now = timezone.now()
    span = Span.around(start or now - timedelta(days=settings.SYNC_BACKFILL_DAYS), end or now)
    again_from = span.start if start or end else now - timedelta(hours=settings.SYNC_OVERLAP_HOURS)
    with recorded_run(connection, SyncRun.Kind.SYNC) as result, client_for(connection) as client:
        windows.open_windows(connection, span)
        read_due(connection, client, windows.due(connection, span, again_from), result, progress)
    return result


@contextmanager
def recorded_run(connection: LangfuseConnection, kind: SyncRun.Kind) -> Iterator[SyncResult]:
    """A run that operators see, whatever becomes of it. A failure of Langfuse ends up in the result, any other goes on up."""
    run = SyncRun.objects.create(connection=connection, kind=kind, started_at=timezone.now())
    result = SyncResult(connection.name)
    try:
        yield result
    except LangfuseError as error:
        result.error = str(error)
        logger.error("The %s of connection %s failed: %s", kind.value, connection.name, error)
    except BaseException as error:
        result.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        result.complete_through = windows.complete_through(connection)
        _finish(run, result)


RECORDED = (
    "windows",
    "windows_drifted",
    "observations_read",
    "observations_stored",
    "observations_rejected",
    "traces_changed",
    "transactions_posted",
)


def _finish(run: SyncRun, result: SyncResult) -> None:
    for name in RECORDED:
        setattr(run, name, getattr(result, name))
    run.error = result.error
    run.outcome = SyncRun.Outcome.COMPLETE if result.is_complete else SyncRun.Outcome.FAILED
    run.finished_at = timezone.now()
    run.save()


def read_due(
    connection: LangfuseConnection,
    client: LangfuseClientService,
    due: list[SyncWindow],
    result: SyncResult,
    progress: Progress = no_progress,
) -> None:
    """Lease and read the windows, newest first, after attributing what has found its owner. Adds to ``result``."""
    book = load_price_book()
    result.add(attribute_known(connection, book))
    worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    for run in windows.runs(due, HOURS_A_WALK):
        if not windows.lease(run, worker, timezone.now()):
            result.windows_elsewhere += len(run)
            continue
        walk = Walk(connection, client, book, run, worker, result)
        try:
            walk.read(lambda: progress(result.windows, len(due), result.observations_read))
        except BaseException as error:
            windows.give_back(run, worker, error=str(error)[:2000])
            raise


@dataclass(frozen=True, slots=True)
class StepPage:
    """A page of a walk, as steps."""

    steps: list[Step]
    rejected: list[RejectedRow]
    is_last: bool


@dataclass
class Walk:
    """One walk through neighbouring windows, newest first, committing batch by batch."""

    connection: LangfuseConnection
    client: LangfuseClientService
    book: PriceBook
    unread: list[SyncWindow]
    worker: str
    result: SyncResult
    steps: list[Step] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    counts: Counter[datetime] = field(default_factory=Counter)

    def read(self, report: Callable[[], None]) -> None:
        read_at = timezone.now()
        start, end = self.unread[-1].start, self.unread[0].end
        for page in prefetched(self._pages(start, end), PAGES_AHEAD):
            self._take(page)
            if not page.is_last and len(self.steps) >= settings.SYNC_BATCH_OBSERVATIONS:
                self._commit(read_at, wholly_read_from=page.steps[-1].start_time if page.steps else end)
                report()
        self._commit(read_at, wholly_read_from=None)
        report()

    def _pages(self, start: datetime, end: datetime) -> Iterator[StepPage]:
        """The pages as steps; made by the prefetching thread, which touches no database."""
        for page in self.client.pages(start, end):
            steps = [step_from(self.connection.pk, one) for one in page.observations]
            yield StepPage(steps, page.rejected, page.cursor is None)

    def _take(self, page: StepPage) -> None:
        self.steps += page.steps
        self.rejected += page.rejected
        self.counts.update(hour_of(step.start_time) for step in page.steps)
        self.result.observations_read += len(page.steps) + len(page.rejected)

    def _commit(self, read_at: datetime, wholly_read_from: datetime | None) -> None:
        """Apply what was taken. Windows that begin after ``wholly_read_from`` are done; all of them where it is None."""
        finished = [window for window in self.unread if wholly_read_from is None or window.start > wholly_read_from]
        left = self.unread[len(finished) :]

        def work() -> Applied:
            applied = apply_steps(self.connection, self.steps, self.rejected, self.book)
            windows.complete(finished, self.worker, read_at, self.counts)
            windows.renew(left, self.worker, timezone.now())
            return applied

        self.result.add(committed(work))
        self.result.windows += len(finished)
        self.unread, self.steps, self.rejected = left, [], []
