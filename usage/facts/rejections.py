"""Rows that break Langfuse's contract: set aside with the reason, and tried again."""

from collections.abc import Sequence

import msgspec
from django.utils import timezone

from usage.facts.apply import Applied, apply_received, committed
from usage.facts.identity import trace_key
from usage.facts.store import load_received
from usage.langfuse.wire import ReceivedObservation, decode_rows
from usage.models import LangfuseConnection, RejectedObservation

Resolution = RejectedObservation.Resolution


def retry_rejected(connection: LangfuseConnection) -> Applied:
    """Try what is set aside again: it may be readable by now (to a newer release of this program),
    or have been sent again since.
    """
    set_aside = list(RejectedObservation.objects.filter(connection=connection, resolution=""))
    if not set_aside:
        return Applied()
    superseded = _superseded(connection, set_aside)
    readable: list[ReceivedObservation] = []
    for one in set_aside:
        good, bad = decode_rows([msgspec.Raw(one.row.encode())])
        readable += good
        one.tried_at = timezone.now()
        one.reason = bad[0].reason if bad else one.reason
        one.resolution = (
            Resolution.READ if good else Resolution.SUPERSEDED if one.pk in superseded else ""
        )

    def work() -> Applied:
        applied = Applied()
        if readable:
            applied += apply_received(connection, readable)
        RejectedObservation.objects.bulk_update(
            set_aside, ["tried_at", "reason", "resolution"], batch_size=500
        )
        return applied

    return committed(work)


def _superseded(
    connection: LangfuseConnection, set_aside: Sequence[RejectedObservation]
) -> set[int]:
    """Those of which a version is stored that Langfuse received later."""
    stored = load_received({trace_key(connection.pk, one.langfuse_trace_id) for one in set_aside})
    superseded = set()
    for one in set_aside:
        received = stored.get(trace_key(connection.pk, one.langfuse_trace_id))
        known = received.observations.get(one.langfuse_observation_id) if received else None
        if (
            known is not None
            and known.step.received_at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] > one.received_at[:23]
        ):
            superseded.add(one.pk)
    return superseded
