"""Calls that two runs may both record: of two integrations, with the same model and usage, one
inside the other's time, without a response id that both say. They count twice until that is ruled
on.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec
from django.db.models import Count, QuerySet
from django.utils import timezone

from kluisz_analytics.scales import Usd
from pricing.book import load_price_book
from pricing.engine import CostSource, PricingEngine
from usage.facts.findings import Finding, Rulings, Takes
from usage.facts.pairing import Records, clash
from usage.facts.store import load_received, load_rulings
from usage.facts.twins import ids_of_calls, may_be_of_one_tenant
from usage.langfuse.wire import StepVersion
from usage.models import LangfuseConnection, Observation

LOOKED_AT = timedelta(days=7)
MOST_CALLS = 50_000
"""Of each connection the latest are looked at."""
ROWS = 100
MARK = "\0"
decode = msgspec.json.Decoder(dict[str, int]).decode


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call as one of the two runs records it; ``source``: the integration, empty for Langfuse's
    own SDK.
    """

    source: str
    trace_id: UUID
    langfuse_trace_id: str
    langfuse_observation_id: str
    cost_usd: Usd | None


@dataclass(frozen=True, slots=True)
class LikelyTwins:
    """Two records that may be of one call; ``at_stake_usd``: the lower of their costs."""

    connection_id: int
    connection: str
    model: str
    start_time: datetime
    tokens: int
    at_stake_usd: Usd
    records: list[RecordedCall]


@dataclass(frozen=True, slots=True)
class AlikeSources:
    """Two integrations that may record the same calls, in the last seven days: how many, what each
    counts of them, and what is at stake.
    """

    connection_id: int
    connection: str
    source: str
    other_source: str
    calls: int
    cost_usd: Usd
    other_cost_usd: Usd
    at_stake_usd: Usd
    last_seen: datetime


def likely_twins(now: datetime | None = None) -> list[LikelyTwins]:
    """All of the last seven days, the most at stake first."""
    since = (now or timezone.now()) - LOOKED_AT
    counted = Observation.objects.filter(
        start_time__gte=since,
        counted_in="",
        total_tokens__gt=0,
        end_time__isnull=False,
        trace__is_voided=False,
    ).exclude(model="")
    counted = counted.exclude(cost_source=CostSource.NO_USAGE.value)
    sources = counted.order_by().values("trace__connection")
    several = sources.annotate(count=Count("source", distinct=True)).filter(count__gt=1)
    connections = LangfuseConnection.objects.filter(
        pk__in=[row["trace__connection"] for row in several]
    )
    engine = PricingEngine(load_price_book())
    found = [
        twins
        for connection in connections
        for twins in _of_connection(
            connection, counted.filter(trace__connection=connection), engine
        )
    ]
    return sorted(found, key=lambda one: (-one.at_stake_usd, one.start_time))


def alike_sources(twins: Iterable[LikelyTwins]) -> list[AlikeSources]:
    """The same by the two integrations."""
    by_sources: dict[tuple[int, str, str], list[LikelyTwins]] = defaultdict(list)
    for one in twins:
        first, second = one.records
        by_sources[one.connection_id, first.source, second.source].append(one)
    found = [
        AlikeSources(
            connection_id,
            pairs[0].connection,
            source,
            other_source,
            len(pairs),
            sum((one.records[0].cost_usd or Decimal(0) for one in pairs), Decimal(0)),
            sum((one.records[1].cost_usd or Decimal(0) for one in pairs), Decimal(0)),
            sum((one.at_stake_usd for one in pairs), Decimal(0)),
            max(one.start_time for one in pairs),
        )
        for (connection_id, source, other_source), pairs in by_sources.items()
    ]
    return sorted(
        found, key=lambda one: (-one.at_stake_usd, -one.calls, one.connection, one.source)
    )


def _of_connection(
    connection: LangfuseConnection, counted: QuerySet[Observation], engine: PricingEngine
) -> list[LikelyTwins]:
    rows = {
        f"{row.trace_id.hex}{MARK}{row.langfuse_observation_id}": row
        for row in counted.select_related("trace").order_by("-start_time")[:MOST_CALLS]
    }
    steps = [_step(key, row) for key, row in rows.items()]

    def may_be_one(one: StepVersion, other: StepVersion) -> bool:
        first, second = rows[one.observation_id].trace, rows[other.observation_id].trace
        is_of_one = may_be_of_one_tenant(first.tenant_id, second.tenant_id)
        return first.pk != second.pk and is_of_one

    now = timezone.now()
    pairing = Records(
        steps,
        steps,
        lambda step: engine.named(step.model, step.start_time, now, connection.pk),
        {},
        may_be_one,
    )
    pairs = [
        [rows[one.observation_id] for one in group]
        for group in pairing.of_one_usage()
        if len(group) == 2
    ]
    rulings = load_rulings(connection.pk)
    pairs = [pair for pair in pairs if not any(_is_settled(row, rulings) for row in pair)]
    ids = _response_ids({row.trace_id.hex for pair in pairs for row in pair})
    return [
        _twins(connection, pair)
        for pair in pairs
        if not clash(*(ids.get(_where(row), frozenset()) for row in pair))
    ]


def _step(key: str, row: Observation) -> StepVersion:
    """What the record says of the call, under an id that is its own among all traces."""
    return StepVersion(
        *(key, row.type, row.name, row.level, row.is_root, row.start_time, row.end_time),
        *(row.start_time, row.model, decode(row.usage_details) if row.usage_details else {}),
        None,
        source=row.source,
        context=row.context,
    )


def _is_settled(row: Observation, rulings: Rulings) -> bool:
    """Whether it was ruled that it is a call of its own."""
    return rulings.takes(Finding.ALIKE, row.model, _where(row)) is Takes.BOTH


def _where(row: Observation) -> tuple[str, str]:
    return row.trace_id.hex, row.langfuse_observation_id


def _response_ids(traces: Collection[str]) -> Mapping[tuple[str, str], frozenset[str]]:
    """The response ids of what these traces used, by trace and step."""
    found = {}
    for key, received in load_received(traces).items():
        steps = [one.step for one in received.observations.values()]
        using = [step for step in steps if step.usage_details]
        for step_id, ids in ids_of_calls(steps, using).items():
            found[key, step_id] = ids
    return found


def _twins(connection: LangfuseConnection, pair: list[Observation]) -> LikelyTwins:
    first, second = sorted(pair, key=lambda row: (row.source, row.pk))
    return LikelyTwins(
        connection.pk,
        connection.name,
        first.model,
        first.start_time,
        first.total_tokens,
        min(first.cost_usd or Decimal(0), second.cost_usd or Decimal(0)),
        [
            RecordedCall(
                row.source,
                row.trace_id,
                row.trace.langfuse_trace_id,
                row.langfuse_observation_id,
                row.cost_usd,
            )
            for row in (first, second)
        ],
    )
