"""When a user's credits run out, at the pace of the last four weeks."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from math import ceil
from uuid import UUID

from django.db.models import Sum

from credits.models import UsageCharge

PACE_DAYS = 28
FARTHEST_DAYS = 3650


def exhaustion_date(user_id: UUID, remaining: Decimal, now: datetime) -> date | None:
    """The day (UTC) on which the credits run out; today when none remain, None without usage or beyond ten years."""
    if remaining <= 0:
        return now.date()
    charges = UsageCharge.objects.filter(account=user_id, hour__gte=now - timedelta(days=PACE_DAYS), hour__lte=now)
    used = charges.aggregate(total=Sum("credits"))["total"] or Decimal(0)
    if used <= 0:
        return None
    days = ceil(remaining * PACE_DAYS / used)
    return now.date() + timedelta(days=days) if days <= FARTHEST_DAYS else None
