"""Which tier a user has at a moment."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.db.models import Q

from kluisz_analytics.tenants.models import User
from pricing.models import PricingTier, TierAssignment


def tiers_of(users: Iterable[User], moment: datetime) -> dict[UUID, PricingTier]:
    """The tier of each user at ``moment``: its own, else its tenant's default, else the platform's. Users with none are left out.

    Two queries, however many users.
    """
    users = list(users)
    mine = Q(user__in=[user.pk for user in users])
    defaults = Q(user__isnull=True, tenant__isnull=True) | Q(tenant__in={user.tenant_id for user in users})
    newest: dict[UUID | None, PricingTier] = {}
    for assignment in TierAssignment.objects.filter(mine | defaults, valid_from__lte=moment).select_related("tier").order_by("valid_from"):
        newest[assignment.user_id or assignment.tenant_id] = assignment.tier
    tiers = {user.pk: newest.get(user.pk) or newest.get(user.tenant_id) or newest.get(None) for user in users}
    return {user_id: tier for user_id, tier in tiers.items() if tier is not None}
