"""Single runs: the latest of a scope."""

from usage.access import Scope
from usage.analytics.calendar import Period
from usage.models import Trace


def recent_traces(scope: Scope, period: Period, limit: int) -> list[Trace]:
    """The latest runs of the period, voided ones left out."""
    found = Trace.objects.filter(start_time__gte=period.start, start_time__lt=period.end, is_voided=False)
    if scope.tenant_id is not None:
        found = found.filter(tenant=scope.tenant_id, user__isnull=False)
    if scope.user_id is not None:
        found = found.filter(user=scope.user_id, tenant__isnull=False)
    return list(found.select_related("user", "tenant").order_by("-start_time", "-pk")[:limit])
