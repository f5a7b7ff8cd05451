"""What a tenant's usage cost: for its budgets."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Sum

from kluisz_analytics.fields import UsdField
from usage.models import Granularity, TenantUsageStats
from usage.periods import hour_of


def cost_of_tenant(tenant_id: UUID, start: datetime, end: datetime) -> Decimal:
    """USD of provider cost in the hours that begin from ``start`` on and before ``end``; ``start`` is reckoned from its full hour."""
    hours = TenantUsageStats.objects.filter(
        tenant=tenant_id, granularity=Granularity.HOUR, period_start__gte=hour_of(start), period_start__lt=end
    )
    total: Decimal | None = hours.aggregate(total=Sum("total_cost_usd", output_field=UsdField()))["total"]
    return total or Decimal(0)
