"""Accounts taken together."""

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

from django.db.models import F, Sum

from credits.models import Account
from kluisz_analytics.fields import CreditsField


def remaining_by_tenant(tenant_ids: Sequence[UUID]) -> dict[UUID, Decimal]:
    """What the users of each tenant have left, together; 0 for a tenant without accounts.

    One query.
    """
    left = Sum(F("allocated") - F("used") - F("held"), output_field=CreditsField())
    rows = (
        Account.objects.filter(user__tenant__in=tenant_ids)
        .values_list("user__tenant")
        .annotate(left=left)
        .order_by()
    )
    return {**dict.fromkeys(tenant_ids, Decimal(0)), **dict(rows)}
