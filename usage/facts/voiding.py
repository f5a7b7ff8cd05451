"""Takes traces that were deleted in Langfuse out of all numbers and of the ledger, and puts them
back: for an operator to decide.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from django.db import transaction

from kluisz_analytics.bulk import among
from kluisz_analytics.tenants.directory import keep_directory
from kluisz_analytics.tenants.models import User
from usage.facts import store
from usage.facts.apply import load_assembler, reassemble
from usage.facts.contributions import Change
from usage.facts.decided import TraceFact
from usage.facts.posting import apply_change
from usage.facts.ties import said_by
from usage.models import LangfuseConnection, Trace, TraceVoid


class NotDeleted(ValueError):
    """A trace that Langfuse still has can't be voided."""


@transaction.atomic
def void(trace_ids: Collection[str], reason: str, by: User) -> int:
    """Void the traces (keys as 32 hex digits): what was charged for them is refunded. Returns how
    many; a voided one is left as it is.

    Raises NotDeleted, and voids nothing, when one of them has no observation that is deleted from
    Langfuse; ValueError without a reason.
    """
    if not reason.strip():
        raise ValueError("Say why: a reason is kept with each voided trace.")
    change, voided = Change(), []
    for trace in _locked(trace_ids).values():
        if not trace.deleted_observations:
            raise NotDeleted(
                f"Trace {trace.langfuse_trace_id} is still in Langfuse, so it stays billed. Delete"
                " it there first, and sync."
            )
        if not trace.is_voided:
            change.take_away(trace)
            voided.append(trace.id)
    TraceVoid.objects.bulk_create(
        [TraceVoid(trace_id=trace_id, reason=reason, created_by=by) for trace_id in voided]
    )
    _write(voided, change, is_voided=True)
    _decide_twins(voided)
    return len(voided)


@transaction.atomic
def restore(trace_ids: Collection[str]) -> int:
    """Bill voided traces again. Returns how many."""
    change, restored = Change(), []
    for trace in _locked(trace_ids).values():
        if trace.is_voided:
            trace.is_voided = False
            change.add(trace)
            restored.append(trace.id)
    TraceVoid.objects.filter(among("trace_id", restored)).delete()
    _write(restored, change, is_voided=False)
    _decide_twins(restored)
    return len(restored)


def _locked(trace_ids: Collection[str]) -> Mapping[str, TraceFact]:
    """The traces, locked after what whoever stores them locks before."""
    store.keep_repricings()
    keep_directory()
    return store.lock_traces(trace_ids)


def _decide_twins(trace_ids: Collection[str]) -> None:
    """Calls that other traces record as well are counted in those that are not voided."""
    rows = Trace.objects.filter(among("usage_trace.id", trace_ids)).order_by("pk")
    by_connection: dict[int, list[str]] = defaultdict(list)
    for pk, connection_id in rows.values_list("pk", "connection"):
        by_connection[connection_id].append(pk.hex)
    for connection in LangfuseConnection.objects.filter(pk__in=by_connection):
        assembler = load_assembler(connection)
        received = store.load_received(by_connection[connection.pk])
        said = said_by(
            {key: one.observations.values() for key, one in received.items()},
            looks_for_likely=assembler.rulings.looks_for_likely,
        )
        if said:
            reassemble(assembler, said.keys())


def _write(trace_ids: Sequence[str], change: Change, *, is_voided: bool) -> None:
    Trace.objects.filter(among("usage_trace.id", trace_ids)).update(is_voided=is_voided)
    apply_change(change)
