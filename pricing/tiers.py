"""Which tier a user has at a moment, and on which terms."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Q

from kluisz_analytics.tenants.models import User
from pricing.models import IN_LIST, PricingTier, TierAssignment, TierRate


def tiers_of(users: Iterable[User], moment: datetime) -> dict[UUID, PricingTier]:
    """The tier of each user at ``moment``: its own, else its tenant's default, else the platform's. Users with none are left out.

    Two queries, however many users.
    """
    users = list(users)
    mine = Q(user__in=[user.pk for user in users])
    defaults = Q(user__isnull=True, tenant__isnull=True) | Q(tenant__in={user.tenant_id for user in users})
    newest: dict[UUID | None, PricingTier] = {}
    held = TierAssignment.objects.filter(IN_LIST, mine | defaults, valid_from__lte=moment)
    for assignment in held.select_related("tier").order_by("valid_from", "recorded_at", "id"):
        newest[assignment.user_id or assignment.tenant_id] = assignment.tier
    tiers = {user.pk: newest.get(user.pk) or newest.get(user.tenant_id) or newest.get(None) for user in users}
    return {user_id: tier for user_id, tier in tiers.items() if tier is not None}


def grace_of(tier: PricingTier, moment: datetime) -> Decimal:
    """How many credits below zero a user of the tier may still start runs at ``moment``."""
    rate = TierRate.objects.filter(IN_LIST, tier=tier, valid_from__lte=moment).order_by("-valid_from").first()
    return rate.grace_credits if rate else Decimal(0)
