"""Disputed runs: those that named a tenant that their user was not of, or whose steps name several
(usage.facts.owner).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kluisz_analytics.scales import Usd
from kluisz_analytics.tenants.directory import stays_of
from kluisz_analytics.tenants.membership import Stay, tenant_at
from kluisz_analytics.tenants.models import Tenant
from usage.facts.disputes import disputed_traces
from usage.facts.owner import Dispute
from usage.models import Trace, TraceSettlement

REASONS = {
    Dispute.NOT_A_MEMBER: "Its user was not of the tenant that it names when it began.",
    Dispute.STEPS_DISAGREE: (
        "Its steps name several; the attribution rule that reads them has to say who wins."
    ),
}


@dataclass(frozen=True, slots=True)
class DisputedRun:
    """A run, whom it named (of several that its steps name the first, as far as one is known),
    where its user was then, what is at stake, and as what, when and by whom it was settled ("" and
    null: it is open).
    """

    trace_id: UUID
    langfuse_trace_id: str
    name: str
    start_time: datetime
    dispute: Dispute
    reason: str
    tenant_id: UUID | None
    tenant_name: str
    user_id: UUID | None
    username: str
    users_tenant_id: UUID | None
    users_tenant_name: str
    total_tokens: int
    cost_usd: Usd | None
    settled_as: str
    settled_at: datetime | None
    settled_by: str


def disputed_runs(*, is_settled: bool = False, limit: int) -> list[DisputedRun]:
    """The latest that are open, or that are settled."""
    found = disputed_traces()
    traces = list((found.exclude if is_settled else found.filter)(settled_as="")[:limit])
    return described(traces)


def described(traces: Sequence[Trace]) -> list[DisputedRun]:
    """Three queries, however many they are."""
    stays = stays_of({one.disputed_user_id for one in traces if one.disputed_user_id})
    tenants = Tenant.objects.in_bulk()
    settled = {
        one.trace_id: one
        for one in TraceSettlement.objects.filter(
            trace__in=[one.pk for one in traces], undone_at=None
        ).select_related("created_by")
    }
    return [_described(one, stays, tenants, settled.get(one.pk)) for one in traces]


def _described(
    trace: Trace,
    stays: Mapping[UUID, Sequence[Stay]],
    tenants: Mapping[UUID, Tenant],
    settled: TraceSettlement | None,
) -> DisputedRun:
    tenant, user = trace.disputed_tenant, trace.disputed_user
    of_then = None
    if user is not None:
        moved = stays.get(user.pk)
        of_then = tenant_at(moved, trace.start_time) if moved else user.tenant_id
    dispute = Dispute(trace.dispute)
    applies = settled if trace.settled_as else None
    return DisputedRun(
        trace_id=trace.pk,
        langfuse_trace_id=trace.langfuse_trace_id,
        name=trace.name,
        start_time=trace.start_time,
        dispute=dispute,
        reason=REASONS[dispute],
        tenant_id=trace.disputed_tenant_id,
        tenant_name=tenant.name if tenant else "",
        user_id=trace.disputed_user_id,
        username=user.username if user else "",
        users_tenant_id=of_then,
        users_tenant_name=tenants[of_then].name if of_then else "",
        total_tokens=trace.total_tokens,
        cost_usd=trace.cost_usd,
        settled_as=trace.settled_as,
        settled_at=applies.created_at if applies else None,
        settled_by=applies.created_by.username if applies and applies.created_by else "",
    )
