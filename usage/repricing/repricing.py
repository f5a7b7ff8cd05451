"""Applies a repricing: a rework of the traces of a period (domain.md, Price).

A trace's price is a function of the usage, the lists and the repricings that hold (pricing.engine).
The ledger gets adjustments; no entry of it is changed.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from uuid import UUID

from django.utils import timezone

from kluisz_analytics.tenants.models import Tenant, User
from usage.facts import rework
from usage.facts.apply import Applied, Assembler, load_assembler, reassemble
from usage.models import LangfuseConnection, Repricing
from usage.repricing.stored import after, traces_of

stop, resume, undo = rework.stop, rework.resume, rework.undo


def begin(
    start: datetime, end: datetime, *, reason: str, by: User | None, tenant: Tenant | None = None
) -> Repricing:
    """A repricing with the lists as they are now; :func:`advance` does the work.

    Raises ValueError without a reason and for an empty period.
    """
    if end <= start:
        raise ValueError(
            f"The end, {end.isoformat()}, is not after the beginning, {start.isoformat()}."
        )
    as_of = timezone.now()
    return rework.begin(
        Repricing(start=start, end=end, tenant=tenant, reason=reason, created_by=by, as_of=as_of)
    )


def advance(
    repricing: Repricing,
    seconds: float | None = None,
    report: Callable[[Repricing], None] | None = None,
) -> None:
    """Do the work that is left (:func:`usage.facts.rework.advance`)."""

    @cache
    def assemblers(state: str) -> Mapping[int, Assembler]:
        """Whether it holds is part of how traces are priced."""
        return {one.pk: load_assembler(one) for one in LangfuseConnection.objects.all()}

    rework.advance(
        repricing, lambda row: _reprice_next(row, assemblers(row.state)), seconds, report
    )


def _reprice_next(repricing: Repricing, assemblers: Mapping[int, Assembler]) -> rework.Batch:
    reached = None
    if repricing.reached_start is not None and repricing.reached_trace_id is not None:
        reached = repricing.reached_start, repricing.reached_trace_id
    traces = after(traces_of(repricing.start, repricing.end, repricing.tenant_id), reached)
    rows: list[tuple[UUID, int, datetime]] = list(
        traces.values_list("pk", "connection_id", "start_time")[: rework.TRACES_A_BATCH]
    )
    applied = Applied()
    by_connection: dict[int, list[str]] = defaultdict(list)
    for trace_id, connection_id, _ in rows:
        by_connection[connection_id].append(trace_id.hex)
    reason = rework.reason_of(repricing)
    for connection_id, trace_ids in by_connection.items():
        applied += reassemble(assemblers[connection_id], trace_ids, reason)
    if rows:
        repricing.reached_trace_id, _, repricing.reached_start = rows[-1]
    return rework.Batch(len(rows), applied)
