"""Stored usage as the pricing engine takes it, in two queries for each ten thousand traces."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db.models import BigIntegerField, ExpressionWrapper, F, Q, QuerySet

from kluisz_analytics.bulk import among
from pricing.engine import CostSource, ObservationUsage, TraceUsage, Uncharged
from usage.facts.doubts import counted_by_own_total, without_langfuse
from usage.facts.findings import Takes
from usage.models import Observation, Trace

TRACES_A_QUERY = 10_000


class StoredTrace(NamedTuple):
    """A trace's usage, and what it was priced at: picousd and microcredits, for each of its billed
    observations and in all.
    """

    usage: TraceUsage
    costs: Sequence[int | None]
    credits: Sequence[int | None]
    cost_picousd: int | None
    billed_picousd: int | None
    microcredits: int | None


def stored_traces(
    start: datetime, end: datetime, tenant_id: UUID | None = None
) -> Iterator[StoredTrace]:
    """The traces of a period, of one tenant or of all; voided ones are left out."""
    traces = traces_of(start, end, tenant_id).filter(is_voided=False)
    reached: tuple[datetime, UUID] | None = None
    while True:
        rows = list(
            after(traces, reached)[:TRACES_A_QUERY].values_list(
                "pk",
                "tenant_id",
                "user_id",
                "start_time",
                "priced_as_of",
                "is_failed",
                "uncharged",
                "connection_id",
                *map(_scaled, ("cost_usd", "billed_cost_usd", "credits")),
            )
        )
        if not rows:
            return
        yield from _with_usage(rows)
        reached = rows[-1][3], rows[-1][0]


def traces_of(start: datetime, end: datetime, tenant_id: UUID | None = None) -> QuerySet[Trace]:
    """The traces of a period, of one tenant or of all, in their order."""
    found = Trace.objects.filter(start_time__gte=start, start_time__lt=end).order_by(
        "start_time", "pk"
    )
    return found if tenant_id is None else found.filter(tenant_id=tenant_id)


def after(traces: QuerySet[Trace], reached: tuple[datetime, UUID] | None) -> QuerySet[Trace]:
    """Those after the one that was reached."""
    if reached is None:
        return traces
    start_time, trace_id = reached
    return traces.filter(start_time__gte=start_time).filter(
        Q(start_time__gt=start_time) | Q(pk__gt=trace_id)
    )


def _scaled(column: str) -> ExpressionWrapper:
    """The amount as it is stored, an integer."""
    return ExpressionWrapper(F(column), output_field=BigIntegerField())


def _with_usage(rows: Sequence[tuple[Any, ...]]) -> Iterator[StoredTrace]:
    observations: dict[UUID, list[tuple[Any, ...]]] = defaultdict(list)
    billed = Observation.objects.filter(
        among("usage_observation.trace_id", [row[0].hex for row in rows])
    ).order_by()
    columns = (
        "trace_id",
        "is_root",
        "start_time",
        "langfuse_observation_id",
        "model",
        "usage_details",
        "uncosted",
        "cost_source",
        "context",
    )
    amounts = map(_scaled, ("langfuse_cost_usd", "cost_usd", "credits"))
    for row in (
        billed.exclude(cost_source=CostSource.NO_USAGE.value)
        .values_list(*columns, *amounts, "takes")
        .iterator(chunk_size=5000)
    ):
        observations[row[0]].append(row)
    decode = msgspec.json.Decoder(dict[str, int]).decode
    units = msgspec.json.Decoder(tuple[str, ...]).decode
    for trace_id, *of_trace, is_failed, uncharged, read_by, cost, billed_cost, credits in rows:
        tenant_id, user_id, started_at, priced_as_of = of_trace
        steps = observations.get(trace_id, [])
        if len(steps) > 1:
            # The order in which the sync tells a trace's charge apart: roots first, then the
            # earliest, then by id.
            steps.sort(key=lambda step: (not step[1], step[2], step[3]))
        usages = [
            _as_ruled(
                ObservationUsage(
                    step[4],
                    decode(step[5]) if step[5] else {},
                    step[9],
                    step[2],
                    units(step[6]) if step[6] else (),
                    step[7] == CostSource.UNMETERED.value,
                    step[8],
                ),
                step[12],
            )
            for step in steps
        ]
        yield StoredTrace(
            TraceUsage(
                tenant_id,
                user_id,
                started_at,
                priced_as_of,
                usages,
                is_failed=is_failed,
                is_billed=uncharged not in (Uncharged.ENVIRONMENT, Uncharged.TWICE),
                connection_id=read_by,
            ),
            list(map(itemgetter(10), steps)),
            list(map(itemgetter(11), steps)),
            cost,
            billed_cost,
            credits,
        )


def _as_ruled(usage: ObservationUsage, takes: str) -> ObservationUsage:
    if takes == Takes.PRICE_BOOK:
        return without_langfuse(usage)
    return counted_by_own_total(usage) if takes == Takes.TOTAL else usage
