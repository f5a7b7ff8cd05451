"""A preview's differences with names, the largest first."""

from dataclasses import dataclass

from usage.analytics.names import names_of
from usage.measures import Dimension
from usage.repricing.preview import Difference, Preview
from usage.scope import Scope


@dataclass(frozen=True, slots=True)
class LabelledDifference:
    tenant: str
    user: str
    model: str
    difference: Difference


def labelled(preview: Preview) -> list[LabelledDifference]:
    """Three queries, however many there are."""
    keys = list(preview.differences)
    tenants = names_of(Dimension.TENANT, {key.tenant_id for key in keys}, Scope())
    users = names_of(Dimension.USER, {key.user_id for key in keys}, Scope())
    rows = [
        LabelledDifference(
            tenants[key.tenant_id].label, users[key.user_id].label, key.model or "No model", one
        )
        for key, one in preview.differences.items()
    ]
    return sorted(
        rows,
        key=lambda row: (
            -abs(row.difference.credits),
            -abs(row.difference.cost_usd),
            row.tenant,
            row.user,
            row.model,
        ),
    )
