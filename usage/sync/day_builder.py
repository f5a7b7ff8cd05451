"""Builds days that are wholly read while others are still being read, by this worker or by another.

Reading keeps the interpreter busy, building mostly PostgreSQL. SQLite has one writer at a time, and
inside a transaction nobody else sees what it stores: there, all is left to
:func:`usage.rollups.build.build_rollups` at the end.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Self

from django.db import DatabaseError, connection, connections
from django.utils import timezone

from usage.models import LangfuseConnection
from usage.periods import DAY, Granularity, period_of
from usage.rollups.build import DAYS_TOGETHER, build_days
from usage.sync.windows import unread_hours

logger = logging.getLogger(__name__)


class DayBuilder:
    """Builds days of a Langfuse connection in a thread of its own.

    ``built`` are the days that were built.
    """

    def __init__(self, source: LangfuseConnection, hours: Iterable[datetime]) -> None:
        """With the hours that are due."""
        self._source = source
        self._unread = Counter(map(_day_of, hours))
        is_possible = connection.vendor == "postgresql" and not connection.in_atomic_block
        self._unbuilt = set(self._unread) if is_possible else set()
        self._is_abandoned = False
        self._ready: deque[datetime] = deque()
        self._builder = ThreadPoolExecutor(1, "builder")
        self.built: set[datetime] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_abandoned = error is not None
        # All connections of the thread that asks. (connection.close would be this thread's own,
        # looked up here.)
        self._builder.submit(connections.close_all)
        self._builder.shutdown()

    def read(self, hours: Iterable[datetime]) -> None:
        """These hours are stored, or left to another worker.

        A day is built when the one before it is read, too: a run that began there may have steps in
        this one. Of workers that have read parts of both, the last one to store them finds all of
        them done.
        """
        self._unread.subtract(map(_day_of, hours))
        ready = sorted(
            (day for day in self._unbuilt if not self._unread[day] and not self._unread[day - DAY]),
            reverse=True,
        )
        self._unbuilt.difference_update(ready)
        self._ready.extend(ready)
        for _ in ready:
            self._builder.submit(self._build)

    def _build(self) -> None:
        """Build what has become ready meanwhile, some days at a time."""
        now = timezone.now()
        days = [self._ready.popleft() for _ in range(min(DAYS_TOGETHER, len(self._ready)))]
        over = sorted(day for day in days if day + DAY <= now)
        if self._is_abandoned or not over:
            return
        try:
            unread = {
                _day_of(hour) for hour in unread_hours(self._source, over[0] - DAY, over[-1] + DAY)
            }
            self.built.update(
                build_days(
                    [day for day in over if day not in unread and day - DAY not in unread], now
                )
            )
        except DatabaseError:
            logger.warning(
                "The rollups of %s could not be built beside the sync; they are built at its end",
                _dates(over),
                exc_info=True,
            )


def _dates(days: Iterable[datetime]) -> str:
    return ", ".join(str(day.date()) for day in days)


def _day_of(hour: datetime) -> datetime:
    return period_of(Granularity.DAY, hour)[0]
