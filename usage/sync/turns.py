"""One sync of a connection at a time, among the tasks on the queue.

Windows are leased hour by hour, so two syncs of a connection do no harm; but each takes a worker,
and of a host that hangs every one of them would.
"""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread

from django.db import DatabaseError, connections
from django.utils import timezone

from usage.models import LangfuseConnection, SyncRun, SyncTurn

HELD = timedelta(minutes=2)
"""How long a turn outlasts a worker that died."""
RENEWED_SECONDS = 30
logger = logging.getLogger(__name__)


@contextmanager
def turn(connection: LangfuseConnection, kind: SyncRun.Kind) -> Iterator[bool]:
    """Whether it is the caller's turn; until the end of the block, then, nobody else's."""
    holder = uuid.uuid4().hex
    if not _take(connection, kind, holder):
        yield False
        return
    done = Event()
    keeper = Thread(target=_keep, args=[holder, done], name="turn", daemon=True)
    keeper.start()
    try:
        yield True
    finally:
        done.set()
        keeper.join()
        SyncTurn.objects.filter(held_by=holder).update(held_until=timezone.now())


def _take(connection: LangfuseConnection, kind: SyncRun.Kind, holder: str) -> bool:
    now = timezone.now()
    SyncTurn.objects.bulk_create(
        [SyncTurn(connection=connection, kind=kind.value, held_until=now)], ignore_conflicts=True
    )
    free = SyncTurn.objects.filter(connection=connection, kind=kind.value, held_until__lte=now)
    return bool(free.update(held_by=holder, held_until=now + HELD))


def _keep(holder: str, done: Event) -> None:
    """Renew the turn while the worker lives, however long the host lets it wait."""
    while not done.wait(RENEWED_SECONDS):
        try:
            SyncTurn.objects.filter(held_by=holder).update(held_until=timezone.now() + HELD)
        except DatabaseError:
            logger.warning("A sync's turn could not be renewed", exc_info=True)
        finally:
            connections.close_all()
