"""Rows that break Langfuse's contract: set aside with the reason, and tried again."""

from collections.abc import Sequence

from usage.langfuse.wire import RejectedRow
from usage.models import LangfuseConnection, RejectedObservation


def set_aside(connection: LangfuseConnection, rejected: Sequence[RejectedRow]) -> int:
    """Store the rows; one that is there already is not stored again. Returns how many are new."""
    if not rejected:
        return 0
    aside = RejectedObservation.objects.filter(connection=connection)
    before = aside.count()
    RejectedObservation.objects.bulk_create(
        [
            RejectedObservation(
                connection=connection,
                langfuse_observation_id=row.observation_id,
                langfuse_trace_id=row.trace_id,
                received_at=row.received_at,
                reason=row.reason,
                row=row.row,
            )
            for row in rejected
        ],
        ignore_conflicts=True,
    )
    return aside.count() - before
