"""Disputed traces: which are open, and what an operator settles them as (usage.facts.owner)."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from kluisz_analytics.bulk import among
from kluisz_analytics.tenants.directory import keep_directory
from kluisz_analytics.tenants.models import User
from usage.facts import store
from usage.facts.apply import Applied, load_assembler, reassemble
from usage.facts.decided import TraceFact
from usage.facts.owner import Dispute, Outcome
from usage.models import DisputedTrace, LangfuseConnection, TraceSettlement


class NotDisputed(ValueError):
    """There is nothing to settle, or nothing that was."""


def disputed_traces() -> QuerySet[DisputedTrace]:
    """All, the newest first, with whom they named."""
    named = DisputedTrace.objects.select_related("disputed_tenant", "disputed_user")
    return named.order_by("-start_time", "-pk")


def open_disputes() -> QuerySet[DisputedTrace]:
    """Those that nobody has settled."""
    return DisputedTrace.objects.filter(settled_as="")


@transaction.atomic
def settle(trace_ids: Collection[str], outcome: Outcome, by: User) -> Applied:
    """Settle the traces (keys as 32 hex digits), also those that were settled otherwise: they
    count, and are charged, as that says. Doing it again changes nothing.

    Raises NotDisputed, and settles nothing, when one of them is not disputed, or is to be the
    user's in its own tenant where it had none.
    """
    traces = _locked(trace_ids)
    claims = {key: _claim_of(trace) for key, trace in traces.items()}
    if outcome is Outcome.USERS_TENANT:
        _check_tenants(traces)
    traces = {key: one for key, one in traces.items() if one.settled_as != outcome.value}
    _undo(traces, by)
    TraceSettlement.objects.bulk_create(
        TraceSettlement(
            trace_id=trace.id,
            outcome=outcome.value,
            named_tenant_id=claims[trace.id][0],
            named_user_id=claims[trace.id][1],
            created_by=by,
        )
        for trace in traces.values()
    )
    return _decide(traces)


@transaction.atomic
def undo(trace_ids: Collection[str], by: User) -> Applied:
    """Have the traces disputed again, and refund what was charged.

    Raises NotDisputed, and undoes nothing, when one of them is not settled.
    """
    traces = _locked(trace_ids)
    for trace in traces.values():
        if not trace.settled_as:
            raise NotDisputed(f"Trace {trace.langfuse_trace_id} is not settled.")
    _undo(traces, by)
    return _decide(traces)


def _locked(trace_ids: Collection[str]) -> Mapping[str, TraceFact]:
    """The traces, locked after what whoever stores them locks before."""
    store.keep_repricings()
    keep_directory()
    return store.lock_traces(trace_ids)


def _claim_of(trace: TraceFact) -> tuple[UUID, UUID]:
    if trace.dispute == Dispute.STEPS_DISAGREE:
        raise NotDisputed(
            f"The steps of trace {trace.langfuse_trace_id} name several: say in the attribution"
            " rule that reads them who wins."
        )
    claim = trace.disputed_claim
    if claim is None:
        raise NotDisputed(f"Trace {trace.langfuse_trace_id} is not disputed.")
    return claim


def _check_tenants(traces: Mapping[str, TraceFact]) -> None:
    directory = store.load_directory()
    for trace in traces.values():
        user = directory.users[str(trace.disputed_user_id)]
        if user.tenant_at(trace.start_time) is None:
            raise NotDisputed(
                f"The user of trace {trace.langfuse_trace_id} was of no tenant then; settle it as"
                " the named tenant's, or leave it out."
            )


def _undo(traces: Collection[str], by: User) -> None:
    TraceSettlement.objects.filter(
        among("usage_trace_settlement.trace_id", traces), undone_at=None
    ).update(undone_at=timezone.now(), undone_by=by)


def _decide(traces: Mapping[str, TraceFact]) -> Applied:
    by_connection: dict[int, list[str]] = defaultdict(list)
    for trace in traces.values():
        by_connection[trace.connection_id].append(trace.id)
    applied = Applied()
    for connection in LangfuseConnection.objects.filter(pk__in=by_connection):
        applied += reassemble(load_assembler(connection), by_connection[connection.pk])
    return applied
