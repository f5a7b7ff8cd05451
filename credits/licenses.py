"""Licenses and their pools: giving licenses out one by one (domain.md, Credits).

A user whom nobody gave a license from a pool has one by its tier: its own, its tenant's default or
the platform's. Once a user was given one from a pool, that one decides (:mod:`credits.gate`).
"""

from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum

from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from credits import grants
from credits.grants import NewGrant
from credits.models import Grant, License, LicenseEvent, LicensePool
from credits.recurrence import month_name, month_of
from credits.top_up import MONTHLY_PRIORITY, monthly_key
from kluisz_analytics.scales import QUANTUM
from kluisz_analytics.tenants.models import User
from pricing import lists
from pricing.models import PricingTier, TierAssignment

TIER_SOURCES = (Grant.Source.TIER_DEFAULT, Grant.Source.MONTHLY)


class LicenseRefused(ValueError):
    """It can't be given, taken or changed.

    The message says why; nothing was changed. ``code`` is for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CreditsPolicy(StrEnum):
    """What becomes of the tier's credits when a license is changed.

    Keep: they stay, and the new tier's begin with the next month. Reset: they end, and the new
    tier's begin. Prorate: this month's end, and the new tier's begin in proportion to the rest of
    the month.
    """

    KEEP = "keep"
    RESET = "reset"
    PRORATE = "prorate"


@transaction.atomic
def assign(
    user: User,
    tier: PricingTier,
    by: User | None,
    *,
    expires_at: datetime | None = None,
    reason: str = "",
) -> License:
    """Give the user a license of the tier from its tenant's pool, with the tier's default credits,
    if it never had them.

    Raises LicenseRefused: ``already_licensed``, ``no_pool``, ``pool_is_empty``,
    ``tier_is_retired``, ``already_expired``.
    """
    now = timezone.now()
    _check_tier(tier, now)
    if expires_at is not None and expires_at <= now:
        raise LicenseRefused(
            "already_expired",
            f"A license until {expires_at.isoformat()} would have expired already.",
        )
    pool = _take(user, tier)
    try:
        with transaction.atomic():
            license = License.objects.create(
                user=user, pool=pool, starts_at=now, expires_at=expires_at, assigned_by=by
            )
    except IntegrityError as error:
        raise LicenseRefused(
            "already_licensed", f"{user} has a license; take it back or change it."
        ) from error
    lists.assign_tier(TierAssignment(user=user, tier=tier, valid_from=now), by)
    _log(user, LicenseEvent.Kind.ASSIGNED, None, tier, by, reason)
    return license


@transaction.atomic
def unassign(user: User, by: User | None, *, reason: str = "") -> License:
    """Take the user's license back into the pool; its credits stay.

    Raises LicenseRefused: ``not_licensed``.
    """
    license = _current(user)
    license.ended_at = timezone.now()
    license.save(update_fields=["ended_at"])
    _put_back(license.pool)
    _log(user, LicenseEvent.Kind.UNASSIGNED, license.pool.tier, None, by, reason)
    return license


@transaction.atomic
def change(
    user: User,
    tier: PricingTier,
    by: User | None,
    *,
    credits: CreditsPolicy = CreditsPolicy.KEEP,
    reason: str = "",
) -> License:
    """Move the user's license to another tier, up or down.

    Raises LicenseRefused: ``not_licensed``, ``same_tier``, and as :func:`assign` for the new tier's
    pool.
    """
    now = timezone.now()
    license = _current(user)
    before = license.pool.tier
    if before == tier:
        raise LicenseRefused("same_tier", f"{user} has a license of {tier} already.")
    _check_tier(tier, now)
    pool = _take(user, tier)
    _put_back(license.pool)
    license.pool = pool
    license.save(update_fields=["pool"])
    # Before the tier is the user's: it brings its default credits to whoever never had any.
    _change_credits(user, tier, credits, license, by, now)
    lists.assign_tier(TierAssignment(user=user, tier=tier, valid_from=now), by)
    _log(user, LicenseEvent.Kind.CHANGED, before, tier, by, reason, credits)
    return license


def _check_tier(tier: PricingTier, now: datetime) -> None:
    if tier.retired_at is not None and tier.retired_at <= now:
        raise LicenseRefused(
            "tier_is_retired",
            f"“{tier}” is retired since {tier.retired_at:%Y-%m-%d}; choose another tier.",
        )


def _current(user: User) -> License:
    license = (
        License.objects.select_for_update(of=("self",))
        .select_related("pool__tier")
        .filter(user=user, ended_at__isnull=True)
        .first()
    )
    if license is None:
        raise LicenseRefused("not_licensed", f"{user} has no license from a pool.")
    return license


def _take(user: User, tier: PricingTier) -> LicensePool:
    """One license out of the pool: the statement itself sees whether there is one, so of two at
    once for the last, one gets it.
    """
    pools = LicensePool.objects.filter(tenant=user.tenant_id, tier=tier)
    if not pools.filter(assigned__lt=F("total")).update(assigned=F("assigned") + 1):
        pool = pools.first()
        if pool is None:
            raise LicenseRefused("no_pool", f"{user.tenant} has no licenses of {tier}.")
        raise LicenseRefused(
            "pool_is_empty",
            f"All {pool.total} licenses of {tier} are given; take one back or buy more.",
        )
    return pools.get()


def _put_back(pool: LicensePool) -> None:
    LicensePool.objects.filter(pk=pool.pk).update(assigned=F("assigned") - 1)


def _change_credits(
    user: User,
    tier: PricingTier,
    policy: CreditsPolicy,
    license: License,
    by: User | None,
    now: datetime,
) -> None:
    if policy is CreditsPolicy.KEEP:
        return
    sources = TIER_SOURCES if policy is CreditsPolicy.RESET else (Grant.Source.MONTHLY,)
    still = Q(expires_at__isnull=True) | Q(expires_at__gt=now)
    for grant in Grant.objects.filter(
        still, account=user.pk, source__in=sources, voided_at__isnull=True
    ):
        grants.void(grant, by)
    changes = LicenseEvent.objects.filter(user=user).count()
    new = []
    if policy is CreditsPolicy.RESET and tier.default_credits > 0:
        key = f"tier-default:{user.pk}:{license.pk}:{changes}"
        new.append(
            NewGrant(
                user,
                tier.default_credits,
                Grant.Source.TIER_DEFAULT,
                key,
                f"Default credits of {tier.name}",
                created_by=by,
            )
        )
    start, end = month_of(now, user.tenant.zone)
    amount = tier.default_credits_per_month
    if policy is CreditsPolicy.PRORATE:
        part = Decimal((end - now) // timedelta(microseconds=1)) / Decimal(
            (end - start) // timedelta(microseconds=1)
        )
        amount = (amount * part).quantize(QUANTUM[6], ROUND_HALF_UP)
    if amount > 0:
        month = month_name(now, user.tenant.zone)
        key = f"{monthly_key(user, month)}:{license.pk}:{changes}"
        reason = f"{tier.name}, the rest of {start.astimezone(user.tenant.zone):%B %Y}"
        new.append(
            NewGrant(
                user,
                amount,
                Grant.Source.MONTHLY,
                key,
                reason,
                MONTHLY_PRIORITY,
                now,
                end,
                created_by=by,
            )
        )
    grants.give(new)


def _log(
    user: User,
    kind: LicenseEvent.Kind,
    before: PricingTier | None,
    after: PricingTier | None,
    by: User | None,
    reason: str,
    credits: str = "",
) -> None:
    LicenseEvent.objects.create(
        user=user,
        kind=kind,
        tier_before=before,
        tier_after=after,
        created_by=by,
        reason=reason,
        credits=credits,
    )
