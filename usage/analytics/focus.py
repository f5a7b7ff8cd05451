"""Costs call by call in the columns of FOCUS (the FinOps Foundation's Open Cost and Usage
Specification, 1.2): docs/api.md, Downloads.

A row is one observation with usage. What FOCUS has no column for begins with ``x_``. Amounts are
exact decimal text; unknown is null, and empty in CSV.
"""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

from kluisz_analytics.periods import Period
from pricing.engine import CostSource
from usage.analytics.names import OWNER_PATHS, Name, owner_in
from usage.analytics.question import Filters
from usage.analytics.traces import traces_in
from usage.measures import Dimension
from usage.models import Observation
from usage.periods import Granularity, period_of
from usage.scope import Scope

ROWS_A_FETCH = 2_000
PATHS = {
    "model": "model",
    "name": "name",
    "start": "trace__start_time",
    "step_start": "start_time",
    "end": "end_time",
    "cost": "cost_usd",
    "billed": "billed_cost_usd",
    "credits": "credits",
    "source": "cost_source",
    "input": "input_tokens",
    "output": "output_tokens",
    "total": "total_tokens",
    "observation": "langfuse_observation_id",
    "trace": "trace__langfuse_trace_id",
    "project": "trace__project_id",
    "flow": "trace__flow_id",
    "failed": "trace__is_failed",
}


def focus_rows(scope: Scope, period: Period, filters: Filters) -> Iterator[dict[str, Any]]:
    """The rows of the period's traces, oldest first, as they are read; memory does not grow with
    them.
    """
    steps = Observation.objects.filter(
        trace__in=traces_in(scope, period, filters).order_by()
    ).exclude(cost_source=CostSource.NO_USAGE.value)
    if models := filters.of(Dimension.MODEL):
        steps = steps.filter(model__in=models)
    ordered = steps.order_by("trace__start_time", "trace_id", "pk")
    asked = ordered.values_list(*PATHS.values(), *OWNER_PATHS)
    for values in asked.iterator(chunk_size=ROWS_A_FETCH):
        own, owner = values[: len(PATHS)], values[len(PATHS) :]
        yield _row(dict(zip(PATHS, own, strict=True)), *owner_in(owner))


def _row(one: dict[str, Any], tenant: Name, user: Name) -> dict[str, Any]:
    month_start, month_end = period_of(Granularity.MONTH, one["start"])
    return {
        "BillingPeriodStart": _time(month_start),
        "BillingPeriodEnd": _time(month_end),
        "ChargePeriodStart": _time(one["step_start"]),
        "ChargePeriodEnd": _time(one["end"] or one["step_start"]),
        "ChargeCategory": "Usage",
        "ChargeDescription": one["name"],
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": one["model"],
        "SkuId": one["model"],
        "ConsumedQuantity": one["total"],
        "ConsumedUnit": "Tokens",
        "BillingCurrency": "USD",
        "ListCost": _amount(one["cost"]),
        "EffectiveCost": _amount(one["billed"]),
        "BilledCost": _amount(one["billed"]),
        "ResourceId": one["trace"],
        "ResourceType": "Flow run",
        "SubAccountId": tenant.key and str(tenant.key),
        "SubAccountName": tenant.label or None,
        "x_Credits": _amount(one["credits"]),
        "x_CostSource": one["source"],
        "x_InputTokens": one["input"],
        "x_OutputTokens": one["output"],
        "x_ObservationId": one["observation"],
        "x_UserId": user.key and str(user.key),
        "x_UserName": user.label or None,
        "x_ProjectId": one["project"],
        "x_FlowId": one["flow"],
        "x_Failed": one["failed"],
    }


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _amount(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:f}"
