"""Licences and their pools: giving licences out one by one (domain.md, Credits).

A user whom nobody gave a licence from a pool has one by its tier: its own, its tenant's default or
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
from credits.models import Grant, Licence, LicenceEvent, LicencePool
from credits.recurrence import month_of
from credits.top_up import MONTHLY_PRIORITY
from kluisz_analytics.fields import QUANTUM
from kluisz_analytics.tenants.models import User
from pricing import lists
from pricing.models import PricingTier, TierAssignment

TIER_SOURCES = (Grant.Source.TIER_DEFAULT, Grant.Source.MONTHLY)


class LicenceRefused(ValueError):
    """It can't be given, taken or changed.

    The message says why; nothing was changed. ``code`` is for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CreditsPolicy(StrEnum):
    """What becomes of the tier's credits when a licence is changed.

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
) -> Licence:
    """Give the user a licence of the tier from its tenant's pool, with the tier's default credits,
    if it never had them.

    Raises LicenceRefused: ``already_licensed``, ``no_pool``, ``pool_is_empty``,
    ``tier_is_retired``, ``already_expired``.
    """
    now = timezone.now()
    _check_tier(tier, now)
    if expires_at is not None and expires_at <= now:
        raise LicenceRefused(
            "already_expired",
            f"A licence until {expires_at.isoformat()} would have expired already.",
        )
    pool = _take(user, tier)
    try:
        with transaction.atomic():
            licence = Licence.objects.create(
                user=user, pool=pool, starts_at=now, expires_at=expires_at, assigned_by=by
            )
    except IntegrityError as error:
        raise LicenceRefused(
            "already_licensed", f"{user} has a licence; take it back or change it."
        ) from error
    lists.assign_tier(TierAssignment(user=user, tier=tier, valid_from=now), by)
    _log(user, LicenceEvent.Kind.ASSIGNED, None, tier, by, reason)
    return licence


@transaction.atomic
def unassign(user: User, by: User | None, *, reason: str = "") -> Licence:
    """Take the user's licence back into the pool; its credits stay.

    Raises LicenceRefused: ``not_licensed``.
    """
    licence = _current(user)
    licence.ended_at = timezone.now()
    licence.save(update_fields=["ended_at"])
    _put_back(licence.pool)
    _log(user, LicenceEvent.Kind.UNASSIGNED, licence.pool.tier, None, by, reason)
    return licence


@transaction.atomic
def change(
    user: User,
    tier: PricingTier,
    by: User | None,
    *,
    credits: CreditsPolicy = CreditsPolicy.KEEP,
    reason: str = "",
) -> Licence:
    """Move the user's licence to another tier, up or down.

    Raises LicenceRefused: ``not_licensed``, ``same_tier``, and as :func:`assign` for the new tier's
    pool.
    """
    now = timezone.now()
    licence = _current(user)
    before = licence.pool.tier
    if before == tier:
        raise LicenceRefused("same_tier", f"{user} has a licence of {tier} already.")
    _check_tier(tier, now)
    pool = _take(user, tier)
    _put_back(licence.pool)
    licence.pool = pool
    licence.save(update_fields=["pool"])
    # Before the tier is the user's: it brings its default credits to whoever never had any.
    _change_credits(user, tier, credits, licence, by, now)
    lists.assign_tier(TierAssignment(user=user, tier=tier, valid_from=now), by)
    _log(user, LicenceEvent.Kind.CHANGED, before, tier, by, reason, credits)
    return licence


def _check_tier(tier: PricingTier, now: datetime) -> None:
    if tier.retired_at is not None and tier.retired_at <= now:
        raise LicenceRefused(
            "tier_is_retired",
            f"“{tier}” is retired since {tier.retired_at:%Y-%m-%d}; choose another tier.",
        )


def _current(user: User) -> Licence:
    licence = (
        Licence.objects.select_for_update(of=("self",))
        .select_related("pool__tier")
        .filter(user=user, ended_at__isnull=True)
        .first()
    )
    if licence is None:
        raise LicenceRefused("not_licensed", f"{user} has no licence from a pool.")
    return licence


def _take(user: User, tier: PricingTier) -> LicencePool:
    """One licence out of the pool: the statement itself sees whether there is one, so of two at
    once for the last, one gets it.
    """
    pools = LicencePool.objects.filter(tenant=user.tenant_id, tier=tier)
    if not pools.filter(assigned__lt=F("total")).update(assigned=F("assigned") + 1):
        pool = pools.first()
        if pool is None:
            raise LicenceRefused("no_pool", f"{user.tenant} has no licences of {tier}.")
        raise LicenceRefused(
            "pool_is_empty",
            f"All {pool.total} licences of {tier} are given; take one back or buy more.",
        )
    return pools.get()


def _put_back(pool: LicencePool) -> None:
    LicencePool.objects.filter(pk=pool.pk).update(assigned=F("assigned") - 1)


def _change_credits(
    user: User,
    tier: PricingTier,
    policy: CreditsPolicy,
    licence: Licence,
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
    changes = LicenceEvent.objects.filter(user=user).count()
    new = []
    if policy is CreditsPolicy.RESET and tier.default_credits > 0:
        key = f"tier-default:{user.pk}:{licence.pk}:{changes}"
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
        key = f"monthly:{user.pk}:{start.astimezone(user.tenant.zone):%Y-%m}:{licence.pk}:{changes}"
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
    kind: LicenceEvent.Kind,
    before: PricingTier | None,
    after: PricingTier | None,
    by: User | None,
    reason: str,
    credits: str = "",
) -> None:
    LicenceEvent.objects.create(
        user=user,
        kind=kind,
        tier_before=before,
        tier_after=after,
        created_by=by,
        reason=reason,
        credits=credits,
    )
