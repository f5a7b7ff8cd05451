"""Charges what runs said that they used and whose traces never came, where the platform does so
(KLUISZ_CHARGE_UNTRACED); it is taken back when the trace comes (:func:`credits.holds.charged`).
"""

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from credits import holds
from credits.models import Hold
from kluisz_analytics.identifiers import as_trace_id
from usage.facts.identity import trace_key
from usage.models import LangfuseConnection, Trace

RUNS_AT_ONCE = 1_000
CLOCKS_DIFFER = timedelta(hours=1)
"""How far the clock of the host that traces may be from ours."""


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
        charged = Trace.objects.filter(credits__isnull=False)
        if charged.filter(pk__in=keys).exists():
            return True
        # An id of another form is a digest in the hold: it is looked for among its user's runs.
        then = charged.filter(
            user=hold.account_id,
            start_time__gte=hold.created_at - CLOCKS_DIFFER,
            start_time__lte=hold.expires_at + CLOCKS_DIFFER,
        )
        named = then.values_list("langfuse_trace_id", flat=True)
        return any(as_trace_id(one) == hold.trace_id for one in named.iterator())

    charged = 0
    for hold in holds.presumable(moment, RUNS_AT_ONCE):
        with transaction.atomic():
            charged += holds.presume(hold, has_trace, moment)
    return charged
