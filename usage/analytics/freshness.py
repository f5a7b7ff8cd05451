"""Up to when answers are complete (domain.md, invariant 3)."""

from datetime import datetime

from usage.models import LangfuseConnection
from usage.sync.windows import complete_through


def complete_through_all() -> datetime | None:
    """The moment up to which every enabled connection is stored; None where one was never synced,
    or there is none.
    """
    moments = [
        complete_through(connection)
        for connection in LangfuseConnection.objects.filter(is_enabled=True)
    ]
    known = [moment for moment in moments if moment is not None]
    return min(known) if known and len(known) == len(moments) else None
