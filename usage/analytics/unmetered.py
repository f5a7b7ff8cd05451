"""Calls of models that say neither what they used nor what they cost, by model, flow and tenant;
and on request what they may have cost, by their flow's history: an estimate, billed to nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import (
    BigIntegerField,
    Case,
    Count,
    ExpressionWrapper,
    F,
    Max,
    Min,
    Q,
    QuerySet,
    Sum,
    Value,
    When,
)

from kluisz_analytics.scales import USD_PLACES, Usd, from_scaled
from pricing.engine import CostSource
from pricing.prices import half_up
from pricing.quotes import NOT_PRICED
from usage.analytics.names import flows_by_id, tenants_by_id
from usage.models import Observation
from usage.models.facts import WITHOUT_WHOLE_COST
from usage.scope import Scope

# So far back from the calls goes the history that they are estimated by.
HISTORY = timedelta(days=30)


class Reason(StrEnum):
    """Why a call most likely says no usage."""

    FAILED = "failed"
    NOT_ENDED = "not_ended"
    SAYS_ZERO = "says_zero"
    STREAMED = "streamed"

    @property
    def label(self) -> str:
        return LABELS[self]


LABELS = {
    Reason.FAILED: "It failed or was cancelled before the provider said",
    Reason.NOT_ENDED: "It has not ended: cancelled, or still running",
    Reason.SAYS_ZERO: "Its tracer says 0 tokens",
    Reason.STREAMED: "It was streamed without asking for usage, or its tracer leaves usage out",
}
REASON = Case(
    When(level=Observation.Level.ERROR.value, then=Value(Reason.FAILED.value)),
    When(end_time__isnull=True, then=Value(Reason.NOT_ENDED.value)),
    When(~Q(usage_details=""), then=Value(Reason.SAYS_ZERO.value)),
    default=Value(Reason.STREAMED.value),
)


@dataclass(frozen=True, slots=True)
class UnmeteredCalls:
    """Calls of one model, flow and tenant without usage, for one likely reason.

    ``estimated_cost_usd``: on request, so many times the average cost of ``estimated_from_calls``
    calls of the flow and the model in the thirty days before, else of the flow; None without any.
    """

    model: str
    flow_id: str
    flow_name: str
    tenant_id: UUID | None
    tenant_name: str
    reason: Reason
    reason_text: str
    unmetered_observations: int
    first_seen: datetime
    last_seen: datetime
    estimated_cost_usd: Usd | None = None
    estimated_from_calls: int = 0


def unmetered_calls(scope: Scope, *, estimate: bool = False) -> list[UnmeteredCalls]:
    """The most frequent first. Of the whole platform; ``scope`` says which names may be shown.

    Three queries, and one more to estimate.
    """
    rows = list(_grouped())
    flows = flows_by_id({row["flow_id"] for row in rows}, scope)
    tenants = tenants_by_id({row["tenant_id"] for row in rows}, scope)
    history = _history(rows) if estimate and rows else History({})
    found = []
    for row in rows:
        flow, tenant = flows.get(row["flow_id"]), tenants.get(row["tenant_id"])
        known = history.of(row["flow_id"], row["model"])
        count = row["unmetered_observations"]
        found.append(
            UnmeteredCalls(
                model=row["model"],
                flow_id=row["flow_id"],
                flow_name=flow.name if flow else "",
                tenant_id=row["tenant_id"],
                tenant_name=tenant.name if tenant else "",
                reason=Reason(row["reason"]),
                reason_text=Reason(row["reason"]).label,
                unmetered_observations=count,
                first_seen=row["first_seen"],
                last_seen=row["last_seen"],
                estimated_cost_usd=known and known.times(count),
                estimated_from_calls=known.calls if known else 0,
            )
        )
    return found


def _grouped() -> QuerySet[Observation, Any]:
    """By an index of what has no whole cost."""
    unmetered = Observation.objects.filter(
        cost_source__in=WITHOUT_WHOLE_COST, trace__is_voided=False
    ).filter(cost_source=CostSource.UNMETERED.value)
    return (
        unmetered.order_by()
        .values("model", flow_id=F("trace__flow_id"), tenant_id=F("trace__tenant"), reason=REASON)
        .annotate(
            unmetered_observations=Count("pk"),
            first_seen=Min("start_time"),
            last_seen=Max("start_time"),
        )
        .order_by("-unmetered_observations", "model", "flow_id", "tenant_id", "reason")
    )


class Known(NamedTuple):
    """What so many calls cost together, picousd."""

    calls: int
    picousd: int

    def times(self, calls: int) -> Usd:
        """What so many calls would cost on average."""
        return from_scaled(half_up(self.picousd * calls, self.calls), USD_PLACES)


class History:
    """What calls of a flow cost, by model."""

    def __init__(self, known: Mapping[tuple[str, str], Known]) -> None:
        self._known = known
        self._of_flows: dict[str, Known] = {}
        for (flow_id, _), one in known.items():
            before = self._of_flows.get(flow_id, Known(0, 0))
            self._of_flows[flow_id] = Known(before.calls + one.calls, before.picousd + one.picousd)

    def of(self, flow_id: str, model: str) -> Known | None:
        return self._known.get((flow_id, model)) or self._of_flows.get(flow_id)


def _history(rows: Sequence[dict[str, Any]]) -> History:
    """Of the flows of the rows, from thirty days before the first of their calls to the last."""
    since = min(row["first_seen"] for row in rows) - HISTORY
    until = max(row["last_seen"] for row in rows)
    priced = (
        Observation.objects.filter(
            trace__flow_id__in={row["flow_id"] for row in rows},
            trace__start_time__gte=since,
            trace__start_time__lte=until,
            trace__is_voided=False,
        )
        .exclude(cost_source__in=[one.value for one in NOT_PRICED])
        .order_by()
    )
    cost = ExpressionWrapper(F("cost_usd"), output_field=BigIntegerField())
    summed = priced.values_list("trace__flow_id", "model").annotate(
        calls=Count("pk"), picousd=Sum(cost)
    )
    return History({(flow, model): Known(calls, int(cost)) for flow, model, calls, cost in summed})
