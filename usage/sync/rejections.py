"""Rows that break Langfuse's contract: set aside with the reason, and tried again."""

from collections.abc import Sequence

import msgspec
from django.utils import timezone

from usage.langfuse.wire import ReceivedObservation, decode_rows
from usage.models import LangfuseConnection, Observation, RejectedObservation
from usage.sync.apply import Applied, Batch, apply_batch, committed, load_assembler
from usage.sync.identity import observation_key
from usage.sync.steps import steps_from

Resolution = RejectedObservation.Resolution


def retry_rejected(connection: LangfuseConnection) -> Applied:
    """Try what is set aside again: it may be readable by now (to a newer release of this program), or have been sent again since."""
    waiting = list(RejectedObservation.objects.filter(connection=connection, resolution=""))
    if not waiting:
        return Applied()
    superseded = _superseded(connection, waiting)
    readable: list[ReceivedObservation] = []
    for one in waiting:
        good, bad = decode_rows([msgspec.Raw(one.row.encode())])
        readable += good
        one.tried_at = timezone.now()
        one.reason = bad[0].reason if bad else one.reason
        one.resolution = Resolution.READ if good else Resolution.SUPERSEDED if one.pk in superseded else ""

    def work() -> Applied:
        applied = Applied()
        if readable:
            batch = Batch(steps_from(connection.pk, readable))
            applied += apply_batch(connection, batch, load_assembler(connection))
        RejectedObservation.objects.bulk_update(waiting, ["tried_at", "reason", "resolution"], batch_size=500)
        return applied

    return committed(work)


def _superseded(connection: LangfuseConnection, waiting: Sequence[RejectedObservation]) -> set[int]:
    """Those of which a version is stored that Langfuse received later."""
    keys = {observation_key(connection.pk, one.langfuse_trace_id, one.langfuse_observation_id): one for one in waiting}
    stored = Observation.objects.in_bulk(list(keys))
    return {
        keys[pk.hex].pk
        for pk, found in stored.items()
        if found.received_at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] > keys[pk.hex].received_at[:23]
    }
