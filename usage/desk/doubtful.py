"""Usage that doesn't add up, as lists: by what it is, connection and model, and the observations
with the most at stake. Indexes of these observations alone answer them.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from django.db.models import (
    BigIntegerField,
    Case,
    CharField,
    Count,
    ExpressionWrapper,
    F,
    Max,
    Q,
    QuerySet,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Abs, Coalesce

from kluisz_analytics.scales import USD_PLACES, Usd, from_scaled
from pricing.own_total import CONTRADICTED
from usage.facts.findings import Finding
from usage.models import LangfuseConnection, Observation

ROWS = 200
DOUBTFUL = ~Q(finding="") | ~Q(usage_doubt="")
OPEN = Q(takes="") & (Q(finding__in=[Finding.COST.value, Finding.FREE.value]) | ~Q(usage_doubt=""))
"""What nobody has ruled on yet. A sum is counted once without a ruling, so nothing is open."""
decode = msgspec.json.Decoder(dict[str, int]).decode


@dataclass(frozen=True, slots=True)
class DoubtfulModel:
    """Usage of a model by one connection of which something doesn't add up: what is counted, what
    it would come to by the other figure (where that is known), and the sum of the differences.
    """

    finding: str
    connection_id: int
    connection: str
    model: str
    observations: int
    undecided: int
    counted_usd: Usd
    other_usd: Usd
    at_stake_usd: Usd
    last_seen: datetime


@dataclass(frozen=True, slots=True)
class DoubtfulObservation:
    """An observation that doesn't add up. ``other_cost_usd`` is null where no list has a price, and
    of units that no other figure contradicts; of those that their own total does, it is the cost by
    that, which ``said_tokens`` is. ``counted_in``: the step that its usage is counted in, of its
    own trace unless ``counted_in_trace`` names another.
    """

    finding: str
    usage_doubt: str
    trace_id: UUID
    langfuse_trace_id: str
    langfuse_observation_id: str
    name: str
    connection_id: int
    connection: str
    model: str
    start_time: datetime
    counted_tokens: int
    said_tokens: int | None
    cost_usd: Usd | None
    other_cost_usd: Usd | None
    at_stake_usd: Usd
    takes: str
    counted_in: str
    counted_in_trace: UUID | None


def _stored(name: str) -> ExpressionWrapper:
    """An amount as it is stored, an integer; unknown counts as nothing."""
    return ExpressionWrapper(Coalesce(F(name), Value(0)), output_field=BigIntegerField())


# Without another figure there is nothing to compare with.
AT_STAKE = Case(
    When(other_cost_usd__isnull=True, then=Value(0)),
    default=Abs(_stored("cost_usd") - _stored("other_cost_usd")),
    output_field=BigIntegerField(),
)
FINDING = Case(
    When(finding="", then=Value(Finding.UNITS.value)),
    default=F("finding"),
    output_field=CharField(),
)


def _doubtful() -> QuerySet[Any]:
    return (
        Observation.objects.filter(DOUBTFUL, trace__is_voided=False)
        .order_by()
        .annotate(what=FINDING, at_stake=AT_STAKE)
    )


def undecided() -> QuerySet[Observation]:
    """Observations that nobody has ruled on."""
    return Observation.objects.filter(DOUBTFUL, OPEN, trace__is_voided=False)


def doubtful_models() -> list[DoubtfulModel]:
    """The most at stake first; two queries."""
    found = (
        _doubtful()
        .values("what", "trace__connection", "model")
        .annotate(
            count=Count("pk"),
            undecided=Count("pk", filter=OPEN),
            counted=Sum(_stored("cost_usd")),
            other=Sum(_stored("other_cost_usd")),
            stake=Sum("at_stake"),
            last_seen=Max("start_time"),
        )
        .order_by("-stake", "-count", "what", "trace__connection", "model")
    )
    connections = _connections()
    return [
        DoubtfulModel(
            row["what"],
            row["trace__connection"],
            connections[row["trace__connection"]],
            row["model"],
            row["count"],
            row["undecided"],
            _usd(row["counted"]),
            _usd(row["other"]),
            _usd(row["stake"]),
            row["last_seen"],
        )
        for row in found
    ]


def doubtful_observations(limit: int = ROWS) -> list[DoubtfulObservation]:
    """Those with the most at stake, of these the latest first; two queries."""
    columns = (
        *("what", "usage_doubt", "trace", "trace__langfuse_trace_id", "langfuse_observation_id"),
        *("name", "trace__connection", "model", "start_time", "usage_details"),
        *("input_tokens", "output_tokens", "total_tokens"),
        *("cost_usd", "other_cost_usd", "at_stake", "takes", "counted_in"),
        "counted_in_trace",
    )
    connections = _connections()
    return [
        _observation(row, connections)
        for row in _doubtful()
        .order_by("-at_stake", "-start_time", "langfuse_observation_id")
        .values(*columns)[:limit]
    ]


def _observation(row: dict[str, Any], connections: dict[int, str]) -> DoubtfulObservation:
    connection_id = row["trace__connection"]
    return DoubtfulObservation(
        row["what"],
        row["usage_doubt"],
        row["trace"],
        row["trace__langfuse_trace_id"],
        row["langfuse_observation_id"],
        row["name"],
        connection_id,
        connections[connection_id],
        row["model"],
        row["start_time"],
        row["input_tokens"] + row["output_tokens"],
        _said_tokens(row),
        row["cost_usd"],
        row["other_cost_usd"],
        _usd(row["at_stake"]),
        row["takes"],
        row["counted_in"],
        row["counted_in_trace"],
    )


def _said_tokens(row: dict[str, Any]) -> int | None:
    if row["usage_doubt"] in CONTRADICTED:
        return int(row["total_tokens"])
    return decode(row["usage_details"]).get("total") if row["usage_details"] else None


def _usd(stored: Any) -> Decimal:
    return from_scaled(int(stored), USD_PLACES)


def _connections() -> dict[int, str]:
    return dict(LangfuseConnection.objects.values_list("pk", "name"))
