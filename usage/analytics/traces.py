"""Single runs: the latest of a scope, any that are asked for, and their steps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from django.db.models import Exists, OuterRef, Q, QuerySet

from kluisz_analytics.identifiers import as_trace_id, canonical_id, parse_uuid
from kluisz_analytics.periods import Period
from kluisz_analytics.tenants.attributed import ATTRIBUTED_LOOKUPS, OWNED_LOOKUPS
from kluisz_analytics.tenants.models import Flow
from pricing.engine import CostSource
from usage.analytics.names import Name, flows_by_id, owner_of
from usage.analytics.question import Filters, Status
from usage.measures import Dimension
from usage.models import Observation, Trace
from usage.scope import Scope

NO_FLOWS: Mapping[str, Flow] = {}


class Run(NamedTuple):
    """A run, what it is called (its flow's name where that is known to the viewer, else its own),
    and its user.
    """

    trace: Trace
    label: str
    user: Name


def labelled(
    traces: Sequence[Trace], scope: Scope, known: Mapping[str, Flow] = NO_FLOWS
) -> list[Run]:
    """The runs with their names; one query, or none where all their flows are ``known``."""
    unknown = {trace.flow_id for trace in traces} - known.keys() - {""}
    flows = {**known, **(flows_by_id(unknown, scope) if unknown else {})}
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


def called(found: QuerySet[Trace], text: str, scope: Scope) -> QuerySet[Trace]:
    """Those of the runs that the text means: by their id here or in Langfuse, by a part of their
    name, or by a part of the name of their flow. One more query, of flows.
    """
    flows = Flow.objects.filter(name__icontains=text)
    if scope.tenant_id is not None:
        flows = flows.filter(project__tenant=scope.tenant_id)
    elif scope.user_id is not None:
        flows = flows.filter(project__tenant__users=scope.user_id)
    ids = [str(pk) for pk in flows.values_list("pk", flat=True)[:MOST_FLOWS]]
    meant = Q(langfuse_trace_id__in={text, text.lower(), as_trace_id(text)})
    meant |= Q(name__icontains=text) | Q(flow_id__in=ids) | Q(flow_id=canonical_id(text))
    if (key := parse_uuid(text)) is not None:
        meant |= Q(pk=key)
    return found.filter(meant)


MOST_FLOWS = 200


def langfuse_url(trace: Trace) -> str:
    """The run's page in Langfuse, which finds the project by itself."""
    return f"{trace.connection.host.rstrip('/')}/trace/{quote(trace.langfuse_trace_id, safe='')}"


def recent_traces(
    scope: Scope,
    period: Period,
    filters: Filters,
    limit: int,
    known: Mapping[str, Flow] = NO_FLOWS,
) -> list[Run]:
    """The latest runs of the period, voided ones left out; ``known`` flows need not be looked
    up.
    """
    latest = traces_in(scope, period, filters).order_by("-start_time", "-pk")[:limit]
    return labelled(list(latest), scope, known)
