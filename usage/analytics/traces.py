"""Single runs: the latest of a scope, any that are asked for, and their steps."""

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from django.db.models import Exists, OuterRef, QuerySet

from kluisz_analytics.periods import Period
from kluisz_analytics.tenants.attributed import ATTRIBUTED_LOOKUPS, OWNED_LOOKUPS
from pricing.engine import CostSource
from usage.analytics.names import Name, flows_by_id, owner_of
from usage.analytics.question import Filters, Status
from usage.measures import Dimension
from usage.models import Observation, Trace
from usage.scope import Scope


class Run(NamedTuple):
    """A run, what it is called (its flow's name where that is known to the viewer, else its own),
    and its user.
    """

    trace: Trace
    label: str
    user: Name


def labelled(traces: Sequence[Trace], scope: Scope) -> list[Run]:
    """The runs with their names; one query."""
    flows = flows_by_id({trace.flow_id for trace in traces}, scope)
    return [
        Run(
            trace,
            (
                flows[trace.flow_id].name
                if trace.flow_id in flows
                else trace.name or trace.langfuse_trace_id
            ),
            owner_of(trace)[1],
        )
        for trace in traces
    ]


def traces_in(scope: Scope, period: Period, filters: Filters) -> QuerySet[Trace]:
    """The runs of the period that the scope and the filters let through, voided ones left out; a
    list of them begins with the newest.
    """
    found = Trace.objects.filter(
        start_time__gte=period.start, start_time__lt=period.end, is_voided=False
    )
    if not scope.is_platform or filters.name_owners:
        owner = {"tenant": scope.tenant_id, "user": scope.user_id}
        found = found.filter(
            **(
                OWNED_LOOKUPS if scope.user_id or filters.of(Dimension.USER) else ATTRIBUTED_LOOKUPS
            ),
            **{name: pk for name, pk in owner.items() if pk is not None},
        )
    for dimension in filters.dimensions:
        if column := dimension.declared.trace:
            found = found.filter(**{f"{column}__in": filters.of(dimension)})
    if models := filters.of(Dimension.MODEL):
        billed = Observation.objects.filter(trace=OuterRef("pk"), model__in=models).exclude(
            cost_source=CostSource.NO_USAGE.value
        )
        found = found.filter(Exists(billed))
    if filters.statuses:
        found = found.filter(is_failed__in=[status is Status.FAILED for status in filters.statuses])
    return found.select_related("user", "tenant")


def langfuse_url(trace: Trace) -> str:
    """The run's page in Langfuse, which finds the project by itself."""
    return f"{trace.connection.host.rstrip('/')}/trace/{quote(trace.langfuse_trace_id, safe='')}"


def recent_traces(scope: Scope, period: Period, limit: int) -> list[Run]:
    """The latest runs of the period, voided ones left out."""
    return labelled(
        list(traces_in(scope, period, Filters()).order_by("-start_time", "-pk")[:limit]), scope
    )
