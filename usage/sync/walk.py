"""Walks through the windows that are due: leases them, reads them ahead, applies what comes in
batches (architecture.md, Two sizes).

Three things go on at once: fetchers read and decode pages, a thread decides and prices the batch
after, and the database takes the batch before. Windows become done in the transaction of the last
batch that has rows of theirs.
"""

import gc
import logging
import sys
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from usage.facts import deletions
from usage.facts.apply import (
    Applied,
    Assembler,
    Batch,
    Outdated,
    apply_batch,
    committed,
    give_way,
    load_assembler,
    newest_of,
    reassemble,
)
from usage.facts.attribution import up_to_date_with_seen
from usage.facts.deletions import Seen
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.wire import Page, ReceivedObservation, RejectedRow
from usage.models import LangfuseConnection, SyncWindow
from usage.periods import HOUR, hour_of
from usage.sync import windows
from usage.sync.reader import Reader, Stretch
from usage.sync.result import SyncResult

logger = logging.getLogger(__name__)

HoursRead = Callable[[Sequence[datetime]], None]
"""Called with hours when all of them is stored, or when another worker has them."""
# How much is leased at once, and so how the work is shared between workers: a day; more where so
# much of the time comes on a page.
HOURS_A_LEASE = 24
MOST_HOURS_A_LEASE = 32 * 24
# Prices and the directory are loaded anew when they are this old.
ASSEMBLER_SECONDS = 30
# While no page comes, its trouble is written down so often.
LONGEST_SILENCE_SECONDS = 10
# Threads take turns so often, so that the one that stores does not wait long for its turn after
# each answer of the database.
TURN_SECONDS = 0.002
# Rows refer to nothing that refers to them, so looking for cycles among them is for nothing; what
# HTTP leaves behind is small.
BATCHES_A_COLLECTION = 16
# How many batches may be under way: one that is being prepared, and one that the database takes.
BATCHES_AHEAD = 1
# While nothing else is to be done, so large a part of a batch is stored, too. So batches are as
# large as the server is fast.
SMALLEST_PART = 8
# And so large a part of it when everything has come: days are built beside what is stored, and
# should not all be left at the end.
LAST_PARTS = 4


@dataclass(frozen=True, slots=True)
class CountedPage:
    """A page, with how many of its observations start in each hour."""

    page: Page
    hours: Counter[datetime]


@dataclass(slots=True)
class Pile:
    """Pages taken and not yet applied, and what of them is of hours that had been read before."""

    observations: list[ReceivedObservation] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)


@dataclass(frozen=True, slots=True)
class Work:
    """A batch to apply, and the windows that are done with it."""

    batch: Future[Batch]
    seen: Seen
    finished: list[SyncWindow]


