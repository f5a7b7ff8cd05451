"""Usage whose cost is unknown, by model (domain.md, Price)."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Min, Sum

from pricing.engine import CostSource
from usage.models import Observation


@dataclass(frozen=True, slots=True)
class UnpricedModel:
    """A model without a price, and what waits for one. "" is usage that names no model."""

    model: str
    unpriced_observations: int
    total_tokens: int
    input_tokens: int
    output_tokens: int
    tenants: int
    first_seen: datetime
    last_seen: datetime


def unpriced_models() -> list[UnpricedModel]:
    """Models without a price, the most used first.

    One query, over an index of unpriced observations only.
    """
    waiting = (
        Observation.objects.filter(cost_source=CostSource.UNPRICED.value, trace__is_voided=False)
        .order_by()
        .values("model")
    )
    found = waiting.annotate(
        unpriced_observations=Count("pk"),
        # Named apart from the columns that they sum.
        tokens=Sum("total_tokens"),
        tokens_in=Sum("input_tokens"),
        tokens_out=Sum("output_tokens"),
        tenants=Count("trace__tenant", distinct=True),
        first_seen=Min("start_time"),
        last_seen=Max("start_time"),
    ).order_by("-unpriced_observations", "model")
    return [
        UnpricedModel(
            model=row["model"],
            unpriced_observations=row["unpriced_observations"],
            total_tokens=int(row["tokens"]),
            input_tokens=int(row["tokens_in"]),
            output_tokens=int(row["tokens_out"]),
            tenants=row["tenants"],
            first_seen=row["first_seen"],
            last_seen=row["last_seen"],
        )
        for row in found
    ]
