"""Charges what runs said that they used and whose traces never came, where the platform does so
(KLUISZ_CHARGE_UNTRACED); it is taken back when the trace comes (:func:`credits.holds.charged`).
"""

from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from credits import holds
from credits.models import Hold
from usage.facts.identity import trace_key
from usage.models import LangfuseConnection, Trace

RUNS_AT_ONCE = 1_000


def charge_untraced(now: datetime | None = None) -> int:
    """Charge those that are due, of the accounts one after the other. Returns how many."""
    if not settings.CHARGE_UNTRACED:
        return 0
    moment = now or timezone.now()
    holds.expire_all(moment)
    connections = list(LangfuseConnection.objects.values_list("pk", flat=True))

    def has_trace(hold: Hold) -> bool:
        spelled = (hold.trace_id, str(UUID(hold.trace_id)))
        keys = [trace_key(pk, trace_id) for pk in connections for trace_id in spelled]
        return Trace.objects.filter(pk__in=keys, credits__isnull=False).exists()

    charged = 0
    for hold in holds.presumable(moment, RUNS_AT_ONCE):
        with transaction.atomic():
            charged += holds.presume(hold, has_trace, moment)
    return charged
