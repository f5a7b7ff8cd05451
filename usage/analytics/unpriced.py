"""Usage whose cost is not, or not wholly, known, by model (domain.md, Price)."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Max, Min, Q, Sum

from pricing.engine import CostSource
from usage.models import Observation
from usage.models.facts import WITHOUT_WHOLE_COST


@dataclass(frozen=True, slots=True)
class UnpricedModel:
    """A model without a price, or with one for a part of its units, and what waits for one. "" is
    usage that names no model. ``context``: calls that were asked so (pricing.conditions), which a
    model with a price may lack one for.
    """

    model: str
    context: str
    unpriced_observations: int
    total_tokens: int
    input_tokens: int
    output_tokens: int
    tenants: int
    first_seen: datetime
    last_seen: datetime
    partly_priced_observations: int = 0


def unpriced_models() -> list[UnpricedModel]:
    """Models without a price, the most used first.

    One query, over an index of what has no whole cost.
    """
    billed = (
        Observation.objects.filter(cost_source__in=WITHOUT_WHOLE_COST, trace__is_voided=False)
        .exclude(cost_source=CostSource.UNMETERED.value)
        .order_by()
        .values("model", "context")
    )
    found = billed.annotate(
        count=Count("pk"),
        partly=Count("pk", filter=Q(cost_source=CostSource.PARTLY_PRICED.value)),
        # Named apart from the columns that they sum.
        tokens=Sum("total_tokens"),
        tokens_in=Sum("input_tokens"),
        tokens_out=Sum("output_tokens"),
        tenants=Count("trace__tenant", distinct=True),
        first_seen=Min("start_time"),
        last_seen=Max("start_time"),
    ).order_by("-count", "model", "context")
    return [
        UnpricedModel(
            model=row["model"],
            context=row["context"],
            unpriced_observations=row["count"] - row["partly"],
            partly_priced_observations=row["partly"],
            total_tokens=int(row["tokens"]),
            input_tokens=int(row["tokens_in"]),
            output_tokens=int(row["tokens_out"]),
            tenants=row["tenants"],
            first_seen=row["first_seen"],
            last_seen=row["last_seen"],
        )
        for row in found
    ]
