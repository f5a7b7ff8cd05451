"""Which tier a user has at a moment, and on which terms."""

from collections.abc import Collection, Iterable
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Q

from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, from_scaled, to_scaled
from kluisz_analytics.tenants.models import User
from pricing.book import rate_of
from pricing.engine import charge_for
from pricing.models import IN_LIST, PricingTier, TierAssignment, TierRate


def tiers_of(users: Iterable[User], moment: datetime) -> dict[UUID, PricingTier]:
    """The tier of each user at ``moment``: its own, else its tenant's default, else the platform's.
    Users with none are left out.

    Two queries, however many users.
    """
    users = list(users)
    mine = Q(user__in=[user.pk for user in users])
    defaults = Q(user__isnull=True, tenant__isnull=True) | Q(
        tenant__in={user.tenant_id for user in users}
    )
    newest: dict[UUID | None, PricingTier] = {}
    held = TierAssignment.objects.filter(IN_LIST, mine | defaults, valid_from__lte=moment)
    for assignment in held.select_related("tier").order_by("valid_from", "recorded_at", "id"):
        newest[assignment.user_id or assignment.tenant_id] = assignment.tier
    tiers = {
        user.pk: newest.get(user.pk) or newest.get(user.tenant_id) or newest.get(None)
        for user in users
    }
    return {user_id: tier for user_id, tier in tiers.items() if tier is not None}


def default_tiers_of(tenant_ids: Collection[UUID], moment: datetime) -> dict[UUID, PricingTier]:
    """Each tenant's default tier at ``moment``, else the platform's; tenants with none are left
    out. One query.
    """
    held = TierAssignment.objects.filter(
        IN_LIST,
        Q(tenant__in=tenant_ids) | Q(tenant__isnull=True),
        user__isnull=True,
        valid_from__lte=moment,
    )
    newest: dict[UUID | None, PricingTier] = {}
    for assignment in held.select_related("tier").order_by("valid_from", "recorded_at", "id"):
        newest[assignment.tenant_id] = assignment.tier
    found = {tenant_id: newest.get(tenant_id) or newest.get(None) for tenant_id in tenant_ids}
    return {tenant_id: tier for tenant_id, tier in found.items() if tier is not None}


_HELD = (
    "withdrawn_at IS NULL AND valid_from <= %(now)s ORDER BY valid_from DESC, recorded_at DESC, id"
    " DESC LIMIT 1"
)
TIER_SQL = f"""COALESCE(
    (SELECT tier_id FROM pricing_tier_assignment WHERE user_id = u.id AND {_HELD}),
    (SELECT tier_id FROM pricing_tier_assignment WHERE tenant_id = u.tenant_id AND {_HELD}),
    (SELECT tier_id FROM pricing_tier_assignment WHERE user_id IS NULL AND tenant_id IS NULL
        AND {_HELD}))"""
"""The tier of the user ``u`` at ``now``: the rule of :func:`tiers_of`, for a statement that has to
decide by itself.
"""
GRACE_SQL = (
    "COALESCE((SELECT grace_credits FROM pricing_tier_rate WHERE tier_id = u.held_tier_id AND"
    f" {_HELD}), 0)"
)
"""The grace of the tier ``u.held_tier_id`` at ``now``, as it is stored."""


COST_SQL = (
    "COALESCE((SELECT CAST(ROUND(%(credits)s * 1000000000000.0"
    " / NULLIF(CAST(credits_per_usd AS double precision) * pricing_multiplier, 0)) AS bigint)"
    f" FROM pricing_tier_rate WHERE tier_id = u.held_tier_id AND {_HELD}), 0)"
)
"""What ``credits`` (as they are stored) are of provider cost, USD of six places, by the rate of the
tier ``u.held_tier_id`` at ``now``: the rule of :func:`cost_of`. 0 where nothing is charged.
"""


def cost_of(credits: Decimal, rate: TierRate | None) -> Decimal:
    """What credits are of provider cost, USD of six places, about: a rate's minimum and maximum
    don't say what a run cost. 0 without a rate, or where it charges nothing.
    """
    if rate is None or not rate.credits_per_usd * rate.pricing_multiplier:
        return Decimal(0)
    by = float(to_scaled(rate.credits_per_usd, CREDIT_PLACES)) * to_scaled(
        rate.pricing_multiplier, CREDIT_PLACES
    )
    scaled = round(to_scaled(credits, CREDIT_PLACES) * 1e12 / by)
    return from_scaled(scaled, CREDIT_PLACES)


def rate_at(tier: PricingTier, moment: datetime) -> TierRate | None:
    """The tier's rate in force at ``moment``."""
    return (
        TierRate.objects.filter(IN_LIST, tier=tier, valid_from__lte=moment)
        .order_by("-valid_from")
        .first()
    )


def credits_for(tier: PricingTier | None, cost_usd: Decimal, moment: datetime) -> Decimal | None:
    """What a run of this cost (USD, at most twelve places) comes to on the tier at ``moment``; None
    without a rate.
    """
    rate = rate_at(tier, moment) if tier else None
    return (
        None if rate is None else charge_for(to_scaled(cost_usd, USD_PLACES), rate_of(rate)).credits
    )