class Walk:
    """One worker's walk through the windows of one connection. Adds to ``result`` as it goes."""

    def __init__(
        self,
        connection: LangfuseConnection,
        client: LangfuseClientService,
        due: Sequence[SyncWindow],
        worker: str,
        result: SyncResult,
        on_read: HoursRead,
        found_due_at: datetime,
    ) -> None:
        self._connection, self._client, self._worker, self._result = (
            connection,
            client,
            worker,
            result,
        )
        self._on_read = on_read
        self._due, self._found_due_at = deque(due), found_due_at
        self._hours_a_lease = HOURS_A_LEASE
        self._leased: list[SyncWindow] = []
        self._lost: set[datetime] = set()
        self._read_at: dict[int, datetime] = {}
        self._counts: Counter[datetime] = Counter()
        self._outdated: Outdated = {}
        self._pile = Pile()
        self._work: deque[Work] = deque()
        self._batches = 0
        self._assembler = load_assembler(connection)
        self._assembled_at = time.monotonic()

    def read(self, report: Callable[[], None]) -> None:
        """Read everything.

        Raises what goes wrong, with the windows given back and nothing half done.
        """
        deletions.forget_seen()
        try:
            with (
                undisturbed(),
                Reader(self._client, self._turned, settings.SYNC_FETCHERS) as reader,
                ThreadPoolExecutor(1, "preparer") as preparer,
            ):
                while self._lease_enough(reader):
                    self._take(reader)
                    if len(self._pile.observations) >= self._enough(reader):
                        self._pass_on(reader, preparer)
                        self._apply(BATCHES_AHEAD)
                        report()
                    elif not reader.is_ahead():
                        self._apply(0)
                        report()
                self._pass_on(reader, preparer)
                self._apply(0)
                report()
        except BaseException as error:
            windows.give_back(self._leased, self._worker, error=str(error)[:2000])
            raise

    def _enough(self, reader: Reader[CountedPage]) -> int:
        """How many observations make a batch."""
        if not reader.is_ahead():
            return settings.SYNC_BATCH_OBSERVATIONS // SMALLEST_PART
        return settings.SYNC_BATCH_OBSERVATIONS // (
            1 if self._due or reader.is_fetching() else LAST_PARTS
        )

    def _lease_enough(self, reader: Reader[CountedPage]) -> bool:
        """Lease while a fetcher has nothing to do; whether there is anything left to take."""
        if self._is_to_lease(reader):
            # All of them in one transaction: a commit takes as long as many pages.
            with transaction.atomic():
                self._lease_while_hungry(reader)
        if time.monotonic() - self._assembled_at > ASSEMBLER_SECONDS:
            self._assembler = up_to_date_with_seen(self._assembler)
            self._assembled_at = time.monotonic()
        return bool(reader.unread())

    def _is_to_lease(self, reader: Reader[CountedPage]) -> bool:
        """Near the end the fetchers share what is leased, and leave the rest to whoever is done
        first: so workers finish together.
        """
        return bool(self._due) and reader.is_hungry() and len(self._due) * HOUR >= reader.to_spare()

    def _lease_while_hungry(self, reader: Reader[CountedPage]) -> None:
        while self._is_to_lease(reader):
            read_at = timezone.now()
            run = windows.take_run(self._due, self._hours_a_lease)
            lease = windows.lease(run, self._worker, read_at, self._found_due_at)
            self._result.windows_elsewhere += lease.elsewhere
            self._leased += lease.windows
            self._read_at |= {window.pk: read_at for window in lease.windows}
            for stretch in windows.neighbours(lease.windows):
                reader.add(stretch[-1].start, stretch[0].end, label=windows.is_known(stretch[0]))
            if len(lease.windows) < len(run):
                self._on_read(
                    sorted(
                        {window.start for window in run}.difference(
                            window.start for window in lease.windows
                        )
                    )
                )

    def _turned(self, page: Page, is_known: object) -> CountedPage:
        """Called by the fetchers."""
        return CountedPage(page, _count_by_hour(page))

    def _take(self, reader: Reader[CountedPage]) -> None:
        fetched = reader.take(
            min(windows.lease_time().total_seconds() / 3, LONGEST_SILENCE_SECONDS)
        )
        if fetched is None:
            self._renew()
            return
        self._adapt_leases(fetched.stretch)
        page = fetched.content.page
        self._pile.observations += page.observations
        self._pile.rejected += page.rejected
        self._counts.update(fetched.content.hours)
        self._result.observations_read += len(page.observations) + len(page.rejected)
        if fetched.stretch.label:
            self._pile.seen.observations += page.observations
            self._pile.seen.rejected += page.rejected

    def _renew(self) -> None:
        with transaction.atomic():
            held = windows.held(self._leased, self._worker)
            windows.renew(held, timezone.now())
        self._go_on_with(held)

    def _go_on_with(self, held: list[SyncWindow]) -> None:
        """What others have taken over is theirs to finish; this worker stood still for longer than
        its lease.
        """
        lost = self._missing(held)
        if lost:
            logger.warning(
                "Other workers have taken over %d hours of %s", len(lost), self._connection.name
            )
            self._result.windows_elsewhere += len(lost)
            self._lost |= lost
            self._on_read(sorted(lost))
        self._leased = held

    def _missing(self, held: Sequence[SyncWindow]) -> set[datetime]:
        """The hours that were leased and are not held any more."""
        return {window.start for window in self._leased}.difference(window.start for window in held)

    def _adapt_leases(self, stretch: Stretch) -> None:
        """Lease twice as much at once after so much came on one page; where a page is not enough,
        as at first.
        """
        if stretch.pages > 1 or stretch.unread_until > stretch.start:
            self._hours_a_lease = HOURS_A_LEASE
        elif stretch.end - stretch.start >= self._hours_a_lease * HOUR:
            self._hours_a_lease = min(2 * self._hours_a_lease, MOST_HOURS_A_LEASE)

    def _pass_on(self, reader: Reader[CountedPage], preparer: ThreadPoolExecutor) -> None:
        """Make a batch of the pile, with the windows that are wholly read by now."""
        unread = reader.unread()
        passed_on = {window.pk for work in self._work for window in work.finished}
        finished = [
            window
            for window in self._leased
            if window.pk not in passed_on
            and not any(start < window.end and window.start < end for start, end in unread)
        ]
        pile, self._pile = self._pile, Pile()
        # What was read before is mostly stored, so deciding it ahead as if it were not would be for
        # nothing.
        assembler = (
            self._assembler if len(pile.seen.observations) < len(pile.observations) / 2 else None
        )
        self._work.append(
            Work(preparer.submit(self._batch_of, pile, assembler), pile.seen, finished)
        )

    def _batch_of(self, pile: Pile, assembler: Assembler | None) -> Batch:
        """Called by the preparer."""
        with self._client.computing:
            batch = Batch(self._connection.pk, pile.observations, pile.rejected)
            if assembler is not None:
                batch.prepare(assembler)
            return batch

    def _apply(self, may_wait: int) -> None:
        """Apply batches until at most so many wait."""
        while len(self._work) > may_wait:
            work = self._work.popleft()
            self._commit(work.batch.result(), work)

    def _commit(self, batch: Batch, work: Work) -> None:
        def stored() -> tuple[Applied, list[SyncWindow]]:
            held = windows.held(self._leased, self._worker)
            finished, left = _parted(held, work.finished)
            # What was read of hours that others have is older than what they read: of what is
            # deleted since, it would say that it is there.
            lost = self._lost | self._missing(held)
            applied = apply_batch(
                self._connection, batch.without(lost) if lost else batch, self._assembler
            )
            deletions.remember_seen(self._connection, work.seen, lost, applied.outdated)
            missed = deletions.mark_deleted(
                self._connection,
                [window for window in finished if windows.is_known(window)],
                newest_of(self._outdated, applied.outdated),
            )
            applied.deleted_by_hour = missed.deleted_by_hour
            applied.observations_deleted = applied.deleted_by_hour.total()
            applied += give_way(self._assembler, missed.shown_instead)
            if missed.may_have_twins:
                applied += reassemble(self._assembler, missed.may_have_twins)
            windows.complete(
                finished, self._read_at, self._counts, windows.settling(self._connection)
            )
            windows.renew(left, timezone.now())
            return applied, held

        applied, held = committed(stored)
        self._result.add(applied)
        self._outdated = newest_of(self._outdated, applied.outdated)
        self._batches += 1
        if self._batches % BATCHES_A_COLLECTION == 0:
            gc.collect()
        self._go_on_with(held)
        finished, self._leased = _parted(held, work.finished)
        self._result.windows += len(finished)
        self._on_read([window.start for window in finished])


def _parted(
    held: Sequence[SyncWindow], finished: Sequence[SyncWindow]
) -> tuple[list[SyncWindow], list[SyncWindow]]:
    """Those that are finished, and the others."""
    ids = {window.pk for window in finished}
    return [window for window in held if window.pk in ids], [
        window for window in held if window.pk not in ids
    ]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Short turns between threads; a collector that leaves alone what was there before, and comes
    only when it is called.
    """
    turn, was_collecting = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(TURN_SECONDS)
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_collecting:
            gc.enable()
        sys.setswitchinterval(turn)


def _count_by_hour(page: Page) -> Counter[datetime]:
    observations, counts = page.observations, Counter[datetime]()
    if not page.is_ordered:
        counts.update(hour_of(one.step.start_time) for one in observations)
        return counts
    # Newest first, so an hour's are neighbours.
    counted = 0
    while counted < len(observations):
        hour = hour_of(observations[counted].step.start_time)
        end = bisect_right(observations, -hour.timestamp(), lo=counted, key=_age)
        counts[hour] = end - counted
        counted = end
    return counts


def _age(one: ReceivedObservation) -> float:
    return -one.step.start_time.timestamp()
