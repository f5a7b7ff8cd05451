"""Single runs: the latest of a scope."""

from collections.abc import Sequence
from typing import NamedTuple

from usage.access import Scope
from usage.analytics.calendar import Period
from usage.analytics.names import flows_by_id
from usage.models import Trace


class Run(NamedTuple):
    """A run and what it is called: its flow's name where that is known to the viewer, else its own."""

    trace: Trace
    label: str


def labelled(traces: Sequence[Trace], scope: Scope) -> list[Run]:
    """The runs with their names; one query."""
    flows = flows_by_id({trace.flow_id for trace in traces}, scope)
    return [Run(trace, flows[trace.flow_id].name if trace.flow_id in flows else trace.name or trace.langfuse_trace_id) for trace in traces]


def recent_traces(scope: Scope, period: Period, limit: int) -> list[Run]:
    """The latest runs of the period, voided ones left out."""
    found = Trace.objects.filter(start_time__gte=period.start, start_time__lt=period.end, is_voided=False)
    if scope.tenant_id is not None:
        found = found.filter(tenant=scope.tenant_id, user__isnull=False)
    if scope.user_id is not None:
        found = found.filter(user=scope.user_id, tenant__isnull=False)
    return labelled(list(found.select_related("user", "tenant").order_by("-start_time", "-pk")[:limit]), scope)
